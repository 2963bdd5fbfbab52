"""When an arena says that it knows all there is, and mappings of files that others change."""

import errno
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnfs.ext.arena import MARK_BYTES, Arena, Watch
from support.arenas import MARK_AT, MIB, WATCHED_BYTES, Shown, commit, ended, in_child, inode_row, killed_after, mark_of


@pytest.fixture
def shown(tmp_path: Path) -> Shown:
    return Shown(tmp_path / "shown")


@pytest.fixture
def arena(shown: Shown) -> Arena:
    """One that knows all up to position 5, of a store of 5 commits."""
    arena = Arena(MIB)
    arena.watch(shown.watch, MARK_AT)
    shown.show(mark_of(5))
    arena.saw(5, mark_of(5))
    assert arena.fresh()
    return arena


def test_nothing_is_fresh_without_a_watch_or_before_anything_was_seen(shown: Shown) -> None:
    arena = Arena(MIB)
    assert not arena.fresh()
    arena.saw(0, mark_of(0))
    assert not arena.fresh()
    arena = Arena(MIB)
    arena.watch(shown.watch, MARK_AT)
    assert not arena.fresh(), "zeros are not what was seen"
    arena.saw(0, mark_of(0))
    assert arena.fresh()
    arena.watch(None)
    assert not arena.fresh()


@pytest.mark.parametrize("at", range(MARK_BYTES))
def test_every_byte_of_the_mark_counts(arena: Arena, shown: Shown, at: int) -> None:
    mark = bytearray(mark_of(5))
    mark[at] ^= 1
    shown.show(bytes(mark))
    assert not arena.fresh()
    shown.show(mark_of(5))
    assert arena.fresh()


def test_a_commit_of_others_ends_it_until_they_are_caught_up_with(arena: Arena, shown: Shown) -> None:
    shown.show(mark_of(6))
    assert not arena.fresh()
    arena.saw(5, mark_of(5))
    assert not arena.fresh()
    arena.changed([], 6)
    arena.saw(6, mark_of(6))
    assert arena.fresh()


def test_a_look_that_was_overtaken_changes_nothing(arena: Arena, shown: Shown) -> None:
    shown.show(mark_of(7))
    arena.saw(7, mark_of(7))
    arena.saw(6, mark_of(6))
    assert arena.fresh()


def test_a_mark_that_is_not_known_is_no_reason(arena: Arena) -> None:
    arena.saw(5, None)
    assert not arena.fresh()
    arena.saw(5, mark_of(5))
    assert arena.fresh()


def test_own_commits_one_after_the_other_keep_it_fresh(arena: Arena, shown: Shown) -> None:
    for position in range(6, 20):
        arena.committing()
        shown.show(mark_of(position))
        assert not arena.fresh()
        arena.committed({}, position, arena.token(), mark_of(position))
        assert arena.fresh()


@pytest.mark.parametrize("order", list(itertools.permutations((6, 7, 8))))
def test_own_commits_told_of_in_any_order(arena: Arena, shown: Shown, order: tuple[int, ...]) -> None:
    for position in (6, 7, 8):
        arena.committing()
        shown.show(mark_of(position))
    for n, position in enumerate(order, 1):
        arena.saw(8, mark_of(8))
        assert not arena.fresh(), "some are not applied"
        arena.committed({}, position, arena.token(), mark_of(position))
        assert arena.fresh() == (n == 3 and order == (6, 7, 8))
    arena.saw(8, mark_of(8))
    assert arena.fresh()


def test_a_commit_after_one_of_others_does_not_hide_that(arena: Arena, shown: Shown) -> None:
    arena.committing()
    shown.show(mark_of(7))
    arena.committed({}, 7, arena.token(), mark_of(7))
    assert not arena.fresh(), "6 is not known"
    arena.changed([], 6)
    arena.saw(7, mark_of(7))
    assert arena.fresh()


def test_an_own_commit_without_a_mark_waits_for_a_look(arena: Arena, shown: Shown) -> None:
    arena.committing()
    shown.show(mark_of(6))
    arena.committed({}, 6, arena.token(), None)
    assert not arena.fresh()
    arena.saw(6, mark_of(6))
    assert arena.fresh()


# Without a watch: what is known is counted position by position


@pytest.fixture
def leased() -> Arena:
    found = Arena(MIB)
    found.saw(5, None)
    return found


