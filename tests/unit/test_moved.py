"""Who is sent back after a change of names by others, how often, and for how long."""

import errno
import stat

import pytest

from cairnfs.const import ROOT_INO
from cairnfs.errors import FsError
from cairnfs.ext.arena import Arena
from cairnfs.meta.records import encode_attr, inode_key
from cairnfs.meta.stores.base import Row
from cairnfs.types import Attr, Inode, Position
from cairnfs.vfs.carried import Carried
from cairnfs.vfs.moved import GRACE_S, NAME_GRACE_S, SAME_CALL_S, SECOND_TRY_S, WALK_S, Moved
from cairnfs.vfs.sent_back import MAX_SENT_BACK, UNKNOWN_PID, SentBack, SentBackRecords, place_of
from cairnfs.vfs.system_call import UNKNOWN_CALL, SystemCall
from support.namespaces import TickingClock

ROOT, DIR, FILE, OTHER, LINKED, LINK = map(Inode, (ROOT_INO, 2, 3, 4, 5, 6))
ME, YOU = 100, 200


class Tree:
    """/2/3, /4, /5 that has several names, and a symbolic link /6."""

    def __init__(self, carried: Carried | None = None) -> None:
        self.clock = TickingClock()
        self.arena = Arena(1 << 20)
        self.parents: dict[Inode, Inode | None] = {DIR: ROOT, FILE: DIR, OTHER: ROOT, LINKED: None, LINK: ROOT}
        self.known = set(self.parents)
        self.moved = Moved(self.parent_of, self.arena, self.clock, carried)
        self.moved.knows = lambda inos: [ino for ino in inos if ino in self.known]
        self.calls: dict[int, SystemCall] = {}
        self.moved.waiting_in = lambda pid: self.calls.get(pid, UNKNOWN_CALL)
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

    def is_sent_back(self, pid: int, ino: Inode, name: bytes | None = None, makes: bool = False) -> bool:
        try:
            if makes and name is not None:
                self.moved.check_new(pid, ino, name)
            else:
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


def test_a_thread_walks_from_being_sent_back_to_its_open(tree: Tree) -> None:
    refuse(tree, ME, FsError(errno.ESTALE))
    assert (tree.moved.walks(ME), tree.moved.walks(YOU)) == (True, False)
    assert not tree.is_sent_back(ME, FILE)
    assert not tree.moved.walks(ME)
    refuse(tree, ME, FsError(errno.ENOENT))
    refuse(tree, UNKNOWN_PID, FsError(errno.ESTALE))  # of whom nobody knows who comes next
    assert not (tree.moved.walks(ME) or tree.moved.walks(UNKNOWN_PID))


def test_a_thread_that_opens_nothing_walks_for_a_while(tree: Tree) -> None:
    refuse(tree, ME, FsError(errno.ESTALE))
    tree.clock.sleep(WALK_S - 0.1)
    tree.moved.settle(0)
    assert tree.moved.walks(ME)
    tree.clock.sleep(0.1)
    assert not tree.moved.walks(ME)


def test_a_thread_that_found_no_name_walks_on_for_a_moment(tree: Tree) -> None:
    refuse(tree, ME, FsError(errno.ESTALE))
    assert not tree.is_sent_back(ME, DIR, b"absent")
    assert tree.moved.walks(ME)
    tree.clock.sleep(SAME_CALL_S)
    assert not tree.moved.walks(ME)
    tree.moved.settle(0)
    assert not tree.moved._walking


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


def test_compiled_code_leaves_opens_to_python_while_somebody_is_to_come_again(tree: Tree) -> None:
    """Else it would answer the second try, and an open long after that be taken for it."""
    tree.arena.lease(1e9, True)
    tree.known.clear()
    tree.change(DIR)
    tree.known.add(DIR)  # from a reply that the change has overtaken
    assert tree.is_sent_back(ME, FILE)
    tree.moved.settle(tree.moved.n_notes)
    assert not tree.arena.fresh_for_open()
    assert not tree.is_sent_back(ME, FILE)
    assert tree.arena.fresh_for_open()
    refuse(tree, YOU, FsError(errno.ESTALE))
    assert not tree.arena.fresh_for_open()
    tree.clock.sleep(SECOND_TRY_S)
    tree.moved.settle(tree.moved.n_notes)
    assert tree.arena.fresh_for_open()


