"""Retries with jitter around any object store, so that a short outage is a delay and not an error.

Owns the decision which failures may pass. A missing object, a taken name, a refused permission never pass; a full store
is tried again for a second, since deletions go on in the background; all else until `io_timeout_s` has passed.
"""

import errno
import logging
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from cairnfs.clock import Clock
from cairnfs.errors import ObjectError, ObjectMissing
from cairnfs.metrics import Metrics
from cairnfs.objects.base import NotOurs, ObjectInfo, ObjectStore
from cairnfs.types import Buffer

log = logging.getLogger(__name__)
T = TypeVar("T")

FIRST_DELAY_S = 0.05
LONGEST_DELAY_S = 5.0
FULL_STORE_S = 1.0  # how long ENOSPC and EDQUOT are tried again
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FINAL = frozenset(
    {errno.ENOENT, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL, errno.EFBIG, errno.ENAMETOOLONG}
)


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
    ) -> None:
        """`waited_s`: for how long the calling thread was made to wait for what is no failure; that time does not count."""
        self._store = store
        self._io_timeout_s = io_timeout_s
        self._clock = clock
        self._rng = rng
        self._waited_s = waited_s
        self._retries = (metrics or Metrics()).object_retries
        self._closing = threading.Event()

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        attempts = 0

        def once() -> None:
            nonlocal attempts
            attempts += 1
            try:
                self._store.put(name, parts)
            except ObjectError as e:
                # An earlier attempt may have stored the object although it reported a failure.
                if attempts == 1 or e.errno != errno.EEXIST or self._store.get(name) != b"".join(parts):
                    raise

        self._run(once, "store", name)

    def get_marker(self, name: str) -> bytes:
        """Read the marker of a place that is being opened: then a place that is not ours will not become ours by waiting."""
        return self._run(lambda: self._store.get(name), "read", name, final=NotOurs)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        try:
            return self._store.get(name, offset, length)  # no closure on the way that nearly all reads take
        except ObjectMissing:
            raise
        except ObjectError:
            self._retries.add()
            return self._run(lambda: self._store.get(name, offset, length), "read", name)

    def head(self, name: str) -> ObjectInfo:
        return self._run(lambda: self._store.head(name), "look at", name)

    def delete(self, name: str) -> None:
        self._run(lambda: self._store.delete(name), "delete", name)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Goes on after the last name that was delivered when the store fails on the way."""
        last = ""
        found = self._store.list(prefix)
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

    def check(self) -> None:
        """Not retried: the caller wants to know the state now."""
        self._store.check()

    def close(self) -> None:
        self._closing.set()
        self._store.close()

    def _resume(self, prefix: str, last: str) -> tuple[Iterator[ObjectInfo], ObjectInfo | None]:
        found = self._store.list(prefix)
        return found, next((info for info in found if info.name > last), None)

    def _run(self, call: Callable[[], T], doing: str, name: str, final: type[ObjectError] = ObjectMissing) -> T:
        started_s = self._clock.monotonic_s() - self._waited_s()
        delay_s = FIRST_DELAY_S
        while True:
            try:
                return call()
            except ObjectError as e:
                waited_s = self._clock.monotonic_s() - self._waited_s() - started_s
                if isinstance(e, final) or self._gives_up(e, waited_s):
                    raise
                if delay_s == FIRST_DELAY_S and e.errno not in _FULL:
                    log.warning("cannot %s object %s yet, trying again: %s", doing, name, e)
                left_s = max(0.0, self._limit_s(e) - waited_s)
            self._clock.sleep(min(left_s, delay_s * self._rng.uniform(0.5, 1.0)))
            delay_s = min(LONGEST_DELAY_S, delay_s * 2)
            self._retries.add()

    def _gives_up(self, e: ObjectError, waited_s: float) -> bool:
        return e.errno in _FINAL or waited_s >= self._limit_s(e) or self._closing.is_set()

    def _limit_s(self, e: ObjectError) -> float:
        return min(FULL_STORE_S, self._io_timeout_s) if e.errno in _FULL else self._io_timeout_s
