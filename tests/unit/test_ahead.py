"""Entries that were read ahead are given from memory, which is bounded."""

import pytest

from cairnfs.errors import StoreError
from cairnfs.ext.page import Page
from cairnfs.meta.names import PageOfNames
from cairnfs.vfs.ahead import FIRST_ENTRIES, MAX_ENTRIES, MODEST_ENTRIES, Ahead

NAMES = [b"%06d" % i for i in range(3 * MAX_ENTRIES)]


def page_of(names: list[bytes]) -> Page:
    return Page.of([(name, 1, b"value", 0, None) for name in names])


def following(ahead: Ahead, after: bytes | None) -> tuple[list[bytes], bool] | None:
    found = ahead.following(after)
    return None if found is None else (found[0].names(found[1]), found[2])


def read(ahead: Ahead, after: bytes | None) -> list[bytes]:
    """As a listing does: what is there, else what comes next."""
    found = following(ahead, after)
    if found is None:
        start = 0 if after is None else int(after) + 1
        page = NAMES[start : start + ahead.n_wanted]
        ahead.put(after, page_of(page))
        return page
    return found[0]


def test_pages_grow_up_to_a_limit() -> None:
    ahead = Ahead()
    after: bytes | None = None
    sizes = []
    while page := read(ahead, after):
        sizes.append(len(page))
        after = page[-1]
    assert sizes == [FIRST_ENTRIES, 512, 2048, MAX_ENTRIES, MAX_ENTRIES, 3 * MAX_ENTRIES - 2 * MAX_ENTRIES - 2688]


def test_a_modest_directory_comes_at_once() -> None:
    assert Ahead(MODEST_ENTRIES + 1).n_wanted == FIRST_ENTRIES
    ahead = Ahead(MODEST_ENTRIES)
    ahead.put(None, page_of(NAMES[:MODEST_ENTRIES]))
    assert following(ahead, None) == (NAMES[:MODEST_ENTRIES], True)


def test_what_was_read_is_given_from_any_of_its_names_on() -> None:
    ahead = Ahead()
    page = read(ahead, None)
    assert following(ahead, None) == (page, False)
    for i in (0, 1, 100, FIRST_ENTRIES - 2):
        assert following(ahead, page[i]) == (page[i + 1 :], False)
    assert following(ahead, page[50] + b"x") == (page[51:], False)  # that name was removed


def test_what_lies_before_or_behind_is_read() -> None:
    ahead = Ahead()
    first = read(ahead, None)
    assert ahead.following(first[-1]) is None
    read(ahead, first[-1])
    assert ahead.following(None) is None
    assert ahead.following(first[0]) is None


def test_the_end_is_known() -> None:
    ahead = Ahead()
    last = NAMES[-10:]
    ahead.put(NAMES[-11], page_of(last))
    assert following(ahead, last[0]) == (last[1:], True)
    assert following(ahead, last[-1]) == ([], True)
    ahead.put(b"z", page_of([]))
    assert following(ahead, b"z") == ([], True)
    assert following(ahead, b"a") is None


def test_the_page_that_comes_next_is_on_its_way_from_the_third_on() -> None:
    ahead = Ahead()
    asked: list[tuple[bytes | None, int]] = []

    def fetch(after: bytes | None, limit: int) -> PageOfNames:
        asked.append((after, limit))
        return PageOfNames(None, page_of(NAMES[:3]))

    last = read(ahead, None)[-1]
    ahead.expect(True, fetch)
    assert ahead.expected(last, True) is None
    last = read(ahead, last)[-1]
    ahead.expect(True, fetch)
    found = ahead.expected(last, True)
    assert found is not None and found.page.names() == NAMES[:3]
    assert asked == [(last, 2048)]
    ahead.expect(True, fetch)
    assert ahead.expected(last, False) is None, "one without inodes was wanted"
    assert ahead.expected(last, True) is None, "it is given once"


@pytest.mark.parametrize("n", [3, 512])
def test_nothing_is_on_its_way_at_the_end_or_after_an_error(n: int) -> None:
    ahead = Ahead()
    last = read(ahead, None)[-1]
    ahead.put(last, page_of(NAMES[128 : 128 + n]))

    def fetch(after: bytes | None, limit: int) -> PageOfNames:
        assert n == 512, "nothing comes after the last page"
        raise StoreError("away")

    ahead.expect(True, fetch)
    assert ahead.expected(NAMES[128 + n - 1], True) is None
