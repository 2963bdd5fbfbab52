"""Small files: how fast are they made, listed, asked about, read and removed?

Files of one size, or of one distribution, 500 to a folder; P processes, each with every P-th file. Whatever is not the making
itself goes in a random order, which is the same in every directory of a round.

- cold: the kernel knows neither names nor pages;
- first touch: it has just listed everything with attributes, and knows no pages;
- warm: it has read everything before.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from cairnfs.bench.content import Content, Sizes
from cairnfs.bench.sense import BenchError, Cold, drop_caches
from cairnfs.bench.workload import (
    WHY_COMMIT,
    WHY_DURABLE,
    WHY_KERNEL,
    WHY_OPEN,
    WHY_REQUESTS,
    Line,
    Run,
    Workload,
    read_file,
    write_file,
)

CREATE, LIST, STAT_COLD, STAT = "create, write, close", "list with attributes, cold", "stat, cold", "stat, warm"
READ_COLD, READ_FIRST, READ, REMOVE = (
    "open, read, close, cold",
    "open, read, close, first touch",
    "open, read, close, warm",
    "remove",
)

WHY_BEHIND = {
    CREATE: WHY_DURABLE,
    LIST: WHY_REQUESTS,
    STAT_COLD: WHY_REQUESTS,
    STAT: WHY_KERNEL,
    READ_COLD: WHY_REQUESTS,
    READ_FIRST: WHY_REQUESTS,
    READ: WHY_OPEN,
    REMOVE: WHY_COMMIT,
}


class SmallFiles(Workload):
    """Making, listing, asking, reading and removing, in this order."""

    name = "small files"
    question = "How fast are small files made, listed, asked about, read and removed?"

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes

    @property
    def title(self) -> str:
        return f"{self.name}, {self.sizes.name}"

    @property
    def lines(self) -> list[Line]:
        return [Line(name, "files/s", why) for name, why in WHY_BEHIND.items()]

    def run(self, run: Run) -> None:
        n_files = run.settings.n_files
        paths = run.file_paths(n_files)
        files = Files(paths, self.sizes.first(n_files), Content(run.settings.seed, self.sizes.max_bytes))
        numbers, folders, n_bytes = range(n_files), list(files.listed), sum(files.sizes)
        run.measure(CREATE, run.shared(numbers, files.create), n_files)
        run.measure(LIST, run.shared(folders, files.list), n_files, cold=Cold(paths, {"READDIRPLUS": 1}))
        run.measure(STAT_COLD, run.shared(run.shuffled(numbers), files.stat), n_files, cold=Cold(paths, {"LOOKUP": n_files}))
        files.stat(numbers)
        run.measure(STAT, run.shared(run.shuffled(numbers), files.stat), n_files, again=True)
        if run.can_be_cold:
            unknown = Cold(paths, {"LOOKUP": n_files, "READ": n_files}, n_bytes)
            run.measure(READ_COLD, run.shared(run.shuffled(numbers), files.read), n_files, cold=unknown)
            drop_caches()
            files.list(folders)
            unread = Cold(paths, {"READ": n_files}, n_bytes)
            run.measure(READ_FIRST, run.shared(run.shuffled(numbers), files.read), n_files, cold=unread, forget=False)
        files.read(numbers)
        run.measure(READ, run.shared(run.shuffled(numbers), files.read), n_files, again=True)
        run.measure(REMOVE, run.shared(run.shuffled(numbers), files.remove), n_files)


class Files:
    """Files by number, with what they must be."""

    def __init__(self, paths: list[Path], sizes: list[int], content: Content) -> None:
        self.paths = [os.fspath(path) for path in paths]  # here, and not whenever a call is timed
        self.sizes = sizes
        self.content = content
        self.listed: dict[Path, dict[str, int]] = {}
        for path, size in zip(paths, sizes, strict=True):
            self.listed.setdefault(path.parent, {})[path.name] = size

    def create(self, numbers: Sequence[int]) -> None:
        for n in numbers:
            write_file(self.paths[n], self.content.of(n, self.sizes[n]))

    def list(self, folders: Sequence[Path]) -> None:
        for folder in folders:
            found = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
            if found != self.listed[folder]:
                raise BenchError(f"{folder}: names or sizes listed are not those of the files that were made")

    def stat(self, numbers: Sequence[int]) -> None:
        for n in numbers:
            size = os.stat(self.paths[n]).st_size
            if size != self.sizes[n]:
                raise BenchError(f"{self.paths[n]}: size {size}, {self.sizes[n]} bytes were written")

    def read(self, numbers: Sequence[int]) -> None:
        for n in numbers:
            self.content.check(self.paths[n], n, self.sizes[n], read_file(self.paths[n], self.sizes[n]))

    def remove(self, numbers: Sequence[int]) -> None:
        for n in numbers:
            os.unlink(self.paths[n])
