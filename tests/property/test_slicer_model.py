"""The slicing kernel against a model that knows, for each byte of a chunk, which byte of which slice is there."""

from typing import NamedTuple

from hypothesis import example, given
from hypothesis import strategies as st

from cairnfs.ext import slicer

SPAN = 48  # bytes of a chunk that the tests play in, and plain bytes of each slice
TOP = 2**32
PACKS = [(1, 64), (1, 4096), (2, 64), (2**64 - 1, TOP - 200)]  # (pack, stored_off) of each slice

Cells = dict[int, tuple[int, int]]  # position -> (slice number, offset in the slice); holes are absent


class Change(NamedTuple):
    """Put bytes [off, off+length) of a slice, or a hole when `slice_no` is None, at `pos`."""

    pos: int
    length: int
    slice_no: int | None = None
    off: int = 0

    def shifted(self, base: int) -> "Change":
        return self._replace(pos=self.pos + base)


def record(change: Change) -> bytes | None:
    if change.slice_no is None:
        return None
    pack, stored_off = PACKS[change.slice_no]
    return slicer.pack_record(*change[:2], change.off, SPAN, pack, stored_off, 200, change.slice_no * 7, change.slice_no)


def put(cells: Cells, change: Change) -> None:
    for i in range(change.length):
        if change.slice_no is None:
            cells.pop(change.pos + i, None)
        else:
            cells[change.pos + i] = (change.slice_no, change.off + i)


def runs(cells: Cells) -> list[Change]:
    """The longest runs of bytes that follow each other both in the chunk and in a slice."""
    found: list[Change] = []
    for pos, (slice_no, off) in sorted(cells.items()):
        last = found[-1] if found else Change(-1, 0)
        if (last.pos + last.length, last.slice_no, last.off + last.length) == (pos, slice_no, off):
            found[-1] = last._replace(length=last.length + 1)
        else:
            found.append(Change(pos, 1, slice_no, off))
    return found


def freed_by(cells: Cells, change: Change) -> list[tuple[int, int]]:
    """What an overlay must report: for each run that it cuts, the pack and how many bytes."""
    cuts = [
        (PACKS[run.slice_no or 0][0], min(run.pos + run.length, change.pos + change.length) - max(run.pos, change.pos))
        for run in runs(cells)
    ]
    return [(pack, n_bytes) for pack, n_bytes in cuts if n_bytes > 0]


def build(changes: list[Change]) -> tuple[bytes, Cells]:
    layout, cells = b"", Cells()
    for change in changes:
        layout, _ = slicer.overlay(layout, change.pos, change.length, record(change))
        put(cells, change)
    return layout, cells


@st.composite
def a_change(draw: st.DrawFn) -> Change:
    """Many changes put bytes of a slice where their offset says (off == pos), so that neighbours often continue each other."""
    pos = draw(st.integers(0, SPAN - 1))
    slice_no = draw(st.none() | st.integers(0, len(PACKS) - 1))
    length = draw(st.integers(0 if slice_no is None else 1, SPAN - pos))
    off = 0 if slice_no is None else draw(st.just(pos) | st.integers(0, SPAN - length))
    return Change(pos, length, slice_no, off)


bases = st.sampled_from([0, 1000, TOP - SPAN])
changes = st.lists(a_change(), max_size=12)
ranges = st.tuples(st.integers(0, SPAN), st.integers(0, SPAN)).map(sorted)


@given(base=bases, changes=changes)
@example(base=0, changes=[Change(0, 48, 0, 0), Change(10, 5), Change(10, 5, 0, 10)])
@example(base=0, changes=[Change(0, 48, 0, 0), Change(10, 0)])
@example(base=TOP - SPAN, changes=[Change(0, 48, 3, 0), Change(47, 1, 2, 0)])
def test_overlay_keeps_the_canonical_layout_and_reports_what_it_frees(base: int, changes: list[Change]) -> None:
    layout, cells = b"", Cells()
    for change in (change.shifted(base) for change in changes):
        expected_freed = freed_by(cells, change)
        layout, freed = slicer.overlay(layout, change.pos, change.length, record(change))
        put(cells, change)
        assert freed == expected_freed
        assert layout == b"".join(record(run) or b"" for run in runs(cells))
        slicer.check(layout, base + SPAN)


@given(base=bases, changes=changes, window=ranges)
def test_covered_counts_mapped_bytes(base: int, changes: list[Change], window: list[int]) -> None:
    layout, cells = build([change.shifted(base) for change in changes])
    start, end = window[0] + base, window[1] + base
    assert slicer.covered(layout, start, end) == sum(start <= pos < end for pos in cells)


@given(base=bases, changes=changes, window=ranges)
def test_extents_tell_of_each_byte_where_it_is(base: int, changes: list[Change], window: list[int]) -> None:
    layout, cells = build([change.shifted(base) for change in changes])
    start, end = window[0] + base, window[1] + base
    records = slicer.unpack(layout)
    at, holes = start, []
    for pos, length, off, index in slicer.extents(layout, start, end):
        assert pos == at and length > 0
        at += length
        holes.append(index < 0)
        for i in range(length):
            cell = cells.get(pos + i)
            assert cell == (None if index < 0 else (records[index][8], off + i))
    assert at == end
    assert not any(a and b for a, b in zip(holes, holes[1:], strict=False)), "neighbouring holes are one"


@given(base=bases, changes=changes, start=st.integers(0, SPAN))
def test_next_data_and_next_hole_find_the_first_such_byte(base: int, changes: list[Change], start: int) -> None:
    layout, cells = build([change.shifted(base) for change in changes])
    start += base
    assert slicer.next_data(layout, start) == min((pos for pos in cells if pos >= start), default=-1)
    assert slicer.next_hole(layout, start) == next(pos for pos in range(start, base + SPAN + 1) if pos not in cells)


@given(changes=changes, last=a_change())
def test_freed_and_new_bytes_account_for_the_change_of_covered_bytes(changes: list[Change], last: Change) -> None:
    layout, _ = build(changes)
    after, freed = slicer.overlay(layout, last.pos, last.length, record(last))
    new = 0 if last.slice_no is None else last.length
    assert slicer.covered(after, 0, TOP) == slicer.covered(layout, 0, TOP) - sum(n for _, n in freed) + new


@given(changes=changes, last=a_change())
def test_putting_the_same_record_twice_frees_exactly_itself(changes: list[Change], last: Change) -> None:
    once, _ = build([*changes, last])
    twice, freed = slicer.overlay(once, last.pos, last.length, record(last))
    assert twice == once
    assert sum(n for _, n in freed) == (0 if last.slice_no is None else last.length)
