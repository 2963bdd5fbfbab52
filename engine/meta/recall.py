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
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from cairnfs.ext.page import Page
from cairnfs.meta.passed_on import PassedOn
from cairnfs.meta.records import ATTR_SUBKEY, DENTRY_PREFIX, INODE_PREFIX, PACK_PREFIX
from cairnfs.meta.stores.base import NOTHING, Along, Key, Row, Scanned, Store, Via
from cairnfs.meta.stores.named import neighbours, rows_of, rows_via
from cairnfs.types import Position

MAX_ROWS = 20_000  # some 10 MiB
MAX_VALUE_BYTES = 4096
_INODES = INODE_PREFIX[0]
_OTHERS = DENTRY_PREFIX + PACK_PREFIX
MAX_CHANGED = 8192  # keys of latest changes; a read that takes longer than as many changes is not remembered


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
        self._rows: OrderedDict[Key, Row | None] = OrderedDict()
        self._late: deque[_Late | tuple[Key, ...]] = deque()  # pages, and keys of rows that have changed since those before
        self._n_late = 0  # rows and keys in it
        self._lock = threading.Lock()
        self._n_changes = 0
        self._changed: OrderedDict[Key, int] = OrderedDict()  # -> number of its latest change
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
                for key, row in rows.items():
                    if self._changed.get(key, 0) <= moment:
                        self._put(key, row)

    def known(self, keys: Iterable[Key]) -> dict[Key, Row | None]:
        """Those of the rows that are remembered; None for one that did not exist."""
        if not self.started or not self._is_current():
            return {}
        with self._lock:
            if self._late:
                self._settle()
            return {key: self._rows[key] for key in keys if key in self._rows}

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
        keys = _recalled(rows)
        with self._lock:
            self._note(keys)
            self._supersede(keys)
            for key in keys:
                before = self._rows.get(key)
                if before is None or before.version < position:
                    value = rows[key]
                    self._keep(key, None if value is None else Row(value, position))

    def changed(self, keys: Iterable[Key]) -> None:
        """Others have changed these rows."""
        with self._lock:
            keys = tuple(keys)
            self._note(keys)
            self._supersede(keys)
            for key in keys:
                self._rows.pop(key, None)

    def clear(self) -> None:
        """Nobody knows what was changed."""
        with self._lock:
            self._n_changes += 1
            self._n_forgotten = self._n_changes
            self._changed.clear()
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

    def _note(self, keys: Iterable[Key]) -> None:
        """One change more, of these rows."""
        self._n_changes += 1
        for key in keys:
            self._changed[key] = self._n_changes
            self._changed.move_to_end(key)
        while len(self._changed) > MAX_CHANGED:
            _, self._n_forgotten = self._changed.popitem(last=False)

    def _since(self, moment: int) -> Iterator[Key]:
        """Keys of rows that were changed after a moment."""
        for key, number in reversed(self._changed.items()):
            if number <= moment:
                return
            yield key

    def _supersede(self, keys: Iterable[Key]) -> None:
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
            for key, row in rows.items():
                self._put(key, row)

    def _forget_late(self) -> None:
        self._late.clear()
        self._n_late = 0

    def _put(self, key: Key, row: Row | None) -> None:
        if _recalled((key,)):
            self._keep(key, row)

    def _keep(self, key: Key, row: Row | None) -> None:
        """`_put` of a row that may be recalled."""
        if row is not None and len(row.value) > MAX_VALUE_BYTES:
            self._rows.pop(key, None)
            return
        self._rows[key] = row
        self._rows.move_to_end(key)
        if len(self._rows) > self._max_rows:
            self._rows.popitem(last=False)


def _recalled(keys: Iterable[Key]) -> list[Key]:
    """Those of the keys whose rows may be recalled: nothing else is ever among the rows."""
    return [key for key in keys if (key[1] == ATTR_SUBKEY if key[0][0] == _INODES else key[0][0] in _OTHERS)]
