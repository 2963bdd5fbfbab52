"""fallocate, lseek for data and holes, and copy_file_range through the Vfs."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairnfs.const import CHUNK_BYTES, MAX_FILE_BYTES, MIB
from cairnfs.errors import CairnError
from support.engine import ME, Engine, new_volume

KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE = 0x01, 0x02, 0x08, 0x10, 0x20


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(new_volume(tmp_path)) as engine:
        yield engine


@pytest.mark.parametrize("mode", [0, KEEP_SIZE])
def test_allocating_extends_the_file_or_keeps_its_size(engine: Engine, mode: int) -> None:
    with engine.files.created("f") as fh:
        engine.files.pwrite(fh, 0, b"data")
        engine.vfs.fallocate(ME, fh, mode, 2, 100)
        assert engine.files.attr("f").size == (4 if mode else 102)
        assert engine.files.pread(fh, 0, 200) == b"data" + bytes(0 if mode else 98)


@pytest.mark.parametrize("mode", [PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE])
def test_a_punched_or_zeroed_range_reads_as_zeros(engine: Engine, mode: int) -> None:
    with engine.files.created("f") as fh:
        engine.files.pwrite(fh, 0, b"x" * 100)
        engine.vfs.fallocate(ME, fh, mode, 90, 20)
        size = 110 if mode == ZERO_RANGE else 100
        assert engine.files.pread(fh, 0, 200) == b"x" * 90 + bytes(size - 90)
        assert engine.files.attr("f").alloc_bytes == 90
        engine.files.pwrite(fh, 95, b"y")
    assert engine.files.read("f")[88:100] == b"xx" + bytes(5) + b"y" + bytes(4)


@pytest.mark.parametrize("mode", [PUNCH_HOLE, COLLAPSE_RANGE, INSERT_RANGE, 0x40, KEEP_SIZE | COLLAPSE_RANGE])
def test_other_modes_are_not_supported(engine: Engine, mode: int) -> None:
    with engine.files.created("f") as fh, pytest.raises(CairnError) as error:
        engine.vfs.fallocate(ME, fh, mode, 0, 10)
    assert error.value.errno == errno.EOPNOTSUPP


def test_ranges_that_cannot_be_are_refused(engine: Engine) -> None:
    with engine.files.created("f") as fh:
        for offset, length, code in ((-1, 1, errno.EINVAL), (0, 0, errno.EINVAL), (MAX_FILE_BYTES, 1, errno.EFBIG)):
            with pytest.raises(CairnError) as error:
                engine.vfs.fallocate(ME, fh, 0, offset, length)
            assert error.value.errno == code


def test_allocating_more_than_is_left_fails(tmp_path: Path) -> None:
    with Engine(new_volume(tmp_path, capacity_bytes=MIB)) as engine, engine.files.created("f") as fh:
        engine.vfs.fallocate(ME, fh, 0, 0, MIB)
        with pytest.raises(CairnError) as error:
            engine.vfs.fallocate(ME, fh, 0, 0, 2 * MIB)
        assert error.value.errno == errno.ENOSPC


def test_holes_and_data_are_found_in_data_just_written(engine: Engine) -> None:
    vfs = engine.vfs
    with engine.files.created("f") as fh:
        engine.files.pwrite(fh, 2 * MIB, b"x" * MIB)
        engine.files.pwrite(fh, 2 * CHUNK_BYTES, b"y")
        assert vfs.lseek(ME, fh, 0, os.SEEK_DATA) == 2 * MIB
        assert vfs.lseek(ME, fh, 2 * MIB + 5, os.SEEK_DATA) == 2 * MIB + 5
        assert vfs.lseek(ME, fh, 0, os.SEEK_HOLE) == 0
        assert vfs.lseek(ME, fh, 2 * MIB, os.SEEK_HOLE) == 3 * MIB
        assert vfs.lseek(ME, fh, 3 * MIB, os.SEEK_DATA) == 2 * CHUNK_BYTES
        assert vfs.lseek(ME, fh, 2 * CHUNK_BYTES, os.SEEK_HOLE) == 2 * CHUNK_BYTES + 1
        assert vfs.lseek(ME, fh, 0, os.SEEK_END) == 2 * CHUNK_BYTES + 1


@pytest.mark.parametrize("offset", [-1, 5, 100])
@pytest.mark.parametrize("whence", [os.SEEK_DATA, os.SEEK_HOLE])
def test_seeking_outside_of_the_file_fails(engine: Engine, offset: int, whence: int) -> None:
    with engine.files.created("f") as fh:
        engine.files.pwrite(fh, 0, b"12345")
        with pytest.raises(CairnError) as error:
            engine.vfs.lseek(ME, fh, offset, whence)
        assert error.value.errno == errno.ENXIO


def test_seeking_data_behind_the_last_fails(engine: Engine) -> None:
    with engine.files.created("f") as fh:
        engine.vfs.fallocate(ME, fh, 0, 0, 100)
        with pytest.raises(CairnError) as error:
            engine.vfs.lseek(ME, fh, 0, os.SEEK_DATA)
        assert error.value.errno == errno.ENXIO


def test_copying_shares_bytes_that_were_just_written(engine: Engine) -> None:
    files = engine.files
    data = os.urandom(3 * MIB)
    with files.created("source") as source, files.created("target") as target:
        files.pwrite(source, 0, data)
        files.pwrite(target, 0, b"0123456789")
        assert engine.vfs.copy_file_range(ME, source, 7, target, 5, MIB) == MIB
        assert files.pread(target, 0, 2 * MIB) == b"01234" + data[7 : MIB + 7]
        packs = {info.name for info in engine.volume.objects.list("packs/")}
        assert engine.vfs.copy_file_range(ME, source, 3 * MIB - 10, target, 0, MIB) == 10
        assert files.pread(target, 0, 12) == data[-10:] + data[12:14]
        assert {info.name for info in engine.volume.objects.list("packs/")} == packs
    files.unlink("source")
    assert files.read("target") == data[-10:] + data[12 : MIB + 7]


def test_a_copy_is_independent_of_later_changes(engine: Engine) -> None:
    files = engine.files
    files.write("source", b"a" * 1000)
    with files.opened("source") as source, files.created("target") as target:
        engine.vfs.copy_file_range(ME, source, 0, target, 0, 1000)
        files.pwrite(source, 0, b"b" * 1000)
        assert files.pread(target, 0, 1000) == b"a" * 1000
    assert files.read("source") == b"b" * 1000


def test_copying_within_a_file(engine: Engine) -> None:
    files = engine.files
    with files.created("f") as fh:
        files.pwrite(fh, 0, b"0123456789")
        assert engine.vfs.copy_file_range(ME, fh, 0, fh, 10, 5) == 5
        assert files.pread(fh, 0, 100) == b"012345678901234"
        for off_in, off_out in ((0, 3), (3, 0), (2, 2)):
            with pytest.raises(CairnError) as error:
                engine.vfs.copy_file_range(ME, fh, off_in, fh, off_out, 5)
            assert error.value.errno == errno.EINVAL


def test_copying_nothing_changes_nothing(engine: Engine) -> None:
    files = engine.files
    files.write("f", b"data")
    with files.opened("f") as source, files.created("g") as target:
        before = files.attr("g").version
        assert engine.vfs.copy_file_range(ME, source, 4, target, 0, 10) == 0
        assert engine.vfs.copy_file_range(ME, source, 0, target, 0, 0) == 0
        assert files.attr("g").version == before
