"""LMDB: how many records a second does a batch of random reads give?

One database of records of about 60 KB, as many as `--files`, read by P processes through a memory map in batches of 2,400 random
keys (of as many as there are, when there are fewer). Needs the package lmdb.
"""

import importlib.util
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cairnfs.bench.content import Content
from cairnfs.bench.sense import BenchError, Cold
from cairnfs.bench.workload import WHY_DURABLE, WHY_KERNEL, WHY_REQUESTS, Line, Run, Workload
from cairnfs.const import MIB

BATCH = 2400
MIN_BYTES, MAX_BYTES = 50_000, 70_000
MAP_BYTES = 1 << 40  # of address space; the file grows as needed
RECORDS_A_COMMIT = 500
MAX_FUSE_READ_BYTES = MIB
BUILD, COLD, WARM = "build, fsync", "batch, cold", "batch, warm"


class LmdbReads(Workload):
    """One database file."""

    name = "LMDB"
    question = "How many random records of an LMDB file of about 60 KB each are read a second?"

    @property
    def lines(self) -> list[Line]:
        reads = [Line(COLD, "records/s", WHY_REQUESTS), Line(WARM, "records/s", WHY_KERNEL)]
        return [Line(BUILD, "records/s", WHY_DURABLE), *reads]

    def missing(self) -> str:
        return "" if importlib.util.find_spec("lmdb") else "the Python package lmdb is not installed"

    def run(self, run: Run) -> None:
        records = Records(run.folder / "data.lmdb", run.settings.n_files, run.settings.seed)
        run.measure(BUILD, lambda worker: records.build(), records.n, n_procs=1)
        batch = run.shuffled(range(records.n))[:BATCH]
        n_bytes = sum(records.sizes[n] for n in batch)
        cold = Cold([records.path], {"READ": n_bytes // MAX_FUSE_READ_BYTES}, n_bytes)
        run.measure(COLD, run.shared(batch, records.read), len(batch), cold=cold)
        records.read(range(records.n))
        batch = run.shuffled(range(records.n))[:BATCH]
        run.measure(WARM, run.shared(batch, records.read), len(batch), again=True)


class Records:
    """Records by number in one file."""

    def __init__(self, path: Path, n: int, seed: int) -> None:
        self.path = path
        self.n = n
        self.sizes = [random.Random(number).randint(MIN_BYTES, MAX_BYTES) for number in range(n)]
        self.content = Content(seed, MAX_BYTES)

    def _open(self, **options: Any) -> Any:
        import lmdb

        return lmdb.open(str(self.path), subdir=False, map_size=MAP_BYTES, **options)

    def build(self) -> None:
        with self._open() as database:
            for start in range(0, self.n, RECORDS_A_COMMIT):
                with database.begin(write=True) as transaction:
                    for number in range(start, min(start + RECORDS_A_COMMIT, self.n)):
                        transaction.put(_key(number), bytes(self.content.of(number, self.sizes[number])), append=True)
            database.sync(True)

    def read(self, numbers: Sequence[int]) -> None:
        with self._open(readonly=True, lock=False, readahead=False) as database, database.begin() as transaction:
            for number in numbers:
                found = transaction.get(_key(number))
                if found is None:
                    raise BenchError(f"{self.path}: record {number} is missing")
                self.content.check(f"{self.path} record {number}", number, self.sizes[number], found)


def _key(number: int) -> bytes:
    return b"%012d" % number
