"""Listings that Python reads as pages of rows and compiled code lays out: what the kernel gets is what `readdir` would give."""

import errno
import itertools
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from cairnfs.meta.names import PageOfNames
from cairnfs.types import Inode, Position
from cairnfs.vfs.system_call import UNKNOWN_CALL
from support.compiled import COMPILED_FH, Node
from support.engine import ME, ROOT, new_volume
from support.fuse_peer import ATTR, ENTRY_OUT, FusePeer

N = 2500  # beyond what is brought at once
ROOM = 8192
DIRENT = struct.Struct("=QQII")
PLUS_BYTES = ENTRY_OUT.size + ATTR.size
NODEID_AT, SIZE_AT = 0, ENTRY_OUT.size + 8


class Entry(NamedTuple):
    name: bytes
    ino: int
    cookie: int
    nodeid: int  # 0: a name only
    size: int


@pytest.fixture(params=["sqlite", "memory read ahead"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    kind, _, ahead = request.param.partition(" ")
    found = Node(new_volume(tmp_path, kind), arena_bytes=64 << 20)  # room for all that is read ahead
    if ahead:
        found.engine.meta.core.neighbours.start()
    yield found
    found.engine.close()


@pytest.fixture
def peer(node: Node) -> Iterator[FusePeer]:
    with node.asks() as peer:
        peer.init()
        yield peer


def make(node: Node, folder: str, names: list[str]) -> Inode:
    ino = node.vfs.mkdir(ME, ROOT, os.fsencode(folder), 0o755).ino
    for name in names:
        node.vfs.mknod(ME, ino, os.fsencode(name), 0o100644)
    forget(node)
    return ino


def forget(node: Node) -> None:
    """As after mounting; everything that was committed is known."""
    node.arena.drop_all()
    node.follower.catch_up()
    node.arena.lease(time.clock_gettime(time.CLOCK_BOOTTIME) + 600, False)  # however long the test takes
    assert node.arena.answers()


def stay(n: int) -> list[str]:
    return [f"stay{i:05}" for i in range(n)]


def opendir(peer: FusePeer, ino: int, flags: int = 0) -> int:
    reply = peer.call("OPENDIR", struct.pack("=II", flags, 0), ino)
    assert reply.error == 0
    return int(struct.unpack_from("=Q", reply.body)[0])


def ask(peer: FusePeer, ino: int, fh: int, cookie: int, plus: bool = True, room: int = ROOM) -> list[Entry]:
    """One request."""
    opcode = "READDIRPLUS" if plus else "READDIR"
    reply = peer.call(opcode, struct.pack("=QQIIQII", fh, cookie, room, 0, 0, 0, 0), ino)
    assert reply.error == 0
    found, at = [], 0
    while at < len(reply.body):
        nodeid = size = 0
        if plus:
            nodeid, size = (struct.unpack_from("=Q", reply.body, at + where)[0] for where in (NODEID_AT, SIZE_AT))
            at += PLUS_BYTES
        child, following, n_name, _ = DIRENT.unpack_from(reply.body, at)
        name = reply.body[at + DIRENT.size : at + DIRENT.size + n_name]
        found.append(Entry(name, child, following, nodeid, size))
        at += (DIRENT.size + n_name + 7) // 8 * 8
    return found


def ask_all(peer: FusePeer, ino: int, fh: int, cookie: int = 0, plus: bool = True) -> list[Entry]:
    found: list[Entry] = []
    while entries := ask(peer, ino, fh, cookie, plus):
        found += entries
        cookie = entries[-1].cookie
    return found


def names(entries: list[Entry]) -> list[str]:
    return [os.fsdecode(entry.name) for entry in entries]


def fetches(node: Node, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of inodes that are read by themselves from now on."""
    fetched: list[int] = []
    fetch = node.engine.meta.names.fetch
    monkeypatch.setattr(node.engine.meta.names, "fetch", lambda inos: fetched.append(len(inos)) or fetch(inos))
    return fetched


@pytest.mark.parametrize("n", [0, 1, 500, N])
@pytest.mark.parametrize("plus", [False, True])
def test_the_first_listing_is_whole_and_the_next_one_is_compiled(
    node: Node, peer: FusePeer, monkeypatch: pytest.MonkeyPatch, n: int, plus: bool
) -> None:
    ino = make(node, "d", stay(n))
    node.files.write("d/with data", b"12345")
    forget(node)
    fetched = fetches(node, monkeypatch)
    fh = opendir(peer, ino)
    assert not fh & COMPILED_FH
    found = ask_all(peer, ino, fh, plus=plus)
    assert names(found) == [".", "..", *sorted([*stay(n), "with data"])]
    assert fetched == []
    expected = list(node.files.read_dir(node.vfs.opendir(ME, ino).fh))
    assert [(e.name, e.ino, e.cookie) for e in found] == [(e.name, e.ino, e.cookie) for e in expected]
    assert [e.nodeid for e in found[2:]] == [e.ino if plus else 0 for e in found[2:]]
    assert {e.nodeid for e in found[:2]} == {0}
    assert [e.size for e in found if e.name == b"with data"] == [5 if plus else 0]
    again = opendir(peer, ino)
    assert again & COMPILED_FH
    assert names(ask_all(peer, ino, again, plus=plus)) == names(found)


def test_a_listing_during_which_the_directory_changed_is_not_kept(node: Node, peer: FusePeer) -> None:
    ino = make(node, "d", stay(N))
    fh = opendir(peer, ino)
    begun = ask(peer, ino, fh, 0)
    node.vfs.mknod(ME, ino, b"stay99999", 0o100644)
    rest = ask_all(peer, ino, fh, begun[-1].cookie)
    assert names(begun + rest) == [".", "..", *stay(N), "stay99999"]
    assert not opendir(peer, ino) & COMPILED_FH


def test_names_that_changed_after_they_were_read_ahead(node: Node, peer: FusePeer) -> None:
    """None that is gone is shown, and none comes with attributes of what it no longer stands for."""
    ino = make(node, "d", stay(500))
    fh = opendir(peer, ino)
    begun = ask(peer, ino, fh, 0)
    at = len(begun) - 2
    replaced = node.vfs.mknod(ME, ino, b"new", 0o100644).ino
    node.vfs.rename(ME, ino, b"new", ino, os.fsencode(stay(500)[at + 50]))
    for name in (*stay(500)[at : at + 5], stay(500)[at + 100]):
        node.vfs.unlink(ME, ino, os.fsencode(name))
    rest = ask_all(peer, ino, fh, begun[-1].cookie)
    assert names(rest) == [name for name in stay(500)[at + 5 :] if name != stay(500)[at + 100]]
    assert [e.nodeid for e in rest if e.nodeid != e.ino] == [0] * sum(e.ino != replaced and e.nodeid == 0 for e in rest)
    assert {e.nodeid for e in rest if os.fsdecode(e.name) == stay(500)[at + 50]} <= {0, replaced}
    assert len({e.cookie for e in begun + rest}) == len(begun) + len(rest)


def test_a_file_that_is_being_written_shows_what_was_written(node: Node, peer: FusePeer) -> None:
    ino = make(node, "d", stay(300))
    with node.files.opened("d/stay00150", os.O_RDWR) as fh:
        node.vfs.write(ME, fh, 0, b"not committed")
        found = ask_all(peer, ino, opendir(peer, ino))
        assert names(found) == [".", "..", *stay(300)]
        assert [e.size for e in found[2:]] == [13 * (i == 150) for i in range(300)]
        assert [e.nodeid for e in found[2:]] == [e.ino for e in found[2:]]


def test_rewinding_shows_what_is_new_and_going_back_what_was_there(node: Node, peer: FusePeer) -> None:
    ino = make(node, "d", stay(500))
    fh = opendir(peer, ino)
    first = ask_all(peer, ino, fh)
    node.vfs.mknod(ME, ino, b"aaa", 0o100644)
    forget(node)
    back = ask_all(peer, ino, fh, first[99].cookie)
    assert [(e.name, e.ino, e.cookie) for e in back] == [(e.name, e.ino, e.cookie) for e in first[100:]]
    assert names(ask_all(peer, ino, fh)) == [".", "..", "aaa", *stay(500)]


def test_a_directory_that_was_removed_has_no_entries(node: Node, peer: FusePeer) -> None:
    ino = make(node, "d", [])
    fh = opendir(peer, ino)
    node.vfs.rmdir(ME, ROOT, b"d")
    forget(node)
    assert ask_all(peer, ino, fh) == []


def test_room_for_no_entry_is_an_error_and_for_few_is_used(node: Node, peer: FusePeer) -> None:
    ino = make(node, "d", stay(40))
    fh = opendir(peer, ino)
    room = 2 * (PLUS_BYTES + 40)
    found: list[Entry] = []
    while entries := ask(peer, ino, fh, found[-1].cookie if found else 0, room=room):
        found += entries
    assert names(found) == [".", "..", *stay(40)]
    reply = peer.call("READDIRPLUS", struct.pack("=QQIIQII", fh, 2, 100, 0, 0, 0, 0), ino)
    assert reply.error == 22


def test_two_handles_do_not_disturb_each_other(node: Node, peer: FusePeer) -> None:
    ino = make(node, "d", stay(N))
    one, other = opendir(peer, ino), opendir(peer, ino)
    found: dict[int, list[Entry]] = {one: [], other: []}
    for fh in itertools.chain.from_iterable(itertools.repeat((one, other), 200)):
        found[fh] += ask(peer, ino, fh, found[fh][-1].cookie if found[fh] else 0)
    assert names(found[one]) == names(found[other]) == [".", "..", *stay(N)]


# Who opens a directory as opendir(3) does


AS_OPENDIR_3 = os.O_RDONLY | os.O_NONBLOCK | os.O_DIRECTORY


def pages(node: Node, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Pages of names that are read from now on: how many rows, and whether with attributes."""
    found: list[tuple[int, bool]] = []
    page = node.engine.meta.names.page

    def read(ino: Inode, after: bytes | None, limit: int, with_inodes: bool = True) -> PageOfNames:
        result = page(ino, after, limit, with_inodes)
        found.append((len(result.page), with_inodes))
        return result

    monkeypatch.setattr(node.engine.meta.names, "page", read)
    return found


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Node]:
    """Where round trips cost time."""
    found = Node(new_volume(tmp_path, "memory"), arena_bytes=64 << 20)
    found.engine.meta.core.neighbours.start()
    forget(found)
    yield found
    found.engine.close()


@pytest.fixture
def far_peer(far: Node) -> Iterator[FusePeer]:
    with far.asks() as peer:
        peer.init()
        yield peer


@pytest.mark.parametrize(("n", "is_gathered"), [(0, True), (1, True), (300, True), (1000, True), (1001, False)])
def test_opening_as_opendir_3_brings_what_others_have_made_at_once(
    far: Node, far_peer: FusePeer, monkeypatch: pytest.MonkeyPatch, n: int, is_gathered: bool
) -> None:
    ino = make(far, "d", stay(n))
    far.vfs.lookup(ME, ROOT, b"d")
    read, fetched = pages(far, monkeypatch), fetches(far, monkeypatch)
    fh = opendir(far_peer, ino, AS_OPENDIR_3)
    assert bool(fh & COMPILED_FH) == is_gathered
    assert read == [(n, n > 0)] * is_gathered  # of a directory without entries all names are known
    assert names(found := ask_all(far_peer, ino, fh)) == [".", "..", *stay(n)]
    assert [e.nodeid for e in found[2:]] == [e.ino for e in found[2:]]
    assert fetched == [] and (not is_gathered or len(read) == 1)


def test_of_a_directory_that_was_filled_here_only_names_are_read(
    far: Node, far_peer: FusePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a larger one. Attributes that are gone from the arena come with one more read."""
    ino = make_here(far, "d", stay(N))
    read, fetched = pages(far, monkeypatch), fetches(far, monkeypatch)
    for name in stay(N)[:3]:
        far.arena.forget(far.arena.name(ino, os.fsencode(name)) or 0)
    fh = opendir(far_peer, ino, AS_OPENDIR_3)
    assert fh & COMPILED_FH
    assert names(found := ask_all(far_peer, ino, fh)) == [".", "..", *stay(N)]
    assert [e.nodeid for e in found[2:]] == [e.ino for e in found[2:]]
    assert (read, fetched) == ([(N, False)], [3])


def make_here(node: Node, folder: str, names: list[str]) -> Inode:
    ino = node.vfs.mkdir(ME, ROOT, os.fsencode(folder), 0o755).ino
    for name in names:
        node.vfs.mknod(ME, ino, os.fsencode(name), 0o100644)
    return ino


def test_whoever_does_not_open_as_opendir_3_reads_no_names(
    far: Node, far_peer: FusePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino = make_here(far, "d", stay(10))
    read = pages(far, monkeypatch)
    fh = opendir(far_peer, ino, os.O_RDONLY | os.O_DIRECTORY)
    assert not fh & COMPILED_FH and read == []


def test_what_changes_while_a_directory_is_opened_is_listed(far: Node, far_peer: FusePeer) -> None:
    ino = make_here(far, "d", stay(300))
    fence = far.follower.fence

    def changed(position: Position) -> None:
        far.vfs.mknod(ME, ino, b"stay99999", 0o100644)
        fence(position)

    far.vfs.follow(changed, lambda inos: None)
    fh = opendir(far_peer, ino, AS_OPENDIR_3)
    assert not fh & COMPILED_FH
    assert names(ask_all(far_peer, ino, fh)) == [".", "..", *stay(300), "stay99999"]


def test_opening_as_opendir_3_fences_and_refuses_what_was_moved(far: Node, far_peer: FusePeer) -> None:
    """As any other open: at the position of the page, where the store knows it, and once for each request."""
    ino = make_here(far, "d", stay(3))
    fences: list[int] = []
    far.vfs.follow(fences.append, lambda inos: None)
    assert opendir(far_peer, ino, AS_OPENDIR_3) & COMPILED_FH
    assert fences == [0]
    far.vfs.mknod(ME, ino, b"new", 0o100644)
    far.vfs.moved.waiting_in = lambda pid: UNKNOWN_CALL
    far.vfs.moved.note({ino: True})
    reply = far_peer.call("OPENDIR", struct.pack("=II", AS_OPENDIR_3, 0), ino)
    assert reply.error == errno.ESTALE
    assert fences == [0, 0]
