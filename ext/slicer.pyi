"""The slicing kernel: canonical layouts of one chunk.

A layout is a run of 40-byte slice records (offset table in `slicer_impl.h`), sorted by position, not overlapping; what no
record covers is a hole. `overlay` is the only way a layout changes, so readers never resolve overlaps.

Layouts are not trusted: every function reads the whole layout and raises ValueError when it breaks an invariant anywhere,
naming the record and the invariant. Arguments out of range are ValueErrors too. Positions are within the chunk, at most
2**32; a range is [start, end) with start <= end.
"""

from typing_extensions import Buffer

RECORD_BYTES: int  # 40

def pack_record(
    pos: int, length: int, off: int, plain_len: int, pack: int, stored_off: int, stored_len: int, crc: int, codec: int
) -> bytes:
    """One slice record.

    ValueError when a field is out of range, length or stored_len is 0, off + length > plain_len, or pos + length or
    stored_off + stored_len is beyond 2**32.
    """

def unpack(layout: Buffer) -> list[tuple[int, int, int, int, int, int, int, int, int]]:
    """Records as (pos, length, off, plain_len, pack, stored_off, stored_len, crc, codec). ValueError if malformed."""

def check(layout: Buffer, chunk_bytes: int) -> None:
    """Raise ValueError saying which invariant a layout breaks: size, order, overlap, bounds, empty record."""

def overlay(layout: Buffer, pos: int, length: int, record: Buffer | None) -> tuple[bytes, list[tuple[int, int]]]:
    """Put `record` (its pos and length must be the given ones), or a hole when None, over [pos, pos+length).

    Returns the new canonical layout and what it no longer references: (pack, plain bytes) pairs, one per cut record.
    Neighbours that continue the same slice (same pack and stored_off, contiguous off and pos) are merged.
    Cutting nothing (None over length 0, or over a hole) gives the same layout. Takes O(n) for n records.
    """

def covered(layout: Buffer, start: int, end: int) -> int:
    """How many bytes of [start, end) are mapped to slices."""

def extents(layout: Buffer, start: int, end: int) -> list[tuple[int, int, int, int]]:
    """[start, end) as (pos, length, off, index) in order; index is the record's number, -1 for a hole (then off is 0)."""

def next_data(layout: Buffer, start: int) -> int:
    """First mapped position >= start, or -1."""

def next_hole(layout: Buffer, start: int) -> int:
    """First unmapped position >= start (may be past the last record, up to 2**32)."""
