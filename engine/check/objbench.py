"""Does an object store do what volumes need of it, and how fast: `cairnfs objbench`.

Everything happens below a name of its own, as if it were a volume, and is deleted at the end, whatever happens on the way.
"""

import errno
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import NamedTuple, Protocol

from cairnfs.errors import CairnError, ObjectError, ObjectMissing, UsageError
from cairnfs.objects import ObjectStore, create_bucket, destroy_bucket, open_objects
from cairnfs.volume import new_format

RANGE_BYTES = 64 << 10  # of a large object, as a cold read of some pages asks for
N_RACERS = 6


class Sizes(NamedTuple):
    """What is stored and read: `big_bytes` in all by objects of `block_bytes`, `n_small` objects of `small_bytes`."""

    block_bytes: int
    big_bytes: int
    small_bytes: int
    n_small: int
    n_threads: int

    @property
    def n_big(self) -> int:
        return -(-self.big_bytes // self.block_bytes)

    def check(self) -> None:
        """UsageError for what cannot be measured."""
        if self.block_bytes < RANGE_BYTES or min(self.big_bytes, self.small_bytes, self.n_small, self.n_threads) < 1:
            raise UsageError(f"sizes and counts must be at least 1, and large objects have at least {RANGE_BYTES >> 10} KiB")


class Check(NamedTuple):
    """What was tried, and what was wrong; `failure` is empty when nothing was."""

    name: str
    failure: str


class Rate(NamedTuple):
    """How fast. Times are of single requests; `n_bytes` is 0 where bytes do not matter."""

    name: str
    n: int
    n_bytes: int
    elapsed_s: float
    median_s: float
    slowest_s: float

    @property
    def per_s(self) -> float:
        return self.n / self.elapsed_s

    @property
    def mib_per_s(self) -> float:
        return self.n_bytes / self.elapsed_s / (1 << 20)


@dataclass
class Report:
    """What came out. `where` is gone again."""

    where: str
    checks: list[Check] = field(default_factory=list)
    rates: list[Rate] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not any(check.failure for check in self.checks)


class Progress(Protocol):
    def advance(self, n: int = 1) -> None: ...


@contextmanager
def trial(storage: str, bucket: str | None, options: Mapping[str, str], io_timeout_s: float) -> Iterator[tuple[ObjectStore, str]]:
    """An object store for as long as the block runs, and where it is. What was stored in it is deleted at the end.

    Raises UsageError and VolumeError for what is wrong with the place.
    """
    place = new_format(f"objbench-{uuid.uuid4().hex[:16]}", storage=storage, bucket=bucket, storage_options=options)
    create_bucket(place)
    try:
        store = open_objects(place, io_timeout_s)
        try:
            yield store, f"{place.bucket}/{place.name}"
        finally:
            store.close()
    finally:
        try:
            destroy_bucket(place)
        except CairnError as error:
            raise ObjectError(f"what was stored below {place.bucket}/{place.name} is left there: {error}") from error


# What must work


def run_checks(store: ObjectStore) -> list[Check]:
    """Try everything that a volume asks of its store."""
    return [Check(name, _failure_of(partial(check, store))) for name, check in CHECKS.items()]


def _failure_of(check: Callable[[], None]) -> str:
    try:
        check()
    except (_Wrong, CairnError) as error:
        return str(error)
    return ""


class _Wrong(Exception):
    """The store has answered, and not as it should."""


def _need(condition: bool, otherwise: str) -> None:
    if not condition:
        raise _Wrong(otherwise)


def _check_content(store: ObjectStore) -> None:
    data = random.randbytes(1 << 20)
    store.put("check/content", [data[:1000], memoryview(data)[1000:]])
    _need(store.get("check/content") == data, "other bytes were read than stored")
    store.put("check/empty", [])
    _need(store.get("check/empty") == b"", "an empty object is not empty")


def _check_ranges(store: ObjectStore) -> None:
    data = random.randbytes(100_000)
    store.put("check/ranges", [data])
    for offset, length in ((0, 1), (1, 4096), (65_536, 34_464), (99_999, 1), (99_999, 10), (100_000, 10), (5, None)):
        end = None if length is None else offset + length
        _need(
            store.get("check/ranges", offset, length) == data[offset:end], f"the range {offset}+{length} is not what it must be"
        )


def _check_head(store: ObjectStore) -> None:
    store.put("check/head", [bytes(12_345)])
    info = store.head("check/head")
    _need(info.size == 12_345, f"an object of 12,345 bytes has {info.size}")
    _need(abs(info.mtime_s - time.time()) < 300, "its clock is more than five minutes away from this machine's")


def _check_missing(store: ObjectStore) -> None:
    for use in (store.get, store.head):
        try:
            use("check/missing")
        except ObjectMissing:
            continue
        raise _Wrong("an object that was never stored is there")


def _check_taken(store: ObjectStore) -> None:
    store.put("check/taken", [b"old"])
    _need(not _put(store, "check/taken", b"new"), "a name that was taken could be used again")
    _need(store.get("check/taken") == b"old", "an object was overwritten")


def _check_race(store: ObjectStore) -> None:
    with ThreadPoolExecutor(N_RACERS) as pool:
        won = list(pool.map(lambda i: _put(store, "check/race", bytes([i]) * 50_000), range(N_RACERS)))
    data = store.get("check/race")
    _need(len(data) == 50_000 and len(set(data)) == 1, "bytes of two objects were mixed")
    _need(won.count(True) == 1, f"{won.count(True)} of {N_RACERS} who stored the same name at once were told that they had")


def _put(store: ObjectStore, name: str, data: bytes) -> bool:
    """Whether the name was still free."""
    try:
        store.put(name, [data])
    except ObjectError as error:
        if error.errno != errno.EEXIST:
            raise
        return False
    return True


def _check_list(store: ObjectStore) -> None:
    names = [f"list/{i:02x}/{j}" for i in range(4) for j in range(5)]
    for name in reversed(names):
        store.put(name, [name.encode()])
    _need([info.name for info in store.list("list/")] == names, "the listing is not what was stored, in order of name")
    _need([info.name for info in store.list("list/02/")] == names[10:15], "the listing of a folder is not what is in it")


def _check_delete(store: ObjectStore) -> None:
    store.put("check/deleted", [b"x"])
    store.delete("check/deleted")
    store.delete("check/deleted")
    _need([info.name for info in store.list("check/deleted")] == [], "a deleted object is listed")
    _need(_put(store, "check/deleted", b"y"), "the name of a deleted object is taken")


CHECKS: dict[str, Callable[[ObjectStore], None]] = {
    "what was stored is read back": _check_content,
    "ranges": _check_ranges,
    "size and time": _check_head,
    "a missing object is told from a failure": _check_missing,
    "a taken name is refused": _check_taken,
    "one of several wins a name": _check_race,
    "listing in order": _check_list,
    "deletion": _check_delete,
}


# How fast


def run_rates(store: ObjectStore, sizes: Sizes, done: Callable[[int], None]) -> list[Rate]:
    """Measure each kind of request. `done` is told how many were made."""
    big, small = random.randbytes(sizes.block_bytes), random.randbytes(sizes.small_bytes)
    bigs, smalls = _names("big", sizes.n_big), _names("small", sizes.n_small)
    rng = random.Random(1)
    steps: list[tuple[str, list[str], Callable[[str], int]]] = [
        ("put large objects", bigs, lambda name: _stored(store, name, big)),
        ("get large objects", bigs, lambda name: len(store.get(name, 0, len(big)))),
        ("get ranges of them", bigs, lambda name: len(store.get(name, rng.randrange(len(big) - RANGE_BYTES + 1), RANGE_BYTES))),
        ("put small objects", smalls, lambda name: _stored(store, name, small)),
        ("get small objects", smalls, lambda name: len(store.get(name, 0, len(small)))),
        ("look at small objects", smalls, lambda name: _looked_at(store, name)),
    ]
    rates = [_rate(name, names, use, sizes.n_threads, done) for name, names, use in steps]
    rates.append(_listing(store, len(smalls)))
    done(len(smalls))
    return [*rates, _rate("delete objects", smalls + bigs, lambda name: _deleted(store, name), sizes.n_threads, done)]


def n_requests(sizes: Sizes) -> int:
    """What `done` will have been told in the end."""
    return 4 * sizes.n_big + 5 * sizes.n_small


def _names(kind: str, n: int) -> list[str]:
    return [f"{kind}/{i % 256:02x}/{i:08x}" for i in range(n)]


def _stored(store: ObjectStore, name: str, data: bytes) -> int:
    store.put(name, [data])
    return len(data)


def _looked_at(store: ObjectStore, name: str) -> int:
    store.head(name)
    return 0


def _deleted(store: ObjectStore, name: str) -> int:
    store.delete(name)
    return 0


def _listing(store: ObjectStore, expected: int) -> Rate:
    started_s = time.perf_counter()
    found = sum(1 for _ in store.list("small/"))
    elapsed_s = time.perf_counter() - started_s
    if found != expected:
        raise ObjectError(f"{found:,} objects were listed, {expected:,} are there")
    return Rate("list small objects", found, 0, elapsed_s, elapsed_s, elapsed_s)


def _rate(name: str, names: list[str], use: Callable[[str], int], n_threads: int, done: Callable[[int], None]) -> Rate:
    ended = threading.Condition()
    n_busy, stops = 0, False

    def timed(at: str) -> tuple[float, int]:
        nonlocal n_busy
        with ended:
            if stops:
                return 0.0, 0
            n_busy += 1
        started_s = time.perf_counter()
        try:
            n_bytes = use(at)
            return time.perf_counter() - started_s, n_bytes
        finally:
            with ended:
                n_busy -= 1
                ended.notify_all()

    found = []
    started_s = time.perf_counter()
    with ThreadPoolExecutor(n_threads, "objbench") as pool:
        try:
            for one in pool.map(timed, names):
                found.append(one)
                done(1)
        except BaseException:  # Ctrl-C among them: what waits is not begun any more
            with ended:
                stops = True
                ended.wait_for(lambda: n_busy == 0)  # a thread that was just being started is none that the pool waits for
            raise
    elapsed_s = time.perf_counter() - started_s
    times_s = [spent_s for spent_s, _ in found]
    return Rate(name, len(found), sum(n_bytes for _, n_bytes in found), elapsed_s, median(times_s), max(times_s))
