"""Listings in the arena's log: what was kept is read back, and a page that is not whole counts as not there."""

import random
import stat
import struct
from itertools import pairwise

import pytest

from cairnfs.ext.arena import Arena
from cairnfs.ext.listing import MOVED, Listing, cookie_of, hash_of, next_of, page_entries, place, read_on

HEAD = struct.Struct("=IIQQQIIHB5x")
DIR, VERSION, PARENT = 7, 1000, 3
SMALL, LARGE = 1 << 20, 16 << 20

Entry = tuple[bytes, int, int]


@pytest.fixture(params=[SMALL, LARGE])
def arena(request: pytest.FixtureRequest) -> Arena:
    return Arena(request.param)


def entries(n: int) -> list[Entry]:
    kinds = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
    return [(b"%05d" % i + b"x" * (i % 250), 100 + i, kinds[i % 3]) for i in range(n)]


def keep(arena: Arena, found: list[Entry], version: int = VERSION) -> bool:
    listing = Listing(arena, DIR, version, PARENT)
    for i, entry in enumerate(found):
        listing.add(i, *entry)
    return listing.keep()


def read(arena: Arena, version: int = VERSION, cookie: int = 2) -> list[tuple[bytes, int, int, int]] | None:
    found = []
    while page := read_on(arena, DIR, version, cookie):
        found += page
        cookie = page[-1][3]
    return None if page is None else found


@pytest.mark.parametrize("n", [0, 1, 60, 61, 62, 122, 127, 128, 129, 256, 300])
def test_what_was_kept_is_read_back(arena: Arena, n: int) -> None:
    assert keep(arena, entries(n))
    found = read(arena)
    assert found is not None
    assert [entry[:3] for entry in found] == entries(n)
    assert [entry[3] for entry in found] == [cookie_of(i, entries(n)[i + 1][0] if i + 1 < n else None) for i in range(n)]
    for i, entry in enumerate(found):
        assert next_of(entry[3]) == (i + 1, hash_of(found[i + 1][0]) if i + 1 < n else 0)
    arena.check()


def test_a_listing_is_found_under_its_directory_and_version_only(arena: Arena) -> None:
    keep(arena, entries(200))
    assert read(arena, VERSION + 1) is None
    assert read_on(arena, DIR + 1, VERSION, 2) is None


def test_versions_that_fall_on_one_place_do_not_pass_for_each_other(arena: Arena) -> None:
    other = VERSION + (1 << 32)
    assert place(DIR, VERSION, 0) == place(DIR, other, 0)
    assert keep(arena, entries(3))
    assert read(arena, other) is None
    assert keep(arena, entries(3)[::-1], other)
    assert read(arena) is None
    assert [entry[0] for entry in read(arena, other) or []] == [entry[0] for entry in entries(3)[::-1]]


def test_a_cookie_leads_only_to_the_name_it_means(arena: Arena) -> None:
    keep(arena, entries(300))
    cookie = cookie_of(149, entries(300)[150][0])
    assert (read_on(arena, DIR, VERSION, cookie) or [])[0][0] == entries(300)[150][0]
    assert (read_on(arena, DIR, VERSION, cookie | MOVED) or [])[0][0] == entries(300)[150][0]
    assert read_on(arena, DIR, VERSION, cookie_of(149, b"another")) is None
    assert read_on(arena, DIR, VERSION, cookie_of(5000, b"another")) is None
    assert read_on(arena, DIR, VERSION, cookie_of(299, b"beyond")) is None
    assert read_on(arena, DIR, VERSION, cookie_of(5000, None)) == []
    assert read_on(arena, DIR, VERSION, 1 << 31 | 1) is None
    assert read_on(arena, DIR, VERSION, (1 << 62) - 1) is None


