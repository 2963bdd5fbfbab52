"""Directories of which every name is known: what does not exist there is known, and nothing that exists is taken for absent."""

import stat
from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from cairnfs.ext.arena import Arena
from cairnfs.ext.listing import is_whole
from cairnfs.meta.records import dentry_key, inode_key
from cairnfs.meta.stores.base import Key, Row
from support.arenas import MIB, AttrRow, Watched, commit, inode_row, killed_after, mark_of, name_row, note

FOLDER = stat.S_IFDIR | 0o755
DIR, OTHER_DIR = 50, 51
FILTER_LOCK = -3
NUMBERS = count()
FILTER_NAMES = 6554  # how many names the filter of the smallest arena takes


def dir_row(ino: int, version: int, n_entries: int) -> AttrRow:
    return inode_row(ino, version, n_entries, mode=FOLDER)


def made(arena: Arena, position: int, name: bytes, n_entries: int, parent: int = DIR) -> None:
    """This mount makes a name."""
    commit(arena, name_row(parent, name, 1000 + position, position), dir_row(parent, position, n_entries))


def fill_filter(arena: Arena, n_names: int = FILTER_NAMES, numbers: Iterator[int] = NUMBERS) -> None:
    arena.committing([dentry_key(9, b"%d" % next(numbers)) for _ in range(n_names)])
    arena.refused()


@pytest.fixture
def arena() -> Arena:
    """With an empty directory."""
    arena = Arena(MIB)
    note(arena, dir_row(DIR, 1, 0))
    return arena


def test_a_directory_is_whole_until_others_change_it_or_the_filter_is_emptied(arena: Arena) -> None:
    assert is_whole(arena, DIR) and not is_whole(arena, OTHER_DIR)
    made(arena, 2, b"a", 1)
    assert is_whole(arena, DIR)
    fill_filter(arena, 2 * FILTER_NAMES)
    assert not is_whole(arena, DIR)
    note(arena, dir_row(OTHER_DIR, 4, 0))
    assert is_whole(arena, OTHER_DIR)
    arena.changed([dentry_key(OTHER_DIR, b"a"), inode_key(OTHER_DIR)], 5)
    note(arena, dir_row(OTHER_DIR, 5, 1))
    assert not is_whole(arena, OTHER_DIR)


def test_what_this_mount_has_not_made_in_an_empty_directory_does_not_exist(arena: Arena) -> None:
    assert arena.name(DIR, b"a") == 0
    for n in range(1, 100):
        made(arena, 1 + n, b"file %d" % n, n)
    assert [arena.name(DIR, b"file %d" % n) for n in range(1, 100)] == [1001 + n for n in range(1, 100)]
    known = [arena.name(DIR, b"no file %d" % n) for n in range(1000)]
    assert set(known) <= {0, None} and known.count(0) > 950
    arena.check()


def test_a_name_that_exists_is_not_taken_for_absent_when_it_is_forgotten(arena: Arena) -> None:
    made(arena, 2, b"a", 1)
    arena.changed([dentry_key(DIR, b"a")], 3)
    assert arena.name(DIR, b"a") is None


def test_a_removed_name_is_asked_for(arena: Arena) -> None:
    made(arena, 2, b"a", 1)
    arena.committing()
    removed = {dentry_key(DIR, b"a"): None, inode_key(DIR): dir_row(DIR, 3, 0)[1].value}
    arena.committed(removed, 3, arena.token(), None)
    assert (arena.name(DIR, b"a"), arena.name(DIR, b"b")) == (0, 0)
    arena.changed([dentry_key(DIR, b"a")], 3)
    assert (arena.name(DIR, b"a"), arena.name(DIR, b"b")) == (None, 0)


@pytest.mark.parametrize("version", [2, 5])
def test_what_others_have_added_ends_it_whatever_was_told_first(arena: Arena, version: int) -> None:
    made(arena, version, b"a", 1)
    arena.changed([dentry_key(DIR, b"b"), inode_key(DIR)], 4)
    assert (arena.name(DIR, b"b"), arena.name(DIR, b"c")) == (None, None)
    made(arena, 6, b"d", 3)
    assert arena.name(DIR, b"b") is None