@pytest.mark.parametrize("order", list(itertools.permutations((6, 7, 8))))
def test_commits_told_of_in_any_order_are_known_when_all_before_are(leased: Arena, order: tuple[int, ...]) -> None:
    """6 is one's own, the others' are found in the log."""
    told = {5}
    leased.committing()
    for position in order:
        if position == 6:
            leased.committed({}, 6, leased.token(), None)
        else:
            leased.heard([position])
        told.add(position)
        assert leased.applied == next(known for known in itertools.count(5) if known + 1 not in told)
    leased.check()


def test_what_is_far_beyond_waits_for_a_look(leased: Arena) -> None:
    leased.heard(list(range(7, 200)))
    assert leased.applied == 5
    leased.heard([6])
    assert leased.applied == 69, "as many as there are bits"
    leased.saw(199, None)
    assert leased.applied == 199
    leased.heard([201, 200, 203])
    assert leased.applied == 201
    leased.saw(202, None)
    assert leased.applied == 203
    leased.heard([3, 203])
    assert leased.applied == 203


@given(st.integers(0, 100), st.lists(st.integers(1, 90), max_size=60), st.sets(st.integers(0, 200)))
def test_it_is_known_up_to_where_nothing_is_missing(first: int, steps: list[int], looks: set[int]) -> None:
    """Each step tells of the position that far beyond; now and then, of everything up to there."""
    arena = Arena(MIB)
    arena.saw(first, None)
    known, told = first, set[int]()
    for n, step in enumerate(steps):
        position = known + step
        if n in looks:
            arena.saw(position, None)
            known = position
        else:
            arena.heard([position])
            if step <= 64:
                told.add(position)
        while known + 1 in told:
            known += 1
        assert arena.applied == known


def test_a_store_that_went_back_is_known_no_further_than_it_goes(leased: Arena) -> None:
    leased.heard([7, 8])
    leased.restart(3)
    assert leased.applied == 3
    leased.heard([4])
    assert leased.applied == 4
    leased.heard([5, 6])
    assert leased.applied == 6


# Usage of the volume

USAGE = (1 << 40, 1 << 63, (1 << 64) - 1, 5)


def test_usage_is_known_until_the_next_commit(arena: Arena, shown: Shown) -> None:
    assert arena.usage() is None
    arena.usage_put(5, *USAGE)
    assert arena.usage() == USAGE
    arena.saw(5, mark_of(5))
    assert arena.usage() == USAGE, "nothing has happened"
    arena.committing()
    shown.show(mark_of(6))
    arena.committed({}, 6, arena.token(), mark_of(6))
    assert arena.fresh() and arena.usage() is None
    arena.usage_put(6, *USAGE)
    shown.show(mark_of(7))
    arena.saw(7, mark_of(7))
    assert arena.fresh() and arena.usage() is None


def test_usage_that_was_overtaken_by_a_commit_is_not_kept(arena: Arena, shown: Shown) -> None:
    position = arena.applied
    shown.show(mark_of(6))
    arena.usage_put(position, *USAGE)
    assert arena.usage() is None, "somebody's commit is not known yet"
    arena.saw(6, mark_of(6))
    arena.usage_put(position, *USAGE)
    assert arena.fresh() and arena.usage() is None, "it is known by now, and was perhaps not when the usage was read"


LEASES = """
import time
from cairnfs.daemon.lease import LEASE_S, Lease
from cairnfs.ext.arena import Arena
slept_s = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
arena = Arena(1 << 20)
ends_s = Lease(lambda: None, lambda: None, lambda: None).now_s() + LEASE_S
arena.lease(ends_s, False)
print(slept_s > 90_000, arena.fresh())
arena.lease(ends_s - 10, False)
print(arena.fresh())
arena.lease(time.monotonic() + LEASE_S, False)
print(arena.fresh())
"""


def test_a_lease_goes_on_while_the_machine_is_suspended() -> None:
    """As after a suspension the clock that goes on is ahead of the one that stands still: here by the namespace."""
    command = ["unshare", "--time", "--boottime", "100000", sys.executable, "-c", LEASES]
    done = subprocess.run(command, capture_output=True, text=True)
    if "unshare failed" in done.stderr:
        pytest.skip("namespaces of time are for root")
    assert done.stdout.split() == ["True", "True", "False", "False"], done.stderr


