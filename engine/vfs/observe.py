"""Operations of a Vfs as they are seen from outside: each is counted and timed, and noted in the access log if it is read.

`observed` gives the methods of a Vfs in that form; calling them costs less than a microsecond more than calling the Vfs.
"""

from collections.abc import Callable, Iterator
from functools import wraps
from time import perf_counter_ns
from typing import Any

from cairnfs.metrics import OPERATIONS, Counter, Metrics
from cairnfs.types import DirEntry
from cairnfs.vfs.accesslog import AccessLog

Operation = Callable[..., Any]


def observed(find: Callable[[str], Operation], metrics: Metrics, log: AccessLog) -> dict[str, Operation]:
    """Every operation by its name; `find` gives the method that does it."""
    plain = {op: find(op) for op in OPERATIONS}
    plain["read"] = _weighed(plain["read"], metrics.read_bytes, _n_bytes)
    plain["write"] = _weighed(plain["write"], metrics.written_bytes, int)
    plain["write_mapped"] = _weighed(plain["write_mapped"], metrics.written_bytes, int)
    found = {op: _measured(op, call, metrics, log) for op, call in plain.items()}
    found["readdir"] = _measured_listing(plain["readdir"], metrics, log)
    found["read_pages"] = _measured_pages(find("read_pages"), metrics)
    return found


def _n_bytes(views: list[memoryview]) -> int:
    return sum(map(len, views))


def _weighed(call: Operation, counter: Counter, weigh: Callable[[Any], int]) -> Operation:
    add = counter.add

    @wraps(call)
    def weighed(*args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        add(weigh(result))
        return result

    return weighed


def _measured(op: str, call: Operation, metrics: Metrics, log: AccessLog) -> Operation:
    observe_ns = metrics.operation_s[op].observe_ns
    failed = metrics.operation_errors[op].add

    @wraps(call)
    def measured(*args: Any, **kwargs: Any) -> Any:
        started_ns = perf_counter_ns()
        try:
            result = call(*args, **kwargs)
        except BaseException as error:
            took_ns = perf_counter_ns() - started_ns
            observe_ns(took_ns)
            failed()
            if log.readers:
                log.note(op, args, error, took_ns)
            raise
        took_ns = perf_counter_ns() - started_ns
        observe_ns(took_ns)
        if log.readers:
            log.note(op, args, result, took_ns)
        return result

    return measured


def _measured_pages(call: Operation, metrics: Metrics) -> Operation:
    """Is a listing when it has served it. While the access log is read it never does."""
    observe_ns = metrics.operation_s["readdir"].observe_ns
    failed = metrics.operation_errors["readdir"].add

    @wraps(call)
    def measured(*args: Any) -> Any:
        started_ns = perf_counter_ns()
        try:
            served = call(*args)
        except Exception:
            observe_ns(perf_counter_ns() - started_ns)
            failed()
            raise
        if served:
            observe_ns(perf_counter_ns() - started_ns)
        return served

    return measured


def _measured_listing(call: Operation, metrics: Metrics, log: AccessLog) -> Operation:
    """The time of a listing is until its reader has what it wants; it includes what the reader does with the entries."""
    observe_ns = metrics.operation_s["readdir"].observe_ns
    failed = metrics.operation_errors["readdir"].add

    @wraps(call)
    def measured(*args: Any, **kwargs: Any) -> Iterator[DirEntry]:
        started_ns = perf_counter_ns()
        n_entries = 0
        outcome: object = 0
        try:
            for entry in call(*args, **kwargs):
                n_entries += 1
                yield entry
        except Exception as error:
            failed()
            outcome = error
            raise
        finally:
            took_ns = perf_counter_ns() - started_ns
            observe_ns(took_ns)
            if log.readers:
                log.note("readdir", args, outcome or n_entries, took_ns)

    return measured
