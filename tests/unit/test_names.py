"""Names: creation, links, removal, listing; round trips; and what happens when another node gets in between."""

import errno
from collections.abc import Callable
from itertools import count

import pytest

from cairnfs.errors import CorruptError, FsError
from cairnfs.meta import records
from cairnfs.meta.stores.base import Along, Key, Unchanged, Via
from cairnfs.types import Caller, Inode, Position, SetAttr
from support.namespaces import ROOT, START_NS, USER, Node, Volume

HOUR_NS = 3600 * 10**9


@pytest.fixture
def volume() -> Volume:
    return Volume()


@pytest.fixture
def node(volume: Volume) -> Node:
    return volume.node()


def refused(code: int, operation: Callable[..., object], *args: object) -> None:
    with pytest.raises(FsError) as caught:
        operation(*args)
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[code]


class TestCreate:
    def test_new_file_is_found_as_it_was_made(self, node: Node) -> None:
        made = node.file(b"a", mode=0o666)
        assert (made.mode, made.uid, made.gid, made.nlink, made.size, made.parent) == (0o100644, 1000, 100, 1, 0, ROOT)
        assert made.atime_ns == made.mtime_ns == made.ctime_ns == made.btime_ns > START_NS
        assert node.names.lookup(ROOT, b"a") == made

    def test_directory_counts_entries_and_subdirectories(self, node: Node) -> None:
        node.file(b"a")
        node.dir(b"b")
        made = node.dir(b"c")
        root = node.names.get(ROOT)
        assert (root.size, root.nlink) == (3, 4)
        assert root.mtime_ns == root.ctime_ns == made.ctime_ns
        assert (made.nlink, made.size) == (2, 0)

    def test_symlink_keeps_its_target_and_ignores_the_umask(self, node: Node) -> None:
        made = node.symlink(b"l", b"../elsewhere")
        assert (made.tail, made.size, made.mode) == (b"../elsewhere", 12, 0o120777)
        assert node.names.get(made.ino) == made

    def test_device_keeps_its_number(self, node: Node) -> None:
        made = node.names.create(USER, ROOT, b"null", 0o020666, rdev=0x103)
        assert node.names.lookup(ROOT, b"null").rdev == made.rdev == 0x103

    def test_taken_name(self, node: Node) -> None:
        node.file(b"a")
        refused(errno.EEXIST, node.dir, b"a")
        assert node.usage().used_inodes == 2

    def test_in_a_file(self, node: Node) -> None:
        refused(errno.ENOTDIR, node.file, b"x", node.file(b"a").ino)

    def test_in_a_removed_directory(self, node: Node) -> None:
        gone = node.dir(b"d")
        node.names.rmdir(ROOT, b"d")
        refused(errno.ENOENT, node.file, b"x", gone.ino)

    def test_target_too_long(self, node: Node) -> None:
        refused(errno.ENAMETOOLONG, node.symlink, b"l", b"x" * 4096)

    def test_group_comes_from_a_setgid_directory(self, node: Node) -> None:
        shared = node.dir(b"d", mode=0o2775, caller=Caller(uid=0, gid=7))
        made = node.file(b"f", shared.ino)
        below = node.dir(b"s", shared.ino)
        assert (made.gid, made.mode & 0o2000) == (7, 0)
        assert (below.gid, below.mode & 0o2000) == (7, 0o2000)

    def test_inode_limit_is_exact(self) -> None:
        node = Volume(inodes=3).node()
        node.file(b"a")
        node.file(b"b")
        refused(errno.ENOSPC, node.file, b"c")
        node.unlink(b"a")
        node.file(b"c")
        assert node.usage().used_inodes == 3

    def test_directory_removed_before_the_commit(self, volume: Volume, node: Node) -> None:
        target = node.dir(b"d")
        other = volume.node()
        node.store.before_next_commit(lambda: other.names.rmdir(ROOT, b"d"))
        refused(errno.ENOENT, node.file, b"x", target.ino)
        assert node.row(records.inode_key(target.ino)) is None

    def test_name_taken_before_the_commit(self, volume: Volume, node: Node) -> None:
        other = volume.node()
        node.store.before_next_commit(lambda: other.file(b"x"))
        refused(errno.EEXIST, node.file, b"x")
        assert node.names.get(ROOT).size == 1

    def test_other_creates_in_the_directory_do_not_disturb(self, volume: Volume, node: Node) -> None:
        other = volume.node()
        node.store.before_next_commit(lambda: other.dir(b"y"))
        node.dir(b"x")
        assert node.store.trips == ["read", "commit"]
        assert (node.names.get(ROOT).size, node.names.get(ROOT).nlink) == (2, 4)

    def test_directory_time_in_the_future_comes_back_to_the_present(self, node: Node) -> None:
        node.attrs.set(USER, ROOT, SetAttr(mtime_ns=START_NS * 2))
        made = node.file(b"a")
        assert node.names.get(ROOT).mtime_ns == made.mtime_ns

    def test_directory_comes_back_from_the_future_of_a_wrong_clock(self, volume: Volume, node: Node) -> None:
        other = volume.node(HOUR_NS)
        assert other.file(b"a").ctime_ns == other.names.get(ROOT).ctime_ns > node.core.now_ns() + HOUR_NS // 2
        made = node.file(b"b")
        root = node.names.get(ROOT)
        assert root.mtime_ns == root.ctime_ns == made.ctime_ns

    @pytest.mark.parametrize("ahead_ns", [-HOUR_NS, HOUR_NS])
    def test_nodes_with_wrong_clocks_create_in_a_directory_that_changes_all_the_time(
        self, volume: Volume, node: Node, ahead_ns: int
    ) -> None:
        """However fast the others are: there is a commit of theirs between every look at the directory and the next commit."""
        other = volume.node(ahead_ns)
        one, busy = (node, other) if ahead_ns > 0 else (other, node)
        names = count()
        busy.file(b"first")

        def disturb() -> None:
            busy.file(b"%d" % next(names))
            one.store.before_next_commit(disturb)

        before = one.names.get(ROOT)
        disturb()
        one.file(b"made")
        assert one.store.trips.count("commit") < 10
        after = one.names.get(ROOT)
        assert (after.mtime_ns > before.mtime_ns, after.ctime_ns > before.ctime_ns) == (True, True)
        assert after.size == next(names) + 2