def refuse(tree: Tree, pid: int, error: FsError) -> None:
    with pytest.raises(FsError), tree.moved.walk(pid):
        raise error


def test_who_was_refused_an_inode_that_is_gone_comes_again_as_well(tree: Tree) -> None:
    refuse(tree, ME, FsError(errno.ESTALE))  # an inode may be known to be gone before the change is noted
    tree.change(DIR)
    assert not tree.is_sent_back(ME, FILE)
    refuse(tree, ME, FsError(errno.EIO))
    assert tree.is_sent_back(ME, FILE)


def test_an_absent_name_counts_for_a_moment_only_if_the_call_is_unknown_and_never_in_the_root(tree: Tree) -> None:
    """It may be mkdir, which has no second try."""
    tree.known.add(ROOT)
    tree.change(ROOT)
    assert not tree.is_sent_back(ME, ROOT, b"absent")
    assert tree.is_sent_back(ME, DIR, b"absent")
    tree.moved.settle(tree.moved.n_notes)
    assert tree.is_sent_back(YOU, DIR, b"absent")
    tree.clock.sleep(2 * NAME_GRACE_S)
    assert not tree.is_sent_back(YOU + 1, DIR, b"absent")
    assert tree.is_sent_back(YOU + 1, DIR)
    tree.calls[YOU + 2] = SystemCall(False, 1)
    assert tree.is_sent_back(YOU + 2, DIR, b"absent")


def test_who_makes_a_name_is_sent_back_with_the_request_that_makes_it(tree: Tree) -> None:
    tree.change(DIR)
    tree.calls[ME] = SystemCall(True, 1)
    for _ in range(2):
        assert [tree.is_sent_back(ME, DIR, b"new", makes) for makes in (False, True, False, True)] == [False, True, False, False]
        tree.change(DIR)
    assert not tree.is_sent_back(ME, ROOT, b"new", makes=True)


@pytest.mark.parametrize("newer", [False, True])
def test_who_makes_a_name_is_sent_back_once_whatever_changes_meanwhile(tree: Tree, newer: bool) -> None:
    tree.change(DIR)
    tree.calls[ME] = SystemCall(True, 1)
    assert tree.is_sent_back(ME, DIR, b"new", makes=True)
    if newer:
        tree.change(DIR)
    assert not tree.is_sent_back(ME, DIR, b"new")
    assert not tree.is_sent_back(ME, DIR, b"new", makes=True)


def test_who_makes_a_name_in_an_unknown_call_is_not_sent_back_twice(tree: Tree) -> None:
    tree.change(DIR)
    assert [tree.is_sent_back(ME, DIR, b"new", makes) for makes in (False, False, True)] == [True, False, False]
    tree.moved.settle(tree.moved.n_notes)
    tree.clock.sleep(2 * NAME_GRACE_S)
    assert [tree.is_sent_back(YOU, DIR, b"new", makes) for makes in (False, True)] == [False, False]


def test_another_call_of_the_same_thread_is_no_second_try(tree: Tree) -> None:
    tree.change(DIR)
    tree.calls[ME] = SystemCall(False, 1)
    assert tree.is_sent_back(ME, DIR, b"absent")  # stat, which then finds the name: nobody sees its end
    tree.calls[ME] = SystemCall(False, 3)
    assert [tree.is_sent_back(ME, FILE) for _ in range(3)] == [True, False, True]
    refuse(tree, ME, FsError(errno.ESTALE))
    tree.calls[ME] = SystemCall(False, 5)
    assert tree.is_sent_back(ME, FILE)
    del tree.calls[ME]
    assert not tree.is_sent_back(ME, FILE)


