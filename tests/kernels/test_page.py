"""Pages of rows: walked as a plain parser walks them, and refused when a length does not fit."""

import random
import struct

import pytest

from cairnfs.ext.arena import Arena
from cairnfs.ext.page import Page
from cairnfs.meta.records import dentry_value, encode_attr, inode_key
from cairnfs.types import Attr, Inode

LENGTHS = struct.Struct(">HII")
VERSION = struct.Struct(">Q")
DIR = 7

Rows = list[tuple[bytes, tuple[bytes, int], tuple[bytes, int] | None]]


def packed(rows: Rows) -> bytes:
    """The format of page_impl.h, in the order given."""
    parts = []
    for key, row, named in rows:
        body = [VERSION.pack(version) + value for value, version in ([row] if named is None else [row, named])]
        parts += [LENGTHS.pack(len(key), len(body[0]), len(body[1]) if named else 0), key, *body]
    return b"".join(parts)


def some_rows(n: int, seed: int = 1) -> Rows:
    rng = random.Random(seed)
    keys = {rng.randbytes(rng.choice([0, 1, 2, 8, 9, 200, 3000])) for _ in range(n)}
    return [(key, _row(rng), None if rng.random() < 0.3 else _row(rng)) for key in keys]


def _row(rng: random.Random) -> tuple[bytes, int]:
    return rng.randbytes(rng.choice([0, 1, 9, 88, 128, 500])), rng.getrandbits(64)


@pytest.mark.parametrize("n", [0, 1, 2, 63, 64, 700])
def test_rows_come_in_order_of_keys(n: int) -> None:
    rows = some_rows(n)
    in_order = sorted(rows, key=lambda row: row[0])
    page = Page(packed(rows))
    assert list(page) == page.rows() == in_order
    assert len(page) == len(rows)
    assert page.names() == [key for key, _, _ in in_order]
    assert page.last == (in_order[-1][0] if rows else None)
    for begin, end in [(0, 1), (1, 5), (len(rows), 9000), (5, 2)]:
        assert page.rows(begin, end) == in_order[begin:end]
        assert page.names(begin, end) == [key for key, _, _ in in_order[begin:end]]


def test_a_page_may_begin_after_a_key_and_end_after_some() -> None:
    rows = sorted(some_rows(100))
    keys = [key for key, _, _ in rows]
    for after in [b"", keys[0], keys[50], keys[50] + b"\0", keys[-1], b"\xff" * 4000]:
        expected = [key for key in keys if key > after]
        assert Page(packed(rows), after).names() == expected
        assert Page(packed(rows), after, 7).names() == expected[:7]
        assert Page(packed(rows)).n_up_to(after) == len(keys) - len(expected)
        assert Page(packed(rows), keys[20], 50).n_up_to(after) == sum(key <= after for key in keys[21:71])


def test_what_is_put_together_here_is_what_servers_send() -> None:
    rows = some_rows(50)
    page = Page.of([(key, row[1], row[0], *((0, None) if named is None else (named[1], named[0]))) for key, row, named in rows])
    assert list(page) == sorted(rows, key=lambda row: row[0])
    assert Page.of([]).names() == []
    with pytest.raises(ValueError, match="a key of"):
        Page.of([(b"k" * 65536, 1, b"", 0, None)])


def test_every_shortened_or_changed_length_is_refused_or_stays_within_the_string() -> None:
    rows: Rows = [(b"one", (b"value", 1), (b"named", 2)), (b"two", (b"", 3), None), (b"three", (b"v" * 20, 4), None)]
    whole = packed(rows)
    ends, at = {0}, 0
    for row in rows:
        at += len(packed([row]))
        ends.add(at)
    for n in range(len(whole)):
        if n in ends:
            assert len(Page(whole[:n])) == sorted(ends).index(n)
        else:
            with pytest.raises(ValueError, match="damaged"):
                Page(whole[:n])
    rng = random.Random(2)
    for _ in range(3000):
        bad = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            bad[rng.randrange(len(bad))] = rng.choice([0, 1, 7, 8, 127, 128, 255])
        try:
            page = Page(bytes(bad))
        except ValueError:
            continue
        assert sum(10 + len(k) + 8 + len(r[0]) + (8 + len(n[0]) if n else 0) for k, r, n in page) == len(bad)


@pytest.mark.parametrize("n_row", [0, 1, 7])
def test_a_row_without_a_version_is_refused(n_row: int) -> None:
    with pytest.raises(ValueError, match="damaged"):
        Page(LENGTHS.pack(1, n_row, 0) + b"k" + bytes(n_row))
    if n_row:
        with pytest.raises(ValueError, match="damaged"):
            Page(LENGTHS.pack(1, 8, n_row) + b"k" + bytes(8 + n_row))


def attr(ino: int, version: int) -> Attr:
    return Attr(Inode(ino), 0o100644, 1, 2, nlink=1, size=0, mtime_ns=5, version=version)


@pytest.mark.parametrize("n", [5, 500])
def test_what_is_kept_is_what_row_by_row_is_kept(n: int) -> None:
    rows: Rows = [
        (b"%05d" % i, (dentry_value(100 + i, 0o100644), 50 + i), (encode_attr(attr(100 + i, 60 + i)), 60 + i)) for i in range(n)
    ]
    rows[1] = (rows[1][0], (b"not a name", 1), rows[1][2])
    rows[2] = (rows[2][0], rows[2][1], None)
    rows[3] = (rows[3][0], rows[3][1], (b"not a record", 1))
    rows[4] = (rows[4][0], (dentry_value(0, 0), 1), rows[4][2])
    page, arena, reference = Page(packed(rows)), Arena(16 << 20), Arena(16 << 20)
    assert page.unknown(arena) == [100 + i for i in range(n) if i not in (1, 4)]
    page.note(arena, DIR, arena.token())
    assert page.unknown(arena) == [102, 103]
    for i, (key, row, named) in enumerate(rows):
        reference.note([(b"d" + VERSION.pack(DIR), key)], [row], reference.token())
        if named and i not in (1, 4):
            reference.note([inode_key(100 + i)], [named], reference.token())
    for i, (key, _, _) in enumerate(rows):
        assert arena.name(DIR, key) == reference.name(DIR, key) == (None if i in (1, 4) else 100 + i)
        assert arena.attr(100 + i) == reference.attr(100 + i)
        assert (arena.attr(100 + i) is None) == (i in (1, 2, 3, 4))
    arena.check()


def test_rows_that_a_commit_has_overtaken_are_not_kept() -> None:
    rows: Rows = [(b"name", (dentry_value(9, 0o100644), 1), (encode_attr(attr(9, 1)), 1))]
    arena = Arena(1 << 20)
    token = arena.token()
    arena.changed([(b"d" + VERSION.pack(DIR), b"name"), inode_key(9)], 5)
    Page(packed(rows)).note(arena, DIR, token)
    assert (arena.name(DIR, b"name"), arena.attr(9)) == (None, None)
