"""Extended attributes: names and limits, flags, ACLs that change the mode and are inherited."""

import errno
from collections.abc import Callable

import pytest

from cairnfs.errors import FsError
from cairnfs.meta import acl
from cairnfs.meta.acl import GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, Entry
from cairnfs.meta.records import FLAG_ACCESS_ACL, FLAG_DEFAULT_ACL, FLAG_XATTR
from cairnfs.meta.xattrs import CREATE, REPLACE
from cairnfs.types import Attr, Caller, Inode
from support.namespaces import ROOT, Node, Volume

MINIMAL = acl.encode([Entry(USER_OBJ, 7), Entry(GROUP_OBJ, 5), Entry(OTHER, 1)])
NAMED = acl.encode([Entry(USER_OBJ, 7), Entry(USER, 6, 9), Entry(GROUP_OBJ, 5), Entry(MASK, 6), Entry(OTHER, 1)])
EMPTY = acl.encode([])


@pytest.fixture
def node() -> Node:
    return Volume().node()


@pytest.fixture
def made(node: Node) -> Attr:
    return node.file(b"a")


def refused(code: int, operation: Callable[..., object], *args: object) -> None:
    with pytest.raises(FsError) as caught:
        operation(*args)
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[code]


def flags(node: Node, ino: Inode) -> int:
    return node.names.get(ino).flags


class TestPlain:
    def test_values_are_found_again(self, node: Node, made: Attr) -> None:
        values = {b"security.s": b"", b"trusted.t": bytes(range(256)), b"user.u": b"x" * 65536}
        for name, value in values.items():
            node.xattrs.set(made.ino, name, value)
        assert node.xattrs.list(made.ino) == sorted(values)
        assert {name: node.xattrs.get(made.ino, name) for name in values} == values

    def test_many_names_are_listed(self, node: Node, made: Attr) -> None:
        names = sorted(b"user.%d" % number for number in range(600))
        for name in names:
            node.xattrs.set(made.ino, name, b"")
        assert node.xattrs.list(made.ino) == names

    def test_flag_tells_that_there_may_be_some(self, node: Node, made: Attr) -> None:
        assert flags(node, made.ino) == 0
        node.xattrs.set(made.ino, b"user.a", b"")
        assert flags(node, made.ino) == FLAG_XATTR

    def test_changes_set_ctime(self, node: Node, made: Attr) -> None:
        times = [made.ctime_ns]
        for change in (b"1", b"2"):
            node.xattrs.set(made.ino, b"user.a", change)
            times.append(node.names.get(made.ino).ctime_ns)
        node.xattrs.remove(made.ino, b"user.a")
        times.append(node.names.get(made.ino).ctime_ns)
        assert times == sorted(set(times))

    def test_create_and_replace(self, node: Node, made: Attr) -> None:
        refused(errno.ENODATA, node.xattrs.set, made.ino, b"user.a", b"", REPLACE)
        node.xattrs.set(made.ino, b"user.a", b"1", CREATE)
        refused(errno.EEXIST, node.xattrs.set, made.ino, b"user.a", b"2", CREATE)
        node.xattrs.set(made.ino, b"user.a", b"3", REPLACE)
        refused(errno.EINVAL, node.xattrs.set, made.ino, b"user.a", b"4", CREATE | REPLACE)
        assert node.xattrs.get(made.ino, b"user.a") == b"3"

    def test_removed_is_gone(self, node: Node, made: Attr) -> None:
        node.xattrs.set(made.ino, b"user.a", b"")
        node.xattrs.remove(made.ino, b"user.a")
        refused(errno.ENODATA, node.xattrs.get, made.ino, b"user.a")
        refused(errno.ENODATA, node.xattrs.remove, made.ino, b"user.a")
        assert node.xattrs.list(made.ino) == []

    @pytest.mark.parametrize(
        ("name", "code"),
        [
            (b"other.a", errno.EOPNOTSUPP),
            (b"system.a", errno.EOPNOTSUPP),
            (b"user", errno.EOPNOTSUPP),
            (b"user.", errno.EINVAL),
            (b"", errno.ERANGE),
            (b"user." + b"x" * 251, errno.ERANGE),
        ],
    )
    def test_refused_names(self, node: Node, made: Attr, name: bytes, code: int) -> None:
        refused(code, node.xattrs.get, made.ino, name)
        refused(code, node.xattrs.set, made.ino, name, b"")
        refused(code, node.xattrs.remove, made.ino, name)

    def test_value_too_big(self, node: Node, made: Attr) -> None:
        refused(errno.E2BIG, node.xattrs.set, made.ino, b"user.a", b"x" * 65537)

    def test_missing_inode(self, node: Node) -> None:
        for name in (b"user.a", acl.ACCESS):
            refused(errno.ENOENT, node.xattrs.set, Inode(99), name, MINIMAL)
            refused(errno.ENOENT, node.xattrs.remove, Inode(99), name)

    def test_same_name_created_before_the_commit(self, made: Attr) -> None:
        volume = Volume()
        node, other = volume.node(), volume.node()
        made = node.file(b"a")
        node.store.before_next_commit(lambda: other.xattrs.set(made.ino, b"user.a", b"1"))
        refused(errno.EEXIST, node.xattrs.set, made.ino, b"user.a", b"2", CREATE)


