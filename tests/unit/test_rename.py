"""Rename: what moves, what is replaced or exchanged, what is refused, and what other nodes do in between."""

import errno
from collections.abc import Callable

import pytest

from cairnfs.errors import FsError, WayChanged
from cairnfs.meta import records
from cairnfs.meta.rename import EXCHANGE, NOREPLACE
from cairnfs.meta.stores.base import Unchanged
from cairnfs.types import Inode, Position
from support.namespaces import ROOT, USER, Node, Volume


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


def counts(node: Node, ino: Inode) -> tuple[int, int]:
    attr = node.names.get(ino)
    return attr.size, attr.nlink


class TestMove:
    def test_new_name_in_the_same_directory(self, node: Node) -> None:
        made = node.file(b"a")
        moved = node.rename((ROOT, b"a"), (ROOT, b"b"))
        assert node.names_in() == [b"b"]
        assert moved == node.names.lookup(ROOT, b"b")
        assert (moved.ino, moved.parent, moved.mtime_ns) == (made.ino, ROOT, made.mtime_ns)
        assert moved.ctime_ns == node.names.get(ROOT).mtime_ns > made.ctime_ns

    def test_file_to_another_directory(self, node: Node) -> None:
        target = node.dir(b"d")
        made = node.file(b"a")
        moved = node.rename((ROOT, b"a"), (target.ino, b"a"))
        assert moved == node.names.get(made.ino)
        assert moved.parent == target.ino
        assert (counts(node, ROOT), counts(node, target.ino)) == ((1, 3), (1, 2))
        assert node.names.get(ROOT).mtime_ns == node.names.get(target.ino).mtime_ns == moved.ctime_ns

    def test_directory_takes_its_link_along(self, node: Node) -> None:
        target, made = node.dir(b"d"), node.dir(b"a")
        node.rename((ROOT, b"a"), (target.ino, b"b"))
        assert (counts(node, ROOT), counts(node, target.ino)) == ((1, 3), (1, 3))
        assert node.names.get(made.ino).parent == target.ino
        assert node.names.path_of(made.ino) == b"/d/b"

    def test_file_with_several_names_has_no_parent_afterwards_either(self, node: Node) -> None:
        target, made = node.dir(b"d"), node.file(b"a")
        node.names.link(made.ino, ROOT, b"b")
        assert node.rename((ROOT, b"a"), (target.ino, b"a")).parent == 0

    def test_writers_of_a_renamed_file_do_not_conflict(self, node: Node) -> None:
        node.file(b"a")
        node.rename((ROOT, b"a"), (ROOT, b"b"))
        conditions = node.store.commits[-1][0]
        assert not [c for c in conditions if isinstance(c, Unchanged) and c.key[0].startswith(records.INODE_PREFIX)]

    def test_to_itself_changes_nothing(self, node: Node) -> None:
        made = node.file(b"a")
        n_commits = len(node.store.commits)
        assert node.rename((ROOT, b"a"), (ROOT, b"a")) == made
        assert len(node.store.commits) == n_commits

    def test_to_another_name_of_the_same_inode_changes_nothing(self, node: Node) -> None:
        made = node.file(b"a")
        node.names.link(made.ino, ROOT, b"b")
        node.rename((ROOT, b"a"), (ROOT, b"b"))
        assert node.names_in() == [b"a", b"b"]


class TestReplace:
    def test_replaced_file_is_freed(self, node: Node) -> None:
        node.file(b"a")
        there = node.file(b"b")
        renamed = node.names.rename(ROOT, b"a", ROOT, b"b", 0, node.is_open)
        assert renamed.replaced is not None
        assert (renamed.replaced.attr.ino, renamed.replaced.attr.nlink, renamed.replaced.kept) == (there.ino, 0, False)
        assert node.row(records.inode_key(there.ino)) is None
        assert (counts(node, ROOT), node.usage().used_inodes) == ((1, 2), 2)

    def test_open_replaced_file_stays(self, node: Node) -> None:
        node.file(b"a")
        there = node.file(b"b")
        node.open.add(there.ino)
        node.rename((ROOT, b"a"), (ROOT, b"b"))
        assert node.names.get(there.ino).nlink == 0
        assert node.row(records.sustained_key(1, there.ino)) is not None

    def test_replaced_file_keeps_its_other_names(self, node: Node) -> None:
        node.file(b"a")
        there = node.file(b"b")
        node.names.link(there.ino, ROOT, b"c")
        node.rename((ROOT, b"a"), (ROOT, b"b"))
        assert node.names.lookup(ROOT, b"c").nlink == 1

    def test_empty_directory_is_replaced_across_directories(self, node: Node) -> None:
        target = node.dir(b"d")
        there = node.dir(b"x", target.ino)
        moved = node.dir(b"a")
        node.file(b"inside", moved.ino)
        node.rename((ROOT, b"a"), (target.ino, b"x"))
        assert (counts(node, ROOT), counts(node, target.ino)) == ((1, 3), (1, 3))
        assert node.row(records.inode_key(there.ino)) is None
        assert node.names_in(moved.ino) == [b"inside"]

    def test_empty_directory_is_replaced_in_place(self, node: Node) -> None:
        node.dir(b"a")
        node.dir(b"b")
        node.rename((ROOT, b"a"), (ROOT, b"b"))
        assert (counts(node, ROOT), node.usage().used_inodes) == ((1, 3), 2)


