"""Rows that a transaction may begin with instead of asking the store: read or committed here, and not known to have changed.

Where a store is on another machine every read is a round trip; on this one it is a good part of what a small change costs. A
recalled row is a guess: whatever an operation decides by it is a condition of its commit, or at most as old as the change log is
behind (a directory's mode and group, for what is made in it); where a store shows that others committed, nothing is recalled.
When the guess was wrong, the operation runs again on rows that are read. Chunk rows and extended attributes are never recalled:
they have no conditions of their own.

Who reads a file of several slices finds its layout here, too (`Names.remembered`), by the version that the arena says is present.
Pages are taken apart only then, or when a transaction begins: whoever does nothing but read small files never needs their rows.
"""

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from cairnfs.ext.kept_rows import KeptRows
from cairnfs.ext.page import Page
from cairnfs.meta.passed_on import PassedOn
from cairnfs.meta.records import ATTR_SUBKEY, DENTRY_PREFIX, INODE_PREFIX, PACK_PREFIX
from cairnfs.meta.stores.base import NOTHING, Along, Key, Row, Scanned, Store, Via
from cairnfs.meta.stores.named import neighbours, rows_of, rows_via
from cairnfs.types import Position

MAX_ROWS = 20_000  # some 10 MiB
MAX_VALUE_BYTES = 4096
RECALLED = {INODE_PREFIX: ATTR_SUBKEY, DENTRY_PREFIX: None, PACK_PREFIX: None}  # of these partitions, with this key if not any
_make_row = partial(tuple.__new__, Row)  # of its fields, without a call of Python as Row._make is one
MAX_CHANGED = 8192  # keys of latest changes; a read during which more are changed is not remembered


def _always() -> bool:
    return True


class _Late(NamedTuple):
    """A page that was read, with what is needed to know the keys of its rows."""

    partition: bytes
    page: Page
    prefix: bytes
    subkey: bytes

    @property
    def n_rows(self) -> int:
        return 2 * len(self.page)

    def rows(self) -> dict[Key, Row | None]:
        return rows_of(self.partition, neighbours(self.page), self.prefix, self.subkey)


