"""Reading: the right bytes as views, each slice fetched once, and only as much as is needed."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairnfs.cache.memory import ENTRY_BYTES, WHOLE, SliceCache
from cairnfs.const import CHUNK_BYTES, KIB, MIB, PAGE_BYTES
from support.datavolume import DataVolume, OpenedFile

BLOCK = 4 * MIB


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[DataVolume]:
    made = DataVolume(tmp_path, block_bytes=BLOCK, readahead_bytes=0)
    yield made
    made.close()
    assert made.data.budget.used_bytes == 0


def stored(volume: DataVolume, *pieces: tuple[int, bytes]) -> OpenedFile:
    """A file with committed pieces, each flushed by itself, and nothing in memory."""
    file = volume.file()
    for offset, data in pieces:
        file.writer.write(offset, data)
        file.writer.flush()
    file.writer.close()
    forget(volume)
    return file


def forget(volume: DataVolume) -> None:
    volume.data.cache.clear()
    volume.faulty.calls.clear()


class Fetches:
    """Notes the ranges that are fetched from the store."""

    def __init__(self, volume: DataVolume) -> None:
        self.ranges: list[tuple[int, int]] = []
        volume.faulty.corrupt = self._note

    def _note(self, name: str, offset: int, data: bytes) -> bytes:
        self.ranges.append((offset, len(data)))
        return data


def read(volume: DataVolume, file: OpenedFile, offset: int, size: int) -> bytes:
    return b"".join(volume.data.reader.read(file, None, offset, size))


# Holes


def test_holes_come_from_one_shared_buffer(volume: DataVolume) -> None:
    file = stored(volume, (CHUNK_BYTES + 100, b"data"))
    views = volume.data.reader.read(file, None, 0, CHUNK_BYTES + 104)
    assert sum(len(v) for v in views) == CHUNK_BYTES + 104
    assert len({id(v.obj) for v in views}) == 2
    assert all(v.readonly for v in views)
    assert bytes(views[-1]) == b"data"
    assert not any(views[0])


def test_data_between_holes(volume: DataVolume) -> None:
    file = stored(volume, (10, b"aa"), (20, b"bb"))
    assert read(volume, file, 0, 30) == bytes(10) + b"aa" + bytes(8) + b"bb" + bytes(8)
    assert read(volume, file, 11, 10) == b"a" + bytes(8) + b"b"
    assert read(volume, file, 5, 0) == b""


# How much is fetched


def test_a_small_file_takes_one_request(volume: DataVolume) -> None:
    file = stored(volume, (0, b"x" * 64 * KIB))
    for offset in (0, 30_000, 65_535):
        assert read(volume, file, offset, 1) == b"x"
    assert volume.faulty.calls["get"] == 1


def test_a_view_of_a_whole_slice_is_not_a_copy(volume: DataVolume) -> None:
    file = stored(volume, (0, b"x" * 1000))
    first = volume.data.reader.read(file, None, 0, 1000)[0]
    second = volume.data.reader.read(file, None, 500, 100)[0]
    assert first.obj is second.obj


def test_a_random_read_of_a_large_slice_fetches_only_its_pages(volume: DataVolume) -> None:
    data = random.Random(1).randbytes(BLOCK)
    file = stored(volume, (0, data))
    fetches = Fetches(volume)
    at = 20 * PAGE_BYTES - 10
    assert read(volume, file, at, 20) == data[at : at + 20]
    index, pages = fetches.ranges
    assert index[0] == 64 + BLOCK
    assert pages == (64 + 19 * PAGE_BYTES, 2 * PAGE_BYTES)
    assert read(volume, file, at - 100, 50) == data[at - 100 : at - 50]
    assert len(fetches.ranges) == 2
    assert read(volume, file, 0, 10) == data[:10]
    assert fetches.ranges[2:] == [(64, PAGE_BYTES)]


def test_the_last_page_may_be_short(volume: DataVolume) -> None:
    data = random.Random(2).randbytes(5 * PAGE_BYTES + 17)
    file = stored(volume, (0, data))
    assert read(volume, file, 5 * PAGE_BYTES + 10, 7) == data[-7:]


def test_pages_that_are_cached_are_not_fetched_again(volume: DataVolume) -> None:
    data = random.Random(3).randbytes(BLOCK)
    file = stored(volume, (0, data))
    read(volume, file, 5 * PAGE_BYTES, 10)
    fetches = Fetches(volume)
    assert read(volume, file, 4 * PAGE_BYTES, 3 * PAGE_BYTES) == data[4 * PAGE_BYTES : 7 * PAGE_BYTES]
    assert read(volume, file, 5 * PAGE_BYTES, 2 * PAGE_BYTES) == data[5 * PAGE_BYTES : 7 * PAGE_BYTES]
    assert len(fetches.ranges) == 1


def test_a_sequential_reader_fetches_large_slices_whole(volume: DataVolume) -> None:
    data = random.Random(4).randbytes(2 * BLOCK)
    file = stored(volume, (0, data))
    cursor = volume.data.reader.cursor()
    step = 128 * KIB
    got = b"".join(b"".join(volume.data.reader.read(file, cursor, at, step)) for at in range(0, 2 * BLOCK, step))
    assert got == data
    assert volume.faulty.calls["get"] <= 4


def test_compressed_slices_are_fetched_whole(tmp_path: Path) -> None:
    volume = DataVolume(tmp_path, block_bytes=BLOCK, compression="zstd")
    file = stored(volume, (0, b"compressible " * 300_000))
    assert read(volume, file, 1_300_000, 13) == b"compressible "
    assert read(volume, file, 26, 13) == b"compressible "
    assert volume.faulty.calls["get"] == 1
    volume.close()


def test_pages_of_a_slice_among_others(volume: DataVolume) -> None:
    rng = random.Random(6)
    file = volume.file()
    pieces = [(i * 8 * MIB, rng.randbytes(700 * KIB)) for i in range(3)]
    for offset, data in pieces:
        file.writer.write(offset, data)
    file.writer.flush()
    file.writer.close()
    assert len(volume.packs()) == 1
    forget(volume)
    for offset, data in pieces:
        assert read(volume, file, offset + 300_000, 10) == data[300_000:300_010]


# Many threads


def test_many_threads_missing_a_slice_fetch_it_once(volume: DataVolume) -> None:
    file = stored(volume, (0, b"x" * 1000))
    gate = volume.faulty.hold("get")
    got: list[bytes] = []
    threads = [threading.Thread(target=lambda: got.append(read(volume, file, 0, 1000))) for _ in range(8)]
    for t in threads:
        t.start()
    volume.faulty.wait_for("get")
    gate.set()
    for t in threads:
        t.join()
    assert got == [b"x" * 1000] * 8
    assert volume.faulty.calls["get"] == 1


def test_slices_of_one_request_are_fetched_side_by_side_from_a_slow_store(volume: DataVolume) -> None:
    file = stored(volume, *((i * 1000, bytes([i]) * 1000) for i in range(6)))
    volume.data.fetcher.get_s = 0.05
    gate = volume.faulty.hold("get")
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(read(volume, file, 0, 6000)))
    thread.start()
    volume.faulty.wait_for("get", 6)
    gate.set()
    thread.join()
    assert got == [b"".join(bytes([i]) * 1000 for i in range(6))]


def test_a_fast_store_is_asked_by_the_reading_thread(volume: DataVolume) -> None:
    file = stored(volume, (0, b"a" * 1000), (1000, b"b" * 1000))
    volume.data.fetcher.get_s = 0.00001
    before = threading.active_count()
    assert read(volume, file, 0, 2000) == b"a" * 1000 + b"b" * 1000
    assert threading.active_count() == before


# Readahead


def test_a_sequential_reader_finds_the_next_slices_fetched(tmp_path: Path) -> None:
    volume = DataVolume(tmp_path, block_bytes=MIB, readahead_bytes=8 * MIB)
    data = random.Random(7).randbytes(16 * MIB)
    file = stored(volume, (0, data))
    cursor = volume.data.reader.cursor()
    step = 256 * KIB
    for at in range(0, 2 * MIB, step):
        volume.data.reader.read(file, cursor, at, step)
    volume.faulty.wait_for("get", 4)
    got = b"".join(b"".join(volume.data.reader.read(file, cursor, at, step)) for at in range(2 * MIB, 16 * MIB, step))
    assert got == data[2 * MIB :]
    assert volume.faulty.calls["get"] <= 18
    volume.close()
    assert volume.data.budget.used_bytes == 0


def test_readahead_yields_to_writers_for_memory(tmp_path: Path) -> None:
    volume = DataVolume(tmp_path, block_bytes=MIB, readahead_bytes=8 * MIB, buffer_bytes=1)
    file = stored(volume, (0, bytes(16 * MIB)))
    volume.data.budget.try_reserve(8 * MIB)
    volume.data.reader._plan_ahead(file, 4 * MIB, 12 * MIB)
    assert volume.faulty.calls["get"] == 0
    volume.data.budget.release(8 * MIB)
    volume.close()


# The cache


def test_the_cache_drops_what_was_not_used_for_longest() -> None:
    cache = SliceCache(3 * (100 + ENTRY_BYTES))
    for i in range(3):
        cache.put((i, 64, WHOLE), bytes(100))
    assert cache.get((0, 64, WHOLE)) is not None
    cache.put((3, 64, WHOLE), bytes(100))
    assert (1, 64, WHOLE) not in cache
    assert (0, 64, WHOLE) in cache
    assert len(cache) == 3


def test_the_cache_counts_its_bytes() -> None:
    cache = SliceCache(10_000)
    cache.put((1, 64, WHOLE), bytes(100))
    cache.put((1, 64, WHOLE), bytes(200))
    assert cache.used_bytes == 200 + ENTRY_BYTES
    cache.put((2, 64, WHOLE), bytes(20_000))
    assert len(cache) == 1
    cache.drop((1, 64, WHOLE))
    cache.drop((1, 64, WHOLE))
    assert cache.used_bytes == 0
