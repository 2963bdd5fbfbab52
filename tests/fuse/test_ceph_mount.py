"""A mount on Redis and a pool of a Ceph cluster with authentication: bytes, requests, checks, the end of a volume."""

import json
import os
import random
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from cairnfs.objects.rados import Access, RadosStore
from support.ceph_server import CephCluster
from support.mounts import Mount, MountFactory, Volume, cairnfs
from support.redis_server import RedisServer

pytestmark = pytest.mark.fuse

POOL = "mounts"
_namespaces = count()
Maker = Callable[[], Volume]


@pytest.fixture(scope="session")
def user(shared_ceph: CephCluster) -> str:
    """Who may do in the pool what a mount needs, and nothing else."""
    shared_ceph.make_user("mounts", shared_ceph.make_pool(POOL))
    return "mounts"


@pytest.fixture
def access(shared_ceph: CephCluster, user: str) -> Access:
    return Access(POOL, str(shared_ceph.conf), user, f"n{next(_namespaces)}")


@pytest.fixture
def format_options(access: Access) -> list[str]:
    assert access.conf and access.user
    place = ["--storage", "rados", "--bucket", access.pool, "--ceph-conf", access.conf]
    return [*place, "--ceph-user", access.user, "--namespace", access.namespace]


@pytest.fixture
def mount(mounts: MountFactory, redis_server: RedisServer, format_options: list[str]) -> Mount:
    return mounts.new(mounts.volume(*format_options, url=f"{redis_server.url}/7"))


def stored(access: Access, name: str = "test-volume") -> list[str]:
    """Names of a volume's objects, as whoever else looks into the pool sees them."""
    store = RadosStore(access, name, 20.0)
    try:
        return [info.name for info in store.list()]
    finally:
        store.close()


def requests(mount: Mount, kind: str) -> int:
    name = f'cairnfs_object_seconds_count{{kind="{kind}"}} '
    return next(int(line[len(name) :]) for line in (mount.path / ".stats").read_text().splitlines() if line.startswith(name))


def drop_caches() -> None:
    Path("/proc/sys/vm/drop_caches").write_text("3")


def test_a_volume_from_its_format_to_its_end(mount: Mount, access: Access, mounts: MountFactory) -> None:
    rng = random.Random(5)
    files = {f"d{i % 3}/f{i}": rng.randbytes(rng.choice((0, 1, 4096, 70_001, 5_000_000))) for i in range(30)}
    for name, data in files.items():
        path = mount.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    with (mount.path / "d0/f0").open("r+b") as file:
        file.seek(100_000)
        file.write(b"later")
    files["d0/f0"] = files["d0/f0"].ljust(100_000, b"\0")[:100_000] + b"later" + files["d0/f0"][100_005:]
    mount.restart()
    assert {name: (mount.path / name).read_bytes() for name in files} == files
    mount.volume.assert_clean("--verify-data")
    for name in list(files)[::2]:
        (mount.path / name).unlink()
    mount.stop()
    report = json.loads(cairnfs("gc", mount.volume.url, "--delete", "--json").stdout)
    assert report["failed"] == []
    mount.volume.assert_clean("--verify-data")
    uuid = json.loads(cairnfs("status", mount.volume.url, "--json").stdout)["format"]["uuid"]
    n_objects = len(stored(access))
    assert n_objects > 1
    cairnfs("destroy", mount.volume.url, uuid, "--yes")
    assert stored(access) == []
    mounts.expect_damage(mount.volume)  # there is nothing any more to be checked


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may drop the kernel's caches")
@pytest.mark.usefixtures("kernel_caches")
def test_an_epoch_reads_each_pack_once_and_then_none(mount: Mount, access: Access) -> None:
    n_files = 100
    rng = random.Random(6)
    files = {mount.path / f"f{i}.wav": rng.randbytes(rng.randrange(1000, 100_000)) for i in range(n_files)}
    for path, data in files.items():
        path.write_bytes(data)
    n_packs = len(stored(access)) - 1
    assert requests(mount, "put") == n_packs <= n_files
    assert requests(mount, "get") == 0
    mount.restart()
    order = list(files)
    for epoch in range(2):
        rng.shuffle(order)
        drop_caches()
        assert all(path.read_bytes() == files[path] for path in order)
        assert requests(mount, "get") == n_packs, f"epoch {epoch}"
    assert requests(mount, "put") == 0


def test_where_the_objects_are_is_shown(mount: Mount, access: Access) -> None:
    options = {"ceph_conf": access.conf, "ceph_user": access.user, "namespace": access.namespace}
    config = json.loads((mount.path / ".config").read_text())
    assert (config["format"]["storage"], config["format"]["bucket"]) == ("rados", POOL)
    assert config["format"]["storage_options"] == options
    text = cairnfs("status", mount.volume.url).stdout
    assert f"rados: {POOL}/test-volume" in text and f"namespace {access.namespace}" in text


def test_the_place_of_another_volume_is_refused(mount: Mount, tmp_path: Path, format_options: list[str]) -> None:
    again = cairnfs("format", f"sqlite3://{tmp_path}/other.db", "test-volume", *format_options, check=False)
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1 and "already holds the objects of another volume" in again.stderr
    (mount.path / "still").write_bytes(b"there")
