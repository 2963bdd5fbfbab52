"""Listings that the VFS leaves to compiled code, and handles of compiled code that the VFS must serve itself."""

import itertools
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairnfs.ext.arena import Arena
from cairnfs.ext.listing import page_entries, place, read_on
from cairnfs.types import DirEntry, Inode
from cairnfs.vfs.handles import FIRST_COMPILED
from support.engine import ME, ROOT, Engine, new_volume

N = 700


@pytest.fixture
def arena() -> Arena:
    return Arena(16 << 20)


@pytest.fixture
def engine(tmp_path: Path, arena: Arena) -> Iterator[Engine]:
    with Engine(new_volume(tmp_path, "sqlite"), arena=arena) as engine:
        yield engine


def make(engine: Engine, *names: str) -> None:
    for name in names:
        engine.vfs.mknod(ME, ROOT, os.fsencode(name), 0o644)


def stay(n: int = N) -> list[str]:
    return [f"stay{i:04}" for i in range(n)]


def version(engine: Engine, ino: Inode = ROOT) -> int:
    return engine.meta.names.get(ino).version


def compiled_handle(engine: Engine, ino: Inode = ROOT) -> int:
    """The number of a handle that compiled code would give out now."""
    return ino << 64 | FIRST_COMPILED >> 2 | version(engine, ino)


