"""`cairnfs objbench`: try an object store, and measure it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from cairnfs.const import DEFAULT_BLOCK_BYTES, GIB, KIB, MIB
from cairnfs.daemon.command import COUNT, DURATION, json_option, place_options, size_type
from cairnfs.units import format_size

if TYPE_CHECKING:
    from cairnfs.check.objbench import Rate, Report


def _size(name: str, bare_unit_bytes: int, default: int, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    shown = f"{text} [default: {format_size(default)}]"
    return click.option(name, type=size_type(bare_unit_bytes), default=default, metavar="SIZE", help=shown)


@click.command("objbench")
@place_options
@_size("--block-size", KIB, DEFAULT_BLOCK_BYTES, "Bytes of a large object.")
@_size("--big-object-size", MIB, GIB, "Bytes of all large objects.")
@_size("--small-size", KIB, 128 * KIB, "Bytes of a small object.")
@click.option("--small-objects", type=COUNT, default=100, show_default=True, metavar="N", help="How many small objects.")
@click.option("-p", "--threads", type=COUNT, default=4, show_default=True, metavar="N", help="Requests at a time.")
@click.option("--io-timeout", type=DURATION, default=60, show_default=True, metavar="TIME", help="How long to retry.")
@click.option("--skip-functional-tests", is_flag=True, help="Measure only.")
@json_option
def objbench_command(
    storage: str,
    bucket: str | None,
    storage_options: dict[str, str],
    block_size: int,
    big_object_size: int,
    small_size: int,
    small_objects: int,
    threads: int,
    io_timeout: float,
    skip_functional_tests: bool,
    as_json: bool,
) -> int:
    """Try whether a place for objects does all that volumes need, and measure how fast it is.

    Everything is stored below a name of its own in the bucket, and deleted at the end, after Ctrl-C too; another Ctrl-C leaves
    it there. The exit code is 1 when something does not work.
    """
    from cairnfs.check import objbench
    from cairnfs.daemon.interrupting import ended_by_interrupt
    from cairnfs.daemon.output import print_json, progress

    sizes = objbench.Sizes(block_size, big_object_size, small_size, small_objects, threads)
    sizes.check()
    with ended_by_interrupt(2) as ending, objbench.trial(storage, bucket, storage_options, io_timeout) as (store, where):
        ending.left = f"what was stored below {where} is left there"
        report = objbench.Report(where)
        if not skip_functional_tests:
            report.checks = objbench.run_checks(store)
        if report.ok:
            with progress("Measuring", objbench.n_requests(sizes)) as steps:
                report.rates = objbench.run_rates(store, sizes, steps.advance)
    if as_json:
        print_json(_as_json(report, sizes._asdict()))
    else:
        _print(report, f"{format_size(block_size)} large, {format_size(small_size)} small, {threads} at a time")
    return 0 if report.ok else 1


def _as_json(report: "Report", sizes: dict[str, int]) -> dict[str, Any]:
    rates = {rate.name: {**rate._asdict(), "per_s": rate.per_s, "mib_per_s": rate.mib_per_s} for rate in report.rates}
    checks = [check._asdict() for check in report.checks]
    return {"where": report.where, "ok": report.ok, **sizes, "checks": checks, "rates": rates}


def _print(report: "Report", sizes: str) -> None:
    from cairnfs.daemon.output import print_table

    if report.checks:
        print_table(report.where, ("must work", ""), [(check.name, check.failure or "works") for check in report.checks])
    if report.rates:
        columns = ("request", "per second", "MiB/s", "median ms", "slowest ms")
        print_table(sizes, columns, [_cells(rate) for rate in report.rates])


def _cells(rate: "Rate") -> tuple[str, ...]:
    amount = f"{rate.mib_per_s:,.1f}" if rate.n_bytes else ""
    return rate.name, f"{rate.per_s:,.0f}", amount, f"{rate.median_s * 1000:.2f}", f"{rate.slowest_s * 1000:.2f}"
