"""Making and removing files for a long time: does the mount's memory grow? `python -m cairnfs.bench.soak --minutes 60`.

A line a minute: files made and removed so far, memory of the mount's own and shared by its processes, open handles and inodes.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from cairnfs.bench.mounted import count, counters, memory_bytes, mounted, run

N_ALIVE = 200  # files of each process at a time


def churn(folder: Path, until_s: float, n_made: "Synchronized[int]") -> None:
    """Make, read and remove files of various sizes until a moment."""
    folder.mkdir()
    data = os.urandom(200_000)
    n = 0
    while time.monotonic() < until_s:
        path = folder / f"f{n % N_ALIVE}"
        size = 1 + n * 7919 % 150_000
        path.write_bytes(data[:size])
        if len(path.read_bytes()) != size:
            raise ValueError(f"{path} has the wrong size")
        path.unlink()
        n += 1
        with n_made.get_lock():
            n_made.value += 1


def line(top: Path, minute: float, n_made: int) -> str:
    memory, now = memory_bytes(top), counters(top)
    handles, inodes = int(now["cairnfs_open_handles"]), int(now["cairnfs_open_inodes"])
    mib = {kind: n_bytes / (1 << 20) for kind, n_bytes in memory.items()}
    return f"{minute:6.1f} {n_made:12,} {mib['own']:12,.1f} {mib['shared']:12,.1f} {handles:8} {inodes:8}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="cairnfs.bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--procs", type=count, default=2)
    parser.add_argument("--every", type=float, default=60, help="seconds between lines")
    options = parser.parse_args()
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="cairnfs-soak-") as folder, mounted(Path(folder), Path(folder) / "objects") as top:
        started_s = time.monotonic()
        until_s = started_s + options.minutes * 60
        n_made = context.Value("q", 0)
        processes = [context.Process(target=churn, args=(top / f"p{i}", until_s, n_made)) for i in range(options.procs)]
        for process in processes:
            process.start()
        print("minute        files      own MiB   shared MiB  handles   inodes")
        while (now_s := time.monotonic()) < until_s:
            time.sleep(min(options.every, until_s - now_s))
            print(line(top, (time.monotonic() - started_s) / 60, n_made.value), flush=True)
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise RuntimeError("a process failed; its message is above")
    return 0


if __name__ == "__main__":
    run(main)
