"""One metadata operation as a transaction: reads, conditions and effects gathered, then committed in one round trip.

`transact(store, build)` runs `build(txn)` and commits what it gathered. When a condition does not hold, somebody changed
a row in between: `build` runs again on a new Txn with fresh reads. An FsError raised by `build` ends the operation, and so
does a failed condition that was given an error of its own (ENOSPC for a full volume, EEXIST for a taken name).

Reads of different calls may come from different moments; only what is a condition is guaranteed to hold at the commit.
`build` must have no effects of its own, because it may run several times.

With a `Recall` the first attempt begins with rows that are remembered. It is only a guess: when a condition does not hold or
`build` raises anything, the operation runs again on rows that are read.
"""

import random
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from cairnfs.errors import FsError, StoreError
from cairnfs.meta.recall import Recall
from cairnfs.meta.stores.base import (
    Absent,
    Add,
    AtMost,
    Committed,
    Condition,
    ConditionFailed,
    Delete,
    Effect,
    Exists,
    Key,
    Max,
    NotSince,
    Put,
    Row,
    Store,
    Unchanged,
)
from cairnfs.meta.stores.fields import added, raised
from cairnfs.types import Position

T = TypeVar("T")
Refusal = FsError | Callable[[], FsError]  # an error, or what makes it: most conditions hold

MAX_ATTEMPTS = 100
MAX_PAUSE_S = 0.02  # a conflicting commit takes well under a millisecond; a longer wait only costs latency

UNCOMMITTED = Position(0)  # version of a row that this transaction itself has changed

_step = tuple.__new__  # makes a step of its type and its fields; the type's own __new__ is Python, and a commit has a dozen steps


class Txn:
    """Gathers one commit. Reads show the transaction's own effects; `unchanged` speaks of rows as they were read."""

    __slots__ = ("_errors", "_n_adds", "_read", "_recall", "_store", "attempt", "conditions", "effects", "recalled")

    def __init__(self, store: Store | Recall, recall: Recall | None = None, attempt: int = 0) -> None:
        """`recall`: rows are taken from there if they are known; `recalled` says whether any were. `attempt`: how often the
        operation was tried before.
        """
        self.attempt = attempt
        self._store = store
        self._recall = recall
        self.recalled = False
        self._read: dict[Key, Row | None] = {}
        self._errors: list[tuple[Condition, Refusal]] = []
        self._n_adds = 0
        self.conditions: list[Condition] = []
        self.effects: list[Effect] = []

    def get(self, key: Key) -> Row | None:
        """The row as this transaction sees it: read once, with the transaction's own effects applied."""
        if key not in self._read:
            self._fetch([key])
        return self._view(key) if self.effects else self._read[key]

    def get_many(self, keys: Sequence[Key], *, absent: Key | None = None) -> list[Row | None]:
        """Like `get` for each key, fetching what is not yet known in one round trip and from one snapshot. `absent`: one of them,
        supposed not to exist (see `suppose_absent`).
        """
        read = self._read
        missing = [key for key in keys if key not in read]
        if missing:
            self._fetch(missing, absent)
        return [self._view(key) for key in keys] if self.effects else [read[key] for key in keys]

    def suppose_absent(self, keys: Sequence[Key]) -> None:
        """Guess that rows do not exist, where guesses are allowed and nothing is remembered of them.

        `absent` or `unchanged` must be a condition for each.
        """
        if self._recall is not None and self._recall.started:
            known = self._recall.known(keys)
            for key in keys:
                if key not in self._read:
                    self._read[key] = known.get(key)
                    self.recalled = True

    def _fetch(self, keys: Sequence[Key], absent: Key | None = None) -> None:
        recall = self._recall
        if recall is not None:
            known = recall.known(keys)
            if absent is not None and recall.started:
                known.setdefault(absent, None)
            if known:
                self.recalled = True
                self._read.update(known)
                keys = [key for key in keys if key not in known]
        if keys:
            keys = list(dict.fromkeys(keys))
            self._read.update(zip(keys, self._store.read(keys), strict=True))

    def scan(self, partition: bytes, after: bytes | None, limit: int, *, prefix: bytes = b"") -> list[tuple[bytes, Row]]:
        """A page of a partition as stored: without this transaction's effects, and no condition comes of it."""
        return self._store.scan(partition, after, limit, prefix=prefix)

    def unchanged(self, key: Key) -> None:
        """Condition: the row is still as this transaction first read it, present or absent (reads it if it has not)."""
        if key not in self._read:
            self._fetch([key])
        row = self._read[key]
        self.conditions.append(_step(Absent, (key,)) if row is None else _step(Unchanged, (key, row.version)))

    def exists(self, key: Key, error: Refusal | None = None) -> None:
        """Condition: the row exists at the commit. With `error`, that is raised instead of trying again."""
        self._condition(_step(Exists, (key,)), error)

    def absent(self, key: Key, error: Refusal | None = None) -> None:
        """Condition: the row does not exist before the commit. With `error`, that is raised instead of trying again."""
        self._condition(_step(Absent, (key,)), error)

    def not_since(self, key: Key, position: Position, error: Refusal | None = None) -> None:
        """Condition: nobody has written the row after a position. With `error`, that is raised instead of trying again."""
        self._condition(_step(NotSince, (key, position)), error)

    def at_most(self, key: Key, offset: int, n: int, limit: int, error: Refusal | None = None) -> None:
        """Condition: the field plus `n` is at most `limit`; its value is that before this commit's effects."""
        self._condition(AtMost(key, offset, n, limit), error)

    def put(self, key: Key, value: bytes) -> None:
        """Effect: the row has this value."""
        self.effects.append(_step(Put, (key, value)))

    def delete(self, key: Key) -> None:
        """Effect: the row is gone, whether it existed or not."""
        self.effects.append(_step(Delete, (key,)))

    def add(self, key: Key, offset: int, n: int, *, unused: bool = False) -> int:
        """Effect: `n` is added to a field (see `Add`). Returns the index of its new value in `Committed.added`."""
        self.effects.append(_step(Add, (key, offset, n, unused)))
        self._n_adds += 1
        return self._n_adds - 1

    def max(self, key: Key, offset: int, value: bytes) -> None:
        """Effect: a field becomes the greater of itself and `value`; the row must exist."""
        self.effects.append(_step(Max, (key, offset, value)))

    def error_for(self, failed: Condition | Effect) -> FsError | None:
        """The error that was given with a condition, if any."""
        for condition, error in self._errors:
            if condition is failed or condition == failed:
                return error if isinstance(error, FsError) else error()
        return None

    def _condition(self, condition: Condition, error: Refusal | None) -> None:
        self.conditions.append(condition)
        if error is not None:
            self._errors.append((condition, error))

    def _view(self, key: Key) -> Row | None:
        row = self._read[key]
        own = [effect for effect in self.effects if effect.key == key]
        if not own:
            return row
        value = None if row is None else row.value
        for effect in own:
            value = _applied(effect, value)
        return None if value is None else Row(value, UNCOMMITTED)


