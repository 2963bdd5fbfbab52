"""Where the engine has several requests at once, it makes them of a pool without waiting for each: counted below everything."""

import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest

from cairnfs.objects import MARKER
from cairnfs.objects.base import Outcome, Request
from cairnfs.objects.rados import DEPTH, Access, RadosStore
from cairnfs.types import Buffer, Inode
from support.datavolume import BLOCK, DataVolume, OpenedFile

_names = count()


class Watched(RadosStore):
    """Counts `calls` that wait for one answer, requests of `many` by kind, and how many of these were under way at most."""

    def __init__(self, access: Access, name: str, io_timeout_s: float) -> None:
        super().__init__(access, name, io_timeout_s)
        self._counting = threading.Lock()
        self._n_now = 0
        self.forget()

    def forget(self) -> None:
        self.calls: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.most = 0

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        self.calls["put"] += 1
        super().put(name, parts)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self.calls["get"] += 1
        return super().get(name, offset, length)

    def delete(self, name: str) -> None:
        self.calls["delete"] += 1
        super().delete(name)

    def many(self, requests: Iterable[Request]) -> Iterator[tuple[int, Outcome]]:
        def taken() -> Iterator[Request]:
            for request in requests:
                with self._counting:
                    self.asked[type(request).__name__] += 1
                    self._n_now += 1
                    self.most = max(self.most, self._n_now)
                yield request

        for answer in super().many(taken()):
            with self._counting:
                self._n_now -= 1
            yield answer


@pytest.fixture
def store(open_pool: Access) -> Watched:
    store = Watched(open_pool, f"engine-{next(_names)}", 20.0)
    store.put(MARKER, [b"uuid"])
    store.forget()
    return store


@pytest.fixture
def volume(store: Watched, tmp_path: Path) -> Iterator[DataVolume]:
    made = DataVolume(tmp_path, objects=lambda folder: store, readahead_bytes=32 * BLOCK)
    yield made
    made.close()


def blocks(n: int, n_bytes: int = BLOCK * 5 // 8) -> list[tuple[int, bytes]]:
    """(file offset, bytes) in so many blocks, too much of each for two of them to share a pack."""
    return [(i * BLOCK, os.urandom(n_bytes)) for i in range(n)]


def stored(volume: DataVolume, pieces: list[tuple[int, bytes]]) -> OpenedFile:
    file = volume.file()
    for offset, data in pieces:
        file.writer.write(offset, data)
    file.writer.flush()
    return file


def test_a_flush_puts_many_packs_at_once(volume: DataVolume, store: Watched) -> None:
    pieces = blocks(40)
    file = stored(volume, pieces)
    assert store.asked == {"Put": 40} and not store.calls
    assert store.most > 13  # the packs of three threads, each with all of its own under way
    assert all(file.read(offset, len(data)) == data for offset, data in pieces)


def test_a_read_of_many_slices_gets_them_at_once(volume: DataVolume, store: Watched) -> None:
    pieces = blocks(40)
    file = stored(volume, pieces)
    volume.data.cache.clear()
    store.forget()
    whole = file.read(0, 40 * BLOCK)
    assert all(whole[offset : offset + len(data)] == data for offset, data in pieces)
    assert store.asked == {"Get": 40} and not store.calls
    assert store.most == 40


def test_readahead_gets_what_comes_at_once(volume: DataVolume, store: Watched) -> None:
    pieces = blocks(60, BLOCK)
    file = stored(volume, pieces)
    volume.data.cache.clear()
    store.forget()
    for offset, data in pieces:
        assert file.read(offset, BLOCK) == data
    assert store.asked["Get"] + store.calls["get"] == 60  # each once
    assert store.asked["Get"] > 40
    assert store.most >= 16  # the first window
    volume.data.reader.close()
    assert volume.data.budget.used_bytes == 0


def test_compaction_gets_what_it_joins_at_once(volume: DataVolume, store: Watched) -> None:
    file = volume.file()
    for i in range(DEPTH + 6):
        file.writer.write(i * 500, bytes([i]) * 500)
        file.writer.flush()
    volume.data.cache.clear()
    store.forget()
    assert volume.data.compactor.compact(Inode(file.ino), 0)
    assert store.asked["Get"] == DEPTH + 6 and not store.calls["get"]
    assert store.most == DEPTH
    assert file.read(0, 1 << 20) == b"".join(bytes([i]) * 500 for i in range(DEPTH + 6))


def test_unused_packs_are_deleted_at_once(volume: DataVolume, store: Watched) -> None:
    pieces = blocks(DEPTH + 6)
    file = stored(volume, pieces)
    store.forget()
    volume.meta_rows.layout.truncate(file.ino, 0)
    assert volume.data.deleter.run_once() == DEPTH + 6
    assert store.asked["Delete"] == DEPTH + 6 and not store.calls["delete"]
    assert store.most == DEPTH
    assert [info.name for info in store.list()] == [MARKER]
