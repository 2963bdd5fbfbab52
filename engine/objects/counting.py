"""An object store that counts its requests, how long they took, and the bytes they moved.

Stands below the retries, so that every attempt is counted. A missing object is an answer and not an error.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from time import perf_counter_ns
from typing import Any, TypeVar

from cairnfs.errors import ObjectError, ObjectMissing
from cairnfs.metrics import Metrics
from cairnfs.objects.base import Delete, Get, ObjectInfo, ObjectStore, Outcome, Put, Request
from cairnfs.types import Buffer

T = TypeVar("T")

_KINDS = {Get: "get", Put: "put", Delete: "delete"}


class CountingObjects:
    """The store it is given."""

    def __init__(self, store: ObjectStore, metrics: Metrics) -> None:
        self._store = store
        self._seconds = metrics.object_s
        self._errors = metrics.object_errors
        self._put_bytes = metrics.object_put_bytes
        self._got_bytes = metrics.object_got_bytes

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        self._measured("put", self._store.put, name, parts)
        self._put_bytes.add(sum(map(len, parts)))

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        data = self._measured("get", self._store.get, name, offset, length)
        self._got_bytes.add(len(data))
        return data

    def head(self, name: str) -> ObjectInfo:
        return self._measured("head", self._store.head, name)

    def delete(self, name: str) -> None:
        self._measured("delete", self._store.delete, name)

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """Counted as one request, however many the store makes of it; the time ends with the first answer."""
        found = self._store.list(prefix, after)
        first = self._measured("list", next, found, None)
        if first is not None:
            yield first
            yield from found

    @property
    def depth(self) -> int:
        return self._store.depth

    def many(self, requests: Iterable[Request]) -> Iterator[tuple[int, Outcome]]:
        """The time of each begins when it is taken, and ends when its answer is."""
        begun: dict[int, tuple[str, int, int]] = {}

        def noted() -> Iterator[Request]:
            for i, request in enumerate(requests):
                n_bytes = sum(map(len, request.parts)) if isinstance(request, Put) else 0
                begun[i] = _KINDS[type(request)], n_bytes, perf_counter_ns()
                yield request

        for i, outcome in self._store.many(noted()):
            kind, n_bytes, began_ns = begun.pop(i)
            self._seconds[kind].observe_ns(perf_counter_ns() - began_ns)
            if isinstance(outcome, bytes):
                self._got_bytes.add(len(outcome))
            elif outcome is None:
                self._put_bytes.add(n_bytes)
            elif not isinstance(outcome, ObjectMissing):
                self._errors[kind].add()
            yield i, outcome

    def check(self) -> None:
        self._store.check()

    def sync(self) -> None:
        self._store.sync()

    def close(self) -> None:
        self._store.close()

    def _measured(self, kind: str, call: Callable[..., T], *args: Any) -> T:
        started_ns = perf_counter_ns()
        try:
            return call(*args)
        except ObjectMissing:
            raise
        except ObjectError:
            self._errors[kind].add()
            raise
        finally:
            self._seconds[kind].observe_ns(perf_counter_ns() - started_ns)
