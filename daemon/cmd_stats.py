"""`cairnfs stats`: what a mount is doing, from its `.stats`: a line per interval, or JSON."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import click

from cairnfs.const import MIB
from cairnfs.daemon.command import COUNT, DURATION, json_option
from cairnfs.errors import CairnError, UsageError
from cairnfs.units import format_size

STATS = ".stats"
LINES_PER_HEADER = 20
DEFAULT_INTERVAL_S = 1.0

Samples = Mapping[str, int | float]


class Snapshot(NamedTuple):
    """All counts of a mount at one time."""

    unix_s: float
    monotonic_s: float
    samples: Samples


class Step:
    """What happened between two snapshots."""

    def __init__(self, before: Snapshot, now: Snapshot) -> None:
        self._before = before.samples
        self._now = now.samples
        self._seconds = max(now.monotonic_s - before.monotonic_s, 1e-6)

    def added(self, *names: str) -> float:
        """How much samples of these names grew, all their labels together; a name may carry its label."""
        return sum(
            value - self._before.get(name, 0)
            for name, value in self._now.items()
            if name in names or name.partition("{")[0] in names
        )

    def rate(self, *names: str) -> float:
        return self.added(*names) / self._seconds

    def value(self, name: str) -> float:
        """A sample as it is now."""
        return self._now.get(name, 0)


def _rate(*names: str) -> Callable[[Step], str]:
    return lambda step: f"{step.rate(*names):,.0f}"


def _mib_rate(*names: str) -> Callable[[Step], str]:
    return lambda step: f"{step.rate(*names) / MIB:,.1f}"


def _mean_ms(step: Step) -> str:
    n = step.added("cairnfs_operation_seconds_count")
    return f"{step.added('cairnfs_operation_seconds_sum') / n * 1000:.2f}" if n else "-"


def _cache_hits(step: Step) -> str:
    misses = step.added("cairnfs_cache_misses_total")
    hits = step.added("cairnfs_cache_hits_total") + step.added('cairnfs_fuse_answers_total{opcode="READ"}')
    return f"{100 * hits / (hits + misses):.0f}" if hits + misses else "-"


def _kind(kind: str, of: str) -> str:
    return f'cairnfs_{of}_seconds_count{{kind="{kind}"}}'


COLUMNS: tuple[tuple[str, Callable[[Step], str]], ...] = (
    ("ops/s", _rate("cairnfs_operation_seconds_count", "cairnfs_fuse_answers_total")),
    ("mean ms", _mean_ms),
    ("read MiB/s", _mib_rate("cairnfs_read_bytes_total", "cairnfs_fuse_answered_bytes_total")),
    ("write MiB/s", _mib_rate("cairnfs_written_bytes_total")),
    ("meta reads/s", _rate(_kind("read", "meta_store"), _kind("scan", "meta_store"))),
    ("commits/s", _rate(_kind("commit", "meta_store"))),
    ("gets/s", _rate(_kind("get", "object"))),
    ("puts/s", _rate(_kind("put", "object"))),
    ("cache %", _cache_hits),
    ("buffer", lambda step: format_size(int(step.value("cairnfs_buffer_bytes")))),
)
MIN_WIDTH = 8


@click.command("stats")
@click.argument("mountpoint", type=click.Path(path_type=Path))
@json_option
@click.option("--interval", type=DURATION, metavar="TIME", help="Time between lines. [default: 1s]")
@click.option("--count", type=COUNT, metavar="N", help="End after so many lines; 0: go on. [default: 0]")
def stats_command(mountpoint: Path, as_json: bool, interval: float | None, count: int | None) -> None:
    """Show what the mount at MOUNTPOINT is doing: a line per interval, with rates.

    With --json: all counters, once; with --interval or --count as well, once per interval, a line each.
    """
    if interval == 0:
        raise UsageError("--interval must be longer than 0")
    if as_json and interval is None and count is None:
        from cairnfs.daemon.output import print_json

        print_json(_as_json(take_snapshot(mountpoint)))
        return
    if as_json:
        _print_json_lines(mountpoint, interval or DEFAULT_INTERVAL_S, count or 0)
    else:
        _print_rates(mountpoint, interval or DEFAULT_INTERVAL_S, count or 0)


def take_snapshot(mountpoint: Path) -> Snapshot:
    """The counts of a mount now. CairnError when there is none at `mountpoint`."""
    try:
        text = (mountpoint / STATS).read_text()
        samples = dict(_sample(line) for line in text.splitlines())
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise CairnError(f"{mountpoint} is not the root of a cairnfs mount") from error
    return Snapshot(time.time(), time.monotonic(), samples)


def _sample(line: str) -> tuple[str, int | float]:
    name, value = line.rsplit(" ", 1)
    return name, float(value) if "." in value else int(value)


def _as_json(snapshot: Snapshot) -> dict[str, object]:
    return {"time": round(snapshot.unix_s, 3), "stats": snapshot.samples}


def _print_json_lines(mountpoint: Path, interval_s: float, count: int) -> None:
    n_lines = 0
    while True:
        print(json.dumps(_as_json(take_snapshot(mountpoint))), flush=True)
        n_lines += 1
        if n_lines == count:
            return
        time.sleep(interval_s)


def _print_rates(mountpoint: Path, interval_s: float, count: int) -> None:
    n_lines = 0
    before = take_snapshot(mountpoint)
    while True:
        if n_lines % LINES_PER_HEADER == 0:
            print(_line(title for title, _ in COLUMNS), flush=True)
        time.sleep(interval_s)
        now = take_snapshot(mountpoint)
        step = Step(before, now)
        print(_line(show(step) for _, show in COLUMNS), flush=True)
        before = now
        n_lines += 1
        if n_lines == count:
            return


def _line(cells: Iterable[str]) -> str:
    return "  ".join(cell.rjust(max(len(title), MIN_WIDTH)) for cell, (title, _) in zip(cells, COLUMNS, strict=True))
