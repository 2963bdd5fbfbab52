"""Rows and those that they name: all in one dictionary; and reading them, for stores whose reads cost no round trip."""

from collections.abc import Iterable, Sequence

from cairnfs.ext.page import Page
from cairnfs.meta.stores.base import NO_ROWS, Along, Key, Row, Store, Via
from cairnfs.types import Position

ALL = 1 << 31  # rows
UNKNOWN = Position(0)

Neighbour = tuple[bytes, Row, Row | None]  # key, row, the row that it names


def read_via(store: Store, key: Key, prefix: bytes, subkey: bytes, along: Along) -> Via:
    """`Store.read_via` by several reads: each row is from a moment of its own."""
    row = store.read((key,))[0]
    named = None if row is None else store.read(((prefix + row.value[:8], subkey),))[0]
    if not along.whole and not along.limit:
        return Via(row, named, UNKNOWN, 0)
    n_rows = len(store.scan(key[0], None, ALL))
    page = NO_ROWS
    if n_rows <= along.whole:
        page = store.scan_via(key[0], None, ALL, prefix, subkey).page
    elif along.limit:
        page = store.scan_via(key[0], along.after, along.limit, prefix, subkey).page
    return Via(row, named, UNKNOWN, n_rows, page)


def page_of(found: Sequence[tuple[bytes, Row]], named: Sequence[Row | None] | None) -> Page:
    """Rows of a partition in order, with those that they name."""
    if named is None:
        return Page.of((key, row.version, row.value, 0, None) for key, row in found)
    return Page.of(
        (key, row.version, row.value, *((0, None) if other is None else (other.version, other.value)))
        for (key, row), other in zip(found, named, strict=True)
    )


def neighbours(page: Page) -> list[Neighbour]:
    """The rows of a page."""
    return [(key, _row(row), None if other is None else _row(other)) for key, row, other in page]


def rows_of(partition: bytes, found: Iterable[Neighbour], prefix: bytes, subkey: bytes) -> dict[Key, Row | None]:
    """Rows of a partition and those that they name, None for one that is not there."""
    rows: dict[Key, Row | None] = {}
    for key, row, other in found:
        rows[partition, key] = row
        rows[prefix + row.value[:8], subkey] = other
    return rows


def rows_via(key: Key, via: Via, prefix: bytes, subkey: bytes) -> dict[Key, Row | None]:
    """The row that was asked for and the one that it names, None for one that is not there. Not those of the page."""
    if via.row is None:
        return {key: None}
    return rows_of(key[0], [(key[1], via.row, via.named)], prefix, subkey)


def _row(row: tuple[bytes, int]) -> Row:
    return Row(row[0], Position(row[1]))
