"""A volume says whether any inode was ever given an attribute in security.: by an errno, on every store, to every node."""

import errno

import pytest

from cairnfs.errors import FsError
from cairnfs.ext.arena import Arena
from cairnfs.meta.records import NEVER_GIVEN, SECURITY_KEY, WAS_GIVEN
from cairnfs.meta.stores.base import Delete, Put, Store
from cairnfs.meta.stores.kept import KeptStore
from cairnfs.meta.xattrs import CREATE, REPLACE
from cairnfs.types import Attr
from support.arenas import MIB
from support.namespaces import Node, Volume
from support.rows import Opener

LABEL = b"security.selinux"


@pytest.fixture
def volume(store: Store) -> Volume:
    return Volume(store)


@pytest.fixture
def node(volume: Volume) -> Node:
    return volume.node()


@pytest.fixture
def made(node: Node) -> Attr:
    return node.file(b"f")


def asked(node: Node, made: Attr, name: bytes = LABEL) -> str:
    """What comes of asking for an attribute that is not there."""
    with pytest.raises(FsError) as caught:
        node.xattrs.get(made.ino, name)
    return errno.errorcode[caught.value.errno or 0]


def says(node: Node) -> bytes | None:
    row = node.row(SECURITY_KEY)
    return None if row is None else row.value


def test_until_one_is_given_there_is_no_such_thing(volume: Volume, node: Node, made: Attr) -> None:
    other = volume.node()
    node.xattrs.set(made.ino, b"user.a", b"")
    node.xattrs.set(made.ino, b"trusted.a", b"")
    for flags, code in ((REPLACE, errno.ENODATA), (CREATE | REPLACE, errno.EINVAL)):
        with pytest.raises(FsError) as caught:
            node.xattrs.set(made.ino, LABEL, b"", flags)
        assert caught.value.errno == code
    assert [asked(at, made, name) for at in (node, other) for name in (LABEL, b"security.capability")] == ["ENOTSUP"] * 4
    assert [asked(node, made, name) for name in (b"user.b", b"trusted.b")] == ["ENODATA"] * 2


def test_the_first_one_ends_that_for_ever_and_everywhere(volume: Volume, node: Node, made: Attr) -> None:
    other, another = volume.node(), node.file(b"g")
    node.xattrs.set(made.ino, LABEL, b"label")
    assert other.xattrs.get(made.ino, LABEL) == b"label"
    for at in (node, other):
        assert asked(at, another) == asked(at, made, b"security.capability") == "ENODATA"
    other.xattrs.remove(made.ino, LABEL)
    assert (asked(node, made), asked(other, made), says(node)) == ("ENODATA", "ENODATA", WAS_GIVEN)
    with pytest.raises(FsError):
        node.xattrs.remove(made.ino, LABEL)


def test_the_log_tells_of_it_before_it_tells_of_the_inode(node: Node, made: Attr) -> None:
    before = node.store.position()  # type: ignore[operator]
    node.xattrs.set(made.ino, LABEL, b"")
    first, *rest = node.store.log(before, 10)[0].keys  # type: ignore[operator]
    assert first == SECURITY_KEY and len(rest) == 2


def test_it_takes_no_round_trip(node: Node, made: Attr) -> None:
    node.store.trips.clear()
    node.xattrs.set(made.ino, b"user.a", b"")
    usual = list(node.store.trips)
    for value in (b"1", b"2"):
        node.store.trips.clear()
        node.xattrs.set(made.ino, LABEL, value)
        assert node.store.trips == usual
    node.store.trips.clear()
    asked(node, made, b"security.capability")
    assert node.store.trips == ["read"]
    assert [effect.key for _, effects in node.store.commits for effect in effects].count(SECURITY_KEY) == 1


def test_a_volume_that_keeps_no_account_may_have_any(node: Node, made: Attr) -> None:
    """One that was made before there was such a row."""
    node.store.commit([], [Delete(SECURITY_KEY)])
    assert asked(node, made) == "ENODATA"
    node.xattrs.set(made.ino, LABEL, b"label")
    node.xattrs.remove(made.ino, LABEL)
    assert (asked(node, made), says(node)) == ("ENODATA", None)


def test_what_is_there_is_given_whatever_the_volume_says(node: Node, made: Attr) -> None:
    """By a node of an older version, which says nothing."""
    node.xattrs.set(made.ino, LABEL, b"label")
    node.store.commit([], [Put(SECURITY_KEY, NEVER_GIVEN)])
    assert node.xattrs.get(made.ino, LABEL) == b"label"


def test_two_first_ones_at_once(volume: Volume, node: Node, made: Attr) -> None:
    other = volume.node()
    node.store.before_next_commit(lambda: other.xattrs.set(made.ino, b"security.other", b"2"))
    node.xattrs.set(made.ino, LABEL, b"1")
    assert node.xattrs.list(made.ino) == [b"security.other", LABEL]
    assert says(node) == WAS_GIVEN


def test_a_failover_that_loses_it_before_the_next_one_is_given(node: Node, made: Attr) -> None:
    node.xattrs.set(made.ino, LABEL, b"1")
    node.store.before_next_commit(lambda: node.store.commit([], [Put(SECURITY_KEY, NEVER_GIVEN)]))
    node.xattrs.set(made.ino, b"security.other", b"2")
    assert says(node) == WAS_GIVEN


def test_an_arena_knows_it_from_the_first_question_on(open_again: Opener, node: Node, made: Attr) -> None:
    arena = Arena(MIB)
    kept = Node(KeptStore(open_again(), arena), 2, node.core.clock)  # type: ignore[arg-type]
    assert arena.security is None
    assert (asked(kept, made), arena.security) == ("ENOTSUP", False)
    before = node.store.position()  # type: ignore[operator]
    node.xattrs.set(made.ino, LABEL, b"")
    for record in node.store.log(before, 10):  # type: ignore[operator]
        arena.changed(record.keys, record.position)
    assert arena.security is True
    assert asked(kept, made, b"security.other") == "ENODATA"


def test_so_it_does_when_the_first_one_is_given_through_it(open_again: Opener, volume: Volume, node: Node, made: Attr) -> None:
    arena = Arena(MIB)
    kept = Node(KeptStore(open_again(), arena), 2, volume.clock)
    asked(kept, made)
    kept.xattrs.set(made.ino, LABEL, b"")
    assert arena.security is True
