"""Many epochs over small files: what do later ones gain, with a cache that holds everything, and with one that holds half?

The first epoch is cold, the next ones find what it left. Then, before every epoch, the kernel is told to forget the pages of a
random half of the files: that half is read from whatever cache the file system has below the kernel's, or from the storage. How
large that one is, is up to the mount: `make bench ARGS="--suite train"` has a cairnfs mount with a cache that is smaller than the
data beside one with the default.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from cairnfs.bench.content import Content, parse_sizes
from cairnfs.bench.sense import Cold
from cairnfs.bench.workload import WHY_OPEN, WHY_REQUESTS, Line, Run, Workload
from cairnfs.bench.workloads.small_files import Files

FIRST, LATER, HALF = "first epoch, cold", "later epochs", "later epochs, half of the pages forgotten"
N_LATER = 3


class Epochs(Workload):
    """Files with a WAV-like distribution of sizes, or one size for all."""

    name = "epochs"
    question = "How much faster are later epochs, when caches hold all of the data, and when they hold half?"

    @property
    def lines(self) -> list[Line]:
        return [Line(FIRST, "files/s", WHY_REQUESTS), Line(LATER, "files/s", WHY_OPEN), Line(HALF, "files/s", WHY_REQUESTS)]

    def run(self, run: Run) -> None:
        sizes = run.settings.sizes or parse_sizes("wav")
        n_files = run.settings.n_files
        paths = run.file_paths(n_files)
        files = Files(paths, sizes.first(n_files), Content(run.settings.seed, sizes.max_bytes))
        numbers = range(n_files)
        files.create(numbers)
        epoch = run.shared(run.shuffled(numbers), files.read)
        cold = Cold(paths, {"LOOKUP": n_files, "READ": n_files}, sum(files.sizes))
        if run.measure(FIRST, epoch, n_files, cold=cold) is None:
            files.read(numbers)
        orders = [run.shared(run.shuffled(numbers), files.read) for _ in range(N_LATER)]
        run.measure(LATER, lambda worker: [order(worker) for order in orders], n_files * N_LATER, again=True)
        rates = []
        for order in orders:
            forget_pages(run.shuffled(paths)[::2])
            run.measure(HALF, order, n_files)
            rates.append(run.values[HALF])
        run.note(HALF, sorted(rates)[N_LATER // 2])


def forget_pages(paths: Sequence[Path]) -> None:
    """Have the kernel drop the clean pages of files."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
