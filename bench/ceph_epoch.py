"""An epoch over speech-like files on Redis and Ceph, both started for it: `python -m cairnfs.bench.ceph_epoch`.

Answers: how fast are WAV-like files (sizes below 100 KB, drawn from one seed) written, read cold and read warm through one
read-write mount on RADOS, and how many requests to the object store does each file cost. "Cold" is a fresh mount and a kernel
without caches; "arena" the second epoch, without the kernel's caches; "kernel" the third, with them. Dropping caches needs root.
"""

import argparse
import math
import os
import random
import sys
import tempfile
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cairnfs.bench.epochs import FILES_PER_FOLDER, together
from cairnfs.bench.mounted import count, counters, mounted_again, run, run_cairnfs
from cairnfs.bench.servers import CEPH, CephCluster, ServerError, redis_server

MAX_BYTES = 100_000
MEDIAN_BYTES = 45_000  # 1.4 s of 16 kHz, 16 bits
POOL = "epoch"
console = Console(width=None if sys.stdout.isatty() else 110)


def sizes_of(n_files: int, seed: int) -> list[int]:
    """Bytes of each file: lognormal around the median, as utterances are, between a header and `MAX_BYTES`."""
    rng = random.Random(seed)
    return [int(min(MAX_BYTES - 1, max(44, rng.lognormvariate(math.log(MEDIAN_BYTES), 0.6)))) for _ in range(n_files)]


def path_of(top: Path, n: int) -> Path:
    return top / f"speaker{n // FILES_PER_FOLDER:04}" / f"{n:07}.wav"


def content(n: int, size: int) -> bytes:
    return random.Random(n).randbytes(size)


def write(top: Path, first: int, step: int, sizes: list[int]) -> None:
    for n in range(first, len(sizes), step):
        path_of(top, n).write_bytes(content(n, sizes[n]))


def read(top: Path, first: int, step: int, sizes: list[int], seed: int) -> None:
    """Every `step`-th file of one shuffled order; every hundredth is compared with what was written."""
    order = list(range(len(sizes)))
    random.Random(seed).shuffle(order)
    for n in order[first::step]:
        data = path_of(top, n).read_bytes()
        if len(data) != sizes[n] or (n % 100 == 0 and data != content(n, sizes[n])):
            raise ValueError(f"{path_of(top, n)} is not what was written")


def drop_caches() -> None:
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("3")


class Report:
    """Rates and requests of each step."""

    def __init__(self, sizes: list[int], n_procs: int) -> None:
        self.sizes = sizes
        self.n_procs = n_procs
        total = f"{sum(sizes) / 1e6:,.0f} MB"
        self.table = Table(title=f"{len(sizes):,} files, {total}, Redis and Ceph RADOS, {n_procs} processes")
        for column in ("", "files/s", "MB/s", "put / file", "get / file", "mean put", "mean get"):
            self.table.add_column(column, justify="right" if column else "left")

    def step(self, name: str, top: Path, work: object, *more: object) -> None:
        before = counters(top)
        seconds = together(work, self.n_procs, top, self.sizes, *more)
        after = counters(top)
        row = [f"{len(self.sizes) / seconds:,.0f}", f"{sum(self.sizes) / seconds / 1e6:,.1f}"]
        asked = [_asked(before, after, kind) for kind in ("put", "get")]
        row += [f"{n / len(self.sizes):.3f}" for n, _ in asked]
        row += [f"{1000 * spent_s / n:.1f} ms" if n else "" for n, spent_s in asked]
        self.table.add_row(name, *row)
        console.print(f"{name}: {seconds:.0f} s", style="dim")


def _asked(before: dict[str, float], after: dict[str, float], kind: str) -> tuple[int, float]:
    """Requests to the object store between two readings, and the seconds they took together."""
    n, spent_s = (
        after[name] - before[name] for what in ("count", "sum") for name in [f'cairnfs_object_seconds_{what}{{kind="{kind}"}}']
    )
    return int(n), spent_s


def measure(url: str, mountpoint: Path, report: Report, cache_memory: str) -> None:
    log = mountpoint.with_suffix(".log")
    mount = partial(mounted_again, mountpoint, url, log, "--cache-memory", cache_memory)
    with mount() as top:
        for start in range(0, len(report.sizes), FILES_PER_FOLDER):
            path_of(top, start).parent.mkdir()
        report.step("write", top, write)
    drop_caches()
    with mount() as top:
        report.step("read, cold", top, read, 1)
        drop_caches()
        report.step("read, arena", top, read, 2)
        report.step("read, kernel", top, read, 3)


def main() -> int:
    parser = argparse.ArgumentParser(prog="cairnfs.bench.ceph_epoch", description=__doc__)
    parser.add_argument("--files", type=count, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--procs", type=count, default=2)
    parser.add_argument("--cache-memory", default="2G")
    options = parser.parse_args()
    if not CEPH:
        raise ServerError("the programs of Ceph are needed: install ceph-mon, ceph-mgr, ceph-osd and ceph-common")
    report = Report(sizes_of(options.files, options.seed), options.procs)
    with (
        tempfile.TemporaryDirectory(prefix="cairnfs-ceph-") as folder,
        redis_server(Path(folder), appendonly=True) as redis_url,
        CephCluster(Path(folder) / "ceph") as cluster,
    ):
        cluster.make_user("trainer", cluster.make_pool(POOL, 32))
        mountpoint = Path(folder) / "mnt"
        place = ["--storage", "rados", "--bucket", POOL, "--ceph-conf", str(cluster.conf), "--ceph-user", "trainer"]
        run_cairnfs("format", f"{redis_url}/0", "epoch", *place)
        measure(f"{redis_url}/0", mountpoint, report, options.cache_memory)
    console.print(report.table)
    return 0


if __name__ == "__main__":
    run(main)