class TestRefused:
    def test_wrong_kinds(self, node: Node) -> None:
        made = node.dir(b"d")
        node.dir(b"e")
        node.file(b"f")
        node.file(b"x", made.ino)
        refused(errno.ENOENT, node.rename, (ROOT, b"none"), (ROOT, b"a"))
        refused(errno.ENOTDIR, node.rename, (ROOT, b"d"), (ROOT, b"f"))
        refused(errno.EISDIR, node.rename, (ROOT, b"f"), (ROOT, b"e"))
        refused(errno.ENOTEMPTY, node.rename, (ROOT, b"e"), (ROOT, b"d"))
        refused(errno.ENOTDIR, node.rename, (ROOT, b"f"), (node.names.lookup(ROOT, b"f").ino, b"x"))
        assert node.names_in() == [b"d", b"e", b"f"]

    def test_flags(self, node: Node) -> None:
        node.file(b"a")
        node.file(b"b")
        refused(errno.EEXIST, node.rename, (ROOT, b"a"), (ROOT, b"b"), NOREPLACE)
        refused(errno.ENOENT, node.rename, (ROOT, b"a"), (ROOT, b"c"), EXCHANGE)
        refused(errno.EINVAL, node.rename, (ROOT, b"a"), (ROOT, b"c"), NOREPLACE | EXCHANGE)
        refused(errno.EINVAL, node.rename, (ROOT, b"a"), (ROOT, b"c"), 4)
        node.rename((ROOT, b"a"), (ROOT, b"c"), NOREPLACE)
        assert node.names_in() == [b"b", b"c"]

    @pytest.mark.parametrize("flags", [0, EXCHANGE])
    def test_directory_below_itself(self, node: Node, flags: int) -> None:
        upper = node.dir(b"a")
        middle = node.dir(b"b", upper.ino)
        lower = node.dir(b"c", middle.ino)
        node.dir(b"x", lower.ino)
        refused(errno.EINVAL, node.rename, (ROOT, b"a"), (lower.ino, b"x"), flags)
        refused(errno.EINVAL, node.rename, (ROOT, b"a"), (upper.ino, b"b"), EXCHANGE)
        refused(errno.EINVAL, node.rename, (lower.ino, b"x"), (ROOT, b"a"), EXCHANGE)
        assert node.names.path_of(lower.ino) == b"/a/b/c"


class TestExchange:
    def test_file_and_directory_across_directories(self, node: Node) -> None:
        left, right = node.dir(b"l"), node.dir(b"r")
        made, below = node.file(b"f", left.ino), node.dir(b"d", right.ino)
        renamed = node.names.rename(left.ino, b"f", right.ino, b"d", EXCHANGE, node.is_open)
        assert renamed.moved == node.names.lookup(right.ino, b"d")
        assert renamed.exchanged == node.names.lookup(left.ino, b"f")
        assert renamed.replaced is None
        assert (renamed.moved.ino, renamed.moved.parent) == (made.ino, right.ino)
        assert (node.names.get(below.ino).parent, counts(node, left.ino), counts(node, right.ino)) == (left.ino, (1, 3), (1, 2))
        assert [listed.type for listed in node.names.list(left.ino, None, 9, False)] == [0o040000]

    def test_in_one_directory(self, node: Node) -> None:
        first, second = node.file(b"a"), node.dir(b"b")
        node.rename((ROOT, b"a"), (ROOT, b"b"), EXCHANGE)
        assert (node.names.lookup(ROOT, b"a").ino, node.names.lookup(ROOT, b"b").ino) == (second.ino, first.ino)
        assert counts(node, ROOT) == (2, 3)


