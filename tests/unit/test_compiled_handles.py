"""Compiled code and the Vfs over one arena: handles that one gives out and the other has to know of, without a mount.

Requests come over a socket (`support.fuse_peer`), so they are served as those of a kernel are: by compiled code where it can.
"""

import errno
import fcntl
import os
import random
import struct
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from cairnfs import volume
from cairnfs.errors import FsError, StoreError
from cairnfs.ext.arena import ADOPTED, BARRED, DIRTY
from cairnfs.meta.records import SUSTAINED_PREFIX
from cairnfs.meta.stores.base import Committed, Condition, Effect, Store
from cairnfs.metrics import Histogram
from cairnfs.types import Inode, SetAttr, StatFs
from support.compiled import COMPILED_FH, Asking, Node
from support.engine import ME, ROOT, Engine, new_volume

STATFS_OUT = struct.Struct("=QQQQQIIII24x")


def test_a_handle_is_opened_read_and_closed_without_python(node: Node, kernel: Asking) -> None:
    ino = node.warm("f", b"content")
    assert kernel.lookup(b"f") == ino
    fh = kernel.open_compiled(ino)
    assert kernel.read(ino, fh) == b"content"
    assert (node.arena.handles(), node.arena.counts[4]) == ({ino: 1}, 1)
    kernel.release(ino, fh)
    assert kernel.answered == {"LOOKUP": 1, "OPEN": 1, "READ": 1, "RELEASE": 1}
    node.assert_nothing_is_open([ino])


def test_an_answer_is_counted_before_it_is_given(node: Node, kernel: Asking) -> None:
    node.warm("f", b"content")
    for n in range(1, 1001):
        kernel.lookup(b"f")
        assert kernel.answered == {"LOOKUP": n}


def test_answers_are_timed_in_buckets_as_those_of_every_histogram(node: Node, kernel: Asking) -> None:
    ino = node.warm("f", b"content")
    kernel.lookup(b"f")
    kernel.release(ino, kernel.open_compiled(ino))
    assert kernel.answered == {"LOOKUP": 1, "OPEN": 1, "RELEASE": 1}
    for buckets, sum_ns in kernel.peer.channel.answers().values():
        cells = [0] * Histogram.N_CELLS
        Histogram(cells, 0).observe_ns(sum_ns)  # of one answer
        assert [*buckets, sum_ns] == cells
        assert 0 < sum_ns < 60 * 10**9


def test_totals_of_the_volume_are_answered_until_something_is_committed(node: Node, kernel: Asking) -> None:
    other = Engine(node.engine.url)

    def totals(by_compiled: bool) -> tuple[int, ...]:
        before = kernel.answered.get("STATFS", 0)
        reply = kernel.peer.call("STATFS", b"", ROOT)
        assert (reply.error, kernel.answered.get("STATFS", 0) - before) == (0, by_compiled)
        return STATFS_OUT.unpack_from(reply.body)

    node.warm("f", bytes(8192))
    known = totals(by_compiled=False)
    for _ in range(3):
        assert totals(by_compiled=True) == known
    node.files.write("g", bytes(8192))
    after_own = totals(by_compiled=False)
    assert totals(by_compiled=True) == after_own
    assert after_own[1] == known[1] - 2 and after_own[4] == known[4] - 1
    other.files.write("h", bytes(4096))
    after_others = totals(by_compiled=False)
    assert after_others[1] == after_own[1] - 1 and after_others[4] == after_own[4] - 1
    node.follower.catch_up()
    assert totals(by_compiled=False) == after_others == totals(by_compiled=True)
    node.engine.volume.refresh_format()
    assert totals(by_compiled=False) == after_others == totals(by_compiled=True)
    other.close()