def test_a_row_that_is_read_meanwhile_changes_nothing(arena: Arena) -> None:
    made(arena, 2, b"a", 1)
    note(arena, dir_row(DIR, 2, 1))
    note(arena, dir_row(DIR, 3, 2))  # of a commit of this mount that is not told of yet, or of others, which will be told of
    assert arena.name(DIR, b"b") == 0


def test_commits_that_are_told_of_in_another_order(arena: Arena) -> None:
    for position in (3, 2):
        made(arena, position, b"file %d" % position, position - 1)
    assert arena.name(DIR, b"file 2") in (1002, None), "not kept where both are of one bucket: the hash has a salt"
    assert arena.name(DIR, b"file 3") == 1003
    assert arena.name(DIR, b"b") == 0


def test_names_are_known_of_before_their_commit(arena: Arena) -> None:
    arena.committing([dentry_key(DIR, b"a"), (b"not a name", b"a")])
    assert (arena.name(DIR, b"a"), arena.name(DIR, b"b")) == (None, 0)


@pytest.mark.parametrize(
    "row", [dir_row(1, 1, 0), dir_row(DIR, 1, 1), inode_row(DIR, 1)], ids=["the root", "with entries", "a file"]
)
def test_others_are_not_whole(row: AttrRow) -> None:
    arena = Arena(MIB)
    note(arena, row)
    assert arena.name(int.from_bytes(row[0][0][1:], "big"), b"a") is None
    arena.check()


@pytest.mark.parametrize("name", [b"", b".", b"..", b"x" * 256])
def test_no_names_are_left_to_those_who_know_about_them(arena: Arena, name: bytes) -> None:
    assert arena.name(DIR, name) is None
    assert arena.name(DIR, b"x" * 255) == arena.name(DIR, b"...") == arena.name(DIR, b".a") == 0


def test_a_full_filter_begins_anew(arena: Arena) -> None:
    made(arena, 2, b"a", 1)
    fill_filter(arena, FILTER_NAMES - 100)
    assert arena.name(DIR, b"b") in (0, None)
    fill_filter(arena, 400)
    assert arena.name(DIR, b"b") is None
    arena.check()
    note(arena, dir_row(OTHER_DIR, 3, 0))
    assert arena.name(OTHER_DIR, b"b") == 0
    made(arena, 4, b"c", 2)
    assert arena.name(DIR, b"b") is None, "what was made before is not in the filter any more"


def test_a_commit_that_met_a_full_filter_leaves_nothing_whole(arena: Arena) -> None:
    token = arena.token()
    arena.committing([dentry_key(DIR, b"a")])
    fill_filter(arena)
    fill_filter(arena, 400)
    note(arena, dir_row(DIR, 1, 0), token=token)  # read before the commit, and put when the filter had been emptied
    rows = {dentry_key(DIR, b"a"): name_row(DIR, b"a", 7, 2)[1].value, inode_key(DIR): dir_row(DIR, 2, 1)[1].value}
    arena.committed(rows, 2, token, None)
    arena.changed([dentry_key(DIR, b"a")], 3)
    assert arena.name(DIR, b"a") is None


def test_generations_that_are_given_again_are_of_another_epoch() -> None:
    arena = Arena(MIB)
    note(arena, dir_row(DIR, 1, 0))
    for _ in range(3):
        killed_after(lambda: arena.tear(FILTER_LOCK))
        assert arena.name(DIR, b"a") is None, "no generation counts while the filter is being emptied"
        fill_filter(arena, 1)
        arena.check()
        assert arena.name(DIR, b"a") is None
        note(arena, dir_row(DIR, 1, 0))
        assert arena.name(DIR, b"a") == 0


NAMES = [b"%d" % n for n in range(4)]
SOME = st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True)

