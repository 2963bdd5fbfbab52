"""Metadata storms: how many names a second, in one directory and in many, by more and more processes?

Empty files are made, asked about, renamed and removed: by all processes in one directory, or by each in a directory of its own.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from cairnfs.bench.sense import BenchError
from cairnfs.bench.workload import WHY_COMMIT, WHY_KERNEL, Line, Run, Workload

LAYOUTS = ("one directory", "many directories")
WHY_BEHIND = {"create": WHY_COMMIT, "stat": WHY_KERNEL, "rename": WHY_COMMIT, "remove": WHY_COMMIT}
STEPS = tuple(WHY_BEHIND)
LEAST_S, MAX_CYCLES = 0.5, 5


class _File(NamedTuple):
    """What it is called: put together before anything is timed."""

    made: str
    renamed: str


class Metadata(Workload):
    """`n_procs`: with how many processes; the line says it."""

    name = "metadata"
    question = "How many names a second are made, asked about, renamed and removed, in one directory and in many?"

    def __init__(self, n_procs: Sequence[int], share_of_files: float = 0.5) -> None:
        self.n_procs = sorted(set(n_procs))
        self.share_of_files = share_of_files

    @property
    def lines(self) -> list[Line]:
        configurations = [(layout, n) for layout in LAYOUTS for n in self.n_procs]
        return [Line(_name(layout, n, step), "names/s", WHY_BEHIND[step]) for layout, n in configurations for step in STEPS]

    def run(self, run: Run) -> None:
        n_files = max(max(self.n_procs), int(run.settings.n_files * self.share_of_files))
        for layout in LAYOUTS:
            for n_procs in self.n_procs:
                self._storm(run, layout, n_procs, n_files)

    def _storm(self, run: Run, layout: str, n_procs: int, n_files: int) -> None:
        """All steps, in a few cycles where they take no time; the median of the cycles counts."""
        top = run.folder / f"{layout.split()[0]}{n_procs}"
        folders = [top / (f"p{worker}" if layout == LAYOUTS[1] else "all") for worker in range(n_procs)]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        files = [_File(f"{folders[n % n_procs]}/f{n:06}", f"{folders[n % n_procs]}/f{n:06}.renamed") for n in range(n_files)]
        found: dict[str, list[float]] = {_name(layout, n_procs, step): [] for step in STEPS}
        until_s = time.monotonic() + LEAST_S
        for _ in range(MAX_CYCLES):
            for step, act in ACTS.items():
                name = _name(layout, n_procs, step)
                work = run.shared(files, _each(act), n_procs)
                run.measure(name, work, n_files, n_procs=n_procs, again=step == "stat")
                found[name].append(run.values[name])
                _check(set(folders), {"create": n_files, "rename": n_files, "remove": 0}.get(step))
            if time.monotonic() > until_s:
                break
        for name, values in found.items():
            run.note(name, median(values))


def _name(layout: str, n_procs: int, step: str) -> str:
    return f"{step}, {layout}, {n_procs} {'process' if n_procs == 1 else 'processes'}"


def _each(act: Callable[[_File], object]) -> Callable[[Sequence[_File]], None]:
    def run(files: Sequence[_File]) -> None:
        for file in files:
            act(file)

    return run


def _create(file: _File) -> None:
    os.close(os.open(file.made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))


ACTS: dict[str, Callable[[_File], object]] = {
    "create": _create,
    "stat": lambda file: os.stat(file.made),
    "rename": lambda file: os.rename(file.made, file.renamed),
    "remove": lambda file: os.unlink(file.renamed),
}


def _check(folders: set[Path], n_expected: int | None) -> None:
    """BenchError when the directories do not hold so many names."""
    if n_expected is not None and (n_found := sum(len(os.listdir(folder)) for folder in folders)) != n_expected:
        raise BenchError(f"{min(folders).parent}: {n_found} names were found, {n_expected} should be there")
