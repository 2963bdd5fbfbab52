"""Entries that were read ahead are given from memory, which is bounded."""

from cairnfs.meta.names import Listed
from cairnfs.types import Inode
from cairnfs.vfs.ahead import FIRST_ENTRIES, MAX_ENTRIES, Ahead

ENTRIES = [Listed(b"%06d" % i, Inode(i + 2), 0, None) for i in range(3 * MAX_ENTRIES)]


def read(ahead: Ahead, after: bytes | None) -> list[Listed]:
    """As a listing does: what is there, else what comes next."""
    found = ahead.following(after)
    if found is None:
        start = 0 if after is None else int(after) + 1
        page = ENTRIES[start : start + ahead.n_wanted]
        ahead.put(after, page)
        return page
    return list(found[0])


def test_pages_grow_up_to_a_limit() -> None:
    ahead = Ahead()
    after: bytes | None = None
    sizes = []
    while page := read(ahead, after):
        sizes.append(len(page))
        after = page[-1].name
    assert sizes == [FIRST_ENTRIES, 512, 2048, MAX_ENTRIES, MAX_ENTRIES, 3 * MAX_ENTRIES - 2 * MAX_ENTRIES - 2688]


def test_what_was_read_is_given_from_any_of_its_names_on() -> None:
    ahead = Ahead()
    page = read(ahead, None)
    assert ahead.following(None) == (page, False)
    for i in (0, 1, 100, FIRST_ENTRIES - 2):
        assert ahead.following(page[i].name) == (page[i + 1 :], False)
    assert ahead.following(page[50].name + b"x") == (page[51:], False)  # that name was removed


def test_what_lies_before_or_behind_is_read() -> None:
    ahead = Ahead()
    first = read(ahead, None)
    assert ahead.following(first[-1].name) is None
    read(ahead, first[-1].name)
    assert ahead.following(None) is None
    assert ahead.following(first[0].name) is None


def test_the_end_is_known() -> None:
    ahead = Ahead()
    last = ENTRIES[-10:]
    ahead.put(ENTRIES[-11].name, last)
    assert ahead.following(last[0].name) == (last[1:], True)
    assert ahead.following(last[-1].name) == ((), True)
    ahead.put(b"z", [])
    assert ahead.following(b"z") == ((), True)
    assert ahead.following(b"a") is None