def test_a_listing_with_a_gap_or_too_large_is_not_kept(arena: Arena) -> None:
    gap = Listing(arena, DIR, VERSION, PARENT)
    gap.add(0, b"a", 1, stat.S_IFREG)
    gap.add(2, b"c", 3, stat.S_IFREG)
    gap.add(1, b"b", 2, stat.S_IFREG)
    assert not gap.keep()
    large = Listing(arena, DIR, VERSION, PARENT)
    for i in range(arena.n_bytes // 8 // 265 + 1):
        large.add(i, b"%0255d" % i, i + 1, stat.S_IFREG)
    assert not large.keep()
    assert read(arena) is None


def test_entries_that_come_again_are_there_once(arena: Arena) -> None:
    listing = Listing(arena, DIR, VERSION, PARENT)
    for i in (0, 1, 0, 1, 2):
        listing.add(i, b"%d" % i, i + 1, stat.S_IFREG)
    assert (listing.n_entries, listing.keep()) == (3, True)
    assert [entry[0] for entry in read(arena) or []] == [b"0", b"1", b"2"]


def test_hashes_of_names_are_spread(arena: Arena) -> None:
    hashes = {hash_of(b"file-%06d.jpg" % i) for i in range(100_000)}
    assert len(hashes) > 99_990 and min(hashes) > 0 and max(hashes) < 1 << 31
    assert all(a != b for a, b in pairwise(hash_of(bytes(n)) for n in range(1, 256)))


# Pages that are not whole


def put(arena: Arena, page: bytes, page_no: int = 0) -> None:
    pack, stored_off = place(DIR, VERSION, page_no)
    arena.slice_drop(pack, stored_off)
    assert arena.slice_put(pack, stored_off, page)


def pages(arena: Arena, n: int) -> list[bytes]:
    assert keep(arena, entries(n))
    full = page_entries(arena)
    found = [arena.slice_get(*place(DIR, VERSION, i)) for i in range(max(1, -(-n // full)))]
    assert all(page is not None for page in found)
    return [page for page in found if page is not None]


def test_a_page_of_any_other_length_is_refused(arena: Arena) -> None:
    (page,) = pages(arena, 20)
    for n in range(1, len(page)):
        put(arena, page[:n])
        assert read(arena) is None
    for more in (b"\0", b"\1" * 12, page):
        put(arena, page + more)
        assert read(arena) is None
    put(arena, page)
    assert len(read(arena) or []) == 20


def test_a_page_that_says_a_wrong_length_of_itself_is_refused(arena: Arena) -> None:
    (page,) = pages(arena, 20)
    fields = list(HEAD.unpack_from(page))
    for cut in (1, 12, len(page) - HEAD.size):
        fields[1] = len(page) - cut
        put(arena, HEAD.pack(*fields) + page[HEAD.size : len(page) - cut])
        assert read(arena) is None


@pytest.mark.parametrize(
    "field, value", [(0, 0), (1, 48), (2, 8), (3, 5), (5, 1), (6, 9), (7, 19), (7, 21), (7, 0xFFFF), (8, 0), (8, 2)]
)
def test_a_head_that_says_something_else_is_refused(arena: Arena, field: int, value: int) -> None:
    (page,) = pages(arena, 20)
    fields = list(HEAD.unpack_from(page))
    fields[field] = value
    put(arena, HEAD.pack(*fields) + page[HEAD.size :])
    assert read(arena) is None


def test_names_that_end_elsewhere_are_refused(arena: Arena) -> None:
    (page,) = pages(arena, 20)
    at = HEAD.size
    for _ in range(20):
        n_name = page[at + 9]
        for wrong in {0, 1, n_name - 1, n_name + 1, 255} - {n_name}:
            put(arena, page[: at + 9] + bytes([wrong]) + page[at + 10 :])
            assert read(arena) is None
        put(arena, page[:at] + bytes(8) + page[at + 8 :])
        assert read(arena) is None
        at += 10 + n_name
    assert at == len(page)


def test_a_page_in_the_middle_must_be_full_and_say_what_follows(arena: Arena) -> None:
    first, *_ = pages(arena, 300)
    fields = list(HEAD.unpack_from(first))
    put(arena, HEAD.pack(*fields[:6], 0, *fields[7:]) + first[HEAD.size :])
    assert read(arena) is None
    short = first[HEAD.size : len(first) - 10 - len(entries(300)[page_entries(arena) - 1][0])]
    put(arena, HEAD.pack(fields[0], HEAD.size + len(short), *fields[2:7], fields[7] - 1, 0) + short)
    assert read(arena) is None


def test_a_missing_page_ends_what_can_be_read(arena: Arena) -> None:
    pages(arena, 300)
    arena.slice_drop(*place(DIR, VERSION, 1))
    found = read_on(arena, DIR, VERSION, 2)
    assert found is not None and len(found) == page_entries(arena)
    assert read_on(arena, DIR, VERSION, found[-1][3]) is None


def test_random_bytes_are_no_page(arena: Arena) -> None:
    rng = random.Random(1)
    (page,) = pages(arena, 20)
    for _ in range(2000):
        damaged = bytearray(page)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        put(arena, bytes(damaged))
        found = read(arena)
        assert found is None or len(found) == 20