class TestOtherNodes:
    def test_two_moves_that_would_tie_a_loop(self, volume: Volume, node: Node) -> None:
        first, second = node.dir(b"a"), node.dir(b"b")
        other = volume.node()
        node.store.before_next_commit(lambda: other.rename((ROOT, b"b"), (first.ino, b"x")))
        refused(errno.EINVAL, node.rename, (ROOT, b"a"), (second.ino, b"y"))
        assert node.names.path_of(second.ino) == b"/a/x"

    def test_only_moves_of_directories_between_parents_take_turns(self, node: Node) -> None:
        target = node.dir(b"d")
        node.file(b"f")
        for name in (b"a", b"x", b"y", b"z"):
            node.dir(name)
        required = Unchanged(records.MOVES_KEY, Position(1))
        for old, new, is_turn in [
            ((ROOT, b"f"), (target.ino, b"f"), False),
            ((ROOT, b"a"), (ROOT, b"b"), False),
            ((ROOT, b"b"), (target.ino, b"b"), True),
        ]:
            node.rename(old, new)
            conditions, _ = node.store.commits[-1]
            assert any(condition.key == required.key for condition in conditions) == is_turn

    def test_what_changes_the_way_of_others_is_told(self, node: Node) -> None:
        def tells(change: Callable[[], object]) -> bool:
            before = node.row(records.MOVES_KEY)
            change()
            return node.row(records.MOVES_KEY) != before

        target = node.dir(b"d")
        assert not tells(lambda: node.file(b"f"))
        assert not tells(lambda: node.rename((ROOT, b"f"), (target.ino, b"f")))
        assert not tells(lambda: node.dir(b"a"))
        assert not tells(lambda: node.symlink(b"s", b"a"))
        assert not tells(lambda: node.names.link(node.names.lookup(ROOT, b"s").ino, ROOT, b"t"))
        assert tells(lambda: node.rename((ROOT, b"a"), (ROOT, b"b")))
        assert tells(lambda: node.rename((ROOT, b"b"), (target.ino, b"b")))
        assert tells(lambda: node.rename((ROOT, b"t"), (target.ino, b"t")))
        node.file(b"g")
        assert tells(lambda: node.rename((ROOT, b"g"), (ROOT, b"s"))), "a link is gone"
        node.file(b"h")
        assert tells(lambda: node.rename((ROOT, b"h"), (target.ino, b"b"), EXCHANGE))
        assert tells(lambda: node.unlink(b"t", target.ino))
        assert not tells(lambda: node.unlink(b"s"))
        assert not tells(lambda: node.names.rmdir(ROOT, b"h")), "whoever is in it finds out"

    @pytest.mark.parametrize("own", [True, False])
    def test_a_way_that_has_changed_since_a_position_is_refused(self, volume: Volume, node: Node, own: bool) -> None:
        there = node.dir(b"d")
        node.file(b"f", there.ino)
        node.dir(b"e", there.ino)
        node.dir(b"other")
        before = node.store.position()
        changes: list[Callable[[Position], object]] = [
            lambda way: node.names.create(USER, there.ino, b"new", 0o100644, way=way),
            lambda way: node.names.link(node.names.lookup(there.ino, b"f").ino, there.ino, b"g", way),
            lambda way: node.names.rename(there.ino, b"g", there.ino, b"h", 0, node.is_open, way),
            lambda way: node.names.rename(there.ino, b"h", there.ino, b"new", EXCHANGE, node.is_open, way),
            lambda way: node.names.rename(there.ino, b"h", there.ino, b"new", 0, node.is_open, way),
            lambda way: node.names.unlink(there.ino, b"f", node.is_open, way),
            lambda way: node.names.rmdir(there.ino, b"e", way),
        ]
        other = node if own else volume.node()
        other.rename((ROOT, b"other"), (ROOT, b"moved"))
        after = node.store.position()
        for change in changes:
            entries = node.names_in(there.ino)
            with pytest.raises(WayChanged):
                change(before)
            assert node.names_in(there.ino) == entries
            change(after)
            assert node.names_in(there.ino) != entries or change is changes[3]

    def test_target_directory_removed_before_the_commit(self, volume: Volume, node: Node) -> None:
        target = node.dir(b"d")
        node.file(b"f")
        other = volume.node()
        node.store.before_next_commit(lambda: other.names.rmdir(ROOT, b"d"))
        refused(errno.ENOENT, node.rename, (ROOT, b"f"), (target.ino, b"f"))
        assert node.names_in() == [b"f"]
        assert node.row(records.inode_key(target.ino)) is None

    def test_source_removed_before_the_commit(self, volume: Volume, node: Node) -> None:
        node.file(b"a")
        other = volume.node()
        node.store.before_next_commit(lambda: other.unlink(b"a"))
        refused(errno.ENOENT, node.rename, (ROOT, b"a"), (ROOT, b"b"))
        assert counts(node, ROOT) == (0, 2)

    def test_target_created_before_the_commit_is_replaced(self, volume: Volume, node: Node) -> None:
        made = node.file(b"a")
        other = volume.node()
        node.store.before_next_commit(lambda: other.file(b"b"))
        node.rename((ROOT, b"a"), (ROOT, b"b"))
        assert node.names.lookup(ROOT, b"b").ino == made.ino
        assert (counts(node, ROOT), node.usage().used_inodes) == ((1, 2), 2)

    def test_name_created_in_the_directory_to_be_replaced(self, volume: Volume, node: Node) -> None:
        node.dir(b"a")
        there = node.dir(b"b")
        other = volume.node()
        node.store.before_next_commit(lambda: other.file(b"x", there.ino))
        refused(errno.ENOTEMPTY, node.rename, (ROOT, b"a"), (ROOT, b"b"))