class TestLookup:
    def test_missing_name(self, node: Node) -> None:
        refused(errno.ENOENT, node.names.lookup, ROOT, b"a")
        refused(errno.ENOENT, node.names.get, Inode(99))

    def test_name_that_is_replaced_meanwhile_always_resolves(self, volume: Volume, node: Node) -> None:
        node.file(b"a")
        other = volume.node()
        fresh = other.file(b"new")
        moves: list[Callable[[], object]] = [lambda: other.rename((ROOT, b"new"), (ROOT, b"a"))]

        def replaced_between(key: Key, prefix: bytes, subkey: bytes, along: Along) -> Via:
            """As a store without snapshots may do."""
            row = volume.store.read((key,))[0]
            if moves:
                moves.pop()()
            assert row is not None
            return Via(row, volume.store.read(((prefix + row.value[:8], subkey),))[0], Position(0), 0)

        node.store.read_via = replaced_between  # type: ignore[method-assign]
        assert node.names.lookup(ROOT, b"a").ino == fresh.ino

    def test_name_without_inode_is_corruption(self, volume: Volume, node: Node) -> None:
        made = node.file(b"a")
        node.core.transact(lambda txn: txn.delete(records.inode_key(made.ino)))
        with pytest.raises(CorruptError, match="does not exist"):
            node.names.lookup(ROOT, b"a")
        with pytest.raises(CorruptError, match="does not exist"):
            node.unlink(b"a")


class TestLink:
    def test_second_name_shares_the_inode(self, node: Node) -> None:
        made = node.file(b"a")
        linked = node.names.link(made.ino, ROOT, b"b")
        assert (linked.nlink, linked.parent) == (2, 0)
        assert linked.ctime_ns > made.ctime_ns
        assert node.names.lookup(ROOT, b"a") == node.names.lookup(ROOT, b"b") == linked
        assert node.names.get(ROOT).size == 2
        assert node.usage().used_inodes == 2

    def test_refusals(self, node: Node) -> None:
        made, below = node.file(b"a"), node.dir(b"d")
        refused(errno.EPERM, node.names.link, below.ino, ROOT, b"x")
        refused(errno.EEXIST, node.names.link, made.ino, ROOT, b"d")
        refused(errno.ENOENT, node.names.link, Inode(99), ROOT, b"x")
        refused(errno.ENOTDIR, node.names.link, made.ino, made.ino, b"x")
        node.open.add(made.ino)
        node.unlink(b"a")
        refused(errno.ENOENT, node.names.link, made.ino, ROOT, b"x")

    def test_last_name_removed_before_the_commit(self, volume: Volume, node: Node) -> None:
        made = node.file(b"a")
        other = volume.node()
        node.store.before_next_commit(lambda: other.unlink(b"a"))
        refused(errno.ENOENT, node.names.link, made.ino, ROOT, b"b")
        assert node.names_in() == []


