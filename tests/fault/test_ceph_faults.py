"""The OSD that holds everything stops, dies and comes back, or is full, under a real mount on Redis and RADOS."""

import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.ceph_server import CephCluster
from support.mounts import CAIRNFS, Mount, MountFactory
from support.redis_server import RedisServer
from support.storing import LIMIT_S, Writing, digest, failure, wait

pytestmark = pytest.mark.fuse

TIMEOUT_S = 4


@pytest.fixture(scope="module")
def pool(open_ceph: CephCluster) -> Iterator[str]:
    yield open_ceph.make_pool("faults")


@pytest.fixture
def make(mounts: MountFactory, redis_server: RedisServer, open_ceph: CephCluster, pool: str) -> Callable[..., Mount]:
    def made(*options: str) -> Mount:
        place = ("--storage", "rados", "--bucket", pool, "--ceph-conf", str(open_ceph.conf))
        name = ("--namespace", f"n{time.monotonic_ns()}")
        mount = mounts.new(mounts.volume(*place, *name, url=f"{redis_server.url}/8"), *options)
        mount.expected_log += ["trying again", "cannot (store|read|delete)", "are lost", "cannot be stored", "has not answered"]
        return mount

    return made


def store(path: Path, data: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())


def check(files: dict[Path, str], mount: Mount) -> None:
    """Every file as it was acknowledged: now, after mounting again, and by the checksums of all that is stored."""
    assert {path for path, expected in files.items() if digest(path.read_bytes()) != expected} == set()
    mount.restart()
    assert {path for path, expected in files.items() if digest(path.read_bytes()) != expected} == set()
    mount.volume.assert_clean("--verify-data")


def drop_caches() -> None:
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("3")


def test_ctrl_c_ends_commands_while_the_osd_stands_still(
    mounts: MountFactory, open_ceph: CephCluster, pool: str, osd_stopped: Callable[[bool], None]
) -> None:
    volume = mounts.volume(
        "--storage", "rados", "--bucket", pool, "--ceph-conf", str(open_ceph.conf), "--namespace", "interrupted"
    )
    osd_stopped(True)
    running = [subprocess.Popen([*CAIRNFS, each, volume.url], stderr=subprocess.PIPE, text=True) for each in ("gc", "fsck")]
    for process in running:
        threads = Path(f"/proc/{process.pid}/task")
        wait(
            lambda threads=threads: any("msgr-worker" in (task / "comm").read_text() for task in threads.iterdir()),
            "no connection",
        )
    time.sleep(1)  # then they ask the OSD
    began_s = time.monotonic()
    for process in running:
        process.send_signal(signal.SIGINT)
    said = [process.communicate(timeout=60)[1] for process in running]
    assert [process.returncode for process in running] == [130, 130] and "Traceback" not in "".join(said), said
    assert time.monotonic() - began_s < 15, "they have waited for the OSD"
    osd_stopped(False)


@pytest.mark.usefixtures("kernel_caches")
def test_while_the_osd_stands_still(make: Callable[..., Mount], osd_stopped: Callable[[bool], None]) -> None:
    mount = make("--io-timeout", f"{TIMEOUT_S}s")
    cached = {mount.path / f"c{i}": os.urandom(30_000) for i in range(20)}
    for path, data in cached.items():
        store(path, data)
    mount.restart()
    for path in list(cached)[:10]:
        path.read_bytes()
    osd_stopped(True)
    drop_caches()
    started_s = time.monotonic()
    assert all(path.read_bytes() == cached[path] for path in list(cached)[:10])
    assert time.monotonic() - started_s < TIMEOUT_S  # nobody waited for the cluster
    late, closed = mount.path / "late", mount.path / "closed"
    with late.open("wb", buffering=0) as file, ThreadPoolExecutor() as pool:
        file.write(b"x" * 50_000)
        other = closed.open("wb", buffering=0)
        other.write(b"y" * 50_000)
        started_s = time.monotonic()
        calls = (list(cached)[15].read_bytes, lambda: os.fsync(file.fileno()), other.close)
        assert list(pool.map(failure, calls)) == [errno.EIO] * 3
        assert TIMEOUT_S / 2 <= time.monotonic() - started_s < LIMIT_S
        osd_stopped(False)
        os.fsync(file.fileno())  # what could not be stored was kept
    assert list(cached)[15].read_bytes() == cached[list(cached)[15]]
    store(closed, b"again")
    check({path: digest(data) for path, data in {**cached, late: b"x" * 50_000, closed: b"again"}.items()}, mount)


def test_the_osd_is_killed_and_started_under_load(make: Callable[..., Mount], open_ceph: CephCluster, tmp_path: Path) -> None:
    mount = make()
    writing = Writing(mount.path, tmp_path / "outcomes")
    try:
        writing.wait_for_more(10)
        open_ceph.kill("osd")
        time.sleep(1)
        open_ceph.start("osd")
        writing.wait_for_more(10)
    finally:
        writing.end()
    assert writing.failures == []  # within the timeout an outage is a delay
    assert writing.longest_s > 1
    check(writing.acknowledged, mount)


def test_the_osd_is_away_for_longer_than_the_timeout(make: Callable[..., Mount], open_ceph: CephCluster, tmp_path: Path) -> None:
    mount = make("--io-timeout", f"{TIMEOUT_S}s")
    writing = Writing(mount.path, tmp_path / "outcomes")
    try:
        writing.wait_for_more(10)
        open_ceph.kill("osd")
        wait(lambda: bool(writing.failures), "nothing fails without an OSD")
        open_ceph.start("osd")
        writing.wait_for_more(10)
    finally:
        writing.end()
    assert set(writing.failures) == {errno.EIO}
    check(writing.acknowledged, mount)


def test_a_full_pool_is_enospc_until_there_is_room(make: Callable[..., Mount], open_ceph: CephCluster, pool: str) -> None:
    mount = make()
    mount.expected_log.append("is full")
    kept = {mount.path / f"k{i}": os.urandom(10_000) for i in range(10)}
    for path, data in kept.items():
        store(path, data)
    open_ceph.ceph("osd", "pool", "set-quota", pool, "max_objects", "2")
    try:
        refused: list[int] = []

        def fill() -> bool:
            path, data = mount.path / f"m{len(kept)}", os.urandom(10_000)
            error = failure(lambda: store(path, data))
            if error is None:
                kept[path] = data
            else:
                refused.append(error)
                path.unlink()
            return error is not None

        wait(fill, "a full pool takes everything")  # the monitor hears from the manager how full it is
        assert refused == [errno.ENOSPC]
        gone = next(iter(kept))
        gone.unlink()
        kept.pop(gone)
        assert {path for path, data in kept.items() if path.read_bytes() != data} == set()
    finally:
        open_ceph.ceph("osd", "pool", "set-quota", pool, "max_objects", "0")
    wait(lambda: failure(lambda: store(mount.path / "room", b"again")) is None, "there is no room")
    check({path: digest(data) for path, data in {**kept, mount.path / "room": b"again"}.items()}, mount)
