"""Changing mode, owner and times; what that does to special bits, ACLs and capabilities; totals of the volume."""

import errno

import pytest

from cairnfs.errors import FsError
from cairnfs.meta import acl
from cairnfs.meta.acl import GROUP_OBJ, MASK, OTHER, USER_OBJ, Entry
from cairnfs.meta.attrs import without_suid
from cairnfs.types import Inode, SetAttr
from support.namespaces import ROOT, USER, Node, Volume


@pytest.fixture
def node() -> Node:
    return Volume(inodes=10).node()


def test_what_is_not_named_stays(node: Node) -> None:
    made = node.file(b"a")
    changed = node.attrs.set(USER, made.ino, SetAttr(uid=7))
    assert changed == node.names.get(made.ino)
    assert (changed.uid, changed.gid, changed.mode, changed.mtime_ns) == (7, made.gid, made.mode, made.mtime_ns)
    assert changed.ctime_ns > made.ctime_ns


def test_times_are_set_exactly(node: Node) -> None:
    made = node.file(b"a")
    changed = node.attrs.set(USER, made.ino, SetAttr(atime_ns=-5, mtime_ns=1, ctime_ns=2))
    assert (changed.atime_ns, changed.mtime_ns, changed.ctime_ns) == (-5, 1, 2)
    assert node.names.get(made.ino) == changed


def test_mode_keeps_the_type(node: Node) -> None:
    made = node.file(b"a")
    assert node.attrs.set(USER, made.ino, SetAttr(mode=0o7751)).mode == 0o107751


@pytest.mark.parametrize(
    ("before", "after"),
    [(0o106755, 0o100755), (0o106745, 0o102745), (0o104644, 0o100644), (0o046777, 0o046777)],
    ids=["both", "group may not execute", "user only", "directory"],
)
def test_privileges_end_with_the_owner(node: Node, before: int, after: int) -> None:
    assert without_suid(before) == after
    made = node.dir(b"a") if before >> 12 == 4 else node.file(b"a")
    node.attrs.set(USER, made.ino, SetAttr(mode=before))
    assert node.attrs.set(USER, made.ino, SetAttr(gid=5)).mode == after


def test_privileges_end_when_the_kernel_says_so(node: Node) -> None:
    made = node.file(b"a")
    node.attrs.set(USER, made.ino, SetAttr(mode=0o4755))
    assert node.attrs.set(USER, made.ino, SetAttr(kill_suidgid=True)).mode == 0o100755


def test_mode_given_with_an_owner_is_taken_as_it_is(node: Node) -> None:
    made = node.file(b"a")
    assert node.attrs.set(USER, made.ino, SetAttr(mode=0o4755, uid=5)).mode == 0o104755


def test_capabilities_end_with_the_owner(node: Node) -> None:
    made = node.file(b"a")
    node.xattrs.set(made.ino, b"security.capability", b"\1")
    node.attrs.set(USER, made.ino, SetAttr(mode=0o755))
    assert node.xattrs.get(made.ino, b"security.capability") == b"\1"
    node.attrs.set(USER, made.ino, SetAttr(uid=5))
    assert node.xattrs.list(made.ino) == []


def test_access_acl_follows_the_mode(node: Node) -> None:
    made = node.file(b"a")
    entries = [Entry(USER_OBJ, 6), Entry(acl.USER, 4, 9), Entry(GROUP_OBJ, 4), Entry(MASK, 7), Entry(OTHER, 4)]
    node.xattrs.set(made.ino, acl.ACCESS, acl.encode(entries))
    node.attrs.set(USER, made.ino, SetAttr(mode=0o710))
    expected = [Entry(USER_OBJ, 7), Entry(acl.USER, 4, 9), Entry(GROUP_OBJ, 4), Entry(MASK, 1), Entry(OTHER, 0)]
    assert acl.parse(node.xattrs.get(made.ino, acl.ACCESS)) == expected
    assert node.names.get(made.ino).mode == 0o100710


def test_missing_inode(node: Node) -> None:
    with pytest.raises(FsError) as caught:
        node.attrs.set(USER, Inode(99), SetAttr(mode=0))
    assert caught.value.errno == errno.ENOENT


def test_change_of_another_node_before_the_commit_is_kept() -> None:
    volume = Volume()
    node, other = volume.node(), volume.node()
    made = node.file(b"a")
    node.store.before_next_commit(lambda: other.attrs.set(USER, made.ino, SetAttr(uid=7)))
    changed = node.attrs.set(USER, made.ino, SetAttr(gid=8))
    assert (changed.uid, changed.gid) == (7, 8)


def test_totals(node: Node) -> None:
    node.file(b"a")
    totals = node.attrs.statfs()
    assert (totals.total_bytes, totals.used_bytes, totals.total_inodes, totals.used_inodes) == (0, 0, 10, 2)


def test_root_counts_as_an_inode(node: Node) -> None:
    assert node.names.get(ROOT).nlink == 2
    assert node.attrs.statfs().used_inodes == 1
