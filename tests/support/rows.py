"""Rows and small steps that the tests of metadata stores share."""

from collections.abc import Callable

from cairnfs.meta.stores.base import Key, Put, Store
from cairnfs.types import Position

Opener = Callable[[], Store]

A: Key = (b"p", b"a")
B: Key = (b"p", b"b")
C: Key = (b"q", b"c")

LOG_RECORDS = 300  # few, so that trimming is seen; SQLite trims every 256 commits, memory at twice the number


def put(store: Store, key: Key, value: bytes) -> Position:
    return store.commit([], [Put(key, value)]).position


def value(store: Store, key: Key) -> bytes | None:
    row = store.read([key])[0]
    return None if row is None else row.value


def i64(number: int) -> bytes:
    return number.to_bytes(8, "big", signed=True)
