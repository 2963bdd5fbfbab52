"""Rows and those that they name: all in one dictionary; and reading them, for stores whose reads cost no round trip."""

from collections.abc import Sequence

from cairnfs.meta.stores.base import Along, Key, Neighbour, Row, Store, Via
from cairnfs.types import Position

ALL = 1 << 31  # rows
UNKNOWN = Position(0)


def read_via(store: Store, key: Key, prefix: bytes, subkey: bytes, along: Along) -> Via:
    """`Store.read_via` by several reads: each row is from a moment of its own."""
    row = store.read((key,))[0]
    named = None if row is None else store.read(((prefix + row.value[:8], subkey),))[0]
    if not along.whole and not along.limit:
        return Via(row, named, UNKNOWN, 0)
    n_rows = len(store.scan(key[0], None, ALL))
    page = []
    if n_rows <= along.whole:
        page = scan_via(store, key[0], None, ALL, prefix, subkey)
    elif along.limit:
        page = scan_via(store, key[0], along.after, along.limit, prefix, subkey)
    return Via(row, named, UNKNOWN, n_rows, page)


def scan_via(store: Store, partition: bytes, after: bytes | None, limit: int, prefix: bytes, subkey: bytes) -> list[Neighbour]:
    """`Store.scan_via` by two reads."""
    found = store.scan(partition, after, limit)
    named = store.read([(prefix + row.value[:8], subkey) for _, row in found])
    return [(key, row, other) for (key, row), other in zip(found, named, strict=True)]


def rows_of(partition: bytes, found: Sequence[Neighbour], prefix: bytes, subkey: bytes) -> dict[Key, Row | None]:
    """Rows of a partition and those that they name, None for one that is not there."""
    rows: dict[Key, Row | None] = {}
    for key, row, other in found:
        rows[partition, key] = row
        rows[prefix + row.value[:8], subkey] = other
    return rows


def rows_via(key: Key, via: Via, prefix: bytes, subkey: bytes) -> dict[Key, Row | None]:
    """All rows that `Store.read_via` has found, None for the one that was asked for when it is not there."""
    rows = rows_of(key[0], via.page, prefix, subkey)
    if via.row is None:
        rows[key] = None
        return rows
    return rows | rows_of(key[0], [(key[1], via.row, via.named)], prefix, subkey)
