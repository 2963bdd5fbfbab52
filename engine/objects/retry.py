"""Retries with jitter around any object store, so that a short outage is a delay and not an error.

Owns the decision which failures may pass. A missing object, a taken name, a refused permission never pass; a full store
is tried again for a second, since deletions go on in the background; all else until `io_timeout_s` has passed.
"""

import errno
import logging
import math
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from cairnfs.clock import Clock
from cairnfs.errors import ObjectError, ObjectMissing
from cairnfs.metrics import Metrics
from cairnfs.objects.base import NotOurs, ObjectInfo, ObjectStore, Outcome, Put, Request, Untrusted, outcome_of
from cairnfs.objects.pace import Pace
from cairnfs.types import Buffer

log = logging.getLogger(__name__)
T = TypeVar("T")

FIRST_DELAY_S = 0.05
LONGEST_DELAY_S = 5.0
NOTED_AGAIN_S = 1.0  # how often the log tells of what is tried again: a server may say to slow down a hundred times a second
TOLD_AGAIN_S = 60.0  # how often the log tells of a store that refuses everything
FULL_STORE_S = 1.0  # how long ENOSPC and EDQUOT are tried again
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_FINAL = frozenset(
    {errno.ENOENT, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL, errno.EFBIG, errno.ENAMETOOLONG}
)


class _Tried(NamedTuple):
    """A request of many: its number, when it was made first, and how often."""

    no: int
    request: Request
    began_s: float
    attempts: int