class TestAccessAcl:
    def test_longer_acl_is_stored_and_shown_in_the_mode(self, node: Node, made: Attr) -> None:
        node.xattrs.set(made.ino, acl.ACCESS, NAMED)
        assert node.xattrs.get(made.ino, acl.ACCESS) == NAMED
        assert node.names.get(made.ino).mode == 0o100761
        assert flags(node, made.ino) == FLAG_XATTR | FLAG_ACCESS_ACL

    def test_minimal_acl_is_only_a_mode(self, node: Node, made: Attr) -> None:
        node.xattrs.set(made.ino, acl.ACCESS, NAMED)
        node.xattrs.set(made.ino, acl.ACCESS, MINIMAL)
        refused(errno.ENODATA, node.xattrs.get, made.ino, acl.ACCESS)
        assert node.names.get(made.ino).mode == 0o100751
        assert not flags(node, made.ino) & FLAG_ACCESS_ACL

    @pytest.mark.parametrize("how", ["remove", "empty"])
    def test_without_its_acl_an_inode_keeps_the_mode(self, node: Node, made: Attr, how: str) -> None:
        node.xattrs.set(made.ino, acl.ACCESS, NAMED)
        if how == "remove":
            node.xattrs.remove(made.ino, acl.ACCESS)
        else:
            node.xattrs.set(made.ino, acl.ACCESS, EMPTY)
        assert node.names.get(made.ino).mode == 0o100761
        assert not flags(node, made.ino) & FLAG_ACCESS_ACL
        node.xattrs.remove(made.ino, acl.ACCESS)  # which is not there: no error, as on other file systems

    def test_setgid_ends_when_the_kernel_says_so(self, node: Node) -> None:
        made = node.dir(b"d", mode=0o2755)
        node.xattrs.set(made.ino, acl.ACCESS, NAMED)
        assert node.names.get(made.ino).mode == 0o042761
        node.xattrs.set(made.ino, acl.ACCESS, MINIMAL, kill_sgid=True)
        assert node.names.get(made.ino).mode == 0o040751

    def test_malformed_acl_is_refused(self, node: Node, made: Attr) -> None:
        refused(errno.EINVAL, node.xattrs.set, made.ino, acl.ACCESS, NAMED[:-8])

    def test_symlinks_have_none(self, node: Node) -> None:
        refused(errno.EOPNOTSUPP, node.xattrs.set, node.symlink(b"l", b"t").ino, acl.ACCESS, NAMED)


class TestDefaultAcl:
    def test_only_directories_have_one(self, node: Node, made: Attr) -> None:
        refused(errno.EACCES, node.xattrs.set, made.ino, acl.DEFAULT, NAMED)
        node.xattrs.set(made.ino, acl.DEFAULT, EMPTY)
        node.xattrs.set(ROOT, acl.DEFAULT, NAMED)
        assert node.names.get(ROOT).mode == 0o040777
        assert flags(node, ROOT) == FLAG_XATTR | FLAG_DEFAULT_ACL

    def test_it_takes_the_place_of_the_umask(self, node: Node) -> None:
        node.xattrs.set(ROOT, acl.DEFAULT, NAMED)
        made = node.file(b"f", mode=0o666, caller=Caller(umask=0o777))
        assert made.mode == 0o100660
        expected = [Entry(USER_OBJ, 6), Entry(USER, 6, 9), Entry(GROUP_OBJ, 5), Entry(MASK, 6), Entry(OTHER, 0)]
        assert acl.parse(node.xattrs.get(made.ino, acl.ACCESS)) == expected
        assert made.flags == flags(node, made.ino) == FLAG_XATTR | FLAG_ACCESS_ACL

    def test_directories_pass_it_on(self, node: Node) -> None:
        node.xattrs.set(ROOT, acl.DEFAULT, NAMED)
        made = node.dir(b"d", mode=0o777)
        assert node.xattrs.get(made.ino, acl.DEFAULT) == NAMED
        assert node.xattrs.list(made.ino) == [acl.ACCESS, acl.DEFAULT]
        assert made.mode == 0o040761

    def test_minimal_one_leaves_only_a_mode(self, node: Node) -> None:
        node.xattrs.set(ROOT, acl.DEFAULT, MINIMAL)
        assert node.xattrs.get(ROOT, acl.DEFAULT) == MINIMAL
        made = node.file(b"f", mode=0o666)
        assert (made.mode, made.flags) == (0o100640, 0)

    def test_symlinks_inherit_nothing(self, node: Node) -> None:
        node.xattrs.set(ROOT, acl.DEFAULT, NAMED)
        made = node.symlink(b"l", b"t")
        assert (made.mode, made.flags) == (0o120777, 0)

    def test_removed_with_its_directory(self, node: Node) -> None:
        made = node.dir(b"d")
        node.xattrs.set(made.ino, acl.DEFAULT, NAMED)
        node.names.rmdir(ROOT, b"d")
        assert node.xattrs.list(made.ino) == []
