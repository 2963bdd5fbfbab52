"""Warm small files through a read-only mount, beside the local file system and tmpfs: `python -m cairnfs.bench.read_only`.

A warm file costs no request there, so all that is measured is the kernel's own part: the path, the open file, copying pages.
Linux 6.18 keeps files of FUSE in pages of 4 KiB, as tmpfs does where huge pages are off, and files of ext4 in larger ones, from
which copying is faster.
"""

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from cairnfs.bench.epochs import FILES_PER_FOLDER, make, path_of, together
from cairnfs.bench.mounted import count, counters, mounted_again, mounted_at, run

LOCAL, MEMORY, OURS = "local", "tmpfs", "cairnfs, -o ro"
LOOKING = 10  # requests that looking at the counters costs


def fill(top: Path, n_files: int, size: int) -> None:
    for start in range(0, n_files, FILES_PER_FOLDER):
        path_of(top, start).parent.mkdir(parents=True)
    make(top, 0, 1, n_files, size)


def read(top: Path, first: int, step: int, n_files: int, size: int, n_passes: int) -> None:
    """Each process reads all files, in an order of its own, again and again."""
    paths = [str(path_of(top, n)) for n in range(n_files)]
    random.Random(first).shuffle(paths)
    buffers = [bytearray(size + 1)]
    for _ in range(n_passes):
        for path in paths:
            fd = os.open(path, os.O_RDONLY)
            found = os.readv(fd, buffers)
            os.close(fd)
            if found != size:
                raise ValueError(f"{path} has {found} bytes")


@contextmanager
def places(root: Path, memory: Path, n_files: int, size: int) -> Iterator[dict[str, Path]]:
    """Where the files are, and have been read once."""
    url, mountpoint = f"sqlite3://{root}/meta.db", root / "mnt"
    with mounted_at(mountpoint, url, root / "log", ("--bucket", str(root / "objects"))):
        fill(mountpoint, n_files, size)
    with mounted_again(mountpoint, url, root / "log", "-o", "ro"):
        found = {LOCAL: root / "local", MEMORY: memory, OURS: mountpoint}
        for name in (LOCAL, MEMORY):
            fill(found[name], n_files, size)
        for top in found.values():
            read(top, 0, 1, n_files, size, 1)
        yield found


def n_requests(top: Path) -> float:
    return sum(value for name, value in counters(top).items() if name.startswith("cairnfs_fuse_requests_total"))


def measure(found: dict[str, Path], n_files: int, size: int, n_procs: int, n_rounds: int, n_passes: int) -> Table:
    rates: dict[str, list[float]] = {name: [] for name in found}
    requests = 0.0
    names = list(found)
    for round_no in range(n_rounds):
        for name in names[round_no % len(names) :] + names[: round_no % len(names)]:
            before = n_requests(found[OURS])
            seconds = together(read, n_procs, found[name], n_files, size, n_passes)
            rates[name].append(n_files * n_passes * n_procs / seconds)
            requests += max(0.0, n_requests(found[OURS]) - before - LOOKING)
    table = Table(title=f"{n_files:,} files of {size:,} bytes, warm, {n_procs} processes, {n_rounds} rounds")
    for column in ("", "files/s", "of local", "of tmpfs"):
        table.add_column(column, justify="right" if column else "left")
    for name in names:
        shares = (median(a / b for a, b in zip(rates[name], rates[other], strict=True)) for other in (LOCAL, MEMORY))
        table.add_row(name, f"{median(rates[name]):,.0f}", *(f"{share:.2f}" for share in shares))
    table.caption = f"{requests:,.0f} FUSE requests in all rounds"
    return table


def main() -> int:
    parser = argparse.ArgumentParser(prog="cairnfs.bench.read_only", description=__doc__)
    parser.add_argument("--files", type=count, default=2000)
    parser.add_argument("--size", type=count, default=64 << 10, help="bytes of each file")
    parser.add_argument("--procs", type=count, default=2)
    parser.add_argument("--rounds", type=count, default=7)
    parser.add_argument("--passes", type=count, default=50, help="over all files in a round")
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"), help="a folder of a tmpfs")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="cairnfs-read-only-") as folder,
        tempfile.TemporaryDirectory(prefix="cairnfs-read-only-", dir=options.memory) as memory,
        places(Path(folder), Path(memory) / "files", options.files, options.size) as found,
    ):
        table = measure(found, options.files, options.size, options.procs, options.rounds, options.passes)
    Console(width=None if sys.stdout.isatty() else 110).print(table)
    return 0


if __name__ == "__main__":
    run(main)