def drop_pages(arena: Arena, of: int, n: int = N) -> None:
    for page_no in range(n // page_entries(arena) + 1):
        arena.slice_drop(*place(ROOT, of, page_no))


def names(entries: list[DirEntry]) -> list[str]:
    return [os.fsdecode(entry.name) for entry in entries]


def read(engine: Engine, fh: int, cookie: int, n: int, plus: bool = False) -> list[DirEntry]:
    return list(itertools.islice(engine.vfs.readdir(ME, fh, cookie, plus), n))


def kept(arena: Arena, of: int) -> bool:
    return read_on(arena, ROOT, of, 2) is not None


def test_a_listing_read_to_its_end_is_left_to_compiled_code(engine: Engine, arena: Arena) -> None:
    make(engine, *stay())
    fh = engine.vfs.opendir(ME, ROOT).fh
    taken = list(itertools.islice(engine.files.read_dir(fh), 400))
    assert not kept(arena, version(engine))
    list(engine.files.read_dir(fh, cookie=taken[-1].cookie))
    assert kept(arena, version(engine))
    found = list(engine.files.read_dir(compiled_handle(engine), reply_entries=7))
    assert names(found) == [".", "..", *stay()]
    assert [(e.ino, e.type) for e in found[2:5]] == [(engine.files.ino(name), stat.S_IFREG) for name in stay()[:3]]


def test_a_listing_read_back_and_forth_is_left_once_it_is_whole(engine: Engine, arena: Arena) -> None:
    make(engine, *stay())
    fh = engine.vfs.opendir(ME, ROOT).fh
    entries = read(engine, fh, 0, 300)
    read(engine, fh, entries[20].cookie, 100)
    read(engine, fh, 0, 10)
    read(engine, fh, 2, 30)
    assert not kept(arena, version(engine))
    assert names(read(engine, fh, entries[-1].cookie, N))[-1] == stay()[-1]
    assert names(list(engine.files.read_dir(compiled_handle(engine), cookie=2))) == stay()


@pytest.mark.parametrize("n_again", [1, N // 2])
def test_a_reply_given_again_while_its_reader_goes_on_leaves_no_part_of_a_listing(
    engine: Engine, arena: Arena, n_again: int
) -> None:
    """After a death: the kernel has got the first entries, and asks for the rest while the first request is served once more."""
    make(engine, *stay())
    fh = engine.vfs.opendir(ME, ROOT).fh
    entries = list(engine.vfs.readdir(ME, fh, 0))
    drop_pages(arena, version(engine))
    assert not kept(arena, version(engine))
    rest = engine.vfs.readdir(ME, fh, entries[-2].cookie)
    assert next(rest) == entries[-1]
    again = engine.vfs.readdir(ME, fh, 0)
    assert [next(again).name for _ in range(n_again)] == [entry.name for entry in entries[:n_again]]
    assert list(rest) == []
    found = read_on(arena, ROOT, version(engine), 2)
    assert found is None, f"a listing of {len(found)} entries is kept"
    assert [entry.name for entry in again] == [entry.name for entry in entries[n_again:]]
    assert names(list(engine.files.read_dir(compiled_handle(engine), cookie=2))) == stay()


def test_a_directory_that_changed_meanwhile_leaves_no_listing(engine: Engine, arena: Arena) -> None:
    make(engine, *stay())
    for change in (lambda: make(engine, "new"), lambda: engine.files.unlink("new"), lambda: engine.files.rename("stay0000", "a")):
        fh = engine.vfs.opendir(ME, ROOT).fh
        before = version(engine)
        last = read(engine, fh, 0, 300)[-1]
        change()
        list(engine.files.read_dir(fh, cookie=last.cookie))
        assert not kept(arena, before) and not kept(arena, version(engine))


def test_every_change_of_names_changes_the_version(engine: Engine) -> None:
    files = engine.files
    files.mkdir("d")
    d = files.ino("d")
    make(engine, "f", "g")
    changes = [
        lambda: make(engine, "new"),
        lambda: engine.vfs.link(ME, files.ino("new"), ROOT, b"hard"),
        lambda: files.unlink("hard"),
        lambda: files.mkdir("sub"),
        lambda: engine.vfs.rmdir(ME, ROOT, b"sub"),
        lambda: files.rename("new", "newer"),
        lambda: files.rename("newer", "f"),
        lambda: files.rename("f", "g", 2),
        lambda: engine.vfs.symlink(ME, ROOT, b"s", b"x"),
        lambda: files.close(files.create("c")),
    ]
    for change in changes:
        before = version(engine)
        change()
        assert version(engine) > before
    across = [lambda: files.rename("f", "d/f"), lambda: files.rename("g", "d/f", 2), lambda: files.rename("g", "d/f")]
    for change in across:
        before = version(engine), version(engine, d)
        change()
        assert version(engine) > before[0] and version(engine, d) > before[1]


def test_a_handle_goes_on_in_its_listing_whatever_happens(engine: Engine) -> None:
    make(engine, *stay())
    engine.files.list()
    fh = compiled_handle(engine)
    found = read(engine, fh, 0, 100)
    engine.files.unlink("stay0500")
    make(engine, "stay0600x")
    found += engine.files.read_dir(fh, cookie=found[-1].cookie)
    assert names(found) == [".", "..", *stay()]


def test_entries_of_the_past_have_no_attributes(engine: Engine) -> None:
    """The kernel would take them for those of what the names stand for now."""
    make(engine, *stay())
    engine.files.list()
    fh = compiled_handle(engine)
    entries = read(engine, fh, 0, 100, plus=True)
    assert all(entry.attr is not None and entry.attr.ino == entry.ino for entry in entries)
    make(engine, "new")
    later = read(engine, fh, entries[-1].cookie, 100, plus=True)
    assert len(later) == 100 and not any(entry.has_attr for entry in later)


def test_rewinding_leads_to_the_present_listing_and_stays_there(engine: Engine) -> None:
    make(engine, *stay())
    engine.files.list()
    fh = compiled_handle(engine)
    read(engine, fh, 0, 100)
    make(engine, "stay9")
    for keep_it in (False, True):
        if keep_it:
            engine.files.list()
        for plus in (False, True):
            found = list(engine.files.read_dir(fh, plus=plus, reply_entries=50))
            assert names(found) == [".", "..", *stay(), "stay9"]
            assert all(entry.has_attr == plus for entry in found)


@pytest.mark.parametrize("reply_entries", [10, 128, 300])
def test_where_pages_are_gone_an_unchanged_directory_goes_on_exactly(engine: Engine, arena: Arena, reply_entries: int) -> None:
    make(engine, *stay())
    engine.files.list()
    fh = compiled_handle(engine)
    found: list[DirEntry] = []
    while entries := read(engine, fh, found[-1].cookie if found else 0, reply_entries):
        found += entries
        drop_pages(arena, version(engine))
    assert names(found) == [".", "..", *stay()]


def test_where_pages_are_gone_removing_each_entry_as_it_is_listed_removes_all(engine: Engine, arena: Arena) -> None:
    make(engine, *stay())
    engine.files.list()
    fh = compiled_handle(engine)
    cookie = 2
    while entries := read(engine, fh, cookie, 64):
        cookie = entries[-1].cookie
        drop_pages(arena, version(engine))
        for entry in entries:
            engine.vfs.unlink(ME, ROOT, entry.name)
            drop_pages(arena, version(engine), 2)
    assert engine.files.names() == set()


def test_where_pages_are_gone_changes_lose_and_double_nothing_that_stays(engine: Engine, arena: Arena) -> None:
    rng = random.Random(5)
    make(engine, *stay(), *(f"stay{i:04}-go" for i in range(0, N, 5)))
    engine.files.list()
    fh = compiled_handle(engine)
    found: list[DirEntry] = []
    going = [f"stay{i:04}-go" for i in range(0, N, 5)]
    while entries := read(engine, fh, found[-1].cookie if found else 0, 40):
        found += entries
        drop_pages(arena, fh & (1 << 62) - 1)
        for _ in range(3):
            make(engine, f"stay{rng.randrange(N):04}-{rng.random()}")
        listed = set(names(found))
        seen = [name for name in going if name in listed]
        for name in seen[:2]:
            engine.files.unlink(name)
            going.remove(name)
    staying = [name for name in names(found) if name in set(stay())]
    assert staying == stay()


def test_when_the_next_name_is_gone_too_nothing_is_left_out(engine: Engine, arena: Arena) -> None:
    make(engine, *stay())
    engine.files.list()
    fh = compiled_handle(engine)
    found = read(engine, fh, 0, 102)
    drop_pages(arena, version(engine))
    engine.files.unlink("stay0100")
    again = list(engine.files.read_dir(fh, cookie=found[-1].cookie))
    assert set(names(found + again)) == {".", "..", *stay()} - {"stay0100"}


def test_without_room_for_the_listing_it_is_read_anew_for_each_reply(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    make(engine, *stay(), "a", "b")
    monkeypatch.setattr("cairnfs.vfs.listings.SCAN_NAMES", 100)
    monkeypatch.setattr("cairnfs.vfs.listings.keep_if_unchanged", lambda listing, present: None)
    found = list(engine.files.read_dir(compiled_handle(engine), reply_entries=90))
    assert names(found) == [".", "..", "a", "b", *stay()]


def test_a_removed_directory_is_empty_and_closing_needs_nothing(engine: Engine) -> None:
    d = engine.files.mkdir("d").ino
    engine.files.list("d")
    fh = compiled_handle(engine, d)
    assert names(read(engine, fh, 0, 9)) == [".", ".."]
    engine.vfs.rmdir(ME, ROOT, b"d")
    assert read(engine, fh, 0, 9) == read(engine, fh, 2, 9) == []
    engine.vfs.fsyncdir(ME, fh)
    engine.vfs.releasedir(ME, fh)


def test_an_engine_whose_arena_nobody_answers_from_keeps_no_listings(tmp_path: Path) -> None:
    with Engine(new_volume(tmp_path)) as engine:
        make(engine, "a")
        engine.files.list()
        assert engine.vfs._state.arena.counts[3] == 0


def test_the_dots_name_the_directory_and_its_parent(engine: Engine) -> None:
    d = engine.files.mkdir("d").ino
    e = engine.files.mkdir("d/e").ino
    engine.files.list("d/e")
    entries = read(engine, compiled_handle(engine, e), 0, 9, plus=True)
    assert [(entry.name, entry.ino, entry.cookie) for entry in entries] == [(b".", e, 1), (b"..", d, 2)]
    assert names(read(engine, compiled_handle(engine, e), 1, 9)) == [".."]


def test_attributes_are_fetched_at_once_or_not_at_all(engine: Engine, arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the arena has them nobody need fetch them; and who wants them all the same does not get them one by one."""
    make(engine, *stay())
    arena.saw(engine.volume.store.position(), engine.volume.store.mark())
    assert arena.fresh()
    engine.files.list(plus=True)
    fetched: list[int] = []
    fetch = engine.meta.names.fetch
    monkeypatch.setattr(engine.meta.names, "fetch", lambda inos: fetched.append(len(inos)) or fetch(inos))
    entries = engine.files.list(plus=True)
    assert fetched == []
    assert all(entry.attr is not None and entry.attr.ino == entry.ino for entry in entries)
    assert len(fetched) <= 1 + N // 100 and sum(fetched) <= 2 * N
    page = engine.meta.names.page
    monkeypatch.setattr(engine.meta.names, "page", lambda *what: (page(*what), arena.drop_all())[0])  # no room for what it brings
    fetched.clear()
    engine.files.list(plus=True)
    assert sum(fetched) >= N
