"""A store that cannot be watched: compiled code answers under a lease, and opens ask for the end of the log first."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairnfs.daemon.invalidate import Follower
from cairnfs.ext.arena import DIRTY
from cairnfs.ext.log_end import LogEnd
from cairnfs.types import Inode, Position
from support.compiled import COMPILED_FH, Asking, Kernel, Node
from support.engine import ROOT, Engine, new_volume
from support.fuse_peer import OPEN_OUT
from support.telling import COMMAND, Teller, bulk


class Pair:
    """A node that compiled code answers for, and another one that changes things."""

    def __init__(self, folder: Path) -> None:
        url = new_volume(folder)
        self.node = Node(url)
        self.other = Engine(url)
        self.n_log_reads = 0
        self.end = LogEnd()
        store = self.node.engine.volume.store
        read_log = store.log

        def counted(*arguments: int, rings: bool = False) -> object:
            self.n_log_reads += 1
            return read_log(*arguments, rings=rings)  # type: ignore[arg-type]

        vars(store)["log"] = counted

    def push(self) -> None:
        node = self.node
        node.follower = Follower(node.engine.volume.store, node.vfs, Kernel(), node.arena, is_pushed=True)
        node.vfs.follow(node.follower.fence, lambda inos: None)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    found = Pair(tmp_path)
    yield found
    found.other.close()
    found.node.engine.close()


def warm(pair: Pair, path: str, data: bytes) -> int:
    pair.node.files.write(path, data)
    pair.node.follower.catch_up()
    assert pair.node.files.read(path) == data
    return pair.node.files.ino(path)


def test_names_attributes_and_bytes_are_answered_while_the_lease_lasts(pair: Pair) -> None:
    ino = warm(pair, "file", b"data")
    with pair.node.asks() as peer:
        peer.init()
        asking = Asking(peer)
        assert asking.lookup(b"file") == ino
        assert asking.nlink_and_size(ino) == (1, 4)
        assert asking.answered == {"LOOKUP": 1, "GETATTR": 1}
        pair.node.arena.lease(0, False)
        assert asking.lookup(b"file") == ino
        assert asking.answered == {"LOOKUP": 1, "GETATTR": 1}


def test_an_open_that_compiled_code_cannot_answer_after_its_fence_is_fenced_and_sent_back_once(pair: Pair) -> None:
    ino = warm(pair, "file", b"old")
    with pair.node.asks() as peer:
        peer.init()
        asking = Asking(peer)
        assert asking.lookup(b"file") == ino
        pair.node.vfs.moved.note({Inode(ROOT): True})
        assert asking.open(ino) == 0

        def fence(position: Position) -> None:
            pair.node.follower.fence(position)
            pair.node.arena.mark(ino, DIRTY)  # as by somebody who writes to it meanwhile

        pair.node.vfs.follow(fence, lambda inos: None)
        pair.other.files.write("file", b"newer")
        before = pair.n_log_reads
        fh = asking.open(ino)
        assert fh and not fh & COMPILED_FH, "the kernel does not try a third time"
        assert pair.n_log_reads == before + 1
        assert asking.read(ino, fh) == b"newer"
        asking.release(ino, fh)
        pair.node.arena.unmark(ino, DIRTY)
        assert asking.open(ino) == 0, "another walk"


def test_an_open_sees_what_was_closed_elsewhere_and_costs_one_read_of_the_log(pair: Pair) -> None:
    ino = warm(pair, "file", b"old")
    with pair.node.asks() as peer:
        peer.init()
        asking = Asking(peer)
        before = pair.n_log_reads
        fh = asking.open(ino)
        assert fh & COMPILED_FH
        assert pair.n_log_reads == before + 1
        assert asking.read(ino, fh) == b"old"
        asking.release(ino, fh)
        pair.other.files.write("file", b"newer")
        fh = asking.open(ino)
        assert asking.read(ino, fh) == b"newer"
        asking.release(ino, fh)
        fh = asking.open(ino)
        assert fh & COMPILED_FH
        assert asking.read(ino, fh) == b"newer"
        assert asking.answered["READ"] >= 1
        asking.release(ino, fh)
    pair.node.assert_nothing_is_open([ino])


def test_pushed_changes_are_seen_when_they_come_and_opens_ask_nobody(pair: Pair) -> None:
    pair.push()
    ino = warm(pair, "file", b"old")
    with pair.node.asks() as peer:
        peer.init()
        asking = Asking(peer)
        pair.other.files.write("file", b"newer")
        before = pair.n_log_reads
        fh = asking.open(ino)
        assert asking.read(ino, fh) == b"old"
        assert pair.n_log_reads == before
        asking.release(ino, fh)
        pair.node.follower.catch_up()
        fh = asking.open(ino)
        assert asking.read(ino, fh) == b"newer"
        asking.release(ino, fh)


def test_opens_for_writing_are_pythons(pair: Pair) -> None:
    ino = warm(pair, "file", b"old")
    with pair.node.asks() as peer:
        peer.init()
        asking = Asking(peer)
        fh = asking.open(ino, os.O_RDWR)
        assert not fh & COMPILED_FH
        asking.write(ino, fh, b"newer")
        again = asking.open(ino)
        assert asking.read(ino, again) == b"newer"
        asking.release(ino, again)
        asking.release(ino, fh)


@pytest.mark.parametrize("opcode", ["OPEN", "OPENDIR"])
def test_an_open_that_compiled_code_cannot_answer_after_its_fence_is_fenced_once(pair: Pair, opcode: str) -> None:
    """Somebody marks the inode meanwhile. A thread that was sent back is let pass once, so it must not be looked at twice."""
    file = warm(pair, "file", b"data")
    node = pair.node
    ino = file if opcode == "OPEN" else ROOT
    assert node.files.names() >= {"file"}
    looked = []
    fence, check = node.follower.fence, node.vfs.moved.check

    def fences(*position: Position) -> None:
        fence(*position)
        node.arena.mark(ino, DIRTY)

    def checks(pid: int, ino: Inode, name: bytes | None = None) -> None:
        looked.append(ino)
        check(pid, ino, name)

    node.vfs.follow(fences, lambda inos: None)
    vars(node.vfs.moved)["check"] = checks
    with node.asks() as peer:
        peer.init()
        reply = peer.call(opcode, struct.pack("=II", 0, 0), ino)
        assert reply.error == 0
        fh = OPEN_OUT.unpack(reply.body)[0]
        assert not fh & COMPILED_FH, "compiled code has opened it"
        assert looked == [ino]
        node.arena.unmark(ino, DIRTY)
        assert peer.call("RELEASE" if opcode == "OPEN" else "RELEASEDIR", struct.pack("=QIIQ", fh, 0, 0, 0), ino).error == 0


def test_a_directory_that_is_opened_costs_one_read_of_the_log_and_shows_what_others_have_made(pair: Pair) -> None:
    warm(pair, "file", b"data")
    node = pair.node
    with node.asks() as peer:
        peer.init()
        for n in range(3):
            pair.other.files.write(f"other{n}", b"")
            before = pair.n_log_reads
            reply = peer.call("OPENDIR", bytes(8), ROOT)
            assert (reply.error, pair.n_log_reads) == (0, before + 1)
            fh = OPEN_OUT.unpack(reply.body)[0]
            found = peer.call("READDIR", struct.pack("=QQIIQII", fh, 0, 4096, 0, 0, 0, 0), ROOT)
            assert f"other{n}".encode() in found.body
            assert peer.call("RELEASEDIR", struct.pack("=QIIQ", fh, 0, 0, 0), ROOT).error == 0


# With somebody to ask without Python


@pytest.fixture
def teller(pair: Pair) -> Iterator[Teller]:
    """Says where the log ends; `pair.end` has its connection."""
    with Teller(lambda: bulk(pair.other.volume.store.position())) as found:
        pair.end.add(found.fd, COMMAND)
        yield found
        pair.end.close()


def opens(asking: Asking, ino: int) -> bytes:
    fh = asking.open_compiled(ino)
    data = asking.read(ino, fh)
    asking.release(ino, fh)
    return data


def test_opens_ask_for_the_end_of_the_log_without_python(pair: Pair, teller: Teller) -> None:
    ino = warm(pair, "file", b"data")
    assert pair.node.files.names() >= {"file"}
    with pair.node.asks(log_end=pair.end) as peer:
        peer.init()
        asking = Asking(peer)
        pair.n_log_reads = 0
        for n in range(1, 4):
            assert opens(asking, ino) == b"data"
            assert (asking.answered["OPEN"], teller.n_asked, pair.n_log_reads) == (n, n, 0)
        assert pair.node.engine.volume.metrics.operation_s["open"].value.n == 0
        fh = OPEN_OUT.unpack(peer.call("OPENDIR", bytes(8), ROOT).body)[0]
        assert (asking.answered["OPENDIR"], teller.n_asked, pair.n_log_reads) == (1, 4, 0)
        assert peer.call("RELEASEDIR", struct.pack("=QIIQ", fh, 0, 0, 0), ROOT).error == 0


def test_what_others_have_committed_is_read_out_of_the_log_before_an_open(pair: Pair, teller: Teller) -> None:
    ino = warm(pair, "file", b"old")
    with pair.node.asks(log_end=pair.end) as peer:
        peer.init()
        asking = Asking(peer)
        for n in range(1, 6):
            pair.other.files.write("file", b"newer%d" % n)
            pair.n_log_reads = 0
            fh = asking.open(ino)
            assert asking.read(ino, fh) == b"newer%d" % n
            asking.release(ino, fh)
            assert pair.n_log_reads == 1
            assert opens(asking, ino) == b"newer%d" % n
            assert pair.n_log_reads == 1, "what is known is read again"


def test_names_that_are_absent_are_so_by_the_end_of_the_log(pair: Pair, teller: Teller) -> None:
    pair.node.files.mkdir("d")  # so all its names are known
    pair.node.follower.catch_up()
    there = pair.node.files.ino("d")
    with pair.node.asks(log_end=pair.end) as peer:
        peer.init()
        asking = Asking(peer)
        pair.n_log_reads = 0
        for n in range(3):
            assert asking.lookup(b"file", there) == 0
            assert (asking.answered["LOOKUP"], pair.n_log_reads) == (n + 1, 0)
        pair.other.files.write("d/file", b"data")
        assert asking.lookup(b"file", there) == pair.other.files.ino("d/file")


def test_own_commits_do_not_send_opens_to_python(pair: Pair, teller: Teller) -> None:
    ino = warm(pair, "file", b"data")
    with pair.node.asks(log_end=pair.end) as peer:
        peer.init()
        asking = Asking(peer)
        pair.n_log_reads = 0
        for n in range(10):
            pair.node.files.write(f"own{n}", b"x")
            pair.n_log_reads = 0
            assert opens(asking, ino) == b"data"
            assert pair.n_log_reads == 0
        pair.other.files.write("other", b"x")
        pair.node.files.write("own", b"x")
        assert opens(asking, ino) == b"data"
        pair.n_log_reads = 0
        assert opens(asking, ino) == b"data"
        assert pair.n_log_reads == 0, "a commit after one of others is not known"


def test_new_names_of_others_leave_opens_to_compiled_code_and_lost_ones_do_not(pair: Pair, teller: Teller) -> None:
    node = pair.node
    node.follower = Follower(node.engine.volume.store, node.vfs, Kernel(), node.arena, moved=node.vfs.moved)
    node.vfs.follow(node.follower.fence, lambda inos: None)
    ino = warm(pair, "file", b"data")
    with pair.node.asks(log_end=pair.end) as peer:
        peer.init()
        asking = Asking(peer)
        for n in range(5):
            pair.other.files.write(f"new{n}", b"x")
            pair.other.files.mkdir(f"dir{n}")
            pair.node.follower.catch_up()
            assert opens(asking, ino) == b"data"
            assert asking.answered["OPEN"] == n + 1
        pair.other.files.rename("dir0", "dir9")
        pair.node.follower.catch_up()
        n_asked = teller.n_asked
        fh = asking.open(ino) or asking.open(ino)  # perhaps sent back once
        assert teller.n_asked == n_asked, "Python is to see who may have come through what was renamed"
        asking.release(ino, fh)


def test_whoever_may_have_walked_through_what_moved_is_pythons(pair: Pair, teller: Teller) -> None:
    ino = warm(pair, "file", b"data")
    with pair.node.asks(log_end=pair.end) as peer:
        peer.init()
        asking = Asking(peer)
        assert asking.lookup(b"file") == ino
        pair.node.vfs.moved.note({Inode(ROOT): True})
        assert asking.open(ino) == 0
        assert asking.open(ino) != 0
        assert teller.n_asked == 0


@pytest.mark.parametrize("said", [None, b"-LOADING\r\n", bulk(1), bulk(2**52)])
def test_python_asks_where_the_answer_is_none(pair: Pair, said: bytes | None) -> None:
    """Or that of a store which lacks what is known here, or has what nobody else knows of."""
    ino = warm(pair, "file", b"data")
    with Teller(lambda: said) as teller, pair.node.asks(log_end=pair.end) as peer:
        pair.end.add(teller.fd, COMMAND)
        peer.init()
        asking = Asking(peer)
        pair.n_log_reads = 0
        for n in range(1, 4):
            assert opens(asking, ino) == b"data"
            assert pair.n_log_reads == n
        pair.end.close()


def test_a_lease_that_ends_meanwhile_ends_it_for_compiled_code(pair: Pair) -> None:
    ino = warm(pair, "file", b"data")

    def answer() -> bytes:
        pair.node.arena.lease(0, False)
        return bulk(pair.other.volume.store.position())

    with Teller(answer) as teller, pair.node.asks(log_end=pair.end) as peer:
        pair.end.add(teller.fd, COMMAND)
        peer.init()
        asking = Asking(peer)
        fh = asking.open(ino)
        assert not fh & COMPILED_FH
        asking.release(ino, fh)
        pair.end.close()
