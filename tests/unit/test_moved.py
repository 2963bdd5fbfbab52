"""Who is sent back after a change of names by others, how often, and for how long."""

import stat

import pytest

from cairnfs.const import ROOT_INO
from cairnfs.errors import FsError
from cairnfs.ext.arena import Arena
from cairnfs.meta.records import encode_attr, inode_key
from cairnfs.meta.stores.base import Row
from cairnfs.types import Attr, Inode, Position
from cairnfs.vfs import moved
from cairnfs.vfs.moved import GRACE_S, SECOND_TRY_S, UNKNOWN_PID, Moved
from support.namespaces import TickingClock

ROOT, DIR, FILE, OTHER, LINKED, LINK = map(Inode, (ROOT_INO, 2, 3, 4, 5, 6))
ME, YOU = 100, 200


class Tree:
    """/2/3, /4, /5 that has several names, and a symbolic link /6."""

    def __init__(self) -> None:
        self.clock = TickingClock()
        self.arena = Arena(1 << 20)
        self.parents: dict[Inode, Inode | None] = {DIR: ROOT, FILE: DIR, OTHER: ROOT, LINKED: None, LINK: ROOT}
        self.known = set(self.parents)
        self.moved = Moved(self.parent_of, self.arena, self.clock)
        self.moved.knows = lambda inos: [ino for ino in inos if ino in self.known]
        for ino in self.parents:
            mode = stat.S_IFLNK if ino == LINK else stat.S_IFREG
            row = Row(encode_attr(Attr(ino, mode | 0o644, 0, 0, nlink=1, size=0)), Position(1))
            self.arena.note([inode_key(ino)], [row], self.arena.token())
        assert all(self.arena.attr(ino) for ino in self.parents)

    def parent_of(self, ino: Inode) -> Inode | None:
        if ino not in self.parents:
            raise FsError(2)
        return self.parents[ino]

    def change(self, *inos: Inode) -> None:
        self.moved.note(self.moved.look(inos))

    def is_sent_back(self, pid: int, ino: Inode, name: bytes | None = None) -> bool:
        try:
            self.moved.check(pid, ino, name)
        except FsError:
            return True
        return False


@pytest.fixture
def tree() -> Tree:
    return Tree()


def test_nobody_is_sent_back_without_changes(tree: Tree) -> None:
    assert not tree.is_sent_back(ME, FILE)


@pytest.mark.parametrize("changed", [FILE, DIR])
def test_whoever_comes_through_what_has_moved_is_sent_back_once_each_time(tree: Tree, changed: Inode) -> None:
    tree.change(changed)
    assert [tree.is_sent_back(ME, FILE) for _ in range(4)] == [True, False, True, False]
    assert [tree.is_sent_back(ME, FILE), tree.is_sent_back(YOU, FILE)] == [True, True]
    assert [tree.is_sent_back(ME, FILE), tree.is_sent_back(YOU, FILE)] == [False, False]
    assert not tree.is_sent_back(ME, OTHER)


def test_the_second_try_may_lead_to_another_inode(tree: Tree) -> None:
    tree.change(DIR, OTHER)
    assert tree.is_sent_back(ME, FILE)
    assert not tree.is_sent_back(ME, OTHER)


def test_a_second_try_that_comes_late_is_a_first_one(tree: Tree) -> None:
    tree.change(DIR)
    assert tree.is_sent_back(ME, FILE)
    tree.clock.sleep(SECOND_TRY_S)
    assert tree.is_sent_back(ME, FILE)


def test_an_absent_name_may_be_looked_up_twice_on_the_second_try(tree: Tree) -> None:
    tree.change(DIR)
    assert [tree.is_sent_back(ME, DIR, b"absent") for _ in range(4)] == [True, False, False, True]
    assert [tree.is_sent_back(YOU, DIR, name) for name in (b"a", b"a", b"b")] == [True, False, True]


def test_a_change_after_the_second_try_is_another_one(tree: Tree) -> None:
    tree.change(DIR)
    assert [tree.is_sent_back(ME, DIR, b"absent") for _ in range(2)] == [True, False]
    tree.change(DIR)
    assert tree.is_sent_back(ME, DIR, b"absent")


def test_an_inode_with_several_names_may_have_been_found_by_any(tree: Tree) -> None:
    tree.change(OTHER)
    assert tree.is_sent_back(ME, LINKED)


def test_what_is_gone_may_have_been_anywhere(tree: Tree) -> None:
    tree.change(OTHER)
    del tree.parents[FILE]
    assert tree.is_sent_back(ME, FILE)


def test_a_link_or_what_may_be_one_stands_for_everything(tree: Tree) -> None:
    tree.change(LINK)
    assert tree.is_sent_back(ME, FILE)
    strange = Tree()
    strange.known.add(Inode(7))
    strange.change(Inode(7))
    assert strange.is_sent_back(ME, FILE)


def test_new_inodes_count_only_until_the_kernel_has_dropped_names(tree: Tree) -> None:
    tree.known.remove(OTHER)
    tree.change(OTHER)
    assert not tree.is_sent_back(ME, OTHER)
    tree.known.add(OTHER)  # by a reply that the change may have overtaken
    assert tree.is_sent_back(ME, OTHER)
    tree.moved.settle(tree.moved.n_notes)
    assert not tree.is_sent_back(YOU, OTHER)


def test_what_the_kernel_knew_counts_for_a_while_after_it_has_dropped_names(tree: Tree) -> None:
    tree.change(DIR)
    n_notes = tree.moved.n_notes
    tree.change(OTHER)
    for _ in range(2):
        tree.moved.settle(n_notes)
        tree.clock.sleep(GRACE_S - 1)
    tree.moved.settle(n_notes)
    assert not tree.is_sent_back(ME, FILE)
    assert tree.is_sent_back(ME, OTHER)  # not settled, so it counts as long as that takes


def test_compiled_code_leaves_opens_to_python_meanwhile(tree: Tree) -> None:
    tree.arena.lease(1e9, True)
    assert tree.arena.fresh_for_open()
    tree.change(DIR)
    assert tree.arena.fresh()
    assert not tree.arena.fresh_for_open()
    tree.moved.settle(tree.moved.n_notes)
    assert not tree.arena.fresh_for_open()
    tree.clock.sleep(GRACE_S + 1)
    tree.moved.settle(tree.moved.n_notes)
    assert tree.arena.fresh_for_open()


def test_who_was_refused_an_inode_that_is_gone_comes_again_as_well(tree: Tree) -> None:
    tree.change(DIR)
    tree.moved.refused(ME, FsError(116))
    assert not tree.is_sent_back(ME, FILE)


def test_threads_without_a_number_are_not_refused_for_each_other(tree: Tree) -> None:
    tree.change(DIR)
    assert [tree.is_sent_back(UNKNOWN_PID, FILE) for _ in range(5)] == [True, False, False, False, False]


def test_only_so_many_threads_are_remembered(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moved, "MAX_SENT_BACK", 10)
    tree.change(DIR)
    for pid in range(100, 150):
        assert tree.is_sent_back(pid, FILE)
    assert len(tree.moved._sent_back) == 10