class TestUnlink:
    def test_last_name_frees_the_inode(self, node: Node) -> None:
        made = node.file(b"a")
        node.xattrs.set(made.ino, b"user.k", b"v")
        gone = node.unlink(b"a")
        assert (gone.ino, gone.nlink) == (made.ino, 0)
        assert node.row(records.inode_key(made.ino)) is None
        assert node.row(records.xattr_key(made.ino, b"user.k")) is None
        assert node.usage().used_inodes == 1
        root = node.names.get(ROOT)
        assert (root.size, root.mtime_ns) == (0, gone.ctime_ns)

    def test_other_names_stay(self, node: Node) -> None:
        made = node.file(b"a")
        node.names.link(made.ino, ROOT, b"b")
        left = node.unlink(b"a")
        assert left == node.names.lookup(ROOT, b"b")
        assert left.nlink == 1

    def test_open_inode_stays_until_released(self, node: Node) -> None:
        made = node.file(b"a")
        node.open.add(made.ino)
        assert node.names.unlink(ROOT, b"a", node.is_open).kept
        assert node.names.get(made.ino).nlink == 0
        assert node.row(records.sustained_key(1, made.ino)) is not None
        node.names.release_deleted(made.ino)
        refused(errno.ENOENT, node.names.get, made.ino)
        assert node.row(records.sustained_key(1, made.ino)) is None
        assert node.usage().used_inodes == 1

    def test_release_leaves_what_has_names_or_is_gone(self, node: Node) -> None:
        made = node.file(b"a")
        node.names.release_deleted(made.ino)
        node.names.release_deleted(Inode(99))
        assert node.names.get(made.ino) == made

    def test_is_open_is_asked_only_for_the_last_name(self, node: Node) -> None:
        made = node.file(b"a")
        node.names.link(made.ino, ROOT, b"b")
        node.names.unlink(ROOT, b"a", lambda ino: pytest.fail("asked"))

    def test_refusals(self, node: Node) -> None:
        node.dir(b"d")
        refused(errno.EISDIR, node.unlink, b"d")
        refused(errno.ENOENT, node.unlink, b"x")

    def test_link_made_before_the_commit_keeps_the_inode(self, volume: Volume, node: Node) -> None:
        made = node.file(b"a")
        other = volume.node()
        node.store.before_next_commit(lambda: other.names.link(made.ino, ROOT, b"b"))
        assert node.unlink(b"a").nlink == 1
        assert node.names.lookup(ROOT, b"b").nlink == 1

    def test_name_replaced_before_the_commit(self, volume: Volume, node: Node) -> None:
        node.file(b"a")
        other = volume.node()
        fresh = other.file(b"b")
        node.store.before_next_commit(lambda: other.rename((ROOT, b"b"), (ROOT, b"a")))
        assert node.unlink(b"a").ino == fresh.ino
        assert node.names_in() == []
        assert node.usage().used_inodes == 1


class TestRmdir:
    def test_empty_directory_goes(self, node: Node) -> None:
        made = node.dir(b"d")
        removed = node.names.rmdir(ROOT, b"d")
        assert (removed.attr.ino, removed.attr.nlink, removed.kept) == (made.ino, 0, False)
        root = node.names.get(ROOT)
        assert (root.size, root.nlink) == (0, 2)
        assert node.usage().used_inodes == 1

    def test_refusals(self, node: Node) -> None:
        made = node.dir(b"d")
        node.file(b"x", made.ino)
        node.file(b"f")
        refused(errno.ENOTEMPTY, node.names.rmdir, ROOT, b"d")
        refused(errno.ENOTDIR, node.names.rmdir, ROOT, b"f")
        refused(errno.ENOENT, node.names.rmdir, ROOT, b"g")

    def test_name_created_before_the_commit(self, volume: Volume, node: Node) -> None:
        made = node.dir(b"d")
        other = volume.node()
        node.store.before_next_commit(lambda: other.file(b"x", made.ino))
        refused(errno.ENOTEMPTY, node.names.rmdir, ROOT, b"d")