def test_totals_with_limits_that_are_refreshed_meanwhile_are_not_kept(
    node: Node, kernel: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.warm("f", b"")
    read = node.engine.meta.attrs.statfs

    def overtaken() -> StatFs:
        found = read()
        node.engine.volume.refresh_format()
        return found

    monkeypatch.setattr(node.engine.meta.attrs, "statfs", overtaken)
    for _ in range(2):
        kernel.peer.call("STATFS", b"", ROOT)
    assert "STATFS" not in kernel.answered


@pytest.mark.parametrize("known", [False, True], ids=["unknown", "known-to-python"])
@pytest.mark.parametrize("how", ["unlink", "rename"])
def test_the_last_name_goes_while_compiled_code_has_handles(node: Node, kernel: Asking, how: str, known: bool) -> None:
    ino = node.warm("f", b"content")
    fhs = [kernel.open_compiled(ino) for _ in range(3)]
    if known:
        kernel.seek_end(ino, fhs[1])
    if how == "unlink":
        node.files.unlink("f")
    else:
        node.files.write("g", b"other")
        node.files.rename("g", "f")
    assert len(node.sustained()) == 1
    for fh in fhs:
        assert kernel.read(ino, fh) == b"content"
        assert kernel.nlink_and_size(ino) == (0, 7)
        again = kernel.open(ino)
        assert again and not again & COMPILED_FH, "a file without a name is Python's"
        kernel.release(ino, again)
        assert len(node.sustained()) == 1, "not freed while it is open"
        kernel.release(ino, fh)
    assert node.sustained() == []
    assert kernel.open(ino) == 0
    node.assert_nothing_is_open([ino])


def test_what_fails_to_be_removed_is_opened_by_compiled_code_again(node: Node, kernel: Asking) -> None:
    ino = node.warm("f", b"content")
    node.files.mkdir("d")
    node.files.write("d/x", b"")
    node.follower.catch_up()
    kept = kernel.open_compiled(ino)
    with pytest.raises(FsError):
        node.files.rename("f", "d")
    with pytest.raises(FsError):
        node.files.rename("d", "f")
    with pytest.raises(FsError):
        node.files.unlink("d")
    kernel.release(ino, kept)
    kernel.release(ino, kernel.open_compiled(ino))
    node.assert_nothing_is_open([ino])


def test_dirty_data_keeps_compiled_code_away_until_it_is_committed(node: Node, kernel: Asking) -> None:
    ino = node.warm("f", b"content")
    reader = kernel.open_compiled(ino)
    writer = kernel.open(ino, os.O_RDWR)
    before = kernel.answered
    kernel.write(ino, writer, b"CONTENT")
    assert node.arena.marks(ino) == DIRTY
    assert kernel.read(ino, reader) == b"CONTENT"
    assert kernel.nlink_and_size(ino)[1] == 7
    other = kernel.open(ino)
    assert not other & COMPILED_FH
    assert kernel.answered == before
    assert kernel.peer.call("FLUSH", struct.pack("=QIIQ", writer, 0, 0, 0), ino).error == 0
    assert not node.arena.marks(ino) & DIRTY
    for fh in (reader, other, writer):
        kernel.release(ino, fh)
    node.follower.catch_up()
    fh = kernel.open_compiled(ino)
    assert kernel.read(ino, fh) == b"CONTENT"
    kernel.release(ino, fh)
    node.assert_nothing_is_open([ino])


def test_writes_that_fail_leave_no_mark(tmp_path: Path) -> None:
    node = Node(new_volume(tmp_path, "sqlite", capacity_bytes=1 << 20))
    ino = node.warm("f", b"content")
    fh = node.files.open("f")
    with pytest.raises(FsError):
        node.files.pwrite(fh, 0, bytes(2 << 20))
    assert node.arena.marks(ino) == 0
    node.files.pwrite(fh, 0, b"y")
    assert node.arena.marks(ino) == DIRTY
    node.vfs.setattr(ME, ino, SetAttr(size=0))
    assert node.arena.marks(ino) == 0
    node.files.close(fh)
    node.assert_nothing_is_open([ino])
    node.engine.close()


def test_a_flock_through_a_handle_of_compiled_code(node: Node, kernel: Asking) -> None:
    ino = node.warm("f", b"content")
    one, two = kernel.open_compiled(ino), kernel.open_compiled(ino)
    assert kernel.flock(ino, one, 1, fcntl.F_WRLCK) == 0
    assert kernel.flock(ino, two, 2, fcntl.F_WRLCK) == errno.EAGAIN
    kernel.release(ino, one, owner=1, flocked=True)
    assert kernel.flock(ino, two, 2, fcntl.F_WRLCK) == 0
    node.files.unlink("f")
    kernel.release(ino, two, owner=2, flocked=True)
    node.assert_nothing_is_open([ino])


def test_handles_nobody_closes_are_given_back_at_the_end(tmp_path: Path) -> None:
    url = new_volume(tmp_path, "sqlite")
    node = Node(url)
    ino = node.warm("f", b"content")
    with node.asks() as peer:
        peer.init()
        kernel = Asking(peer)
        for _ in range(2):
            kernel.open_compiled(ino)
        kernel.seek_end(ino, kernel.open_compiled(ino))
        node.files.unlink("f")
    node.engine.close()
    with Engine(url) as after:
        assert after.volume.store.partitions(SUSTAINED_PREFIX, None, 10) == []
        assert after.files.names() == set()
        assert after.vfs.statfs(ME).used_inodes == 1


# Any order


class Steps:
    """Random operations on a few names by one kernel and by callers of the Vfs; every file's content is its first name."""

    def __init__(self, node: Node, kernel: Asking, seed: int) -> None:
        self.node = node
        self.kernel = kernel
        self.rng = random.Random(seed)
        self.seed = seed
        self.n = 0
        self.open: list[tuple[int, int, bytes]] = []
        self.seen: set[int] = set()

    def step(self) -> None:
        try:
            self.rng.choice((self.open_one, self.open_one, self.use_one, self.use_one, self.close_one, self.change))()
        except FsError as error:
            assert error.errno in (errno.ENOENT, errno.ESTALE, errno.EEXIST)

    def name(self) -> bytes:
        return self.rng.choice((b"a", b"b", b"c"))

    def open_one(self) -> None:
        ino = self.kernel.lookup(self.name())
        fh = self.kernel.open(ino, self.rng.choice((os.O_RDONLY, os.O_RDONLY, os.O_RDWR))) if ino else 0
        if fh:
            self.seen.add(ino)
            self.open.append((ino, fh, self.kernel.read(ino, fh)))

    def use_one(self) -> None:
        if self.open:
            ino, fh, data = self.rng.choice(self.open)
            if self.rng.random() < 0.3:
                self.kernel.seek_end(ino, fh)
            if not fh & 1 and self.rng.random() < 0.5:
                self.kernel.write(ino, fh, data)
            assert self.kernel.read(ino, fh) == data

    def close_one(self) -> None:
        if self.open:
            ino, fh, data = self.open.pop(self.rng.randrange(len(self.open)))
            assert self.kernel.read(ino, fh) == data
            if not fh & 1:
                self.kernel.peer.call("FLUSH", struct.pack("=QIIQ", fh, 0, 0, 0), ino)
            self.kernel.release(ino, fh)

    def change(self) -> None:
        self.n += 1
        vfs, roll = self.node.vfs, self.rng.random()
        if roll < 0.3:
            vfs.unlink(ME, ROOT, self.name())
        elif roll < 0.4:
            vfs.rename(ME, ROOT, self.name(), ROOT, self.name(), self.rng.choice((0, 2)))
        elif roll < 0.5:
            vfs.link(ME, Inode(self.kernel.lookup(self.name()) or 2**40), ROOT, self.name())
        else:
            fresh = b"%d-%d" % (self.seed, self.n)
            self.node.files.write(fresh.decode(), fresh)
            vfs.rename(ME, ROOT, fresh, ROOT, self.name())

    def end(self) -> None:
        while self.open:
            self.close_one()


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_opening_closing_and_removing(node: Node, kernel: Asking, seed: int) -> None:
    steps = Steps(node, kernel, seed)
    for _ in range(300):
        steps.step()
        if steps.rng.random() < 0.3:
            node.follower.catch_up()
    steps.end()
    assert kernel.answered["OPEN"] > 5
    node.assert_nothing_is_open(steps.seen)


def test_any_order_by_several_at_once(node: Node) -> None:
    failures: list[BaseException] = []
    seen: set[int] = set()

    def run(seed: int) -> None:
        try:
            with node.asks() as peer:
                peer.init()
                steps = Steps(node, Asking(peer), seed)
                for _ in range(250):
                    steps.step()
                    if steps.rng.random() < 0.2:
                        node.follower.catch_up()
                steps.end()
                seen.update(steps.seen)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    node.assert_nothing_is_open(seen)


# A store that does not say what it has done


class Treacherous:
    """A store that fails after having committed, when it is told to."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.fails = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "origin":
            self._store.origin = value  # type: ignore[assignment]
        else:
            super().__setattr__(name, value)

    def commit(self, conditions: Sequence[Condition], effects: Sequence[Effect]) -> Committed:
        committed = self._store.commit(conditions, effects)
        if self.fails and effects:
            self.fails = False
            raise StoreError("the answer was lost")
        return committed


@pytest.mark.parametrize("act", ["unlink", "rename", "create", "chmod", "write"])
def test_after_a_commit_of_unknown_outcome_nothing_old_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    made: list[Treacherous] = []
    opened = volume.open_store
    monkeypatch.setattr(volume, "open_store", lambda *a, **k: made.append(Treacherous(opened(*a, **k))) or made[-1])
    url = new_volume(tmp_path, "sqlite")
    node = Node(url)
    ino = node.warm("f", b"content")
    with node.asks() as peer:
        peer.init()
        kernel = Asking(peer)
        assert (kernel.lookup(b"f"), kernel.lookup(b"g"), kernel.lookup(b"g")) == (ino, 0, 0)
        fh = node.files.open("f") if act == "write" else 0
        made[-1].fails = True
        with pytest.raises((FsError, StoreError)):
            if act == "unlink":
                node.files.unlink("f")
            elif act == "rename":
                node.files.rename("f", "g")
            elif act == "create":
                node.files.create("g")
            elif act == "chmod":
                node.vfs.setattr(ME, ino, SetAttr(mode=0o600))
            else:
                node.vfs.setattr(ME, ino, SetAttr(size=3))
        assert (node.arena.name(ROOT, b"f"), node.arena.name(ROOT, b"g"), node.arena.attr(ino)) == (None, None, None)
        for _ in range(3):  # Python, then compiled code
            node.follower.catch_up()
            assert node.arena.fresh()
            assert (kernel.lookup(b"f") != 0) == (act not in ("unlink", "rename"))
            assert (kernel.lookup(b"g") != 0) == (act in ("rename", "create"))
            if act in ("chmod", "write"):
                assert kernel.nlink_and_size(ino) == (1, 3 if act == "write" else 7)
        assert kernel.answered["LOOKUP"] >= 4
        if fh:
            node.files.close(fh)
    node.assert_nothing_is_open([ino])
    node.engine.close()


def test_a_refused_commit_changes_nothing(node: Node, kernel: Asking) -> None:
    ino = node.warm("f", b"content")
    before = node.engine.volume.store.position()
    for _ in range(3):
        with pytest.raises(FsError):
            node.vfs.create(ME, ROOT, b"f", 0o644, os.O_EXCL | os.O_CREAT)
        with pytest.raises(FsError):
            node.vfs.mkdir(ME, ROOT, b"f", 0o755)
    assert node.engine.volume.store.position() == before
    assert node.arena.fresh()
    assert kernel.lookup(b"f") == ino
    assert kernel.answered == {"LOOKUP": 1}


# More marks than there is room for


def test_marks_without_room_make_compiled_code_silent(tmp_path: Path) -> None:
    node = Node(new_volume(tmp_path, "sqlite"), 1 << 20)
    ino = node.warm("f", b"content")
    with node.asks() as peer:
        peer.init()
        kernel = Asking(peer)
        held = kernel.open_compiled(ino)
        marked = range(10_000, 20_000)
        for number in marked:
            assert node.arena.mark(number, DIRTY) == 0
        assert all(node.arena.marks(number) == DIRTY for number in marked)
        before = kernel.answered
        assert kernel.lookup(b"f") == ino
        late = kernel.open(ino)
        assert late and not late & COMPILED_FH
        assert kernel.answered == before, "silent"
        node.files.write("f", b"changed")
        node.files.unlink("f")
        assert node.arena.marks(ino) & ADOPTED
        kernel.release(ino, late)
        kernel.release(ino, held)
        for number in marked:
            node.arena.mark(number, BARRED)
            node.arena.unmark(number, DIRTY)
        assert kernel.lookup(b"f") == 0
        for number in reversed(marked):
            node.arena.unmark(number, BARRED)
        ino = node.warm("f", b"again")
        kernel.release(ino, kernel.open_compiled(ino))
    node.assert_nothing_is_open([ino, *marked])
    node.engine.close()


def test_many_dirty_files_are_silent_and_recover(tmp_path: Path) -> None:
    node = Node(new_volume(tmp_path, "sqlite"), 1 << 20)
    ino = node.warm("f", b"content")
    fhs = [node.files.create(f"d{i}") for i in range(1500)]
    for fh in fhs:
        node.files.pwrite(fh, 0, b"dirty")
    for i in range(0, 1500, 7):
        node.files.unlink(f"d{i}")
    with node.asks() as peer:
        peer.init()
        kernel = Asking(peer)
        node.follower.catch_up()
        assert kernel.lookup(b"f") == ino
        assert not kernel.answered
        for fh in fhs:
            node.files.close(fh)
        ino = node.warm("f", b"again")  # so many files have pushed it out
        kernel.release(ino, kernel.open_compiled(ino))
    node.assert_nothing_is_open(range(2, 2000))
    node.engine.close()


# What the kernel's pages show


def test_pages_are_kept_once_the_kernel_has_used_what_an_open_gave_it(node: Node, kernel: Asking) -> None:
    ino = node.warm("f", b"content")
    node.arena.shown_drop(ino)
    first = kernel.opened(ino)
    assert first[0] & COMPILED_FH and not first[1], "dropped"
    assert not kernel.opened(ino)[1], "the first answer may still be under way"
    kernel.read(ino, first[0])
    assert kernel.opened(ino)[1]
    node.arena.shown_drop(ino)
    kernel.read(ino, first[0])
    assert not kernel.opened(ino)[1], "an old handle tells nothing of what came since"
