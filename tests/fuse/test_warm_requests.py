"""How many requests the kernel sends for what it has been told before, and that it does not send for nothing."""

import fcntl
import mmap
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.mounts import Mount, MountFactory
from support.requests import requests, sent

pytestmark = [pytest.mark.fuse, pytest.mark.usefixtures("kernel_caches")]

N_FILES = 50
SIZE = 20_000


def fill(folder: Path) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"f{i}" for i in range(N_FILES)]
    for path in paths:
        path.write_bytes(os.urandom(SIZE))
    return paths


def read_all(paths: list[Path]) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        assert len(os.read(fd, 2 * SIZE)) == SIZE
        os.close(fd)


@pytest.fixture
def pair(mounts: MountFactory) -> tuple[Mount, Mount]:
    """A mount that writes, and a read-only one."""
    one = mounts.new(None, "--heartbeat", "30", front="channel")
    return one, mounts.new(one.volume, "-o", "ro", "--heartbeat", "30", front="channel")


def test_a_warm_file_is_opened_and_released_and_nothing_else(pair: tuple[Mount, Mount]) -> None:
    mount, _ = pair
    paths = fill(mount.path / "d")
    read_all(paths)
    found = sent(mount, lambda: read_all(paths))
    assert found.pop("OPEN") == N_FILES
    assert found == {}, "a second epoch reads nothing"


def test_a_warm_file_of_a_read_only_mount_costs_nothing(pair: tuple[Mount, Mount]) -> None:
    one, two = pair
    fill(one.path / "d")
    time.sleep(0.5)  # the follower drops attributes of what has just changed a second time
    paths = sorted((two.path / "d").iterdir())
    read_all(paths)
    assert sent(two, lambda: read_all(paths)) == {}


def test_warm_attributes_cost_nothing(pair: tuple[Mount, Mount]) -> None:
    for mount in pair:
        paths = fill(mount.path / "d") if mount is pair[0] else sorted((mount.path / "d").iterdir())
        for path in paths:
            os.stat(path)
        time.sleep(1.1)  # what replies to creations say ends after a second
        for path in paths:
            os.stat(path)
        assert sent(mount, lambda paths=paths: [os.stat(path) for path in paths]) == {}


def test_a_warm_listing_asks_for_names_only(pair: tuple[Mount, Mount]) -> None:
    mount, _ = pair
    folder = mount.path / "d"
    folder.mkdir()
    for i in range(500):
        (folder / f"f{i}").touch()
    subprocess.run(["ls", "-lR", folder], check=True, capture_output=True)
    time.sleep(1.1)
    subprocess.run(["ls", "-lR", folder], check=True, capture_output=True)
    found = sent(mount, lambda: subprocess.run(["ls", "-lR", folder], check=True, capture_output=True))
    assert found.pop("OPENDIR") == 1
    assert found.pop("RELEASEDIR", 1) == 1
    assert found.pop("READDIR", 0) + found.pop("READDIRPLUS", 0) <= 1 + 500 / 100
    assert found.pop("GETATTR", 0) <= 1, "of the directory, whose access time listing changes for all the kernel knows"
    assert found.keys() <= {"GETXATTR", "LISTXATTR"}, "no attributes of files"


def test_reading_on_comes_in_large_requests(pair: tuple[Mount, Mount]) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may widen the kernel's readahead")
    one, two = pair
    (one.path / "big").write_bytes(os.urandom(16 << 20))
    found = sent(two, lambda: (two.path / "big").read_bytes())
    assert found["READ"] <= 32, "half a mebibyte each on average, where the first are small"


def test_changes_made_elsewhere_reach_files_that_nobody_opened(pair: tuple[Mount, Mount]) -> None:
    one, two = pair
    (path,) = fill(one.path / "d")[:1]
    there = two.path / "d" / path.name
    for i in range(20):
        there.read_bytes()
        data = b"content %d" % i * (i + 1)
        path.write_bytes(data)
        until(lambda data=data, there=there: there.read_bytes() == data and os.stat(there).st_size == len(data))
    path.unlink()
    until(lambda: not there.exists())
    with pytest.raises(FileNotFoundError):
        there.read_bytes()


def test_reading_without_opening_serves_every_way_to_read(pair: tuple[Mount, Mount]) -> None:
    one, two = pair
    path = fill(one.path / "d")[0]
    data = path.read_bytes()
    fd = os.open(two.path / "d" / path.name, os.O_RDONLY)
    assert (os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 0, os.SEEK_HOLE)) == (0, SIZE)
    os.fsync(fd)
    script = "import mmap, os, sys; print(len(mmap.mmap(os.open(sys.argv[1], 0), 0, prot=mmap.PROT_READ)[:]))"
    mapped = subprocess.run(["python3", "-c", script, two.path / "d" / path.name], check=True, capture_output=True, text=True)
    assert int(mapped.stdout) == SIZE
    os.close(fd)
    direct = os.open(two.path / "d" / path.name, os.O_RDONLY | os.O_DIRECT)
    with mmap.mmap(-1, 32768) as room:
        assert os.readv(direct, [room]) == SIZE
        assert room[:SIZE] == data
    os.close(direct)


def test_locks_of_a_read_only_mount_exclude_each_other_and_end_with_their_file(pair: tuple[Mount, Mount]) -> None:
    one, two = pair
    path = two.path / "d" / fill(one.path / "d")[0].name
    with open(path, "rb") as first, open(path, "rb") as second:
        fcntl.lockf(first, fcntl.LOCK_SH)
        fcntl.flock(first, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        first.close()
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_statistics_of_a_read_only_mount_are_fresh_at_each_opening(pair: tuple[Mount, Mount]) -> None:
    one, two = pair
    fill(one.path / "d")
    before = requests(two)
    os.listdir(two.path / "d")
    assert requests(two)["OPENDIR"] == before.get("OPENDIR", 0) + 1
    assert not (two.path / ".accesslog").exists()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)
