"""Files of several slices that a worker has fetched: the one that serves reads them without asking the store where they are."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairnfs.ext.arena import Arena
from cairnfs.meta.passed_on import PassedOn
from cairnfs.meta.recall import Recall
from cairnfs.meta.records import TAIL_AT, chunk_key, inode_key
from cairnfs.meta.stores.base import Row
from cairnfs.meta.stores.memory import MemoryStore
from cairnfs.types import Inode, Position
from cairnfs.vfs.fetching import Fetching
from cairnfs.volume import open_volume
from support.compiled import Asking, Remembering
from support.engine import ROOT, TEST_OPTIONS, Engine, new_volume

CONTENT = bytes(range(250))


class Workers:
    """One that serves, one that fetches for it, and another node that has made the files."""

    def __init__(self, folder: Path) -> None:
        url = new_volume(folder)
        self.other = Engine(url)
        for name in ("near", "file"):
            for begin in range(0, len(CONTENT), 50):
                self.put(name, begin, CONTENT[begin : begin + 50])
        self.node = Remembering(url)
        self.volume = open_volume(url, TEST_OPTIONS, arena=self.node.arena)
        self.volume.meta.core.recall.pass_on(PassedOn(self.node.arena))
        self.volume.meta.core.neighbours.start()
        self.fetching = Fetching(self.volume.meta, self.volume.data, self.node.arena)
        self.node.follower.catch_up()

    def put(self, name: str, offset: int, data: bytes) -> None:
        with self.other.files.created(name, os.O_WRONLY) as fh:
            self.other.files.pwrite(fh, offset, data)

    def close(self) -> None:
        self.volume.close()
        self.other.close()
        self.node.engine.close()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    found = Workers(tmp_path)
    yield found
    found.close()


@pytest.fixture
def kernel(workers: Workers) -> Iterator[Asking]:
    with workers.node.asks() as peer:
        peer.init()
        yield Asking(peer)


def content(kernel: Asking, ino: Inode) -> bytes:
    fh = kernel.open_compiled(ino)
    try:
        return kernel.read(ino, fh)
    finally:
        kernel.release(ino, fh)


@pytest.mark.parametrize("how", ["by name", "by number", "as a neighbour"])
def test_what_was_fetched_is_read_without_the_store(workers: Workers, kernel: Asking, how: str) -> None:
    ino = workers.other.files.ino("file")
    if how == "by number":
        workers.fetching.inode(ino, with_bytes=True)
    else:
        workers.fetching.name(ROOT, b"file" if how == "by name" else b"near")
    assert content(kernel, ino) == CONTENT
    assert workers.node.n_reads == 0


def test_what_has_changed_since_is_not_what_is_read(workers: Workers, kernel: Asking) -> None:
    ino = workers.other.files.ino("file")
    workers.fetching.name(ROOT, b"file")
    for i in range(3):
        workers.put("file", 60, b"changed %d" % i)
        fh = kernel.open(ino)
        assert kernel.read(ino, fh)[60:69] == b"changed %d" % i
        kernel.release(ino, fh)
    before = workers.node.n_reads
    workers.put("file", 60, b"at last")
    workers.node.follower.catch_up()
    workers.fetching.inode(ino, with_bytes=True)
    assert content(kernel, ino)[60:67] == b"at last"
    assert workers.node.n_reads == before


def record(mode: int, n_tail_bytes: int) -> bytes:
    return b"\1\0" + mode.to_bytes(2) + bytes(TAIL_AT - 4 + n_tail_bytes)


def test_rows_are_known_by_their_versions() -> None:
    rows = PassedOn(Arena(8 << 20))
    key, value = inode_key(7), record(0o100644, 80)
    far = Position(5 + (1 << 32))
    for row in (Row(value, Position(5)), Row(value[:-1] + b"x", Position(6)), Row(value[:-1] + b"y", far)):
        rows.put({key: row})
    assert rows.get(key, Position(5)) == (value, 5)
    assert rows.get(key, Position(6)) == (value[:-1] + b"x", 6)
    assert rows.get(key, far) is None, "it would lie where another one does"
    assert rows.get(key, Position(4)) is rows.get(inode_key(8), Position(5)) is None


def test_only_rows_of_files_of_several_slices_are_passed_on() -> None:
    rows = PassedOn(Arena(8 << 20))
    others = {
        inode_key(1): Row(record(0o100644, 40), Position(5)),
        inode_key(2): Row(record(0o120777, 80), Position(5)),
        chunk_key(3, 1): Row(bytes(200), Position(5)),
        inode_key(4): None,
    }
    rows.put(others)
    assert [rows.get(key, Position(5)) for key in others] == [None] * 4


def test_while_a_commit_of_others_is_unknown_nothing_counts() -> None:
    rows, key, row = PassedOn(Arena(8 << 20)), inode_key(7), Row(record(0o100644, 80), Position(5))
    rows.put({key: row})
    recall = Recall(MemoryStore("passed-on"))
    is_current = False
    recall.start(lambda: is_current, rows)
    assert recall.known_at(key, Position(5)) is None
    is_current = True
    assert recall.known_at(key, Position(5)) == row
