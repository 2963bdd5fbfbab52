"""File contents through a real mount: writes, holes, sharing, mapping, durability, on both fronts."""

import errno
import fcntl
import mmap
import multiprocessing
import os
import random
import threading
from pathlib import Path

import pytest

from support.aio import AsyncWriter
from support.mounts import Mount, MountFactory
from support.other_user import as_user
from support.syscalls import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, fallocate, syncfs

pytestmark = pytest.mark.fuse

MIB = 1 << 20


def pattern(n: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(n)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 65536, 65537, 100_000, MIB, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 9 * MIB + 17])
def test_what_was_written_is_read_back_after_a_remount(channel_mount: Mount, size: int) -> None:
    data = pattern(size, size)
    (channel_mount.path / "f").write_bytes(data)
    assert (channel_mount.path / "f").read_bytes() == data
    channel_mount.restart()
    assert (channel_mount.path / "f").read_bytes() == data


def test_sizes_around_a_block_on_both_fronts(mount: Mount) -> None:
    for size in (0, 1, 70_000, 4 * MIB + 1):
        (mount.path / f"f{size}").write_bytes(pattern(size, size))
    mount.restart()
    for size in (0, 1, 70_000, 4 * MIB + 1):
        assert (mount.path / f"f{size}").read_bytes() == pattern(size, size)


def test_a_file_over_several_chunks(channel_mount: Mount) -> None:
    path = channel_mount.path / "big"
    with open(path, "wb") as file:
        for i in range(70):
            file.write(pattern(2 * MIB, i))
    channel_mount.restart()
    with open(path, "rb") as file:
        for i in range(70):
            assert file.read(2 * MIB) == pattern(2 * MIB, i), f"at {2 * i} MiB"
    with open(path, "r+b") as file:
        file.seek(64 * MIB - 100)
        file.write(b"x" * 200)
    with open(path, "rb") as file:
        file.seek(64 * MIB - 101)
        got = file.read(202)
    assert got[1:-1] == b"x" * 200 and got[:1] != b"" and len(got) == 202
    os.truncate(path, 65 * MIB)
    os.truncate(path, 130 * MIB)
    with open(path, "rb") as file:
        file.seek(65 * MIB)
        assert not any(file.read())


def test_random_writes_through_one_handle_read_back_before_close(mount: Mount) -> None:
    rng = random.Random(7)
    model = bytearray(300_000)
    with open(mount.path / "f", "w+b", buffering=0) as file:
        file.truncate(len(model))
        for i in range(300):
            at, n = rng.randrange(len(model)), rng.randrange(1, 5000)
            data = pattern(min(n, len(model) - at), i)
            model[at : at + len(data)] = data
            file.seek(at)
            file.write(data)
            if i % 20 == 0:
                file.seek(0)
                assert file.read() == model
        if rng.random() < 2:
            os.fsync(file.fileno())
        file.seek(0)
        assert file.read() == model
    assert (mount.path / "f").read_bytes() == model


def test_a_hole_reads_as_zeros_after_shrinking_and_growing(mount: Mount) -> None:
    path = mount.path / "f"
    path.write_bytes(b"a" * 200_000)
    os.truncate(path, 40_000)
    with open(path, "r+b") as file:
        file.seek(160_000)
        file.write(b"b")
    data = path.read_bytes()
    assert data == b"a" * 40_000 + b"\0" * 120_000 + b"b"


def test_sparse_files_take_no_space(mount: Mount) -> None:
    path = mount.path / "sparse"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
        file.seek((1 << 40) - 3)
        file.write(b"end")
    status = os.stat(path)
    assert status.st_size == 1 << 40
    assert status.st_blocks * 512 <= 4096
    with open(path, "rb") as file:
        assert file.read(MIB) == bytes(MIB)
        file.seek(-5, os.SEEK_END)
        assert file.read() == b"\0\0end"


