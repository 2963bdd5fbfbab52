"""The slicing kernel on layouts that nobody should trust: every invariant is enforced by every function, nothing crashes."""

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnfs.ext import slicer

TOP = 2**32
FORMAT = struct.Struct(">IIIIQIIIB3s")

READS: dict[str, Callable[[bytes], object]] = {
    "unpack": slicer.unpack,
    "check": lambda layout: slicer.check(layout, TOP),
    "overlay": lambda layout: slicer.overlay(layout, 100, 50, slicer.pack_record(100, 50, 0, 50, 9, 0, 50, 0, 0)),
    "overlay of a hole": lambda layout: slicer.overlay(layout, 0, TOP, None),
    "covered": lambda layout: slicer.covered(layout, 0, TOP),
    "extents": lambda layout: slicer.extents(layout, 0, TOP),
    "extents of nothing": lambda layout: slicer.extents(layout, 0, 0),
    "next_data": lambda layout: slicer.next_data(layout, 0),
    "next_hole": lambda layout: slicer.next_hole(layout, 0),
}


def broken_invariant(layout: bytes, chunk_bytes: int = TOP) -> str | None:
    """What is wrong with a layout, as the kernel words it, by reading the offset table literally."""
    before = 0
    for at in range(0, len(layout), FORMAT.size):
        piece = layout[at : at + FORMAT.size]
        if len(piece) < FORMAT.size:
            return "is not a whole record"
        pos, length, off, plain_len, _, stored_off, stored_len, _, _, padding = FORMAT.unpack(piece)
        faults = [
            (length == 0, "covers nothing"),
            (off + length > plain_len, "reaches beyond its slice"),
            (stored_len == 0 or stored_off + stored_len > TOP, "has no valid place in its pack"),
            (pos + length > chunk_bytes, "reaches beyond the chunk"),
            (pos < before, "overlaps or precedes the record before it"),
            (padding != bytes(3), "has non-zero padding"),
        ]
        for broken, words in faults:
            if broken:
                return words
        before = pos + length
    return None


small = st.integers(0, 300)
wide = st.integers(0, TOP - 1)
u32 = small | wide | st.integers(TOP - 300, TOP - 1)
any_record = st.builds(FORMAT.pack, u32, u32, u32, u32, st.integers(0, 2**64 - 1), u32, u32, wide, st.integers(0, 255),
                       st.sampled_from([bytes(3), b"\0\0\1"]))  # fmt: skip


@st.composite
def good_layout(draw: st.DrawFn) -> bytes:
    at, out = 0, b""
    for gap, length in draw(st.lists(st.tuples(small, st.integers(1, 300)), max_size=8)):
        off = draw(small)
        out += slicer.pack_record(at + gap, length, off, off + length + gap, draw(wide), off, length, 0, 1)
        at += gap + length
    return out


@st.composite
def damaged_layout(draw: st.DrawFn) -> bytes:
    """A good layout with some bytes changed, cut out or put in."""
    layout = bytearray(draw(good_layout()))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(layout)))
        layout[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(layout)


layouts = st.binary(max_size=200) | st.lists(any_record, max_size=5).map(b"".join) | damaged_layout() | good_layout()


@pytest.mark.parametrize("read", READS)
def test_every_function_refuses_exactly_the_layouts_that_break_an_invariant(read: str) -> None:
    @given(layout=layouts)
    def refuses(layout: bytes) -> None:
        fault = broken_invariant(layout)
        if fault is None:
            READS[read](layout)
        else:
            with pytest.raises(ValueError, match=f"slice record [0-9]+ {fault}"):
                READS[read](layout)

    refuses()


@given(layout=layouts, chunk_bytes=small | u32 | st.just(TOP))
def test_check_bounds_records_by_the_chunk(layout: bytes, chunk_bytes: int) -> None:
    fault = broken_invariant(layout, chunk_bytes)
    if fault is None:
        slicer.check(layout, chunk_bytes)
    else:
        with pytest.raises(ValueError, match=fault):
            slicer.check(layout, chunk_bytes)


@given(record=st.binary(max_size=90) | any_record, layout=good_layout(), pos=u32, length=u32)
def test_overlay_refuses_a_record_that_is_malformed_or_elsewhere(record: bytes, layout: bytes, pos: int, length: int) -> None:
    fits = len(record) == FORMAT.size and broken_invariant(record) is None and FORMAT.unpack(record)[:2] == (pos, length)
    if fits:
        slicer.overlay(layout, pos, length, record)
    else:
        with pytest.raises(ValueError):
            slicer.overlay(layout, pos, length, record)


near_u32 = st.integers(-2, 2**33) | u32
fields = st.tuples(*[near_u32] * 4, st.integers(-1, 2**65), *[near_u32] * 3, st.integers(-1, 300))


@given(fields=fields)
def test_pack_record_accepts_exactly_the_records_that_unpack_accepts(fields: tuple[int, ...]) -> None:
    try:
        packed = FORMAT.pack(*fields, bytes(3))
    except struct.error:
        packed = None
    if packed is not None and broken_invariant(packed) is None:
        assert slicer.pack_record(*fields) == packed
        assert slicer.unpack(packed) == [fields]
    else:
        with pytest.raises(ValueError):
            slicer.pack_record(*fields)


anything = st.integers(-(2**70), 2**70) | st.integers(-2, 2) | st.integers(TOP - 2, TOP + 2)


@given(layout=good_layout(), a=anything, b=anything)
def test_positions_out_of_range_are_value_errors(layout: bytes, a: int, b: int) -> None:
    if not 0 <= a <= b <= TOP:
        for ranged in (slicer.covered, slicer.extents):
            with pytest.raises(ValueError):
                ranged(layout, a, b)
    if not (0 <= a <= TOP and b >= 0 and a + b <= TOP):
        with pytest.raises(ValueError):
            slicer.overlay(layout, a, b, None)
    if not 0 <= a <= TOP:
        for single in (slicer.next_data, slicer.next_hole, slicer.check):
            with pytest.raises(ValueError):
                single(layout, a)
