"""Two mounts of one volume, on SQLite and on Redis: what one process commits, the other sees."""

import errno
import fcntl
import os
import time
from collections.abc import Callable

import pytest

from cairnfs.const import MIB
from support.mounts import MountFactory, Volume

pytestmark = pytest.mark.fuse


@pytest.fixture(params=["sqlite", "redis"])
def volume(request: pytest.FixtureRequest, mounts: MountFactory) -> Volume:
    server = request.getfixturevalue("redis_server") if request.param == "redis" else None
    return mounts.volume(url=None if server is None else f"{server.url}/5")


def eventually(condition: object, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "the other mount's change never arrived"
        time.sleep(0.01)


def test_an_open_sees_what_was_closed_elsewhere(mounts: MountFactory, volume: Volume) -> None:
    one = mounts.new(volume)
    two = mounts.new(one.volume)
    (one.path / "f").write_bytes(b"first")
    eventually((two.path / "f").exists)
    for i in range(50):
        data = b"content %d" % i * (i + 1)
        (one.path / "f").write_bytes(data)
        assert (two.path / "f").read_bytes() == data


@pytest.mark.parametrize("before, after", [(10, 30), (30, 10)])
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_an_open_sees_the_size_of_what_was_closed_elsewhere(
    mounts: MountFactory, volume: Volume, flags: int, before: int, after: int
) -> None:
    # Nobody asks for attributes first, as read_bytes() does: the kernel goes by the size that it has. It throws away what it was
    # told if a notification overtakes that, and then goes on with the size of before.
    one = mounts.new(volume)
    two = mounts.new(one.volume)
    for i in range(100):
        (one.path / f"f{i}").write_bytes(b"x" * before)
        with (two.path / f"f{i}").open("r+b", buffering=0) as file:
            file.write(b"y" * after)
            file.truncate(after)
        fd = os.open(one.path / f"f{i}", flags)
        try:
            assert os.read(fd, 100) == b"y" * after, i
            assert os.lseek(fd, 0, os.SEEK_END) == after
        finally:
            os.close(fd)


def test_appending_that_was_switched_on_goes_behind_what_was_appended_elsewhere(mounts: MountFactory, volume: Volume) -> None:
    one = mounts.new(volume)
    two = mounts.new(one.volume)
    (one.path / "other").touch()
    (one.path / "log").write_bytes(b"one")
    fd = os.open(one.path / "log", os.O_WRONLY)
    with (two.path / "log").open("ab") as file:
        file.write(b"two")
    (one.path / "other").read_bytes()  # opens it: so the mount knows, but its kernel has not asked how long the file is
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    os.write(fd, b"three")
    os.close(fd)
    assert (two.path / "log").read_bytes() == b"onetwothree"


@pytest.mark.parametrize("n_bytes, n_read_first", [(4096, 0), (10, 5)])
def test_what_is_appended_under_a_lock_is_read_behind_what_was_appended_elsewhere(
    mounts: MountFactory, volume: Volume, n_bytes: int, n_read_first: int
) -> None:
    # The kernel puts it into its pages where it believes the end is: whole pages, and those that it has.
    one = mounts.new(volume)
    two = mounts.new(one.volume)
    (one.path / "log").write_bytes(b"1" * n_bytes)
    fd = os.open(one.path / "log", os.O_RDWR | os.O_APPEND)
    try:
        with (two.path / "log").open("ab") as file:
            file.write(b"2" * n_bytes)
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert os.pread(fd, n_read_first, 0) == b"1" * n_read_first
        os.write(fd, b"3" * n_bytes)
        expected = b"1" * n_bytes + b"2" * n_bytes + b"3" * n_bytes
        eventually(lambda: os.pread(fd, 4 * n_bytes, 0) == expected, 20)
    finally:
        os.close(fd)


def test_who_follows_a_growing_file_reads_no_zeros(mounts: MountFactory, volume: Volume) -> None:
    # The last page shows them behind what was the end, should the kernel learn of another size before it has dropped that page.
    one = mounts.new(volume)
    two = mounts.new(one.volume)
    (one.path / "log").write_bytes(b"x" * 100)
    fd = os.open(one.path / "log", os.O_RDONLY)
    found = os.read(fd, 100)
    try:
        for i in range(100):
            with (two.path / "log").open("ab") as file:
                file.write(b"y" * 30)
            deadline = time.monotonic() + 20
            while len(found) < 100 + 30 * (i + 1):
                assert time.monotonic() < deadline, "what was appended never arrived"
                n_new = os.fstat(fd).st_size - len(found)
                found += os.pread(fd, n_new, len(found))
            assert found == b"x" * 100 + b"y" * 30 * (i + 1)
    finally:
        os.close(fd)


def test_who_follows_a_growing_file_reads_no_zeros_while_it_is_listed_or_looked_up(mounts: MountFactory, volume: Volume) -> None:
    # Replies to READDIRPLUS (here on SQLite) and LOOKUP (on Redis) have its size, too, and cannot wait until that page is gone.
    one = mounts.new(volume, *(["--entry-cache", "0"] if volume.is_shared else []))
    two = mounts.new(one.volume)
    (one.path / "d").mkdir()
    log, there = one.path / "d" / "log", two.path / "d" / "log"
    log.write_bytes(b"x" * 100)
    look: list[Callable[[], object]] = [lambda: os.listdir(log.parent), lambda: os.stat(log)]
    if volume.is_shared:
        look = [lambda: os.access(log, os.F_OK)]
    fd = os.open(log, os.O_RDONLY)
    found = os.read(fd, 100)
    try:
        for i in range(120):
            with there.open("ab") as file:
                file.write(b"y" * 30)
            deadline = time.monotonic() + 20
            while len(found) < 100 + 30 * (i + 1):
                assert time.monotonic() < deadline, "what was appended never arrived"
                for each in look:
                    each()
                    found += os.pread(fd, 1000, len(found))
            assert found == b"x" * 100 + b"y" * 30 * (i + 1)
    finally:
        os.close(fd)


def test_names_attributes_and_removals_arrive(mounts: MountFactory, volume: Volume) -> None:
    one = mounts.new(volume)
    two = mounts.new(one.volume)
    (one.path / "d").mkdir()
    (one.path / "d" / "f").write_bytes(b"x")
    eventually((two.path / "d" / "f").exists)
    (one.path / "d" / "f").chmod(0o600)
    eventually(lambda: os.stat(two.path / "d" / "f").st_mode & 0o777 == 0o600)
    os.rename(one.path / "d" / "f", one.path / "d" / "g")
    eventually(lambda: os.listdir(two.path / "d") == ["g"])
    eventually(lambda: not (two.path / "d" / "f").exists())
    (one.path / "d" / "g").unlink()
    eventually(lambda: not (two.path / "d" / "g").exists())


def test_a_file_removed_elsewhere_leaves_no_orphan(mounts: MountFactory, volume: Volume) -> None:
    one = mounts.new(volume)
    two = mounts.new(one.volume)
    (one.path / "f").write_bytes(b"x" * 100_000)
    eventually((two.path / "f").exists)
    (two.path / "f").unlink()
    eventually(lambda: not (one.path / "f").exists())
    (one.path / "f").write_bytes(b"again")
    eventually((two.path / "f").exists)
    assert (two.path / "f").read_bytes() == b"again"


@pytest.mark.parametrize("n_bytes", [0, 12 * MIB])
def test_whoever_wrote_to_a_file_that_is_removed_elsewhere_is_told(mounts: MountFactory, volume: Volume, n_bytes: int) -> None:
    """Each descriptor once, also where it is found out by a write to another file, for which the journal of 4 MiB has no room."""
    one = mounts.new(volume, "--buffer-size", "4")
    two = mounts.new(one.volume)
    fds = [os.open(one.path / "f", os.O_RDWR | os.O_CREAT) for _ in range(3)]
    for i, fd in enumerate(fds):
        os.pwrite(fd, b"data", 4 * i)
    (two.path / "f").unlink()
    data = os.urandom(n_bytes)
    (one.path / "other").write_bytes(data)
    for expected in (errno.ESTALE, 0):
        for fd in fds:
            assert error_of(os.fsync, fd) == expected
    for fd in fds:
        os.close(fd)
    assert (two.path / "other").read_bytes() == data


def error_of(call: Callable[[int], None], fd: int) -> int:
    try:
        call(fd)
    except OSError as error:
        return error.errno or 0
    return 0