class Retrying:
    """The store it is given, with failures that may pass tried again. `closing` ends all waiting."""

    def __init__(
        self,
        store: ObjectStore,
        io_timeout_s: float,
        clock: Clock,
        rng: random.Random,
        metrics: Metrics | None = None,
        waited_s: Callable[[], float] = float,
        *,
        tells: bool = False,
    ) -> None:
        """`waited_s`: for how long the calling thread was made to wait for what is no failure; that time does not count.
        `tells`: of refusals in the log, because those who use the store only pass an errno on.
        """
        self._store = store
        self._io_timeout_s = io_timeout_s
        self._clock = clock
        self._rng = rng
        self._waited_s = waited_s
        self._noted_from_s = 0.0
        self._n_unnoted = 0
        self._tells_from_s = 0.0 if tells else math.inf
        self._retries = (metrics or Metrics()).object_retries
        self._closing = threading.Event()
        self._pace = Pace(clock, io_timeout_s, self._closing.is_set)

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        attempts = 0

        def once() -> None:
            nonlocal attempts
            attempts += 1
            try:
                self._pace.run(lambda: self._store.put(name, parts))
            except ObjectError as e:
                if not self._was_stored(e, attempts, name, parts):
                    raise

        self._run(once, "store", name)

    def get_marker(self, name: str) -> bytes:
        """Read the marker of a place that is being opened: then a place that is not ours will not become ours by waiting."""
        return self._run(lambda: self._store.get(name), "read", name, final=(NotOurs, Untrusted))

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        began_s = self._now_s()
        try:
            return self._store.get(name, offset, length)  # no closure on the way that nearly all reads take
        except ObjectMissing:
            raise
        except ObjectError as e:
            failed = e
        return self._run(lambda: self._store.get(name, offset, length), "read", name, failed=failed, began_s=began_s)

    def head(self, name: str) -> ObjectInfo:
        return self._run(lambda: self._store.head(name), "look at", name)

    def delete(self, name: str) -> None:
        began_s = self._now_s()
        try:
            return self._store.delete(name)  # likewise: there are as many as files removed
        except ObjectError as e:
            failed = e
        self._run(lambda: self._store.delete(name), "delete", name, failed=failed, began_s=began_s)

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """Goes on after the last name that was delivered when the store fails on the way."""
        last = after
        found = self._store.list(prefix, after)
        while True:
            try:
                info = next(found, None)
            except ObjectError:
                self._retries.add()
                found, info = self._run(partial(self._resume, prefix, last), "list", prefix)
            if info is None:
                return
            last = info.name
            yield info

    @property
    def depth(self) -> int:
        return self._store.depth

    def many(self, requests: Iterable[Request]) -> Iterator[tuple[int, Outcome]]:
        """What failed is tried again together, before more is taken from `requests`."""
        if self.depth == 1:
            yield from ((i, outcome_of(self, request)) for i, request in enumerate(requests))
            return
        source = enumerate(requests)
        again: Sequence[_Tried] = ()
        delay_s = FIRST_DELAY_S
        while True:
            failed: list[tuple[_Tried, ObjectError]] = []
            for tried, outcome in self._round(again or self._new(source, failed)):
                settled = self._settled(tried, outcome)
                if isinstance(settled, ObjectError) and not self._final(settled, tried):
                    failed.append((tried, settled))
                else:
                    yield tried.no, settled
            if failed:
                self._note(failed[0][1], delay_s, "reach", f"{failed[0][0].request.name} (one of {len(failed)})")
                delay_s = self._pause(delay_s, min(self._left_s(e, self._now_s() - tried.began_s) for tried, e in failed))
                self._retries.add(len(failed))
            elif not again:
                return
            else:
                delay_s = FIRST_DELAY_S
            again = [tried._replace(attempts=tried.attempts + 1) for tried, _ in failed]

    def _new(self, source: Iterator[tuple[int, Request]], failed: Sequence[object]) -> Iterator[_Tried]:
        """What was not tried yet, until something has `failed`."""
        while not failed and (numbered := next(source, None)) is not None:
            yield _Tried(*numbered, self._now_s(), 1)

    def _round(self, attempts: Iterable[_Tried]) -> Iterator[tuple[_Tried, Outcome]]:
        sent: dict[int, _Tried] = {}

        def requests() -> Iterator[Request]:
            for n, tried in enumerate(attempts):
                sent[n] = tried
                yield tried.request

        for n, outcome in self._store.many(requests()):
            yield sent.pop(n), outcome

    def _settled(self, tried: _Tried, outcome: Outcome) -> Outcome:
        if isinstance(outcome, ObjectError) and isinstance(tried.request, Put):
            try:
                return None if self._was_stored(outcome, tried.attempts, *tried.request) else outcome
            except ObjectError as e:
                return e
        return outcome

    def _was_stored(self, e: ObjectError, attempts: int, name: str, parts: Sequence[Buffer]) -> bool:
        """Whether an earlier attempt has stored an object although it reported a failure."""
        return attempts > 1 and e.errno == errno.EEXIST and self._store.get(name) == b"".join(parts)

    def _final(self, e: ObjectError, tried: _Tried) -> bool:
        return isinstance(e, ObjectMissing) or self._gives_up(e, self._now_s() - tried.began_s)

    def check(self) -> None:
        """Not retried: the caller wants to know the state now."""
        self._store.check()

    def sync(self) -> None:
        """Not retried: what was lost is told once."""
        self._store.sync()

    def close(self) -> None:
        self._closing.set()
        self._store.close()

    def _resume(self, prefix: str, last: str) -> tuple[Iterator[ObjectInfo], ObjectInfo | None]:
        found = self._store.list(prefix, last)
        return found, next(found, None)

    def _run(
        self,
        call: Callable[[], T],
        doing: str,
        name: str,
        *,
        final: type[ObjectError] | tuple[type[ObjectError], ...] = ObjectMissing,
        failed: ObjectError | None = None,
        began_s: float | None = None,
    ) -> T:
        """`failed`: what a first attempt, begun at `began_s`, has come to."""
        began_s = self._now_s() if began_s is None else began_s
        delay_s = FIRST_DELAY_S
        while True:
            try:
                if failed is None:
                    return call()
                raise failed
            except ObjectError as e:
                failed = None
                waited_s = self._now_s() - began_s
                if isinstance(e, final) or self._gives_up(e, waited_s):
                    raise
                self._note(e, delay_s, doing, name)
                left_s = self._left_s(e, waited_s)
            delay_s = self._pause(delay_s, left_s)
            self._retries.add()

    def _now_s(self) -> float:
        """A clock that stands still while the calling thread waits for what is no failure."""
        return self._clock.monotonic_s() - self._waited_s() - self._pace.waited_s()

    def _note(self, e: ObjectError, delay_s: float, doing: str, name: str) -> None:
        """Tell of a first failure; of those that come soon after it, only how many they are."""
        if delay_s != FIRST_DELAY_S or e.errno in _FULL:
            return
        now_s = self._clock.monotonic_s()
        if now_s < self._noted_from_s:
            self._n_unnoted += 1
            return
        more = f" ({self._n_unnoted} more before this)" if self._n_unnoted else ""
        self._noted_from_s, self._n_unnoted = now_s + NOTED_AGAIN_S, 0
        log.warning("cannot %s object %s yet, trying again: %s%s", doing, name, e, more)

    def _pause(self, delay_s: float, left_s: float) -> float:
        """Wait before another attempt; returns how long to wait before the one after."""
        self._clock.sleep(min(left_s, delay_s * self._rng.uniform(0.5, 1.0)))
        return min(LONGEST_DELAY_S, delay_s * 2)

    def _left_s(self, e: ObjectError, waited_s: float) -> float:
        return max(0.0, self._limit_s(e) - waited_s)

    def _gives_up(self, e: ObjectError, waited_s: float) -> bool:
        if e.errno in _REFUSED and (now_s := self._clock.monotonic_s()) >= self._tells_from_s:
            self._tells_from_s = now_s + TOLD_AGAIN_S
            log.warning("%s", e)
        return e.errno in _FINAL or waited_s >= self._limit_s(e) or self._closing.is_set()

    def _limit_s(self, e: ObjectError) -> float:
        return min(FULL_STORE_S, self._io_timeout_s) if e.errno in _FULL else self._io_timeout_s
