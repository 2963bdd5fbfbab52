"""What a workload is, and one run of it: on one directory, in one round.

A workload names its lines, each with a unit, and measures them with `Run.measure`, which takes care of everything that is
the same for all: caches dropped and the proof of it, processes, costs, errors.
"""

import os
import random
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple, TypeVar

from cairnfs.bench import sense
from cairnfs.bench.content import Sizes
from cairnfs.bench.costs import Reading, between, read, requests_by_opcode
from cairnfs.bench.places import Place
from cairnfs.bench.sense import Cold
from cairnfs.bench.workers import Outcome, Work, storage_read_bytes, together
from cairnfs.const import MIB

FILES_A_FOLDER = 500
LEAST_S = 0.25  # that work takes which can be repeated
T = TypeVar("T")


# Why a network file system served by a process is behind, when it is.
WHY_DURABLE = "close and fsync return when the bytes are in the object store and committed; others may have them in memory only"
WHY_COMMIT = "every name that changes is a commit to the metadata store, which another process makes; others note it in memory"
WHY_REQUESTS = "what the kernel does not know it asks another process for: two changes of context for each request"
WHY_OPEN = "every open is a request to another process, so that it sees what others have closed; names and pages are the kernel's"
WHY_KERNEL = "the kernel answers by itself; its FUSE layer takes longer than a local file system's"
WHY_PIECES = "bytes pass through another process, in requests of 1 MiB at most, and are checked against their checksums"


class Line(NamedTuple):
    """One number of a workload."""

    name: str
    unit: str  # "X/s": more is better; anything else (s, µs): less is
    why_behind: str = ""  # why a file system like cairnfs is slower here than another, when it is
    per: str = ""  # what costs are counted for; empty: what the unit counts

    @property
    def more_is_better(self) -> bool:
        return self.unit.endswith("/s")

    @property
    def cost_unit(self) -> str:
        return self.per or self.unit.removesuffix("/s")

    def value(self, n_items: float, seconds: float) -> float:
        return n_items / seconds if self.more_is_better else seconds


@dataclass(frozen=True)
class Settings:
    """How much work there is."""

    n_files: int
    n_procs: int
    n_rounds: int  # 0: as many as fit into `budget_s`
    sizes: Sizes | None = None  # None: those of the workload
    large_bytes: int = 64 * MIB
    budget_s: float = 0
    cold: bool = True
    seed: int = 1


@dataclass
class Run:
    """One workload on one directory in one round. `values` and `costs` are what it found, by name of the line."""

    place: Place
    settings: Settings
    folder: Path
    rng: random.Random
    lines: dict[str, Line]
    values: dict[str, float] = field(default_factory=dict)
    costs: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def can_be_cold(self) -> bool:
        return self.settings.cold and self.place.can_be_cold

    def measure(
        self,
        name: str,
        work: Work,
        n_items: float,
        *,
        n_procs: int | None = None,
        cold: Cold | None = None,
        forget: bool = True,
        again: bool = False,
    ) -> Outcome | None:
        """Time `work`, which does `n_items` of what the line's unit counts, and keep the value and the costs.

        With `cold` the kernel's caches are dropped before (`forget` off: the caller has done that), and it must show that
        they were; None when they cannot be, and then nothing is run. `again`: it changes nothing, so that it may be repeated
        until it has taken long enough to be timed well. BenchError: the work failed, or was not cold.
        """
        line = self.lines[name]
        if cold is not None:
            if not self.can_be_cold:
                return None
            if forget:
                sense.drop_caches()
            if not self.place.cairnfs and not self._says_what_it_reads:
                sense.check_pages(f"{name}, {self.place.name}", sense.probes(cold.paths))
        before = read(self.place)
        outcome = together(work, n_procs or self.settings.n_procs, LEAST_S if again else 0)
        after = read(self.place)
        if cold is not None:
            self._prove(f"{name}, {self.place.name}", cold, before, after, outcome)
        n_done = n_items * outcome.n_passes
        self.values[name] = line.value(n_done, outcome.seconds if line.more_is_better else outcome.seconds / outcome.n_passes)
        self.costs[name] = between(before, after, outcome.cpu_s, n_done)
        return outcome

    @property
    def _says_what_it_reads(self) -> bool:
        return self.place.on_device and storage_read_bytes() is not None

    def _prove(self, where: str, cold: Cold, before: Reading, after: Reading, outcome: Outcome) -> None:
        if self.place.cairnfs:
            sense.check_requests(where, cold, requests_by_opcode(before, after))
        elif self._says_what_it_reads:
            sense.check_storage(where, cold, outcome.storage_bytes)

    def note(self, name: str, value: float) -> None:
        """Keep a value that was not timed as a whole."""
        self.values[self.lines[name].name] = value

    def shuffled(self, items: Sequence[T]) -> list[T]:
        return self.rng.sample(items, len(items))

    def shared(self, items: Sequence[T], act: Callable[[Sequence[T]], object], n_procs: int | None = None) -> Work:
        """Work: every one of the processes does `act` on every P-th item."""
        step = n_procs or self.settings.n_procs
        return lambda worker: act(items[worker::step])

    def file_paths(self, n_files: int) -> list[Path]:
        """Names of files in folders of 500, which are made."""
        paths = []
        for n in range(n_files):
            folder = self.folder / f"d{n // FILES_A_FOLDER:04}"
            if n % FILES_A_FOLDER == 0:
                folder.mkdir()
            paths.append(folder / f"f{n:07}")
        return paths


class Workload(ABC):
    """A question, and lines that answer it."""

    name: ClassVar[str]
    question: ClassVar[str]

    @property
    def title(self) -> str:
        """The name, and what it is measured with."""
        return self.name

    @property
    @abstractmethod
    def lines(self) -> list[Line]: ...

    @abstractmethod
    def run(self, run: Run) -> None:
        """Measure every line once, in `run.folder`, which is empty and removed afterwards."""

    def missing(self) -> str:
        """Why it cannot be run on this machine; empty when it can."""
        return ""


@contextmanager
def run_of(workload: Workload, place: Place, settings: Settings, n_round: int) -> Iterator[Run]:
    """A new folder in the place; the same seed in every place of a round."""
    folder = Path(tempfile.mkdtemp(prefix="cairnfs-bench-", dir=place.top))
    try:
        rng = random.Random(f"{settings.seed} {n_round}")
        yield Run(place, settings, folder, rng, {line.name: line for line in workload.lines})
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder)


def write_file(path: Path | str, data: "bytes | memoryview", flags: int = os.O_EXCL) -> None:
    """A new file with one write."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
    try:
        n_written = os.write(fd, data)
    finally:
        os.close(fd)
    if n_written != len(data):
        raise sense.BenchError(f"{path}: {n_written} of {len(data)} bytes were written")


def read_file(path: Path | str, n_bytes: int) -> bytes:
    """A file that should have `n_bytes`; one byte more is asked for, so that a longer one is noticed."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, n_bytes + 1)
    finally:
        os.close(fd)
