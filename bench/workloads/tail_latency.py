"""Tail latency: how long do single calls take under a mixed load?

P processes at once, each on files of its own in shared directories: of 100 operations 70 read a small file, 10 ask for its size,
10 write a new file, 5 list a directory, 5 rename or remove. Every operation is timed by itself; reads are of 16 KiB and verified.
"""

import math
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from cairnfs.bench.content import Content
from cairnfs.bench.workload import WHY_DURABLE, Line, Run, Workload, read_file, write_file
from cairnfs.const import KIB

FILE_BYTES = 16 * KIB
RATE = "operations, mixed"
PERCENTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
OPERATIONS_A_FILE = 2
MIN_FILES = 10  # of each process
N_FOLDERS = 8
MIX = (("read", 70), ("stat", 10), ("write", 10), ("list", 5), ("rename", 3), ("remove", 2))


class TailLatency(Workload):
    """`--files` in all at the beginning, and twice as many operations."""

    name = "mixed load"
    question = "How long do single calls take when reading, writing, listing, renaming and removing go on at once?"

    @property
    def lines(self) -> list[Line]:
        return [Line(RATE, "operations/s", WHY_DURABLE), *(Line(f"latency, {name}", "µs", WHY_DURABLE) for name in PERCENTILES)]

    def run(self, run: Run) -> None:
        n_procs = run.settings.n_procs
        n_files = max(MIN_FILES, run.settings.n_files // n_procs)
        folders = [run.folder / f"d{n}" for n in range(N_FOLDERS)]
        for folder in folders:
            folder.mkdir()
        content = Content(run.settings.seed, FILE_BYTES)
        mixers = [Mixer(folders, worker, n_files, content, run.rng.randrange(1 << 30)) for worker in range(n_procs)]
        for mixer in mixers:
            mixer.prepare()
        n_operations = n_files * OPERATIONS_A_FILE
        outcome = run.measure(RATE, lambda worker: mixers[worker].run(n_operations), n_operations * n_procs)
        if outcome is not None:
            latencies = sorted(ns for found in outcome.found for ns in found)
            for name, part in PERCENTILES.items():
                run.note(f"latency, {name}", percentile(latencies, part) / 1000)


def percentile(ordered: list[int], part: float) -> int:
    """The smallest value that so large a part of all is not above."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


class Mixer:
    """One process's files and what it does to them."""

    def __init__(self, folders: list[Path], worker: int, n_files: int, content: Content, seed: int) -> None:
        self.folders = folders
        self.worker = worker
        self.content = content
        self.rng = random.Random(seed)
        self.n_made = n_files
        self.files = [(n, self._path(n, "f")) for n in range(n_files)]

    def _path(self, n: int, kind: str) -> Path:
        return self.folders[n % len(self.folders)] / f"{kind}{self.worker}-{n:06}"

    def prepare(self) -> None:
        for n, path in self.files:
            write_file(path, self.content.of(n, FILE_BYTES))

    def run(self, n_operations: int) -> list[int]:
        """Nanoseconds of every operation."""
        acts: dict[str, Callable[[int], object]] = {name: getattr(self, f"_{name}") for name, _ in MIX}
        kinds = self.rng.choices([name for name, _ in MIX], [weight for _, weight in MIX], k=n_operations)
        found = []
        for kind in kinds:
            at = self.rng.randrange(len(self.files))
            started_ns = time.perf_counter_ns()
            acts[kind](at)
            found.append(time.perf_counter_ns() - started_ns)
        return found

    def _read(self, at: int) -> None:
        n, path = self.files[at]
        self.content.check(path, n, FILE_BYTES, read_file(path, FILE_BYTES))

    def _stat(self, at: int) -> None:
        os.stat(self.files[at][1])

    def _write(self, at: int) -> None:
        n = self.n_made
        path = self._path(n, "f")
        write_file(path, self.content.of(n, FILE_BYTES))
        self.n_made += 1
        self.files.append((n, path))

    def _list(self, at: int) -> None:
        os.listdir(self.folders[at % len(self.folders)])

    def _rename(self, at: int) -> None:
        n, path = self.files[at]
        renamed = path.with_name(path.name + "r")
        os.rename(path, renamed)
        self.files[at] = (n, renamed)

    def _remove(self, at: int) -> None:
        os.unlink(self.files[at][1])
        self.files[at] = self.files[-1]
        self.files.pop()
