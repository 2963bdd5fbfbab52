"""Directory listings: complete, without repeats, and with cookies that stay good while names come and go."""

import itertools
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairnfs.errors import CairnError
from cairnfs.vfs import readdir
from cairnfs.vfs.readdir import FIRST_COOKIE, Trail
from support.engine import ME, ROOT, Engine, new_volume

N_MANY = 10_000


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(new_volume(tmp_path)) as engine:
        yield engine


def make(engine: Engine, *names: str) -> None:
    for name in names:
        engine.vfs.mknod(ME, ROOT, os.fsencode(name), 0o644)


def test_a_listing_begins_with_the_dots(engine: Engine) -> None:
    attr = engine.files.mkdir("d")
    fh = engine.vfs.opendir(ME, attr.ino).fh
    entries = list(engine.vfs.readdir(ME, fh, 0, True))
    assert [(e.name, e.ino, e.cookie) for e in entries] == [(b".", attr.ino, 1), (b"..", ROOT, 2)]
    assert [e.name for e in engine.vfs.readdir(ME, fh, 1, False)] == [b".."]
    assert list(engine.vfs.readdir(ME, fh, 2, False)) == []


def test_each_way_of_cutting_a_listing_into_replies_gives_the_same(engine: Engine) -> None:
    make(engine, *(f"f{i}" for i in range(500)))
    fh = engine.vfs.opendir(ME, ROOT).fh
    whole = list(engine.vfs.readdir(ME, fh, 0))
    for reply_entries in (1, 7, 128, 129, 1000):
        assert list(engine.files.read_dir(fh, reply_entries=reply_entries)) == whole


def test_attributes_are_given_only_when_asked_for_and_are_fresh(engine: Engine) -> None:
    make(engine, "f")
    assert [e.attr for e in engine.files.list()] == [None]
    with engine.files.opened("f") as fh:
        engine.files.pwrite(fh, 0, b"123")
        attr = engine.files.list(plus=True)[0].attr
        assert attr is not None and attr.size == 3


def test_going_back_to_any_cookie_goes_on_behind_its_entry(engine: Engine) -> None:
    make(engine, *(f"f{i:04}" for i in range(3000)))
    fh = engine.vfs.opendir(ME, ROOT).fh
    entries = list(engine.files.read_dir(fh))
    for at in (0, 1, 2, 5, 1025, 1026, 2999, 500):
        following = itertools.islice(engine.vfs.readdir(ME, fh, entries[at].cookie), 3)
        assert list(following) == entries[at + 1 : at + 4]


def test_cookies_stay_good_when_names_before_them_come_and_go(engine: Engine) -> None:
    make(engine, *(f"f{i:04}" for i in range(3000)))
    fh = engine.vfs.opendir(ME, ROOT).fh
    entries = list(engine.files.read_dir(fh))
    for i in range(0, 1000, 2):
        engine.files.unlink(f"f{i:04}")
    make(engine, *(f"f{i:04}x" for i in range(1000)))
    by_name = {e.name: e.cookie for e in entries}
    again = list(engine.files.read_dir(fh, cookie=by_name[b"f0100"]))
    assert all(by_name[e.name] == e.cookie for e in again)
    assert [e.name for e in again] == [
        e.name for e in entries if e.name > b"f0100" and (e.name > b"f0999" or int(e.name[1:]) % 2)
    ]
    assert [e.name for e in engine.vfs.readdir(ME, fh, by_name[b"f2990"])] == [b"f%d" % i for i in range(2991, 3000)]


def test_rewinding_shows_what_was_created_since(engine: Engine) -> None:
    make(engine, "b")
    fh = engine.vfs.opendir(ME, ROOT).fh
    assert [e.name for e in engine.vfs.readdir(ME, fh, 2)] == [b"b"]
    make(engine, "a", "c")
    assert [e.name for e in engine.vfs.readdir(ME, fh, 0)] == [b".", b"..", b"a", b"b", b"c"]


def test_removing_each_entry_as_it_is_listed_removes_all(engine: Engine) -> None:
    make(engine, *(f"f{i}" for i in range(2000)))
    fh = engine.vfs.opendir(ME, ROOT).fh
    for entry in engine.files.read_dir(fh, cookie=2, reply_entries=64):
        engine.vfs.unlink(ME, ROOT, entry.name)
    assert engine.files.names() == set()


def test_a_cookie_never_given_out_is_treated_as_the_last(engine: Engine) -> None:
    make(engine, "a", "b")
    fh = engine.vfs.opendir(ME, ROOT).fh
    assert [e.name for e in engine.vfs.readdir(ME, fh, 1000)] == [b"a", b"b"]
    assert list(engine.vfs.readdir(ME, fh, 1000)) == []
    with pytest.raises(CairnError):
        engine.vfs.readdir(ME, fh, -1)
    engine.vfs.releasedir(ME, fh)
    with pytest.raises(CairnError):
        engine.vfs.readdir(ME, fh, 0)


def test_many_entries_while_others_create_and_delete(tmp_path: Path) -> None:
    with Engine(new_volume(tmp_path, "sqlite")) as engine:
        make(engine, *(f"stay{i:05}" for i in range(N_MANY)))
        stop = threading.Event()
        churners = [threading.Thread(target=churn, args=(engine, seed, stop)) for seed in range(2)]
        for thread in churners:
            thread.start()
        try:
            for plus in (False, True):
                fh = engine.vfs.opendir(ME, ROOT).fh
                entries = list(engine.files.read_dir(fh, plus=plus))
                names = [e.name for e in entries]
                assert len(names) == len(set(names))
                assert {b"stay%05d" % i for i in range(N_MANY)} <= set(names)
                assert [e.cookie for e in entries] == sorted({e.cookie for e in entries})
                engine.vfs.releasedir(ME, fh)
        finally:
            stop.set()
            for thread in churners:
                thread.join()
        assert engine.files.attr("").size == len(engine.files.list())


def churn(engine: Engine, seed: int, stop: threading.Event) -> None:
    rng = random.Random(seed)
    for i in itertools.count():
        if stop.is_set():
            return
        name = f"stay{rng.randrange(N_MANY):05}-{seed}-{i}"
        make(engine, name)
        if i % 2:
            engine.files.unlink(name)


# The trail by itself


def test_a_trail_finds_names_and_numbers() -> None:
    trail = Trail()
    names = [b"%06d" % (2 * i) for i in range(5000)]
    assert [trail.append(name) for name in names] == list(range(5000))
    for number in (0, 1, 1023, 1024, 4095, 4096, 4999):
        assert trail.name(number) == names[number]
        assert trail.number(names[number]) == number
        assert trail.number(b"%06d" % (2 * number + 1)) is None
    assert trail.number(b"") is None
    assert (trail.last, len(trail)) == (names[-1], 5000)


def test_a_thinned_trail_goes_back_rather_than_skip(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    monkeypatch.setattr(readdir, "SEGMENT_ENTRIES", 10)
    monkeypatch.setattr(readdir, "MAX_SEGMENTS", 3)
    make(engine, *(f"f{i:03}" for i in range(100)))
    fh = engine.vfs.opendir(ME, ROOT).fh
    entries = list(engine.vfs.readdir(ME, fh, 2))
    recent = entries[95]
    assert list(engine.vfs.readdir(ME, fh, recent.cookie)) == entries[96:]
    old = entries[15]
    assert old.cookie == FIRST_COOKIE + 15
    following = [e.name for e in engine.vfs.readdir(ME, fh, old.cookie)]
    assert following == [e.name for e in entries[11:]]
