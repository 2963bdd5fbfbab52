"""Locks of several owners and sessions on one inode; the rows that let a dead session's locks be found."""

import errno
import fcntl

import pytest

from cairnfs.errors import FsError
from cairnfs.meta import records
from cairnfs.types import Inode, Lock, SessionId
from support.namespaces import Node, Volume

INO = Inode(5)
END = (1 << 63) - 1


@pytest.fixture
def volume() -> Volume:
    return Volume()


@pytest.fixture
def node(volume: Volume) -> Node:
    return volume.node()


@pytest.fixture
def other(volume: Volume) -> Node:
    return volume.node()


def posix(kind: int, start: int = 0, end: int = END, owner: int = 1) -> Lock:
    return Lock(kind, start, end, 100 + owner, owner)


def flock(kind: int, owner: int = 1) -> Lock:
    return Lock(kind, 0, END, 100 + owner, owner, flock=True)


def busy(node: Node, lock: Lock, ino: Inode = INO) -> bool:
    try:
        node.locks.setlk(ino, lock)
    except FsError as error:
        assert error.errno == errno.EAGAIN
        return True
    return False


def held(node: Node, ino: Inode = INO) -> list[records.HeldLock]:
    return records.decode_locks(ino, node.row(records.locks_key(ino)))


def marked(node: Node, session: int) -> list[int]:
    return [records.number_of(key) for key, _ in node.store.scan(records.locked_part(SessionId(session)), None, 100)]


def test_readers_share_and_writers_exclude(node: Node, other: Node) -> None:
    assert not busy(node, posix(fcntl.F_RDLCK))
    assert not busy(other, posix(fcntl.F_RDLCK))
    assert busy(other, posix(fcntl.F_WRLCK))
    node.locks.setlk(INO, posix(fcntl.F_UNLCK))
    assert not busy(other, posix(fcntl.F_WRLCK))
    assert busy(node, posix(fcntl.F_RDLCK))


def test_ranges_that_do_not_overlap_do_not_conflict(node: Node, other: Node) -> None:
    assert not busy(node, posix(fcntl.F_WRLCK, 0, 9))
    assert not busy(other, posix(fcntl.F_WRLCK, 10, 19))
    assert busy(other, posix(fcntl.F_WRLCK, 9, 9))


def test_one_owner_may_change_its_mind(node: Node) -> None:
    node.locks.setlk(INO, posix(fcntl.F_RDLCK, 0, 99))
    node.locks.setlk(INO, posix(fcntl.F_WRLCK, 10, 19))
    node.locks.setlk(INO, posix(fcntl.F_UNLCK, 50, END))
    spans = [(one.lock.type, one.lock.start, one.lock.end) for one in held(node)]
    assert spans == [(fcntl.F_RDLCK, 0, 9), (fcntl.F_WRLCK, 10, 19), (fcntl.F_RDLCK, 20, 49)]


def test_owners_of_one_session_are_told_apart_and_so_are_equal_owners_of_two(node: Node, other: Node) -> None:
    assert not busy(node, posix(fcntl.F_WRLCK, owner=1))
    assert busy(node, posix(fcntl.F_WRLCK, owner=2))
    assert busy(other, posix(fcntl.F_WRLCK, owner=1))


def test_flock_and_fcntl_ignore_each_other(node: Node) -> None:
    assert not busy(node, posix(fcntl.F_WRLCK, owner=1))
    assert not busy(node, flock(fcntl.F_WRLCK, owner=2))


def test_flock_that_cannot_be_converted_is_lost(node: Node, other: Node) -> None:
    node.locks.setlk(INO, flock(fcntl.F_RDLCK))
    other.locks.setlk(INO, flock(fcntl.F_RDLCK))
    assert busy(node, flock(fcntl.F_WRLCK))
    assert not busy(other, flock(fcntl.F_WRLCK))


