"""Arithmetic on the 8-byte big-endian fields inside row values: what `Add`, `Max` and `AtMost` mean, for every store in Python.

A field beyond the end of a value reads as zero; changing it first fills the value with zeros up to the field's end.
"""

import struct

from cairnfs.errors import StoreError

MAX_FIELD = 1 << 53  # what a store that counts in doubles (Redis scripts) can hold exactly

_I64 = struct.Struct(">q")


def field(value: bytes | None, offset: int) -> int:
    """The signed field at `offset`; 0 when the value is missing or ends before the field does."""
    if value is None or len(value) < offset + 8:
        return 0
    number: int = _I64.unpack_from(value, offset)[0]
    return number


def added(value: bytes | None, offset: int, n: int) -> tuple[bytes, int]:
    """The value with `n` added to a field, and the field's new number. StoreError when that passes +-2**53."""
    total = field(value, offset) + n
    if not -MAX_FIELD <= total <= MAX_FIELD:
        raise StoreError(f"a counter would become {total}, which is beyond 2**53")
    return _with_field(value or b"", offset, _I64.pack(total)), total


def raised(value: bytes, offset: int, least: bytes) -> bytes:
    """The value with a field set to the bytewise greater of itself and `least`."""
    if value[offset : offset + 8] >= least:
        return value
    return _with_field(value, offset, least)


def _with_field(value: bytes, offset: int, new: bytes) -> bytes:
    return value[:offset].ljust(offset, b"\0") + new + value[offset + 8 :]