@pytest.mark.parametrize("position", [6, 7, 100], ids=["the next", "one is missing", "many are missing"])
def test_usage_of_a_store_that_cannot_be_watched_is_known_until_a_later_commit_is_told_of(leased: Arena, position: int) -> None:
    leased.usage_put(5, *USAGE)
    assert leased.usage() is None, "nobody has read the log lately"
    leased.lease(time.clock_gettime(time.CLOCK_BOOTTIME) + 60, False)
    leased.usage_put(5, *USAGE)
    assert leased.usage() == USAGE
    leased.committing()
    leased.committed({}, position, leased.token(), None)
    assert leased.usage() is None
    leased.usage_put(leased.applied, *USAGE)
    assert leased.usage() == (USAGE if position == 6 else None), "what was read at 5 may lack it"
    leased.saw(position, None)
    leased.usage_put(position, *USAGE)
    assert leased.usage() == USAGE


def test_usage_goes_when_limits_change_and_with_a_holder_of_the_lock(arena: Arena) -> None:
    arena.usage_put(5, *USAGE)
    arena.usage_drop()
    assert arena.usage() is None
    arena.usage_put(5, *USAGE)
    killed_after(lambda: arena.hold_lock(-2))
    arena.hold_lock(-2)
    arena.give_lock(-2)
    assert arena.usage() is None


# Commits under way


def test_nothing_that_was_seen_counts_while_a_commit_is_under_way(arena: Arena, shown: Shown) -> None:
    arena.committing()
    assert arena.fresh(), "it has not reached the store"
    shown.show(mark_of(6))
    arena.saw(6, mark_of(6))
    assert not arena.fresh()
    arena.refused()
    assert not arena.fresh()
    arena.saw(6, mark_of(6))
    assert arena.fresh()


def test_a_refused_commit_changes_nothing(arena: Arena) -> None:
    arena.committing()
    arena.refused()
    assert arena.fresh()


def test_arguments_that_are_no_marks_leave_no_commit_open(arena: Arena, shown: Shown) -> None:
    with pytest.raises(ValueError, match="a mark of 3 bytes"):
        arena.saw(5, b"abc")
    shown.show(mark_of(6))
    commit(arena, inode_row(7, 6), mark=mark_of(6))
    assert arena.fresh()
    with pytest.raises(ValueError, match="the watched file has 96 bytes"):
        arena.watch(shown.watch, WATCHED_BYTES - MARK_BYTES + 1)


def test_what_one_process_sees_counts_for_all(arena: Arena, shown: Shown) -> None:
    def other() -> None:
        shown.show(mark_of(6))
        assert not arena.fresh()
        arena.saw(6, mark_of(6))
        assert arena.fresh()

    assert ended(in_child(other)) == 0
    assert arena.fresh()
    assert arena.newest == 6


# Mappings


def test_a_mapping_shows_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    watch = Watch(os.fsencode(path), 64)
    assert (watch.n_bytes, watch.read(0, 64), watch.read(60, 4)) == (64, bytes(range(64)), bytes(range(60, 64)))
    with path.open("r+b") as file:
        file.write(b"changed")
    assert watch.read(0, 8) == b"changed\x07"
    path.unlink()
    assert watch.read(0, 7) == b"changed"


@pytest.mark.parametrize(("offset", "n_bytes"), [(0, 65), (64, 1), (65, 0), (1 << 63, 1 << 63)])
def test_nothing_is_read_outside_of_a_mapping(tmp_path: Path, offset: int, n_bytes: int) -> None:
    (tmp_path / "file").write_bytes(bytes(100))
    watch = Watch(os.fsencode(tmp_path / "file"), 64)
    assert watch.read(64, 0) == b""
    with pytest.raises(ValueError, match="of 64"):
        watch.read(offset, n_bytes)


def test_what_cannot_be_mapped_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(bytes(63))
    for name, n_bytes, code in (("none", 64, errno.ENOENT), ("short", 64, errno.EINVAL), (".", 64, errno.ENODEV)):
        with pytest.raises(OSError) as caught:
            Watch(os.fsencode(tmp_path / name), n_bytes)
        assert caught.value.errno == code
        assert caught.value.filename == os.fsencode(tmp_path / name)


def test_a_mapping_stays_while_somebody_may_look_at_it(tmp_path: Path) -> None:
    arena, path = Arena(MIB), tmp_path / "file"
    arena.watch(Shown(path).watch, MARK_AT)
    arena.watch(None)
    assert str(path) in Path("/proc/self/maps").read_text()
    del arena
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_a_watch_outlives_its_name_in_an_arena(tmp_path: Path) -> None:
    arena = Arena(MIB)
    for n in range(3):
        shown = Shown(tmp_path / str(n))
        arena.watch(shown.watch, MARK_AT)
        shown.show(mark_of(n))
        arena.saw(n, mark_of(n))
        del shown
        assert arena.fresh()