def test_getlk_names_the_first_in_the_way(node: Node, other: Node) -> None:
    node.locks.setlk(INO, posix(fcntl.F_WRLCK, 30, 39, owner=1))
    node.locks.setlk(INO, posix(fcntl.F_RDLCK, 10, 19, owner=2))
    assert node.locks.getlk(INO, posix(fcntl.F_WRLCK, owner=3)) == posix(fcntl.F_RDLCK, 10, 19, owner=2)
    assert node.locks.getlk(INO, posix(fcntl.F_RDLCK, owner=3)) == posix(fcntl.F_WRLCK, 30, 39, owner=1)
    assert node.locks.getlk(INO, posix(fcntl.F_RDLCK, 0, 29, owner=3)) is None
    elsewhere = other.locks.getlk(INO, posix(fcntl.F_WRLCK, owner=3))
    assert elsewhere is not None and elsewhere.pid == 0


def test_release_gives_up_one_kind_of_one_owner(node: Node) -> None:
    node.locks.setlk(INO, posix(fcntl.F_WRLCK, 0, 9))
    node.locks.setlk(INO, posix(fcntl.F_WRLCK, 20, 29))
    node.locks.setlk(INO, flock(fcntl.F_RDLCK))
    node.locks.setlk(INO, posix(fcntl.F_RDLCK, 40, 49, owner=2))
    node.locks.release(INO, 1, flock=False)
    assert {(one.lock.owner, one.lock.flock) for one in held(node)} == {(1, True), (2, False)}
    node.locks.release(INO, 1, flock=True)
    node.locks.release(INO, 2, flock=False)
    assert node.row(records.locks_key(INO)) is None


def test_session_is_marked_while_it_holds_locks(node: Node, other: Node) -> None:
    node.locks.setlk(INO, posix(fcntl.F_RDLCK, 0, 9))
    node.locks.setlk(INO, posix(fcntl.F_RDLCK, 20, 29))
    other.locks.setlk(INO, posix(fcntl.F_RDLCK, 0, 9))
    assert (marked(node, 1), marked(node, 2)) == ([INO], [INO])
    node.locks.setlk(INO, posix(fcntl.F_UNLCK, 0, 9))
    assert marked(node, 1) == [INO]
    node.locks.setlk(INO, posix(fcntl.F_UNLCK))
    assert (marked(node, 1), marked(node, 2)) == ([], [INO])


def test_locks_of_a_session_are_dropped_together(node: Node, other: Node) -> None:
    for number in range(3):
        node.locks.setlk(Inode(number), posix(fcntl.F_WRLCK))
    other.locks.setlk(Inode(1), flock(fcntl.F_WRLCK))
    assert other.locks.drop_session(SessionId(1)) == 3
    assert other.locks.drop_session(SessionId(1)) == 0
    assert not busy(other, posix(fcntl.F_WRLCK), Inode(0))
    assert [one.session for one in held(other, Inode(1))] == [2]


def test_mark_that_outlived_its_inode_is_dropped(node: Node) -> None:
    made = node.file(b"a")
    node.locks.setlk(made.ino, flock(fcntl.F_WRLCK))
    node.unlink(b"a")
    assert node.row(records.locks_key(made.ino)) is None
    assert node.locks.drop_session(SessionId(1)) == 0
    assert marked(node, 1) == []


def test_what_changes_nothing_commits_nothing(node: Node, other: Node) -> None:
    node.locks.setlk(INO, posix(fcntl.F_WRLCK))
    node.store.trips.clear()
    node.locks.setlk(INO, posix(fcntl.F_WRLCK))
    node.locks.setlk(Inode(6), posix(fcntl.F_UNLCK))
    node.locks.release(Inode(6), 1, flock=False)
    assert busy(node, posix(fcntl.F_WRLCK, owner=2))
    assert "commit" not in node.store.trips


def test_lock_taken_before_the_commit_is_seen(node: Node, other: Node) -> None:
    node.store.before_next_commit(lambda: other.locks.setlk(INO, posix(fcntl.F_WRLCK)))
    assert busy(node, posix(fcntl.F_WRLCK))
    assert [one.session for one in held(node)] == [2]
