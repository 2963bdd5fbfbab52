"""Many small files read in random order, again and again, through one read-write mount: `python -m cairnfs.bench.epochs`.

Answers: does the second epoch read anything from the daemon (READ requests), how fast is each, and what memory the cached files
take. `--bucket` may name a folder in memory, so that making the files does not take most of the time. Reading the counters is
itself one OPEN and three READ of each step.
"""

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cairnfs.bench.mounted import count, counters, memory_bytes, mounted, requests, run

FILES_PER_FOLDER = 1000
console = Console(width=None if sys.stdout.isatty() else 110)


def path_of(top: Path, n: int) -> Path:
    return top / f"d{n // FILES_PER_FOLDER:04}" / f"f{n:07}"


def make(top: Path, first: int, step: int, n_files: int, size: int) -> None:
    data = os.urandom(size)
    for n in range(first, n_files, step):
        path_of(top, n).write_bytes(data)


def read(top: Path, first: int, step: int, n_files: int, size: int, seed: int) -> None:
    """Every `step`-th file of one shuffled order."""
    order = list(range(n_files))
    random.Random(seed).shuffle(order)
    for n in order[first::step]:
        fd = os.open(path_of(top, n), os.O_RDONLY)
        found = len(os.read(fd, size + 1))
        os.close(fd)
        if found != size:
            raise ValueError(f"{path_of(top, n)} has {found} bytes")


def together(work: object, n_procs: int, *arguments: object) -> float:
    """Seconds that `n_procs` processes take, each with its share."""
    context = multiprocessing.get_context("fork")
    top, *rest = arguments
    processes = [context.Process(target=work, args=(top, i, n_procs, *rest)) for i in range(n_procs)]  # type: ignore[arg-type]
    started_s = time.monotonic()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise RuntimeError("a process failed; its message is above")
    return time.monotonic() - started_s


def measure(top: Path, n_files: int, size: int, n_procs: int) -> Table:
    table = Table(title=f"{n_files:,} files of {size:,} bytes, {n_procs} processes")
    for column in ("", "files/s", "OPEN", "READ", "READ in Python", "own memory", "shared memory"):
        table.add_column(column, justify="right" if column else "left")
    for start in range(0, n_files, FILES_PER_FOLDER):
        path_of(top, start).parent.mkdir()
    steps = [("make", make, ()), ("first epoch", read, (1,)), ("second epoch", read, (2,)), ("third epoch", read, (3,))]
    for name, work, more in steps:
        before = counters(top)
        seconds = together(work, n_procs, top, n_files, size, *more)
        after = counters(top)
        opened, (asked, answered) = requests(before, after, "OPEN")[0], requests(before, after, "READ")
        memory = memory_bytes(top)
        sizes = (f"{memory[kind] / (1 << 20):,.0f} MiB" for kind in ("own", "shared"))
        table.add_row(name, f"{n_files / seconds:,.0f}", f"{opened:,}", f"{asked:,}", f"{asked - answered:,}", *sizes)
        console.print(f"{name}: {seconds:.0f} s", style="dim")
    return table


def main() -> int:
    parser = argparse.ArgumentParser(prog="cairnfs.bench.epochs", description=__doc__)
    parser.add_argument("--files", type=count, default=100_000)
    parser.add_argument("--size", type=count, default=1000, help="bytes of each file")
    parser.add_argument("--procs", type=count, default=2)
    parser.add_argument("--cache-memory", default="1G")
    parser.add_argument("--bucket", type=Path, help="where to put the objects; removed at the end")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="cairnfs-epochs-") as folder,
        tempfile.TemporaryDirectory(prefix="cairnfs-epochs-", dir=options.bucket) as bucket,
        mounted(Path(folder), Path(bucket) / "objects", "--cache-memory", options.cache_memory) as top,
    ):
        console.print(measure(top, options.files, options.size, options.procs))
    return 0


if __name__ == "__main__":
    run(main)
