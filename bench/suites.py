"""The suites: which workloads belong to each, and how much they do unless the user says otherwise."""

from collections.abc import Callable
from typing import NamedTuple

from cairnfs.bench.content import Sizes, parse_sizes
from cairnfs.bench.workload import Settings, Workload
from cairnfs.bench.workloads.checkpoint import Checkpoint
from cairnfs.bench.workloads.dataloader import DataLoader
from cairnfs.bench.workloads.epochs import Epochs
from cairnfs.bench.workloads.fio_jobs import FioJobs
from cairnfs.bench.workloads.large_files import LargeFiles
from cairnfs.bench.workloads.lmdb_reads import LmdbReads
from cairnfs.bench.workloads.metadata import Metadata
from cairnfs.bench.workloads.package_tree import PackageTree
from cairnfs.bench.workloads.small_files import SmallFiles
from cairnfs.bench.workloads.tail_latency import TailLatency
from cairnfs.const import MIB

SMALL_SIZES = ("4K", "16K", "64K", "wav")
QUICK_SIZES = ("64K",)


class Suite(NamedTuple):
    """Defaults, and what makes the workloads from the settings. Rounds: at least 3, then as many as end within `budget_s`."""

    n_files: int
    large_bytes: int
    budget_s: float
    workloads: Callable[[Settings], list[Workload]]


def _small_files(settings: Settings, sizes: tuple[str, ...] = SMALL_SIZES) -> list[Workload]:
    chosen: list[Sizes] = [settings.sizes] if settings.sizes else [parse_sizes(size) for size in sizes]
    return [SmallFiles(size) for size in chosen]


def _metadata(settings: Settings) -> list[Workload]:
    doubled = [1 << n for n in range(settings.n_procs.bit_length()) if 1 << n <= settings.n_procs]
    return [Metadata([*doubled, settings.n_procs])]


def _large(settings: Settings) -> list[Workload]:
    return [LargeFiles(), FioJobs()]


def _train(settings: Settings) -> list[Workload]:
    return [DataLoader(), LmdbReads(), Epochs(), Checkpoint(), PackageTree(), TailLatency()]


def _quick(settings: Settings) -> list[Workload]:
    few_names = Metadata([settings.n_procs], share_of_files=0.25)
    return [*_small_files(settings, QUICK_SIZES), few_names, LargeFiles(), DataLoader(waits=False)]


def _all(settings: Settings) -> list[Workload]:
    return [*_small_files(settings), *_metadata(settings), *_large(settings), *_train(settings)]


SUITES = {
    "quick": Suite(800, 64 * MIB, 200, _quick),
    "small-files": Suite(2000, 64 * MIB, 0, _small_files),
    "metadata": Suite(2000, 64 * MIB, 0, _metadata),
    "large": Suite(2000, 512 * MIB, 0, _large),
    "train": Suite(2400, 256 * MIB, 0, _train),
    "all": Suite(2000, 256 * MIB, 0, _all),
}
