"""Object stores that fail on purpose: `FaultyObjects` stands before a real one and fails chosen calls."""

import errno
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cairnfs.errors import ObjectError
from cairnfs.objects.base import ObjectInfo, ObjectStore, OneByOne
from cairnfs.types import Buffer


@dataclass
class Fault:
    """Fails calls number `first` (from 1) up to `last` of a method; None: for ever."""

    method: str
    first: int
    last: int | None
    error: Exception


class FaultyObjects(OneByOne):
    """The object store protocol over `store`, with faults by method and number of call.

    `calls` counts what was asked, `hold(method)` keeps calls of a method waiting until its event is set, and `corrupt` may
    replace what a get returns.
    """

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.calls: Counter[str] = Counter()
        self.corrupt: Callable[[str, int, bytes], bytes] | None = None
        self._faults: list[Fault] = []
        self._gates: dict[str, threading.Event] = {}
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)

    def fail_once(self, method: str, nth: int = 1, error: Exception | None = None) -> None:
        """The `nth` call of a method from now on fails."""
        self._add(method, nth, nth, error)

    def fail_forever(self, method: str, nth: int = 1, error: Exception | None = None) -> None:
        """The `nth` call of a method from now on fails, and all after it."""
        self._add(method, nth, None, error)

    def heal(self) -> None:
        """No call fails any more."""
        with self._lock:
            self._faults.clear()

    def hold(self, method: str) -> threading.Event:
        """Calls of a method wait until the returned event is set."""
        gate = self._gates[method] = threading.Event()
        return gate

    def wait_for(self, method: str, n: int = 1, timeout_s: float = 30.0) -> None:
        """Wait until `n` calls of a method have arrived in all."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: self.calls[method] >= n, timeout_s):
                raise TimeoutError(f"{self.calls[method]} calls of {method} instead of {n}")

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        self._enter("put")
        self.store.put(name, parts)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self._enter("get")
        data = self.store.get(name, offset, length)
        return data if self.corrupt is None else self.corrupt(name, offset, data)

    def head(self, name: str) -> ObjectInfo:
        self._enter("head")
        return self.store.head(name)

    def delete(self, name: str) -> None:
        self._enter("delete")
        self.store.delete(name)

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        self._enter("list")
        for info in self.store.list(prefix, after):
            self._enter("list_next")
            yield info

    def sync(self) -> None:
        self._enter("sync")
        self.store.sync()

    def check(self) -> None:
        self._enter("check")
        self.store.check()

    def close(self) -> None:
        self.store.close()

    def _add(self, method: str, nth: int, last: int | None, error: Exception | None) -> None:
        with self._lock:
            before = self.calls[method]
            until = None if last is None else before + last
            self._faults.append(Fault(method, before + nth, until, error or ObjectError("injected failure", errno.EIO)))

    def _enter(self, method: str) -> None:
        with self._arrived:
            self.calls[method] += 1
            n = self.calls[method]
            self._arrived.notify_all()
            failing = [f for f in self._faults if f.method == method and f.first <= n and (f.last is None or n <= f.last)]
        gate = self._gates.get(method)
        if gate is not None:
            gate.wait(30)
        if failing:
            raise failing[0].error