class TestList:
    def test_pages_go_on_after_a_name(self, node: Node) -> None:
        made = [node.file(b"%d" % number) for number in range(5)]
        node.dir(b"9")
        assert [listed.name for listed in node.names.list(ROOT, None, 2, False)] == [b"0", b"1"]
        rest = node.names.list(ROOT, b"1", 10, True)
        assert [listed.attr for listed in rest[:3]] == made[2:]
        assert rest[3].type == 0o040000

    def test_attributes_of_a_page_come_with_it(self, node: Node) -> None:
        for number in range(20):
            node.file(b"%d" % number)
        node.store.trips.clear()
        assert all(listed.attr is not None for listed in node.names.list(ROOT, None, 100, True))
        assert node.store.trips == ["scan"]

    def test_empty_directory(self, node: Node) -> None:
        assert node.names.list(ROOT, None, 10, True) == []


class TestPath:
    def test_path_from_the_root(self, node: Node) -> None:
        below = node.dir(b"b", node.dir(b"a").ino)
        assert node.names.path_of(node.file(b"c", below.ino).ino) == b"/a/b/c"
        assert node.names.path_of(ROOT) == b"/"

    def test_no_path_with_several_names_or_none(self, node: Node) -> None:
        made = node.file(b"a")
        node.names.link(made.ino, ROOT, b"b")
        assert node.names.path_of(made.ino) is None


class TestRoundTrips:
    @pytest.mark.parametrize(
        ("operation", "trips"),
        [
            (lambda node: node.names.get(ROOT), ["read"]),
            (lambda node: node.names.lookup(ROOT, b"f"), ["read"]),
            (lambda node: node.file(b"new"), ["read", "commit"]),
            (lambda node: node.dir(b"new"), ["read", "commit"]),
            (lambda node: node.names.link(node.made.ino, ROOT, b"new"), ["read", "commit"]),
            (lambda node: node.unlink(b"f"), ["read", "read", "commit"]),
            (lambda node: node.names.rmdir(ROOT, b"d"), ["read", "read", "commit"]),
            (lambda node: node.rename((ROOT, b"f"), (ROOT, b"new")), ["read", "read", "commit"]),
            (lambda node: node.rename((ROOT, b"f"), (ROOT, b"g")), ["read", "read", "commit"]),
            (lambda node: node.attrs.set(USER, node.made.ino, SetAttr(mode=0o600)), ["read", "commit"]),
            (lambda node: node.xattrs.get(node.made.ino, b"user.a"), ["read"]),
            (lambda node: node.xattrs.set(node.made.ino, b"user.b", b""), ["read", "commit"]),
        ],
    )
    def test_of_one_operation(self, node: Node, operation: Callable[[Node], object], trips: list[str]) -> None:
        node.made = node.file(b"f")  # type: ignore[attr-defined]
        node.xattrs.set(node.made.ino, b"user.a", b"")  # type: ignore[attr-defined]
        node.file(b"g")
        node.dir(b"d")
        node.xattrs.get(node.names.lookup(ROOT, b"f").ino, b"user.a")
        node.store.trips.clear()
        operation(node)
        assert [trip for trip in node.store.trips if trip != "scan"] == trips

    def test_parent_is_never_required_unchanged(self, node: Node) -> None:
        made, below = node.file(b"a"), node.dir(b"d")
        node.store.commits.clear()
        node.names.link(made.ino, below.ino, b"b")
        node.file(b"c", below.ino)
        node.rename((below.ino, b"b"), (ROOT, b"e"))
        node.unlink(b"e")
        node.dir(b"f", below.ino)
        node.names.rmdir(below.ino, b"f")
        parents = {records.inode_key(ROOT), records.inode_key(below.ino)}
        for conditions, _ in node.store.commits:
            assert not [c for c in conditions if isinstance(c, Unchanged) and c.key in parents]