def test_an_open_when_nothing_counts_any_more_ends_the_second_try(tree: Tree) -> None:
    tree.change(DIR)
    assert tree.is_sent_back(ME, FILE)
    tree.moved.settle(tree.moved.n_notes)
    tree.clock.sleep(GRACE_S)
    tree.moved.settle(tree.moved.n_notes)
    assert not tree.is_sent_back(ME, FILE)
    tree.change(DIR)
    assert tree.is_sent_back(ME, FILE)


def test_threads_without_a_number_are_not_refused_for_each_other(tree: Tree) -> None:
    tree.change(DIR)
    assert [tree.is_sent_back(UNKNOWN_PID, FILE) for _ in range(5)] == [True, False, False, False, False]


def test_as_many_threads_as_there_are_slots_are_remembered(tree: Tree) -> None:
    tree.change(DIR)
    pids = range(100, 100 + 2 * MAX_SENT_BACK)
    assert all(tree.is_sent_back(pid, FILE) for pid in pids)
    assert not any(tree.is_sent_back(pid, FILE) for pid in pids[MAX_SENT_BACK:])


def carried() -> Carried:
    return Carried(Arena(1 << 20), 1 << 20)


def test_who_was_sent_back_by_a_process_that_has_died_is_let_pass_by_the_next_one() -> None:
    kept = carried()
    killed = Tree(kept)
    killed.change(DIR)
    assert killed.is_sent_back(ME, FILE)
    assert [killed.is_sent_back(YOU, DIR, b"absent") for _ in range(2)] == [True, False]
    successor = Tree(kept)
    assert not successor.is_sent_back(ME, FILE)
    assert not successor.is_sent_back(YOU, DIR, b"absent")


def test_what_a_process_that_has_died_had_noted_counts_for_a_while() -> None:
    kept = carried()
    assert not Tree(kept).is_sent_back(ME, FILE)
    killed = Tree(kept)
    killed.change(DIR)
    killed.moved.settle(killed.moved.n_notes)
    successor = Tree(kept)
    assert successor.is_sent_back(ME, FILE)
    successor.moved.settle(successor.moved.n_notes)
    successor.clock.sleep(GRACE_S)
    successor.moved.settle(successor.moved.n_notes)
    assert not successor.is_sent_back(YOU, FILE)


def test_a_change_after_a_death_is_another_one() -> None:
    kept = carried()
    killed = Tree(kept)
    killed.change(DIR)
    assert [killed.is_sent_back(ME, DIR, b"absent") for _ in range(2)] == [True, False]
    successor = Tree(kept)
    successor.change(DIR)
    assert successor.is_sent_back(ME, DIR, b"absent")


def test_a_slot_half_written_is_empty() -> None:
    records = SentBackRecords()
    records.put(ME, SentBack(1.0))
    assert records.take(ME + MAX_SENT_BACK) is None
    assert records.take(ME) == SentBack(1.0)
    assert records.take(ME) is None
    records.put(ME, SentBack(2.0, 1, place_of(DIR, b"a"), 7))
    assert records.take(ME) == SentBack(2.0, 1, place_of(DIR, b"a"), 7)


# Threads that change names by calls that always have a second try


def is_refused(tree: Tree, pid: int, *names: tuple[Inode, bytes]) -> bool | None:
    """None: it is let pass, having been sent back."""
    try:
        return False if not tree.moved.check_change(pid, *names) else None
    except FsError as error:
        assert error.errno == errno.ESTALE
        return True


def test_whoever_changes_names_below_what_has_moved_is_sent_back_once_each_time(tree: Tree) -> None:
    assert is_refused(tree, ME, (DIR, b"a")) is False
    tree.change(DIR)
    assert [is_refused(tree, ME, (DIR, b"a")) for _ in range(4)] == [True, None, True, None]
    assert is_refused(tree, ME, (OTHER, b"a")) is False
    assert is_refused(tree, ME, (ROOT, b"a")) is False, "no way leads to the root"