Change = tuple[int, int, dict[Key, bytes | None]]


class History(RuleBasedStateMachine):
    """One directory, changed by this mount and by others. Commits of this mount are told of at any time later, those of others in
    order; the filter is emptied now and then. When all is told, no name that exists is absent.
    """

    commits: Bundle[Change] = Bundle("commits")
    fetches: Bundle[tuple[int, Row]] = Bundle("fetches")

    def __init__(self) -> None:
        super().__init__()
        self.store = Watched()
        self.arena = self.store.arena
        self.followed = 0
        self.names: dict[bytes, int] = {}

    def change(self, names: list[bytes], removes: bool, own: bool) -> dict[Key, bytes | None]:
        self.store.add(own, [*(dentry_key(DIR, name) for name in names), inode_key(DIR)])
        rows: dict[Key, bytes | None] = {}
        for name in names:
            key = dentry_key(DIR, name)
            if removes:
                self.names.pop(name, None)
                rows[key] = None
            else:
                self.names[name] = 1000 + self.position
                rows[key] = name_row(DIR, name, 1000 + self.position, self.position)[1].value
        rows[inode_key(DIR)] = self.row().value
        return rows

    @property
    def position(self) -> int:
        return self.store.position

    def row(self) -> Row:
        return dir_row(DIR, self.position, len(self.names))[1]

    @rule(names=SOME, removes=st.booleans())
    def others_commit(self, names: list[bytes], removes: bool) -> None:
        self.change(names, removes, own=False)

    @rule(target=commits, names=SOME, removes=st.booleans())
    def commit_begins(self, names: list[bytes], removes: bool) -> Change:
        token = self.arena.token()
        self.arena.committing([dentry_key(DIR, name) for name in names])
        return self.position + 1, token, self.change(names, removes, own=True)

    @rule(commit=consumes(commits))
    def commit_is_told_of(self, commit: Change) -> None:
        position, token, rows = commit
        self.arena.committed(rows, position, token, mark_of(position))

    @rule(names=SOME, removes=st.booleans())
    def own_commit(self, names: list[bytes], removes: bool) -> None:
        self.commit_is_told_of(self.commit_begins(names, removes))

    @rule(target=fetches)
    def row_is_fetched(self) -> tuple[int, Row]:
        return self.arena.token(), self.row()

    @rule(fetch=consumes(fetches))
    def row_arrives(self, fetch: tuple[int, Row]) -> None:
        self.arena.note([inode_key(DIR)], [fetch[1]], fetch[0])

    @rule()
    def follower_catches_up(self) -> None:
        mark, end = mark_of(self.position), self.position
        while self.followed < end:
            own, keys = self.store.log[self.followed]
            self.followed += 1
            if not own:
                self.arena.changed(keys, self.followed)
        self.arena.saw(end, mark)

    @rule()
    def the_directory_is_emptied_and_read(self) -> None:
        self.own_commit(list(self.names) or NAMES[:1], True)
        self.row_arrives(self.row_is_fetched())

    @rule(names=SOME, more=SOME)
    def others_come_between(self, names: list[bytes], more: list[bytes]) -> None:
        self.others_commit(names, False)
        self.own_commit(more, False)
        self.follower_catches_up()

    @rule(n_names=st.sampled_from([FILTER_NAMES // 2, FILTER_NAMES]))
    def the_filter_fills(self, n_names: int) -> None:
        fill_filter(self.arena, n_names)

    @rule()
    def the_directory_is_forgotten(self) -> None:
        self.arena.forget(DIR)

    @invariant()
    def what_exists_is_not_absent(self) -> None:
        self.arena.changed([dentry_key(DIR, name) for name in NAMES[1:]], 0)  # their entries make room for others
        if self.arena.fresh():
            for name in NAMES:
                assert self.arena.name(DIR, name) in (None, self.names.get(name, 0))

    def teardown(self) -> None:
        self.store.close()


History.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestHistory = History.TestCase
