"""`cairnfs bench`: runs the suites, compares two runs, times the compiled kernels.

`cairnfs bench DIR...` is short for `cairnfs bench run DIR...`. The program finds this module by its name.
"""

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cairnfs.const import MIB
from cairnfs.daemon.command import COUNT, Parsed, json_option, size_type
from cairnfs.daemon.output import note, print_json, print_table
from cairnfs.errors import CairnError, UsageError
from cairnfs.units import format_size

if TYPE_CHECKING:
    from cairnfs.bench.content import Sizes
    from cairnfs.bench.results import Results

SUITE_NAMES = ("quick", "small-files", "metadata", "large", "train", "all")
MIN_FILES = 10
WORK = ("n_files", "n_procs", "sizes", "large_bytes")  # settings in which runs that are compared should agree
MIN_LARGE_BYTES = 8 * MIB  # for each process: a warm-up does an eighth


class BenchGroup(click.Group):
    """A group whose first command need not be named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group("bench", cls=BenchGroup)
def bench_command() -> None:
    """Compare directories: rates, latencies and costs of the same work in each.

    `cairnfs bench DIR [DIR ...]` is short for `cairnfs bench run`; a directory called like a command is ./run.
    """


def _percent(text: str) -> float:
    """A part: `10%` is 0.1."""
    try:
        part = float(text.removesuffix("%")) / 100
    except ValueError:
        part = -1
    if not 0 <= part < float("inf"):
        raise UsageError(f"'{text}' is not a percentage: write a number such as 10%")
    return part


def _sizes(text: str) -> object:
    from cairnfs.bench.content import parse_sizes

    return parse_sizes(text)


@bench_command.command("run")
@click.argument("directories", nargs=-1, type=click.Path(path_type=Path), metavar="DIR...")
@click.option("--suite", type=click.Choice(SUITE_NAMES), default="quick", show_default=True, help="What to measure.")
@click.option("--files", type=COUNT, metavar="N", help="Small files, records, ... of each workload. [default: the suite's]")
@click.option("--size", type=Parsed("size", _sizes), metavar="DIST", help="Of small files: wav, or one such as 64K.")
@click.option("--large", type=size_type(MIB), metavar="SIZE", help="All large files together, in MiB.")
@click.option("--procs", type=COUNT, metavar="P", help="Processes that work at once. [default: CPUs]")
@click.option("--rounds", type=COUNT, metavar="N", help="How often. [default: 3, of `quick` what fits into 4 minutes]")
@click.option("--no-cold", is_flag=True, help="Leave out what needs the kernel's caches dropped.")
@click.option("--peers", is_flag=True, help="Set up cairnfs, the local file system and JuiceFS in TMPDIR, and compare them.")
@click.option("--io-uring", is_flag=True, help="Mount cairnfs of --peers for FUSE over io_uring, which is switched on meanwhile.")
@click.option(
    "--redis-delay", type=click.FloatRange(min=0), default=0.0, metavar="MS", help="How much later Redis of --peers answers."
)
@click.option("--cpu-of", multiple=True, metavar="PID|NAME", help="Count the processor time of these processes, too.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), metavar="FILE", help="Write all values there.")
@click.option("--html", "html_path", type=click.Path(path_type=Path), metavar="FILE", help="Write a report with plots there.")
@click.option("--markdown", "markdown_path", type=click.Path(path_type=Path), metavar="FILE", help="Write the tables there.")
def run_command(
    directories: tuple[Path, ...],
    suite: str,
    files: int | None,
    size: "Sizes | None",
    large: int | None,
    procs: int | None,
    rounds: int | None,
    no_cold: bool,
    peers: bool,
    io_uring: bool,
    redis_delay: float,
    cpu_of: tuple[str, ...],
    json_path: Path | None,
    html_path: Path | None,
    markdown_path: Path | None,
) -> None:
    """Do the same work in every DIR, and show medians, spreads, ratios to the first DIR, and costs.

    Everything is done in new folders inside, which are removed. Bytes are compared; a cold phase must show that it was cold; any
    error ends the run.
    """
    from cairnfs.bench import html, report
    from cairnfs.bench.peers import set_up
    from cairnfs.bench.places import places_of
    from cairnfs.bench.runner import bench
    from cairnfs.bench.suites import SUITES
    from cairnfs.bench.workload import Settings

    if not peers:
        _check_without_peers(directories, io_uring, redis_delay)
    n_files = SUITES[suite].n_files if files is None else files
    n_procs = len(os.sched_getaffinity(0)) if procs is None else procs
    large_bytes = SUITES[suite].large_bytes if large is None else large
    _check_amounts(n_files, n_procs, rounds, large_bytes)
    settings = Settings(n_files, n_procs, rounds or 0, size, large_bytes, SUITES[suite].budget_s, not no_cold)
    writers: dict[Path | None, Callable[[Results], str]] = {
        json_path: lambda results: results.to_json(),
        html_path: html.page,
        markdown_path: report.markdown,
    }
    outputs = {path: writer for path, writer in writers.items() if path}
    for path in outputs:
        path.touch()  # rather now than after all the work
    with ExitStack() as stack:
        places = places_of(directories, cpu_of)
        if peers:
            places += set_up(stack, note, suite, io_uring=io_uring, redis_delay_ms=redis_delay)
        results = bench(places, SUITES[suite].workloads(settings), settings, suite, _Said())
    if redis_delay:
        results.notes.append(f"answers of Redis came later by {redis_delay:g} ms")
    show(results)
    for path, writer in outputs.items():
        path.write_text(writer(results), encoding="utf-8")


def _check_without_peers(directories: tuple[Path, ...], io_uring: bool, redis_delay: float) -> None:
    """UsageError when there is nothing to compare, or something was to be set up otherwise that is not set up at all."""
    if not directories:
        raise UsageError("name a directory, or several that are to be compared")
    if io_uring:
        raise UsageError("--io-uring is about what --peers mounts: add it, or mount with --workers 0 yourself")
    if redis_delay:
        raise UsageError("--redis-delay is about the server that --peers starts: add it")


def _check_amounts(n_files: int, n_procs: int, n_rounds: int | None, large_bytes: int) -> None:
    """UsageError when there would be nothing to do."""
    if n_procs < 1 or n_rounds == 0:
        raise UsageError("--procs and --rounds must be at least 1")
    if n_files < max(MIN_FILES, n_procs):
        raise UsageError(f"--files must be at least {max(MIN_FILES, n_procs)}")
    if large_bytes < MIN_LARGE_BYTES * n_procs:
        raise UsageError(f"--large must be at least {format_size(MIN_LARGE_BYTES)} for each of {n_procs} processes")


class _Said:
    """Progress on stderr: one line that changes on a terminal, else a line for each step."""

    def __call__(self, line: str) -> None:
        if sys.stderr.isatty():
            width = os.get_terminal_size(sys.stderr.fileno()).columns
            print(f"\r\x1b[K{line[: width - 1]}", end="", file=sys.stderr, flush=True)
        else:
            note(line)


def show(results: "Results") -> None:
    """Everything, on stdout."""
    from cairnfs.bench import report

    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    for line in report.heading(results):
        print(line)
    for title, columns, rows in (*report.rate_tables(results), *report.cost_tables(results)):
        print_table(title, columns, rows)
    for line in report.closing_note(results):
        print(line)


@bench_command.command("compare")
@click.argument("before", type=click.Path(path_type=Path), metavar="A.json")
@click.argument("after", type=click.Path(path_type=Path), metavar="B.json")
@click.option("--fail-above", type=Parsed("percent", _percent), metavar="PERCENT", help="Fail when a line is slower by more.")
@json_option
def compare_command(before: Path, after: Path, fail_above: float | None, as_json: bool) -> None:
    """Show what became slower or faster from A.json to B.json, which `cairnfs bench --json` wrote.

    With --fail-above: exit code 1 when the median of any line is worse by more than that, or is missing from B.
    """
    from cairnfs.bench.compare import compare
    from cairnfs.bench.report import number
    from cairnfs.bench.results import load

    old, new = load(before), load(after)
    changes = compare(old, new)
    for name in [name for name in WORK if old.settings[name] != new.settings[name]]:
        note(f"the runs did different work: {name} is {old.settings[name]} in {before}, {new.settings[name]} in {after}")
    worse = [change for change in changes if fail_above is not None and change.is_worse_than(fail_above)]
    if as_json:
        print_json([{**change._asdict(), "fails": change in worse} for change in changes])
    else:
        rows = [
            [
                "!" if change in worse else "",
                f"{change.workload}: {change.line}",
                change.place,
                change.unit,
                number(change.before),
                "-" if change.after is None else number(change.after),
                "missing" if change.part is None else f"{change.part:+.0%}",
                f"±{change.spread:.0%}",
            ]
            for change in changes
        ]
        print_table("", ["", "", "in", "unit", str(before), str(after), "better by", "spread"], rows)
    if worse:
        raise CairnError(f"{len(worse)} of {len(changes)} lines are worse by more than {fail_above:.0%}, or missing")


@bench_command.command("kernels")
@click.option("--seconds", type=click.FloatRange(min=0.001), default=0.2, show_default=True, help="Time for each line.")
@json_option
def kernels_command(seconds: float, as_json: bool) -> None:
    """Time the compiled kernels, every variant that this processor can run."""
    from cairnfs.bench.kernels import NOT_ALONE, measure
    from cairnfs.bench.report import number

    found = measure(seconds)
    if as_json:
        print_json([timing._asdict() for timing in found])
        return
    rows = [
        [timing.kernel, timing.variant, timing.operation, number(timing.ns), number(timing.gb_per_s) if timing.gb_per_s else "-"]
        for timing in found
    ]
    print_table("compiled kernels, one thread, best of 5, calls from Python included", ["", "variant", "", "ns", "GB/s"], rows)
    print(f"Not timed by themselves: {', '.join(NOT_ALONE)}; what they cost is in the suites of a mount.")