def append(path: Path, letter: bytes, n: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    for i in range(n):
        os.write(fd, letter * 50 + b"%06d\n" % i)
    os.close(fd)


def test_several_appenders_lose_nothing(mount: Mount) -> None:
    path = mount.path / "log"
    path.touch()
    writers = [multiprocessing.get_context("fork").Process(target=append, args=(path, c, 300)) for c in (b"a", b"b", b"c", b"d")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = path.read_bytes().splitlines()
    assert len(lines) == 1200
    assert len(set(lines)) == 1200


def test_appending_is_switched_on_and_off(channel_mount: Mount) -> None:
    path = channel_mount.path / "log"
    path.write_bytes(b"0123456789")
    fd = os.open(path, os.O_RDWR | os.O_APPEND)
    os.write(fd, b"a")
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    os.pwrite(fd, b"bb", 2)
    assert os.pread(fd, 100, 0) == b"01bb456789a"
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, b"c")
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    os.write(fd, b"d")
    os.close(fd)
    assert path.read_bytes() == b"c1bb456789ad"


def test_truncating_open_and_exclusive_create(mount: Mount) -> None:
    path = mount.path / "f"
    path.write_bytes(b"long content")
    with open(path, "wb") as file:
        file.write(b"x")
    assert path.read_bytes() == b"x"
    with pytest.raises(FileExistsError):
        open(path, "xb")


def test_two_handles_see_each_others_writes_at_once(mount: Mount) -> None:
    path = mount.path / "f"
    with open(path, "w+b", buffering=0) as one, open(path, "r+b", buffering=0) as two:
        one.write(b"0123456789")
        assert two.read() == b"0123456789"
        two.seek(2)
        two.write(b"XX")
        one.seek(0)
        assert one.read() == b"01XX456789"
        one.truncate(3)
        assert os.fstat(two.fileno()).st_size == 3


def test_shared_mapping_reads_and_writes(mount: Mount) -> None:
    path = mount.path / "map"
    path.write_bytes(bytes(50_000))
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[10:20] = b"0123456789"
        view[40_000:40_003] = b"end"
        view.flush()
        assert path.read_bytes()[10:20] == b"0123456789"
        file.seek(100)
        file.write(b"written")
        file.flush()
        assert view[100:107] == b"written"
    mount.restart()
    data = path.read_bytes()
    assert data[10:20] == b"0123456789" and data[40_000:40_003] == b"end" and data[100:107] == b"written"


def test_direct_io(channel_mount: Mount) -> None:
    path = channel_mount.path / "direct"
    buffer = mmap.mmap(-1, 64 * 1024)
    buffer[:] = pattern(64 * 1024)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    try:
        assert os.pwrite(fd, buffer, 0) == 64 * 1024
        assert os.pwrite(fd, buffer, 128 * 1024) == 64 * 1024
        back = mmap.mmap(-1, 64 * 1024)
        assert os.preadv(fd, [back], 128 * 1024) == 64 * 1024
        assert back[:] == buffer[:]
        back.close()
    finally:
        os.close(fd)
        buffer.close()
    assert path.read_bytes()[64 * 1024 : 128 * 1024] == bytes(64 * 1024)


@pytest.mark.parametrize("kept_open", [True, False])
def test_reads_beside_asynchronous_direct_writes_leave_no_old_pages(channel_mount: Mount, kept_open: bool) -> None:
    """The kernel drops pages before such a write, and not after it: a read under way brought the old content back."""
    path = channel_mount.path / "direct"
    size = 640 * 1024
    path.write_bytes(bytes(size))
    ended = threading.Event()
    buffer = mmap.mmap(-1, size)
    writer, reader = os.open(path, os.O_RDWR | os.O_DIRECT), os.open(path, os.O_RDONLY) if kept_open else -1

    def read() -> bytes:
        return os.pread(reader, size, 0) if kept_open else path.read_bytes()

    def read_on() -> None:
        while not ended.is_set():
            read()

    threads = [threading.Thread(target=read_on) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        with AsyncWriter(writer, buffer) as writes:
            n_old = 0
            for i in range(200):
                buffer[:] = bytes([i]) * size
                assert writes.write(size, 0) == size
                n_old += read() != buffer[:]
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        os.close(writer)
        if kept_open:
            os.close(reader)
    assert n_old <= 2  # a mount that had no processor for a second may have answered before the pages were dropped


def test_suid_goes_when_another_user_writes(mount: Mount) -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    path = mount.path / "suid"
    path.write_bytes(b"x")
    path.chmod(0o6777)

    def append() -> None:
        with path.open("ab") as file:
            file.write(b"y")

    as_user(65534, append)
    assert os.stat(path).st_mode & 0o7777 == 0o777


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
@pytest.mark.parametrize("how", ["punch", "allocate", "copy"])
def test_suid_goes_when_another_user_changes_what_is_in_the_file(channel_mount: Mount, how: str) -> None:
    source, path = channel_mount.path / "source", channel_mount.path / "suid"
    source.write_bytes(b"s" * 100)
    path.write_bytes(b"x" * 100)

    def change() -> None:
        fd = os.open(path, os.O_RDWR)
        if how == "copy":
            fd_in = os.open(source, os.O_RDONLY)
            assert os.copy_file_range(fd_in, fd, 10) == 10
            os.close(fd_in)
        elif how == "allocate":
            os.posix_fallocate(fd, 0, 200)
        else:
            fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 0, 10)
        os.close(fd)

    path.chmod(0o6777)
    change()
    assert os.stat(path).st_mode & 0o7777 == 0o6777, "root's changes take nothing away"
    as_user(65534, change)
    assert os.stat(path).st_mode & 0o7777 == 0o777
    channel_mount.restart()
    assert os.stat(path).st_mode & 0o7777 == 0o777


def test_writes_fail_on_a_read_only_mount(mounts: MountFactory, front: str) -> None:
    volume = mounts.volume()
    first = mounts.new(volume, front=front)
    (first.path / "f").write_bytes(b"data")
    first.stop()
    second = mounts.new(volume, "-o", "ro", front=front)
    assert (second.path / "f").read_bytes() == b"data"
    for call in (
        lambda: (second.path / "g").touch(),
        lambda: os.unlink(second.path / "f"),
        lambda: os.chmod(second.path / "f", 0),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EROFS


def test_no_space_is_reported_where_the_writer_sees_it(mounts: MountFactory, front: str) -> None:
    mount = mounts.new(mounts.volume("--capacity", "8M"), front=front)
    with pytest.raises(OSError) as caught, open(mount.path / "big", "wb", buffering=0) as file:
        for i in range(12):
            file.write(pattern(MIB, i))
            os.fsync(file.fileno())
    assert caught.value.errno in (errno.ENOSPC, errno.EDQUOT)
    (mount.path / "big").unlink()
    (mount.path / "small").write_bytes(pattern(MIB))
    assert (mount.path / "small").read_bytes() == pattern(MIB)


def test_statfs_follows_what_is_stored(mounts: MountFactory, front: str) -> None:
    mount = mounts.new(mounts.volume("--capacity", "64M", "--inodes", "1000"), front=front)
    before = os.statvfs(mount.path)
    assert before.f_blocks * before.f_frsize == 64 * MIB
    (mount.path / "f").write_bytes(pattern(5 * MIB))
    after = os.statvfs(mount.path)
    assert (before.f_bfree - after.f_bfree) * after.f_frsize >= 5 * MIB
    assert before.f_ffree - after.f_ffree == 1
    assert after.f_namemax == 255


def test_sync_calls_succeed(mount: Mount) -> None:
    with open(mount.path / "f", "wb") as file:
        file.write(b"x")
        file.flush()
        os.fdatasync(file.fileno())
        syncfs(file.fileno())
    directory = os.open(mount.path, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def test_compressed_volume_gives_back_what_it_got(mounts: MountFactory) -> None:
    volume = mounts.volume("--compress", "zstd:3")
    mount = mounts.new(volume)
    text = b"the same words again and again " * 50_000
    noise = pattern(3 * MIB)
    (mount.path / "text").write_bytes(text)
    (mount.path / "noise").write_bytes(noise)
    mount.restart()
    assert (mount.path / "text").read_bytes() == text
    assert (mount.path / "noise").read_bytes() == noise
    with open(mount.path / "noise", "rb") as file:
        for at in (0, 65_535, 1_000_000, 3 * MIB - 10):
            file.seek(at)
            assert file.read(10) == noise[at : at + 10]
    assert sum(pack.size for pack in volume.stored()) < len(noise) + len(text) // 10
