"""Allocation, holes, copies by reference and seeking, through the compiled channel."""

import errno
import os
import random
from pathlib import Path

import pytest

from support.mounts import Mount, MountFactory
from support.syscalls import FALLOC_COLLAPSE_RANGE, FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE, fallocate

pytestmark = pytest.mark.fuse
MIB = 1 << 20


def make(path: Path, data: bytes) -> int:
    path.write_bytes(data)
    return os.open(path, os.O_RDWR)


def test_fallocate_extends_or_keeps_the_size(channel_mount: Mount) -> None:
    fd = make(channel_mount.path / "f", b"abc")
    fallocate(fd, 0, 0, 1000)
    assert os.fstat(fd).st_size == 1000
    fallocate(fd, FALLOC_KEEP_SIZE, 0, 5000)
    assert os.fstat(fd).st_size == 1000
    os.close(fd)
    assert (channel_mount.path / "f").read_bytes() == b"abc" + bytes(997)


def test_punched_and_zeroed_ranges_read_as_zeros(channel_mount: Mount) -> None:
    data = random.Random(1).randbytes(300_000)
    model = bytearray(data)
    fd = make(channel_mount.path / "f", data)
    for mode, at, n in (
        (FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 1000, 70_000),
        (FALLOC_ZERO_RANGE, 200_001, 3),
        (FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 290_000, 500_000),
        (FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE, 299_999, 9),
    ):
        fallocate(fd, mode, at, n)
        end = min(at + n, len(model))
        model[at:end] = bytes(end - at)
        assert os.pread(fd, 400_000, 0) == model
    assert os.fstat(fd).st_size == 300_000
    fallocate(fd, FALLOC_ZERO_RANGE, 299_000, 2000)
    assert os.fstat(fd).st_size == 301_000
    with pytest.raises(OSError) as caught:
        fallocate(fd, FALLOC_COLLAPSE_RANGE, 0, 4096)
    assert caught.value.errno == errno.EOPNOTSUPP
    os.close(fd)


def test_punching_gives_the_space_back(channel_mount: Mount) -> None:
    fd = make(channel_mount.path / "f", os.urandom(2 * MIB))
    before = os.fstat(fd).st_blocks
    fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 0, MIB)
    os.close(fd)
    assert os.stat(channel_mount.path / "f").st_blocks <= before - MIB // 512


def test_data_and_holes_are_found(channel_mount: Mount) -> None:
    fd = os.open(channel_mount.path / "f", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"x" * 1000, 10_000)
    os.pwrite(fd, b"y" * 1000, 70 * MIB)
    os.ftruncate(fd, 80 * MIB)
    assert os.lseek(fd, 0, os.SEEK_DATA) == 10_000
    assert os.lseek(fd, 10_500, os.SEEK_HOLE) == 11_000
    assert os.lseek(fd, 11_000, os.SEEK_DATA) == 70 * MIB
    assert os.lseek(fd, 70 * MIB, os.SEEK_HOLE) == 70 * MIB + 1000
    assert os.lseek(fd, 5, os.SEEK_HOLE) == 5
    for whence, at in ((os.SEEK_DATA, 71 * MIB), (os.SEEK_DATA, 80 * MIB), (os.SEEK_HOLE, 81 * MIB)):
        with pytest.raises(OSError) as caught:
            os.lseek(fd, at, whence)
        assert caught.value.errno == errno.ENXIO
    os.close(fd)


def test_copy_file_range_stores_nothing_twice(channel_mount: Mount) -> None:
    top = channel_mount.path
    data = random.Random(2).randbytes(6 * MIB)
    source = make(top / "a", data)
    packs = len(channel_mount.volume.stored())
    target = os.open(top / "b", os.O_RDWR | os.O_CREAT)
    done = 0
    while done < len(data):
        n = os.copy_file_range(source, target, len(data) - done, done, done)
        assert n > 0
        done += n
    assert len(channel_mount.volume.stored()) == packs, "a copy of stored bytes uploaded an object"
    assert (top / "b").read_bytes() == data
    assert os.copy_file_range(source, target, 100, 6 * MIB - 10, 3) == 10
    assert os.copy_file_range(source, target, 100, 7 * MIB, 0) == 0
    os.close(source)
    os.close(target)
    (top / "a").unlink()
    channel_mount.restart()
    assert (top / "b").read_bytes() == data[:3] + data[-10:] + data[13:]


def test_copies_of_unflushed_bytes_are_right(channel_mount: Mount) -> None:
    fd = os.open(channel_mount.path / "f", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"0123456789" * 1000, 0)
    assert os.copy_file_range(fd, fd, 5000, 0, 20_000) == 5000
    os.pwrite(fd, b"after", 20_000)
    expected = b"0123456789" * 1000 + bytes(10_000) + b"after" + (b"0123456789" * 500)[5:]
    assert os.pread(fd, 100_000, 0) == expected
    os.close(fd)
    assert (channel_mount.path / "f").read_bytes() == expected


def test_small_overwrites_are_compacted(mounts: MountFactory) -> None:
    mount = mounts.new()
    model = bytearray(2 * MIB)
    rng = random.Random(3)
    fd = os.open(mount.path / "f", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, model, 0)
    for i in range(400):
        at = rng.randrange(len(model) - 100)
        piece = rng.randbytes(100)
        model[at : at + 100] = piece
        os.pwrite(fd, piece, at)
        if i % 2:
            os.fsync(fd)
    assert os.pread(fd, len(model), 0) == model
    os.close(fd)
    mount.restart()
    assert (mount.path / "f").read_bytes() == model
