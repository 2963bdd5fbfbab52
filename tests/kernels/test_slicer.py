"""The slicing kernel by example: the bytes of a record, messages, arguments, the top of a chunk, large layouts."""

import array
import struct

import pytest

from cairnfs.ext import slicer

TOP = 2**32


def record(pos: int, length: int, off: int = 0, pack: int = 7, plain_len: int | None = None) -> bytes:
    return slicer.pack_record(pos, length, off, off + length if plain_len is None else plain_len, pack, 64, 1000, 0xC0FFEE, 1)


def test_a_record_has_the_bytes_of_the_offset_table() -> None:
    packed = slicer.pack_record(0x01020304, 5, 6, 0x0708090A, 0x0B0C0D0E0F101112, 0x13141516, 0x1718191A, 0x1B1C1D1E, 0x1F)
    assert packed.hex() == (
        "01020304" "00000005" "00000006" "0708090a" "0b0c0d0e0f101112" "13141516" "1718191a" "1b1c1d1e" "1f" "000000"
    )  # fmt: skip
    assert len(packed) == slicer.RECORD_BYTES == struct.calcsize(">IIIIQIIIB3x")


def test_cutting_the_middle_leaves_both_ends_and_frees_the_middle() -> None:
    layout, freed = slicer.overlay(record(0, 100), 40, 20, record(40, 20, pack=8))
    assert [(r[0], r[1], r[2], r[4]) for r in slicer.unpack(layout)] == [(0, 40, 0, 7), (40, 20, 0, 8), (60, 40, 60, 7)]
    assert freed == [(7, 20)]


def test_a_hole_splits_and_putting_the_bytes_back_merges() -> None:
    whole = record(0, 100)
    split, freed = slicer.overlay(whole, 40, 20, None)
    assert (len(split), freed) == (2 * slicer.RECORD_BYTES, [(7, 20)])
    assert slicer.overlay(split, 40, 20, record(40, 20, off=40, plain_len=100)) == (whole, [])


@pytest.mark.parametrize("field", range(3, 9))
def test_neighbours_of_different_slices_stay_apart(field: int) -> None:
    values = [10, 10, 10, 100, 7, 64, 1000, 5, 1]
    values[field] += 1
    layout, _ = slicer.overlay(slicer.pack_record(0, 10, 0, 100, 7, 64, 1000, 5, 1), 10, 10, slicer.pack_record(*values))
    assert len(slicer.unpack(layout)) == 2


def test_one_pair_is_reported_for_each_cut_record_even_of_one_pack() -> None:
    layout = record(0, 10) + record(20, 10) + record(30, 10, pack=8)
    assert slicer.overlay(layout, 5, 100, None) == (record(0, 5, plain_len=10), [(7, 5), (7, 10), (8, 10)])


def test_records_reach_up_to_the_top_and_no_further() -> None:
    last = record(TOP - 10, 10)
    assert slicer.overlay(b"", TOP - 10, 10, last) == (last, [])
    assert slicer.next_hole(last, TOP - 10) == TOP
    assert slicer.next_data(last, TOP) == -1
    assert slicer.extents(last, TOP - 12, TOP) == [(TOP - 12, 2, 0, -1), (TOP - 10, 10, 0, 0)]
    with pytest.raises(ValueError, match="must not exceed 4294967296, not be 4294967297"):
        slicer.overlay(b"", TOP - 10, 11, None)
    with pytest.raises(ValueError, match="reaches beyond the chunk"):
        record(TOP - 10, 11)


def test_one_record_can_cover_nearly_a_whole_chunk() -> None:
    layout, freed = slicer.overlay(record(0, TOP - 1), TOP - 2, 2, None)
    assert (slicer.covered(layout, 0, TOP), freed) == (TOP - 2, [(7, 1)])


def test_an_empty_layout_is_all_hole() -> None:
    slicer.check(b"", 0)
    assert slicer.unpack(b"") == []
    assert slicer.extents(b"", 3, 9) == [(3, 6, 0, -1)]
    assert (slicer.covered(b"", 0, TOP), slicer.next_data(b"", 0), slicer.next_hole(b"", 5)) == (0, -1, 5)
    assert slicer.overlay(b"", 0, TOP, None) == (b"", [])


def test_messages_name_the_record_and_what_is_wrong_with_it() -> None:
    with pytest.raises(ValueError, match=r"^slice record 1 overlaps or precedes the record before it$"):
        slicer.unpack(record(0, 10) + record(9, 10))
    with pytest.raises(ValueError, match=r"^slice record 2 is not a whole record$"):
        slicer.unpack(record(0, 10) + record(10, 10) + b"\0")
    with pytest.raises(ValueError, match=r"^the slice record covers nothing$"):
        record(0, 0)
    with pytest.raises(ValueError, match=r"^codec must be within 0\.\.255, not 256$"):
        slicer.pack_record(0, 1, 0, 1, 0, 0, 1, 0, 256)
    with pytest.raises(ValueError, match=r"^the record covers 10 bytes at 0, not 10 at 5$"):
        slicer.overlay(b"", 5, 10, record(0, 10))
    with pytest.raises(ValueError, match=r"^a slice record has 40 bytes, not 80$"):
        slicer.overlay(b"", 0, 10, record(0, 10) * 2)
    with pytest.raises(ValueError, match=r"^end 3 lies before start 4$"):
        slicer.extents(b"", 4, 3)


def test_takes_any_contiguous_buffer_and_lets_go_of_it() -> None:
    packed = record(0, 10)
    for layout in (bytearray(packed), memoryview(packed), array.array("B", packed)):
        assert slicer.overlay(layout, 10, 5, memoryview(record(10, 5, pack=8)))[0] == packed + record(10, 5, pack=8)
    data = bytearray(b"not a layout")
    with pytest.raises(ValueError):
        slicer.unpack(data)
    data.append(0)
    with pytest.raises(BufferError):
        slicer.unpack(memoryview(packed * 2)[::2])


@pytest.mark.parametrize("wrong", [None, "1", 1.0])
def test_what_is_not_an_integer_is_a_type_error(wrong: int) -> None:
    with pytest.raises(TypeError):
        slicer.next_data(b"", wrong)
    with pytest.raises(TypeError):
        slicer.overlay(b"", 0, wrong, None)


def test_large_layouts_are_walked_whole() -> None:
    n = 20_000
    layout = b"".join(record(i * 10, 5, pack=i) for i in range(n))
    slicer.check(layout, n * 10)
    assert slicer.covered(layout, 0, TOP) == n * 5
    assert len(slicer.extents(layout, 0, n * 10)) == 2 * n
    rest, freed = slicer.overlay(layout, 12, n * 10 - 24, None)
    assert slicer.unpack(rest)[0][:2] == (0, 5)
    assert (sum(n_bytes for _, n_bytes in freed), len(freed)) == (n * 5 - 5 - 2 - 5, n - 2)
