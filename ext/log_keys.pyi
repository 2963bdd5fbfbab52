"""Keys of rows, one behind the other: u8 length of the partition, u16 length of the key (big-endian), partition, key."""

from collections.abc import Iterable

def joined(keys: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Partitions have up to 255 bytes, keys up to 65,535: OverflowError."""

def first_bytes(keys: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The first byte of each partition, 0 of one without a name."""

def taken_apart(joined: bytes, begin: int = 0) -> list[tuple[bytes, bytes]]:
    """What was joined, from a byte on. ValueError when it ends within a key."""
