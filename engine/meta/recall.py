"""Rows that a transaction may begin with instead of asking the store: read or committed here, and not known to have changed.

For stores on another machine, where every read is a round trip. A recalled row is a guess: whatever an operation decides by it is
a condition of its commit, or at most as old as the change log is behind (a directory's mode and group, for what is made in it).
When the guess was wrong, the operation runs again on rows that are read. Chunk rows and extended attributes are never recalled:
they have no conditions of their own.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from cairnfs.meta.records import ATTR_SUBKEY, DENTRY_PREFIX, INODE_PREFIX, PACK_PREFIX
from cairnfs.meta.stores.base import NOTHING, Along, Key, Neighbour, Row, Store, Via
from cairnfs.meta.stores.named import rows_of, rows_via
from cairnfs.types import Position

MAX_ROWS = 20_000  # some 10 MiB
MAX_VALUE_BYTES = 4096


class Recall:
    """Rows of one store. Remembers nothing before `start`. Thread-safe."""

    def __init__(self, store: Store, max_rows: int = MAX_ROWS) -> None:
        self._store = store
        self._max_rows = max_rows
        self._rows: OrderedDict[Key, Row | None] = OrderedDict()
        self._lock = threading.Lock()
        self._n_changes = 0
        self.started = False

    def start(self) -> None:
        """From now on somebody calls `changed` with what others commit."""
        self.started = True

    def scan(self, partition: bytes, after: bytes | None, limit: int, *, prefix: bytes = b"") -> list[tuple[bytes, Row]]:
        """A page of the store."""
        return self._store.scan(partition, after, limit, prefix=prefix)

    def read(self, keys: Sequence[Key]) -> list[Row | None]:
        """Rows from the store, which are remembered unless something was changed meanwhile."""
        n_changes = self._n_changes
        rows = self._store.read(keys)
        self.learn(dict(zip(keys, rows, strict=True)), n_changes)
        return rows

    def read_via(self, key: Key, prefix: bytes, subkey: bytes, along: Along = NOTHING) -> Via:
        """`Store.read_via`; all rows are remembered likewise."""
        n_changes = self._n_changes
        found = self._store.read_via(key, prefix, subkey, along)
        self.learn(rows_via(key, found, prefix, subkey), n_changes)
        return found

    def scan_via(self, partition: bytes, after: bytes | None, limit: int, prefix: bytes, subkey: bytes) -> list[Neighbour]:
        """`Store.scan_via`; all rows are remembered likewise."""
        n_changes = self._n_changes
        found = self._store.scan_via(partition, after, limit, prefix, subkey)
        self.learn(rows_of(partition, found, prefix, subkey), n_changes)
        return found

    @property
    def moment(self) -> int:
        """Taken before rows are read, given back with them."""
        return self._n_changes

    def learn(self, rows: Mapping[Key, Row | None], moment: int) -> None:
        """Remember rows that were read after `moment`."""
        if not self.started:
            return
        with self._lock:
            if moment == self._n_changes:
                for key, row in rows.items():
                    self._put(key, row)

    def known(self, keys: Iterable[Key]) -> dict[Key, Row | None]:
        """Those of the rows that are remembered; None for one that did not exist."""
        if not self.started:
            return {}
        with self._lock:
            return {key: self._rows[key] for key in keys if key in self._rows}

    def committed(self, rows: Mapping[Key, bytes | None], position: Position) -> None:
        """A commit of this process has given rows these values."""
        if not self.started:
            return
        with self._lock:
            self._n_changes += 1
            for key, value in rows.items():
                before = self._rows.get(key)
                if before is None or before.version < position:
                    self._put(key, None if value is None else Row(value, position))

    def changed(self, keys: Iterable[Key]) -> None:
        """Others have changed these rows."""
        with self._lock:
            self._n_changes += 1
            for key in keys:
                self._rows.pop(key, None)

    def clear(self) -> None:
        """Nobody knows what was changed."""
        with self._lock:
            self._n_changes += 1
            self._rows.clear()

    def _put(self, key: Key, row: Row | None) -> None:
        if not _is_recalled(key) or (row is not None and len(row.value) > MAX_VALUE_BYTES):
            self._rows.pop(key, None)
            return
        self._rows[key] = row
        self._rows.move_to_end(key)
        if len(self._rows) > self._max_rows:
            self._rows.popitem(last=False)


def _is_recalled(key: Key) -> bool:
    kind = key[0][:1]
    return kind in (DENTRY_PREFIX, PACK_PREFIX) or (kind == INODE_PREFIX and key[1] == ATTR_SUBKEY)