def test_either_directory_of_a_rename_may_be_another_one(tree: Tree) -> None:
    tree.change(DIR)
    for parents in ((DIR, OTHER), (OTHER, DIR), (ROOT, DIR)):
        assert [is_refused(tree, ME, *((parent, b"a") for parent in parents)) for _ in range(2)] == [True, None]
    assert is_refused(tree, ME, (OTHER, b"a"), (ROOT, b"b")) is False


def test_the_second_try_of_a_call_is_let_pass_wherever_it_leads_and_whatever_is_noted_by_then(tree: Tree) -> None:
    tree.calls[ME] = SystemCall(False, 7)
    tree.change(DIR)
    assert is_refused(tree, ME, (DIR, b"a")) is True
    tree.change(OTHER)
    assert is_refused(tree, ME, (OTHER, b"a")) is None
    assert is_refused(tree, ME, (OTHER, b"a")) is True
    tree.calls[ME] = SystemCall(False, 8)
    assert is_refused(tree, ME, (OTHER, b"a")) is True, "another call"


@pytest.mark.parametrize("mark", [0, 7])
def test_a_second_try_that_looks_up_the_new_name_first_is_let_pass_then_too(tree: Tree, mark: int) -> None:
    """rename: the directory of the new name may be one that nothing has happened to."""
    if mark:
        tree.calls[ME] = SystemCall(False, mark)
    tree.change(DIR)
    names = (DIR, b"old"), (OTHER, b"new")
    for _ in range(3):
        assert not tree.is_sent_back(ME, OTHER, b"new")
        assert is_refused(tree, ME, *names) is True
        assert not tree.is_sent_back(ME, OTHER, b"new")
        assert is_refused(tree, ME, *names) is None
    assert is_refused(tree, ME, *names) is True


def test_what_was_looked_up_on_a_second_try_is_no_pass_for_another_place(tree: Tree) -> None:
    tree.calls[ME] = SystemCall(False, 7)  # a loop over names in one buffer
    tree.change(DIR)
    assert tree.is_sent_back(ME, DIR, b"absent")
    assert not tree.is_sent_back(ME, DIR, b"absent")
    assert is_refused(tree, ME, (DIR, b"other")) is True


def test_a_change_between_the_look_and_the_request_of_a_second_try_does_not_fail_the_call(tree: Tree) -> None:
    """There is no third try. Later the same call is another one, of a loop."""
    tree.calls[ME] = SystemCall(False, 7)
    for pause_s, is_let_pass in ((0.0, True), (2 * SAME_CALL_S, False)):
        tree.change(DIR)
        assert tree.is_sent_back(ME, DIR, b"new")
        assert not tree.is_sent_back(ME, DIR, b"new")
        tree.change(DIR)
        tree.clock.sleep(pause_s)
        assert (is_refused(tree, ME, (DIR, b"new")) is None) == is_let_pass
    tree.change(DIR)
    assert is_refused(tree, ME, (DIR, b"new")) is None, "it was sent back just now"
    assert tree.is_sent_back(ME, DIR, b"absent")
    assert not tree.is_sent_back(ME, DIR, b"absent")
    tree.change(DIR)
    assert tree.is_sent_back(ME, DIR, b"absent"), "a name that is missed in another directory now"


def test_makers_say_whether_they_have_to_be_let_pass(tree: Tree) -> None:
    assert tree.moved.check_new(ME, DIR, b"new") is False
    tree.change(DIR)
    assert tree.moved.check_new(ME, DIR, b"new") is True, "the call is not known, and may have no second try"
    tree.calls[ME] = SystemCall(True, 7)
    assert tree.is_sent_back(ME, DIR, b"new", makes=True)
    assert tree.moved.check_new(ME, DIR, b"new") is True
    assert tree.moved.check_new(ME, ROOT, b"new") is False