def _applied(effect: Effect, value: bytes | None) -> bytes | None:
    match effect:
        case Put():
            return effect.value
        case Delete():
            return None
        case Add():
            return added(value, effect.offset, effect.n)[0]
        case Max():
            # On a missing row the commit will fail, so what is shown until then does not matter.
            return None if value is None else raised(value, effect.offset, effect.value)


def transact(store: Store, build: Callable[[Txn], T], recall: Recall | None = None) -> T:
    """Run one operation to its commit and return what `build` returned. Raises what `build` raises.

    StoreError (EIO) when the store fails, or when other writers got in between too many times in a row.
    """
    return transact_at(store, build, recall)[0]


def transact_at(store: Store, build: Callable[[Txn], T], recall: Recall | None = None) -> tuple[T, Committed]:
    """`transact` that also returns the position of the commit and the new values of added fields.

    An operation without conditions and effects commits nothing; its position is 0.
    """
    failed: ConditionFailed | None = None
    for attempt in range(MAX_ATTEMPTS):
        if attempt > 1:  # the first conflict is retried at once: whoever won is done
            time.sleep(random.uniform(0, min(MAX_PAUSE_S, 0.0001 * 2**attempt)))
        txn = Txn(store if recall is None else recall, None if attempt else recall, attempt)
        try:
            result = build(txn)
        except Exception:
            if txn.recalled:
                continue
            raise
        if not txn.conditions and not txn.effects:
            if txn.recalled:
                continue
            return result, Committed(UNCOMMITTED, [], {})
        try:
            committed = store.commit(txn.conditions, txn.effects)
            if recall is not None:
                recall.committed(committed.rows, committed.position)
            return result, committed
        except ConditionFailed as failure:
            error = txn.error_for(failure.condition)
            if error is not None:
                raise error from None
            failed = failure
    raise StoreError(
        f"a metadata operation gave up after {MAX_ATTEMPTS} attempts: other writers keep changing the same row"
    ) from failed
