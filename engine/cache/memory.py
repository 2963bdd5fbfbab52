"""Verified plain bytes in memory, least recently used first out.

Small slices are kept in the arena, if there is one: compiled code answers from there, and it evicts by itself. The rest are
references: a cached buffer is immutable and is handed out as it is, so eviction never waits for readers.
A key is (pack, stored offset, page): page -1 stands for the whole slice, others for one 64 KiB page of it.
"""

import threading
from collections import OrderedDict

from cairnfs.ext.arena import Arena
from cairnfs.metrics import Metrics
from cairnfs.types import Buffer

Key = tuple[int, int, int]
WHOLE = -1
ENTRY_BYTES = 300  # what a cached buffer costs besides its bytes: key, views, table entry


class SliceCache:
    """A bounded map from slices and pages to their plain bytes. Thread-safe; holding its lock never blocks on I/O."""

    def __init__(self, max_bytes: int, metrics: Metrics | None = None, arena: Arena | None = None) -> None:
        self._arena = arena
        metrics = metrics or Metrics()
        self._hits = metrics.cache_hits
        self._evictions = metrics.cache_evictions
        self._max_bytes = max_bytes
        self._used_bytes = 0
        self._entries: OrderedDict[Key, Buffer] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        return self._used_bytes + (0 if self._arena is None else self._arena.counts[3])

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Buffer | None:
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
                self._hits.add()
        if found is None and self._arena is not None and key[2] == WHOLE:
            found = self._arena.slice_get(key[0], key[1])
            if found is not None:
                self._hits.add()
        return found

    def __contains__(self, key: Key) -> bool:
        return key in self._entries or (
            self._arena is not None and key[2] == WHOLE and self._arena.slice_bytes(key[0], key[1]) > 0
        )

    def put(self, key: Key, plain: Buffer) -> None:
        """Keep `plain`, which nobody may change any more. What alone exceeds the bound is not kept."""
        if self._arena is not None and key[2] == WHOLE and self._arena.slice_put(key[0], key[1], plain):
            return
        cost = len(plain) + ENTRY_BYTES
        if cost > self._max_bytes:
            return
        with self._lock:
            before = self._entries.pop(key, None)
            if before is not None:
                self._used_bytes -= len(before) + ENTRY_BYTES
            self._entries[key] = plain
            self._used_bytes += cost
            while self._used_bytes > self._max_bytes:
                _, dropped = self._entries.popitem(last=False)
                self._used_bytes -= len(dropped) + ENTRY_BYTES
                self._evictions.add()

    def drop(self, key: Key) -> None:
        with self._lock:
            before = self._entries.pop(key, None)
            if before is not None:
                self._used_bytes -= len(before) + ENTRY_BYTES

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self._used_bytes = 0
