"""A metadata store that keeps in the arena what passes: rows that were read, and what commits have made of them.

The rules by which nothing outdated is kept are the arena's (`ext/arena.h`): a token taken before a read, positions of commits.
"""

from collections.abc import Callable, Sequence
from threading import Event

from cairnfs.ext.arena import Arena, Watch
from cairnfs.ext.page import Page
from cairnfs.meta.stores.base import (
    DENTRY_PREFIX,
    MARK_AT,
    NO_SESSION,
    NOTHING,
    Along,
    Committed,
    Condition,
    ConditionFailed,
    Effect,
    EndLink,
    Hazard,
    Key,
    LogRecord,
    Put,
    Row,
    Scanned,
    Store,
    Via,
)
from cairnfs.meta.stores.named import rows_via
from cairnfs.types import Position, SessionId


class KeptStore:
    """The store it is given."""

    def __init__(self, store: Store, arena: Arena) -> None:
        self._store = store
        self._arena = arena
        arena.watch(store.watch(), MARK_AT)

    @property
    def origin(self) -> SessionId:
        return self._store.origin

    @origin.setter
    def origin(self, session: SessionId) -> None:
        self._store.origin = session

    def read(self, keys: Sequence[Key]) -> list[Row | None]:
        token = self._arena.token()
        rows = self._store.read(keys)
        self._arena.note(list(keys), rows, token)
        return rows

    def read_via(self, key: Key, prefix: bytes, subkey: bytes, along: Along = NOTHING) -> Via:
        token = self._arena.token()
        found = self._store.read_via(key, prefix, subkey, along)
        rows = rows_via(key, found, prefix, subkey)
        self._arena.note(list(rows), list(rows.values()), token)
        self._note_page(key[0], found.page, token)
        return found

    def scan_via(
        self, partition: bytes, after: bytes | None, limit: int, prefix: bytes, subkey: bytes, *, with_named: bool = True
    ) -> Scanned:
        token = self._arena.token()
        found = self._store.scan_via(partition, after, limit, prefix, subkey, with_named=with_named)
        self._arena.note([(prefix + partition[1:], subkey)], [found.owner], token)
        if with_named:  # names alone spare nobody a round trip
            self._note_page(partition, found.page, token)
        return found

    def _note_page(self, partition: bytes, page: Page, token: int) -> None:
        if partition[:1] == DENTRY_PREFIX:
            page.note(self._arena, int.from_bytes(partition[1:], "big"), token)

    def scan(self, partition: bytes, after: bytes | None, limit: int, *, prefix: bytes = b"") -> list[tuple[bytes, Row]]:
        token = self._arena.token()
        found = self._store.scan(partition, after, limit, prefix=prefix)
        if partition[:1] == DENTRY_PREFIX:
            self._arena.note_names(partition, found, token)
        return found

    def partitions(self, prefix: bytes, after: bytes | None, limit: int) -> list[bytes]:
        return self._store.partitions(prefix, after, limit)

    def commit(self, conditions: Sequence[Condition], effects: Sequence[Effect]) -> Committed:
        if not effects:
            return self._store.commit(conditions, effects)
        token = self._arena.token()
        self._arena.committing([effect.key for effect in effects if type(effect) is Put])
        try:
            committed = self._store.commit(conditions, effects)
        except ConditionFailed:
            self._arena.refused()
            raise
        except BaseException:
            # It may have happened all the same, and nobody would tell: the follower skips commits of its own session.
            self._arena.drop_all()
            self._arena.refused()
            raise
        self._arena.committed(committed.rows, committed.position, token, committed.mark)
        return committed

    def position(self) -> Position:
        return self._store.position()

    def log(self, after: Position, limit: int, *, rings: bool = False) -> list[LogRecord]:
        return self._store.log(after, limit, rings=rings)

    def listen(self, rung: Callable[[], None], ended: Event) -> None:
        self._store.listen(rung, ended)

    def now_ns(self) -> int | None:
        return self._store.now_ns()

    def watch(self) -> Watch | None:
        return self._store.watch()

    def mark(self) -> bytes | None:
        return self._store.mark()

    def end_link(self) -> EndLink | None:
        return self._store.end_link()

    def sync(self) -> None:
        self._store.sync()

    def wipe(self, first: SessionId = NO_SESSION) -> None:
        self._store.wipe(first)

    def hazards(self) -> list[Hazard]:
        return self._store.hazards()

    def close(self) -> None:
        self._arena.watch(None)
        self._store.close()
