"""Rows by key, against the same in plain Python."""

from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnfs.ext.kept_rows import KeptRows
from cairnfs.meta.stores.base import Key, Row
from cairnfs.types import Position

MAX_ROWS, MAX_VALUE_BYTES = 4, 8
SUBKEYS = {b"i": b"a", b"d": None}

partitions = st.sampled_from([b"i1", b"i2", b"d1", b"d2", b"v", b""])
keys = st.tuples(partitions, st.sampled_from([b"a", b"l", b""]))
values = st.none() | st.sampled_from([b"", b"x" * MAX_VALUE_BYTES, b"x" * (MAX_VALUE_BYTES + 1)])
steps = st.tuples(st.sampled_from(["put", "committed", "drop"]), st.dictionaries(keys, values), st.integers(1, 9))


class Plain:
    def __init__(self) -> None:
        self.rows: OrderedDict[Key, Row | None] = OrderedDict()

    def may_keep(self, keys: list[Key]) -> list[Key]:
        return [(part, key) for part, key in keys if part[:1] == b"d" or (part[:1] == b"i" and key == b"a")]

    def put(self, key: Key, row: Row | None) -> None:
        self.rows.pop(key, None)
        if row is None or len(row.value) <= MAX_VALUE_BYTES:
            self.rows[key] = row
            while len(self.rows) > MAX_ROWS:
                self.rows.popitem(last=False)


@given(st.lists(steps))
def test_what_is_kept_is_as_in_plain_python(steps: list[tuple[str, dict[Key, bytes | None], int]]) -> None:
    kept, plain = KeptRows(SUBKEYS, Row._make, MAX_ROWS, MAX_VALUE_BYTES), Plain()
    for what, values, version in steps:
        rows = {key: None if value is None else Row(value, Position(version)) for key, value in values.items()}
        may_be_kept = kept.may_keep(rows)
        assert may_be_kept == plain.may_keep([*rows])
        if what == "committed":
            kept.committed(may_be_kept, values, version)
        elif what == "drop":
            kept.drop(may_be_kept)
        for key in may_be_kept:
            before = plain.rows.get(key)
            if what == "drop":
                plain.rows.pop(key, None)
            elif what == "put":
                kept.put(key, rows[key])
                plain.put(key, rows[key])
            elif before is None or before.version < version:
                plain.put(key, rows[key])
        assert kept.known(rows) == {key: plain.rows[key] for key in rows if key in plain.rows}
        assert len(kept) == len(plain.rows) and all(key in kept for key in plain.rows)
    known = kept.known(plain.rows)
    assert list(known.items()) == list(plain.rows.items())
    assert all(row is None or type(row) is Row for row in known.values())
    kept.clear()
    assert len(kept) == 0 and kept.known(plain.rows) == {}


def test_what_is_no_key_of_a_row_is_refused() -> None:
    kept = KeptRows(SUBKEYS, Row._make, MAX_ROWS, MAX_VALUE_BYTES)
    for bad in ((b"i",), (1, b"a")):
        with pytest.raises((ValueError, TypeError)):
            kept.may_keep([bad])  # type: ignore[list-item]
