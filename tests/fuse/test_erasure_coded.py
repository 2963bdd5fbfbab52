"""A volume on an erasure-coded pool, which takes no partial overwrites and no omap: nothing cairnfs does needs either."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairnfs.objects import MARKER
from cairnfs.objects.rados import Access, RadosStore
from support.ceph_server import CephCluster
from support.mounts import MountFactory, cairnfs

pytestmark = [pytest.mark.fuse, pytest.mark.slow]


@pytest.fixture(scope="module")
def ceph(need_ceph: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CephCluster]:
    """Three OSDs: with k=2 and m=1 one may be lost."""
    with CephCluster(tmp_path_factory.mktemp("ceph-coded"), cephx=False, n_osds=3) as cluster:
        cluster.make_erasure_coded_pool("coded", 2, 1)
        yield cluster


def test_a_volume_on_an_erasure_coded_pool(ceph: CephCluster, mounts: MountFactory) -> None:
    mount = mounts.new(mounts.volume("--storage", "rados", "--bucket", "coded", "--ceph-conf", str(ceph.conf)))
    mount.expected_log += ["trying again"]
    files = {mount.path / f"small{i}": os.urandom(1 + 7000 * i) for i in range(12)}
    files[mount.path / "large"] = os.urandom(19 << 20)
    for path, data in files.items():
        path.write_bytes(data)
    large = mount.path / "large"
    with large.open("r+b", buffering=0) as file:  # parts of files are new objects
        file.seek(5_000_001)
        file.write(b"in the middle")
        os.fsync(file.fileno())
    files[large] = files[large][:5_000_001] + b"in the middle" + files[large][5_000_014:]
    mount.restart()
    check(files)

    ceph.kill("osd1")
    (mount.path / "degraded").write_bytes(b"stored while an OSD is down")
    files[mount.path / "degraded"] = b"stored while an OSD is down"
    mount.restart()
    check(files)
    ceph.start("osd1")
    ceph.wait_for_osd()

    mount.stop()
    mount.volume.assert_clean("--verify-data")
    mount.start()
    check(files)
    for path in files:
        path.unlink()
    mount.stop()
    collected = json.loads(cairnfs("gc", mount.volume.url, "--delete", "--json").stdout)
    assert collected["failed"] == []
    store = RadosStore(Access("coded", str(ceph.conf)), mount.volume.name, 20.0)
    assert [info.name for info in store.list()] == [MARKER]
    store.close()


def check(files: dict[Path, bytes]) -> None:
    assert {path for path, data in files.items() if path.read_bytes() != data} == set()
