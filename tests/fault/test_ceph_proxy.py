"""A proxy between a mount's librados and the OSD: answers are slow, or only their first half arrives; for puts and for gets.

The connection then ends, or nothing comes over it any more although it stands, which only librados's own limits end.
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import missing

from cairnfs.bench.mounted import counters
from support.apart import Apart
from support.ceph_server import CephCluster
from support.mounts import Mount, MountFactory, cairnfs
from support.proxy import Proxy
from support.storing import LIMIT_S, Writing, digest, failure, wait

pytestmark = pytest.mark.fuse

AWAY = ["trying again", "cannot (store|read|delete|reach|look at)", "are lost", "cannot be stored", "has not answered"]
TROUBLES = {"breaking": "n_broken", "silent": "n_silent"}  # what Proxy can do to an answer, and what counts it


class Line(NamedTuple):
    """To the OSD, for whoever is in a network of its own."""

    proxy: Proxy
    apart: Apart


@pytest.fixture(scope="module")
def pool(open_ceph: CephCluster) -> str:
    return open_ceph.make_pool("proxied")


@pytest.fixture
def line(open_ceph: CephCluster) -> Iterator[Line]:
    if os.geteuid() != 0:
        pytest.skip("a network of its own is for root to make")
    for program in ("ip", "nsenter"):
        if shutil.which(program) is None:
            missing(program)
    (osd,) = json.loads(open_ceph.ceph("osd", "dump", "--format", "json"))["osds"]
    port = int(osd["public_addrs"]["addrvec"][0]["addr"].rpartition(":")[2])
    with Apart(port, open_ceph.mon_port) as apart, ExitStack() as stack:
        proxy, monitor = (Proxy(each, listening=apart.listening[each]) for each in (port, open_ceph.mon_port))
        stack.callback(proxy.close)
        stack.callback(monitor.close)
        yield Line(proxy, apart)


@pytest.fixture
def make(line: Line, mounts: MountFactory, open_ceph: CephCluster, pool: str) -> Callable[[int], Mount]:
    def made(io_timeout_s: int) -> Mount:
        place = ("--storage", "rados", "--bucket", pool, "--ceph-conf", str(open_ceph.conf))
        volume = mounts.volume(*place, "--namespace", f"n{time.monotonic_ns()}")
        mount = Mount(volume, mounts.root / "mnt", "channel", "--io-timeout", f"{io_timeout_s}s")
        mount.prefix = line.apart.prefix
        mount.expected_log += AWAY
        mounts.mounts.append(mount)
        return mount.start()

    return made


def store(path: Path, data: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())


def wrong(files: dict[Path, str]) -> set[Path]:
    return {path for path, expected in files.items() if digest(path.read_bytes()) != expected}


def check(mount: Mount, files: dict[Path, str]) -> tuple[int, int]:
    """Every file as it was acknowledged: now, after mounting again, and by the checksums of all. Returns what gc finds then:
    objects that no file knows, and packs of which no file has anything.
    """
    assert wrong(files) == set()
    mount.restart()
    assert wrong(files) == set()
    mount.stop()
    mount.volume.assert_clean("--verify-data")
    found = json.loads(cairnfs("gc", mount.volume.url, "--delete", "--grace", "0", "--json").stdout)
    mount.volume.assert_clean("--verify-data")
    return found["unknown_objects"], found["garbage_packs"]


def meanwhile(proxy: Proxy, trouble: str, call: Callable[[], object]) -> object:
    """What a call returns, to whose (first) answer that was done."""
    n_before = getattr(proxy, TROUBLES[trouble])
    with ThreadPoolExecutor() as threads:
        setattr(proxy, trouble, 1.0)
        called: Future[object] = threads.submit(call)
        try:
            wait(lambda: getattr(proxy, TROUBLES[trouble]) > n_before, "the OSD is not asked")
        finally:
            setattr(proxy, trouble, 0.0)
        return called.result()


def test_slow_answers_make_things_slow(make: Callable[[int], Mount], line: Line, tmp_path: Path) -> None:
    mount, proxy = make(30), line.proxy
    proxy.slow_s = 0.4
    writing = Writing(mount.path, tmp_path / "outcomes")
    try:
        wait(lambda: proxy.n_slow >= 15, "no answer is slow")
    finally:
        writing.end()
    assert writing.failures == []
    mount.restart()
    n_slow = proxy.n_slow
    assert wrong(writing.acknowledged) == set()
    assert proxy.n_slow > n_slow
    proxy.slow_s = 0.0
    assert check(mount, writing.acknowledged) == (0, 0)


@pytest.mark.parametrize(("trouble", "n_times", "io_timeout_s"), [("breaking", 5, 60), ("silent", 1, 15)])
def test_a_half_answer_is_a_delay(
    make: Callable[[int], Mount], line: Line, trouble: str, n_times: int, io_timeout_s: int
) -> None:
    """Whoever falls silent is given up in time for the second of the two attempts that a call makes."""
    mount = make(io_timeout_s)
    files = {mount.path / f"f{i}": os.urandom(3_000_000) for i in range(n_times)}
    for path, data in files.items():
        meanwhile(line.proxy, trouble, partial(store, path, data))
    mount.restart()
    for path, data in files.items():
        assert meanwhile(line.proxy, trouble, path.read_bytes) == data
    assert check(mount, {path: digest(data) for path, data in files.items()}) == (0, 0)


@pytest.mark.parametrize("trouble", TROUBLES)
def test_half_answers_for_longer_than_the_timeout(make: Callable[[int], Mount], line: Line, trouble: str) -> None:
    mount = make(4)
    mount.expected_log.append("worker . has failed")  # one that begins meanwhile
    files = {mount.path / f"c{i}": os.urandom(30_000) for i in range(4)}
    for path, data in files.items():
        store(path, data)
    mount.restart()
    cached, cold, late, closed = (*list(files)[:2], mount.path / "late", mount.path / "closed")
    assert cached.read_bytes() == files[cached]
    with late.open("wb", buffering=0) as file, ThreadPoolExecutor() as threads:
        file.write(b"x" * 50_000)
        other = closed.open("wb", buffering=0)
        other.write(b"y" * 50_000)
        setattr(line.proxy, trouble, 1.0)
        started_s = time.monotonic()
        failing = [threads.submit(failure, cold.read_bytes)]
        wait(lambda: getattr(line.proxy, TROUBLES[trouble]) > 0, "the OSD is not asked")
        # Only now: half of several answers that come together may be the whole of one.
        failing += [threads.submit(failure, call) for call in (lambda: os.fsync(file.fileno()), other.close)]
        assert cached.read_bytes() == files[cached]
        assert [each.result() for each in failing] == [errno.EIO] * 3
        assert time.monotonic() - started_s < LIMIT_S
        setattr(line.proxy, trouble, 0.0)
        wait(lambda: failure(cold.read_bytes) is None, "nothing is read any more")
        os.fsync(file.fileno())  # what could not be stored was kept
    store(closed, b"again")
    files |= {late: b"x" * 50_000, closed: b"again"}
    n_retries = counters(mount.path)["cairnfs_object_retries_total"]
    unknown, _ = check(mount, {path: digest(data) for path, data in files.items()})
    assert unknown <= n_retries  # of those that were refused, each may have been stored
