"""Files of several slices, and of several chunks: compiled code opens them, Python reads them by what is remembered of them."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cairnfs.const import CHUNK_BYTES
from cairnfs.errors import StoreError
from cairnfs.ext import slicer
from cairnfs.ext.arena import ADOPTED
from cairnfs.meta.kept_layouts import EACH_BYTES, KeptLayouts
from cairnfs.meta.records import inode_key
from cairnfs.meta.stores.base import Committed, Condition, Effect
from cairnfs.types import Inode, Position, SetAttr
from support.compiled import COMPILED_FH, Asking, Remembering
from support.engine import ME, Engine, new_volume

FAR = CHUNK_BYTES + 1000  # in the second chunk
N_PIECES = 70  # in each chunk: so many that they are worth a compaction


class Pair:
    """A node that remembers what it has read, and another one that changes things; no store tells that it was changed."""

    def __init__(self, folder: Path) -> None:
        url = new_volume(folder)
        self.node = Remembering(url)
        self.other = Engine(url)
        self.content = {0: bytearray(N_PIECES * 100), FAR: bytearray(N_PIECES * 100)}

    def put(self, engine: Engine, offset: int, data: bytes) -> None:
        """By a close of its own, so a slice of its own."""
        with engine.files.created("file", os.O_WRONLY) as fh:
            engine.files.pwrite(fh, offset, data)
        start = max(at for at in self.content if at <= offset)
        self.content[start][offset - start : offset - start + len(data)] = data

    def make(self, n_pieces: int = 4) -> Inode:
        """The file as its own node has made it; known to compiled code."""
        for at in self.content:
            del self.content[at][n_pieces * 100 :]
            for i in range(n_pieces):
                self.put(self.node.engine, at + 100 * i, os.urandom(100))
        self.node.follower.catch_up()
        return self.node.files.ino("file")

    def check(self, kernel: Asking, ino: Inode, fh: int) -> None:
        for at, data in self.content.items():
            assert kernel.read(ino, fh, len(data), at) == data, at

    def reads(self, kernel: Asking, ino: Inode) -> int:
        """Open, read, close by compiled code and what that leaves to Python; rows are read so many times for it."""
        before = self.node.n_reads
        fh = kernel.open_compiled(ino)
        self.check(kernel, ino, fh)
        kernel.release(ino, fh)
        return self.node.n_reads - before


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    found = Pair(tmp_path)
    yield found
    found.other.close()
    found.node.engine.close()


@pytest.fixture
def kernel(pair: Pair) -> Iterator[Asking]:
    with pair.node.asks() as peer:
        peer.init()
        yield Asking(peer)


def test_it_is_opened_without_python_and_read_without_the_store(pair: Pair, kernel: Asking) -> None:
    ino = pair.make()
    assert pair.reads(kernel, ino) == 1, "chunk 1 was not read before"
    for _ in range(3):
        assert pair.reads(kernel, ino) == 0
    pair.node.engine.meta.core.forget()
    assert pair.reads(kernel, ino) == 2, "the store may have gone back"
    pair.node.assert_nothing_is_open([ino])


def test_layouts_of_further_chunks_come_together_where_round_trips_cost_time(pair: Pair, kernel: Asking) -> None:
    for no in range(2, 20):
        pair.content[no * CHUNK_BYTES] = bytearray(100)
    ino = pair.make(1)
    assert pair.reads(kernel, ino) == 2, "chunks 1 to 15, 16 to 19"
    assert pair.reads(kernel, ino) == 0
    pair.put(pair.other, FAR, b"elsewhere")
    fh = kernel.open(ino)
    pair.check(kernel, ino, fh)
    kernel.release(ino, fh)
    pair.node.engine.meta.core.neighbours.started = False
    pair.put(pair.node.engine, FAR, b"here")
    assert pair.reads(kernel, ino) == 19


def test_without_a_read_closing_it_is_compiled_code_s_too_and_pages_are_kept(pair: Pair, kernel: Asking) -> None:
    ino = pair.make()
    fh, _ = kernel.opened(ino)
    kernel.release(ino, fh)
    fh, kept = kernel.opened(ino)
    kernel.release(ino, fh)
    assert kept
    assert kernel.answered == {"RELEASE": 2}, "an open asks Python where the log ends"
    pair.put(pair.other, 50, b"changed")
    assert kernel.opened(ino)[1] is False


def test_whoever_reads_it_through_python_keeps_nobody_from_compiled_code(pair: Pair, kernel: Asking) -> None:
    ino = pair.make()
    pair.node.arena.shown_drop(ino)
    reader, kept = kernel.opened(ino)
    assert reader & COMPILED_FH and not kept
    pair.check(kernel, ino, reader)
    assert pair.node.arena.marks(ino) == ADOPTED
    assert kernel.lookup(b"file") == ino
    assert kernel.nlink_and_size(ino) == (1, FAR + len(pair.content[FAR]))
    late, kept = kernel.opened(ino)
    assert late & COMPILED_FH and kept, "the reader has filled the kernel's pages"
    assert kernel.answered == {"LOOKUP": 1, "GETATTR": 1}
    for fh in (reader, late):
        kernel.release(ino, fh)
    pair.node.assert_nothing_is_open([ino])


@pytest.mark.parametrize("offset", [120, FAR + 120], ids=["chunk 0", "chunk 1"])
def test_what_was_closed_elsewhere_is_read_after_the_next_open(pair: Pair, kernel: Asking, offset: int) -> None:
    ino = pair.make()
    for i in range(5):
        assert pair.reads(kernel, ino) <= 2
        pair.put(pair.other, offset, b"other %d" % i)
        fh = kernel.open(ino)
        pair.check(kernel, ino, fh)
        kernel.release(ino, fh)
        pair.put(pair.node.engine, offset + 3, b"own %d" % i)
        fh = kernel.open(ino)
        pair.check(kernel, ino, fh)
        kernel.release(ino, fh)


@pytest.mark.parametrize("by_whom", ["other", "node"])
def test_after_a_truncation_nothing_of_before_is_read(pair: Pair, kernel: Asking, by_whom: str) -> None:
    ino = pair.make()
    assert pair.reads(kernel, ino) == 1
    engine = pair.other if by_whom == "other" else pair.node.engine
    with engine.files.opened("file", os.O_WRONLY | os.O_TRUNC):
        pass
    for at in pair.content:
        pair.content[at][:] = bytes(100)
    pair.put(engine, FAR + 50, b"new")
    pair.content[FAR] = pair.content[FAR][:53]
    fh = kernel.open(ino)
    pair.check(kernel, ino, fh)
    kernel.release(ino, fh)


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
def test_a_compaction_elsewhere_moves_the_bytes_of_what_is_remembered(pair: Pair, kernel: Asking, told: bool) -> None:
    """Without having been told, the one who has opened it finds the old packs gone."""
    ino = pair.make(N_PIECES)
    assert pair.reads(kernel, ino) == 1
    fh = kernel.open_compiled(ino)
    for chunk_no in (0, 1):
        for record in slicer.unpack(pair.other.meta.layout.read(ino, chunk_no)):
            pair.node.arena.slice_drop(record[4], record[5])
        assert pair.other.volume.data.compactor.compact(ino, chunk_no)
    assert pair.other.volume.data.deleter.run_once() >= 2 * N_PIECES
    pair.node.engine.volume.data.cache.clear()
    if told:
        kernel.release(ino, fh)
        fh = kernel.open(ino)
    pair.check(kernel, ino, fh)
    kernel.release(ino, fh)
    kernel.release(ino, kernel.open(ino))
    assert len(pair.node.engine.meta.layout.read(ino, 1)) < N_PIECES * slicer.RECORD_BYTES
    assert pair.reads(kernel, ino) == 0, "remembered anew"


def test_its_last_name_goes_while_it_is_read(pair: Pair, kernel: Asking) -> None:
    ino = pair.make()
    fh, late = kernel.open_compiled(ino), kernel.open_compiled(ino)
    pair.check(kernel, ino, fh)
    pair.node.files.unlink("file")
    opened = kernel.open(ino)
    assert not opened & COMPILED_FH, "Python knows who has it open"
    kernel.release(ino, opened)
    assert kernel.nlink_and_size(ino)[0] == 0
    pair.check(kernel, ino, late)
    kernel.release(ino, fh)
    pair.check(kernel, ino, late)
    assert pair.node.sustained()
    kernel.release(ino, late)
    pair.node.assert_nothing_is_open([ino])


def test_a_lock_through_it_has_all_read_anew(pair: Pair, kernel: Asking) -> None:
    ino = pair.make()
    fh = kernel.open_compiled(ino)
    pair.check(kernel, ino, fh)
    pair.put(pair.other, FAR + 110, b"under a lock")
    assert kernel.flock(ino, fh, 1, fcntl.F_RDLCK) == 0
    pair.check(kernel, ino, fh)
    kernel.release(ino, fh, 1, flocked=True)
    pair.node.assert_nothing_is_open([ino])


def test_an_open_in_python_takes_what_is_remembered_unless_an_own_commit_is_on_its_way(pair: Pair, kernel: Asking) -> None:
    ino = pair.make()

    def reads() -> int:
        before = pair.node.n_reads
        fh = pair.node.vfs.open(ME, ino, os.O_RDWR).fh
        pair.node.vfs.release(ME, fh)
        return pair.node.n_reads - before

    assert [reads() for _ in range(3)] == [0, 0, 0]
    pair.node.arena.committing()
    assert reads() == 1
    pair.node.arena.refused()
    assert reads() == 0
    pair.node.arena.drop_all()
    assert reads() >= 1, "the arena does not know the present version"


def test_a_commit_that_nobody_has_answered_makes_what_is_remembered_wrong(
    pair: Pair, kernel: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino = pair.make()
    assert pair.reads(kernel, ino) == 1
    inner = pair.node.engine.volume.store._store  # type: ignore[attr-defined]
    commit = inner.commit

    def unanswered(conditions: Sequence[Condition], effects: Sequence[Effect]) -> Committed:
        commit(conditions, effects)
        raise StoreError("no answer")

    with monkeypatch.context() as patch, pytest.raises(StoreError):
        patch.setattr(inner, "commit", unanswered)
        pair.node.vfs.setattr(ME, ino, SetAttr(size=250))
    pair.node.engine.volume.store.read([inode_key(ino)])  # as another worker of the mount does
    fh = kernel.open_compiled(ino)
    assert kernel.read(ino, fh) == pair.content[0][:250]
    kernel.release(ino, fh)


def test_a_file_that_is_removed_elsewhere_is_not_opened(pair: Pair, kernel: Asking) -> None:
    ino = pair.make()
    assert pair.reads(kernel, ino) == 1
    pair.other.files.unlink("file")
    assert kernel.open(ino) == 0
    assert kernel.open(ino, os.O_RDWR) == 0


def test_layouts_are_kept_by_version_and_as_many_as_there_is_room_for() -> None:
    kept = KeptLayouts(10 * (EACH_BYTES + 40))
    layouts = {i: bytes([i]) * 40 for i in range(12)}
    for i, layout in layouts.items():
        kept.put(Inode(7), i, Position(5), layout)
        assert kept.get(Inode(7), 0, Position(5)) == (layouts[0] if i < 12 else None), "it is used"
    assert [i for i in layouts if kept.get(Inode(7), i, Position(5)) is None] == [1, 2]
    assert kept.get(Inode(7), 5, Position(4)) is kept.get(Inode(8), 5, Position(5)) is None
    kept.put(Inode(7), 5, Position(6), b"")
    assert (kept.get(Inode(7), 5, Position(5)), kept.get(Inode(7), 5, Position(6))) == (None, b"")
    kept.put(Inode(9), 1, Position(1), bytes(40 * (EACH_BYTES + 40)))
    assert kept.get(Inode(9), 1, Position(1)) is None, "longer than all there is room for"
    assert kept.get(Inode(7), 0, Position(5)) is None
    kept.put(Inode(7), 1, Position(5), b"x")
    kept.clear()
    assert kept.get(Inode(7), 1, Position(5)) is None
