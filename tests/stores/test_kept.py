"""What passes through a kept store is in the arena; what may have happened is not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cairnfs.errors import StoreError
from cairnfs.ext.arena import Arena
from cairnfs.meta.records import dentry_key, dentry_part
from cairnfs.meta.stores.base import Absent, Committed, ConditionFailed, Delete, Put
from cairnfs.meta.stores.kept import KeptStore
from cairnfs.meta.stores.sqlite import SqliteStore
from support.arenas import MIB, inode_row, name_row, version_of

INODE, RECORD = inode_row(7, 1)
NAME, DENTRY = name_row(1, b"a", 7, 1)


@pytest.fixture
def arena() -> Arena:
    return Arena(MIB)


@pytest.fixture
def below(tmp_path: Path) -> Iterator[SqliteStore]:
    """With two rows in it, which the arena was not told of."""
    store = SqliteStore(tmp_path / "m.db", "sqlite3://m.db", create=True)
    store.commit([], [Put(INODE, RECORD.value), Put(NAME, DENTRY.value)])
    yield store
    store.close()


@pytest.fixture
def store(below: SqliteStore, arena: Arena) -> KeptStore:
    return KeptStore(below, arena)


def known(arena: Arena) -> tuple[int | None, int | None]:
    return version_of(arena, 7), arena.name(1, b"a")


def test_what_is_read_is_kept(store: KeptStore, arena: Arena) -> None:
    store.read([INODE, dentry_key(1, b"none")])
    assert known(arena) == (1, None)
    assert arena.name(1, b"none") == 0
    store.scan(dentry_part(1), None, 10)
    assert known(arena) == (1, 7)


def test_a_commit_leaves_what_it_made_and_keeps_the_arena_fresh(store: KeptStore, arena: Arena) -> None:
    arena.saw(store.position(), store.mark())
    assert arena.fresh()
    store.commit([], [Put(INODE, RECORD.value), Delete(NAME)])
    assert known(arena) == (2, 0)
    assert arena.fresh()


def test_a_condition_that_fails_changes_nothing(store: KeptStore, arena: Arena) -> None:
    store.read([INODE, NAME])
    arena.saw(store.position(), store.mark())
    with pytest.raises(ConditionFailed):
        store.commit([Absent(INODE)], [Delete(INODE)])
    store.commit([], [])
    assert known(arena) == (1, 7)
    assert arena.fresh()


def test_after_a_failure_nothing_is_known_until_it_is_looked_at_again(
    store: KeptStore, below: SqliteStore, arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = below.commit

    def made_and_failed(*args: object) -> Committed:
        real([], [Delete(INODE), Delete(NAME)])
        raise StoreError("the answer was lost")

    store.read([INODE, NAME])
    arena.saw(store.position(), store.mark())
    token = arena.token()
    monkeypatch.setattr(below, "commit", made_and_failed)
    with pytest.raises(StoreError, match="lost"):
        store.commit([], [Delete(INODE), Delete(NAME)])
    assert not arena.fresh()
    arena.note([INODE, NAME], [RECORD, DENTRY], token)
    assert known(arena) == (None, None)
    arena.saw(store.position(), store.mark())
    assert arena.fresh()
    assert store.read([INODE, NAME]) == [None, None]
    assert known(arena) == (None, 0)


def test_a_closed_store_is_not_watched(store: KeptStore, arena: Arena) -> None:
    arena.saw(store.position(), store.mark())
    assert arena.fresh()
    store.close()
    assert not arena.fresh()