class Recall:
    """Rows of one store. Remembers nothing before `start`. Thread-safe."""

    def __init__(self, store: Store, max_rows: int = MAX_ROWS) -> None:
        self._store = store
        self._max_rows = max_rows
        self._rows = KeptRows(RECALLED, _make_row, max_rows, MAX_VALUE_BYTES)
        self._late: deque[_Late | tuple[Key, ...]] = deque()  # pages, and keys of rows that have changed since those before
        self._n_late = 0  # rows and keys in it
        self._lock = threading.Lock()
        self._n_changes = 0
        self._changed: deque[tuple[int, list[Key]]] = deque()  # number of a change, what it has changed
        self._n_changed = 0  # keys in it
        self._n_forgotten = 0  # changes up to this number may have changed anything
        self._is_current: Callable[[], bool] = _always
        self._passed_on: PassedOn | None = None
        self.started = False

    def start(self, is_current: Callable[[], bool] = _always, passed_on: PassedOn | None = None) -> None:
        """From now on somebody calls `changed` with what others commit. `is_current`: whether all that they have is known.
        `passed_on`: what other processes have read.
        """
        self._is_current = is_current
        self._passed_on = passed_on
        self.started = True

    def pass_on(self, to: PassedOn) -> None:
        """Give all that is read to another process, instead of remembering it."""
        self._passed_on = to

    def scan(self, partition: bytes, after: bytes | None, limit: int, *, prefix: bytes = b"") -> list[tuple[bytes, Row]]:
        """A page of the store."""
        return self._store.scan(partition, after, limit, prefix=prefix)

    def read(self, keys: Sequence[Key]) -> list[Row | None]:
        """Rows from the store, which are remembered but for those that were changed meanwhile."""
        n_changes = self._n_changes
        rows = self._store.read(keys)
        self.learn(dict(zip(keys, rows, strict=True)), n_changes)
        return rows

    def read_via(self, key: Key, prefix: bytes, subkey: bytes, along: Along = NOTHING) -> Via:
        """`Store.read_via`; all rows are remembered likewise."""
        n_changes = self._n_changes
        found = self._store.read_via(key, prefix, subkey, along)
        self._learn_page(_Late(key[0], found.page, prefix, subkey), n_changes)
        self.learn(rows_via(key, found, prefix, subkey), n_changes)
        return found

    def scan_via(
        self, partition: bytes, after: bytes | None, limit: int, prefix: bytes, subkey: bytes, *, with_named: bool = True
    ) -> Scanned:
        """`Store.scan_via`; all rows are remembered likewise."""
        n_changes = self._n_changes
        found = self._store.scan_via(partition, after, limit, prefix, subkey, with_named=with_named)
        if with_named:
            self._learn_page(_Late(partition, found.page, prefix, subkey), n_changes)
        self.learn({(prefix + partition[1:], subkey): found.owner}, n_changes)
        return found

    @property
    def moment(self) -> int:
        """Taken before rows are read, given back with them."""
        return self._n_changes

    def learn(self, rows: Mapping[Key, Row | None], moment: int) -> None:
        """Remember rows that were read after `moment`."""
        if not self.started:
            if self._passed_on is not None:
                self._passed_on.put(rows)
            return
        with self._lock:
            if moment >= self._n_forgotten:
                changed = set(self._since(moment))
                for key in self._rows.may_keep(rows):
                    if key not in changed:
                        self._rows.put(key, rows[key])

    def known(self, keys: Iterable[Key]) -> dict[Key, Row | None]:
        """Those of the rows that are remembered; None for one that did not exist."""
        if not self.started or not self._is_current():
            return {}
        with self._lock:
            if self._late:
                self._settle()
            return self._rows.known(keys)

    def knows(self, key: Key) -> bool:
        """Whether `known` has the row."""
        return bool(self.known((key,))) if self._late else self.started and key in self._rows and self._is_current()

    def known_at(self, key: Key, version: Position) -> Row | None:
        """A row at a version, if that is remembered or was passed on."""
        row = self.known([key]).get(key)
        if (row is None or row.version != version) and self._passed_on is not None and self.started and self._is_current():
            row = self._passed_on.get(key, version)
        return row if row is not None and row.version == version else None

    def committed(self, rows: Mapping[Key, bytes | None], position: Position) -> None:
        """A commit of this process has given rows these values."""
        if not self.started:
            return
        with self._lock:
            keys = self._rows.may_keep(rows)
            self._note(keys)
            self._supersede(keys)
            self._rows.committed(keys, rows, position)

    def changed(self, keys: Iterable[Key]) -> None:
        """Others have changed these rows."""
        with self._lock:
            keys = list(keys)
            self._note(keys)
            self._supersede(keys)
            self._rows.drop(keys)

    def clear(self) -> None:
        """Nobody knows what was changed."""
        with self._lock:
            self._n_changes += 1
            self._n_forgotten = self._n_changes
            self._changed.clear()
            self._n_changed = 0
            self._rows.clear()
            self._forget_late()

    def _learn_page(self, late: _Late, moment: int) -> None:
        if not self.started and self._passed_on is not None:
            self._passed_on.put_page(late.page)
        if not self.started or not late.n_rows:
            return
        with self._lock:
            if moment < self._n_forgotten:
                return
            self._late.append(late)
            self._n_late += late.n_rows
            if since := tuple(self._since(moment)):
                self._supersede(since)
            while self._n_late > self._max_rows and self._late:
                first = self._late.popleft()
                self._n_late -= first.n_rows if isinstance(first, _Late) else len(first)

    def _note(self, keys: list[Key]) -> None:
        """One change more, of these rows."""
        self._n_changes += 1
        self._changed.append((self._n_changes, keys))
        self._n_changed += len(keys)
        while self._n_changed > MAX_CHANGED:
            self._n_forgotten, forgotten = self._changed.popleft()
            self._n_changed -= len(forgotten)

    def _since(self, moment: int) -> Iterator[Key]:
        """Keys of rows that were changed after a moment."""
        for number, keys in reversed(self._changed):
            if number <= moment:
                return
            yield from keys

    def _supersede(self, keys: Collection[Key]) -> None:
        """Rows of pages that were read until now count no more."""
        if not self._late:
            return
        self._late.append(tuple(keys))
        self._n_late += len(self._late[-1])
        if self._n_late > 2 * self._max_rows:
            self._forget_late()

    def _settle(self) -> None:
        """Remember the rows of pages. A row that was read or changed by itself is at least as new."""
        changed: set[Key] = set()
        found: list[dict[Key, Row | None]] = []
        while self._late:
            late = self._late.pop()
            if isinstance(late, _Late):
                found.append({key: row for key, row in late.rows().items() if key not in changed and key not in self._rows})
            else:
                changed.update(late)
        self._n_late = 0
        for rows in reversed(found):
            for key in self._rows.may_keep(rows):
                self._rows.put(key, rows[key])

    def _forget_late(self) -> None:
        self._late.clear()
        self._n_late = 0
