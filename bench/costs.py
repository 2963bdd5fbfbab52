"""What work costs, besides time: processor seconds of processes, and requests and bytes from the counters of a cairnfs mount."""

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import redis

from cairnfs.bench.mounted import counters
from cairnfs.bench.places import Place

CPUCLOCK_SCHED = 2  # nanoseconds, where /proc/PID/stat has hundredths of a second

# What is shown: names of samples of `.stats` whose growth is summed, all labels together.
COUNTED: dict[str, tuple[str, ...]] = {
    "FUSE requests": ("cairnfs_fuse_requests_total",),
    "metadata round trips": ("cairnfs_meta_store_seconds_count",),
    "object requests": ("cairnfs_object_seconds_count",),
    "bytes to objects": ("cairnfs_object_put_bytes_total",),
    "bytes from objects": ("cairnfs_object_got_bytes_total",),
}
ANSWERED = "cairnfs_fuse_answers_total"
IN_PYTHON = "of them in Python"
AT_REDIS = "round trips that Redis counts"
SERVER_CPU, CLIENT_CPU = "server CPU µs", "client CPU µs"
COSTS = ("FUSE requests", IN_PYTHON, *list(COUNTED)[1:], AT_REDIS, SERVER_CPU, CLIENT_CPU)
REQUESTS = 'cairnfs_fuse_requests_total{opcode="'


class Reading(NamedTuple):
    """The counters of a place at one time. Reading those of a mount is itself one OPEN, a few READ and one RELEASE."""

    samples: Mapping[str, float]
    cpu_s: float | None  # of the processes that serve it; None: none is known
    n_at_redis: int | None = None  # times that its Redis server has read from a client; None: it has none


def read(place: Place) -> Reading:
    pids = place.pids()
    samples = counters(place.cairnfs) if place.cairnfs else {}
    return Reading(samples, cpu_seconds(pids) if pids else None, None if place.redis is None else reads_of(place.redis))


def reads_of(url: str) -> int | None:
    """How often a Redis server has read from its clients: once for a command, a transaction or a pipeline, so these are round
    trips. Asking for it adds a few.
    """
    with redis.Redis.from_url(url) as client:
        found = client.info("stats").get("total_reads_processed")  # since Redis 6.0
    return None if found is None else int(found)


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time that processes have used so far, in user mode and in the kernel; those that are gone count nothing."""
    total_s = 0.0
    for pid in pids:
        try:
            total_s += time.clock_gettime(~pid << 3 | CPUCLOCK_SCHED)  # what clock_getcpuclockid(3) makes of a process
        except OSError:
            continue
    return total_s


def between(before: Reading, after: Reading, client_cpu_s: float, n_units: float) -> dict[str, float]:
    """Costs of each of `n_units`, by name; only those that can be known of the place."""
    costs: dict[str, float] = {}
    if after.samples:
        total = {what: sum(grown(before, after, name) for name in names) for what, names in COUNTED.items()}
        total[IN_PYTHON] = total["FUSE requests"] - grown(before, after, ANSWERED)
        costs |= {what: n / n_units for what, n in total.items()}
    if before.cpu_s is not None and after.cpu_s is not None:
        costs[SERVER_CPU] = (after.cpu_s - before.cpu_s) * 1e6 / n_units
    if before.n_at_redis is not None and after.n_at_redis is not None:
        costs[AT_REDIS] = (after.n_at_redis - before.n_at_redis) / n_units
    costs[CLIENT_CPU] = client_cpu_s * 1e6 / n_units
    return costs


def grown(before: Reading, after: Reading, name: str) -> float:
    """How much the samples of a name grew, all labels together."""
    return sum(
        value - before.samples.get(sample, 0) for sample, value in after.samples.items() if sample.partition("{")[0] == name
    )


def requests_by_opcode(before: Reading, after: Reading) -> dict[str, float]:
    return {
        sample[len(REQUESTS) : -2]: value - before.samples.get(sample, 0)
        for sample, value in after.samples.items()
        if sample.startswith(REQUESTS)
    }
