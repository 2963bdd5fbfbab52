"""Missing, damaged and slow packs as a reader meets them."""

import errno
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cairnfs.const import MIB, PAGE_BYTES
from cairnfs.data.pack import pack_name
from cairnfs.errors import CorruptError, ObjectError, ObjectMissing
from cairnfs.ext import slicer
from cairnfs.types import PackId
from support.datavolume import DataVolume, OpenedFile

DATA = random.Random(9).randbytes(MIB)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[DataVolume]:
    made = DataVolume(tmp_path, block_bytes=4 * MIB)
    yield made
    made.close()


@pytest.fixture
def file(volume: DataVolume) -> OpenedFile:
    """A file of one slice, 1 MiB, with nothing in memory."""
    opened = volume.file()
    opened.writer.write(0, DATA)
    opened.writer.flush()
    opened.writer.close()
    volume.data.cache.clear()
    return opened


def pack_of(file: OpenedFile) -> PackId:
    return PackId(slicer.unpack(file.layout(0))[0][4])


def flip(at: int) -> Callable[[str, int, bytes], bytes]:
    """Damages byte `at` of the object in whatever range is read."""

    def corrupt(name: str, offset: int, data: bytes) -> bytes:
        if offset <= at < offset + len(data):
            return data[: at - offset] + bytes([data[at - offset] ^ 1]) + data[at - offset + 1 :]
        return data

    return corrupt


def read(volume: DataVolume, file: OpenedFile, offset: int, size: int) -> bytes:
    return b"".join(volume.data.reader.read(file, None, offset, size))


@pytest.mark.parametrize("range_read", [(0, MIB), (5 * PAGE_BYTES, 100)], ids=["whole", "page"])
def test_a_damaged_slice_is_eio_and_one_line_in_the_log(
    volume: DataVolume, file: OpenedFile, range_read: tuple[int, int], expected_logs: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pack = pack_of(file)
    line = rf"inode {file.ino} cannot be read: pack {pack:016x}, slice at 64\+1048576: .*checksum"
    expected_logs.add(line)
    volume.faulty.corrupt = flip(64 + 5 * PAGE_BYTES + 3)
    for _ in range(3):
        with pytest.raises(CorruptError) as caught:
            read(volume, file, *range_read)
        assert caught.value.errno == errno.EIO
    assert len([r for r in caplog.records if re.search(line, r.getMessage())]) == 1


@pytest.mark.parametrize("range_read", [(0, MIB), (5 * PAGE_BYTES, 100)], ids=["whole", "page"])
def test_damage_on_the_way_is_mended_by_asking_again(volume: DataVolume, file: OpenedFile, range_read: tuple[int, int]) -> None:
    bad = flip(64 + 5 * PAGE_BYTES + 3)

    def once(name: str, offset: int, data: bytes) -> bytes:
        changed = bad(name, offset, data)
        if changed != data:
            volume.faulty.corrupt = None
        return changed

    volume.faulty.corrupt = once
    offset, size = range_read
    assert read(volume, file, offset, size) == DATA[offset : offset + size]
    assert volume.faulty.corrupt is None


def test_pages_that_are_not_damaged_can_be_read(volume: DataVolume, file: OpenedFile) -> None:
    volume.faulty.corrupt = flip(64 + 5 * PAGE_BYTES + 3)
    assert read(volume, file, 0, 100) == DATA[:100]
    assert read(volume, file, 6 * PAGE_BYTES, 100) == DATA[6 * PAGE_BYTES : 6 * PAGE_BYTES + 100]


@pytest.mark.parametrize("at", [3, 20, 35, 61])
def test_a_damaged_header_is_detected(volume: DataVolume, file: OpenedFile, at: int, expected_logs: Any) -> None:
    expected_logs.add("cannot be read: pack")
    volume.faulty.corrupt = flip(at)
    with pytest.raises(CorruptError):
        read(volume, file, 0, MIB)


def test_another_object_under_the_name_is_called_what_it_is(volume: DataVolume, file: OpenedFile, expected_logs: Any) -> None:
    expected_logs.add("the object says it is pack")
    other = volume.file()
    other.writer.write(0, DATA)
    other.writer.flush()
    other.writer.close()
    volume.data.cache.clear()
    at, of = (volume.folder / pack_name(pack_of(f)) for f in (file, other))
    at.write_bytes(of.read_bytes())
    with pytest.raises(CorruptError, match=f"the object says it is pack {pack_of(other):016x}"):
        read(volume, file, 0, MIB)


@pytest.mark.parametrize("length", [0, 10, 64, 100, MIB])
def test_a_truncated_object_is_corrupt(volume: DataVolume, file: OpenedFile, length: int, expected_logs: Any) -> None:
    expected_logs.add("cannot be read: pack")
    path = volume.folder / pack_name(pack_of(file))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CorruptError):
        read(volume, file, 0, MIB)
    with pytest.raises(CorruptError):
        read(volume, file, 15 * PAGE_BYTES, 10)


def test_a_missing_object_is_told_from_damage_and_not_logged(volume: DataVolume, file: OpenedFile) -> None:
    volume.objects.delete(pack_name(pack_of(file)))
    for offset, size in ((0, MIB), (100, 10)):
        with pytest.raises(ObjectMissing):
            read(volume, file, offset, size)


def test_a_failing_store_fails_the_read_and_not_the_next_one(volume: DataVolume, file: OpenedFile) -> None:
    volume.faulty.fail_once("get")
    with pytest.raises(ObjectError):
        read(volume, file, 0, MIB)
    assert read(volume, file, 0, MIB) == DATA


def test_a_layout_that_is_malformed_is_corrupt(volume: DataVolume, file: OpenedFile) -> None:
    broken = file.layout(0)[:-1]
    file.layout = lambda chunk_no: broken  # type: ignore[method-assign]
    with pytest.raises(CorruptError, match=f"inode {file.ino}: the layout of chunk 0 is malformed"):
        read(volume, file, 0, 10)


def test_an_absurd_length_in_a_layout_takes_no_memory(volume: DataVolume, file: OpenedFile, expected_logs: Any) -> None:
    expected_logs.add("the layout claims")
    record = slicer.pack_record(0, 100, 0, 1 << 31, pack_of(file), 64, 1 << 31, 0, 1)
    file.layout = lambda chunk_no: record  # type: ignore[method-assign]
    with pytest.raises(CorruptError, match="claims 2147483648 plain bytes"):
        read(volume, file, 0, 100)
    assert volume.faulty.calls["get"] == 0


def test_failing_readahead_disturbs_nobody(tmp_path: Path) -> None:
    volume = DataVolume(tmp_path, block_bytes=MIB)
    file = volume.file()
    file.writer.write(0, bytes(12 * MIB))
    file.writer.flush()
    file.writer.close()
    volume.data.cache.clear()
    cursor = volume.data.reader.cursor()
    for at in range(0, MIB, MIB // 4):
        volume.data.reader.read(file, cursor, at, MIB // 4)
    volume.faulty.fail_forever("get")
    volume.data.reader._plan_ahead(file, 9 * MIB, 12 * MIB)
    volume.faulty.wait_for("get", 4)
    volume.data.reader.close()
    volume.faulty.heal()
    assert read(volume, file, 11 * MIB, 10) == bytes(10)
    assert volume.data.budget.used_bytes == 0
    volume.close()
