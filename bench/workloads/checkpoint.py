"""Checkpoints: how long does training stand still while its state is saved, and how fast is it back?

Every process saves its shard as frameworks do: a new file, pieces of 4 MiB, fsync, and a rename over the last checkpoint.
Restoring reads the shards in order with nothing in the kernel's caches, and compares every byte.
"""

import os
from pathlib import Path

from cairnfs.bench.content import Content
from cairnfs.bench.sense import Cold
from cairnfs.bench.workload import WHY_DURABLE, WHY_PIECES, Line, Run, Workload
from cairnfs.const import MIB

PIECE_BYTES = 4 * MIB
SAVE, AGAIN, RESTORE = "save", "save over the last one", "restore, cold"


class Checkpoint(Workload):
    """`large_bytes` in all, in shards of P processes."""

    name = "checkpoint"
    question = "How fast is a checkpoint saved, saved again, and restored?"

    @property
    def lines(self) -> list[Line]:
        return [Line(SAVE, "MiB/s", WHY_DURABLE), Line(AGAIN, "MiB/s", WHY_DURABLE), Line(RESTORE, "MiB/s", WHY_PIECES)]

    def run(self, run: Run) -> None:
        n_procs = run.settings.n_procs
        n_pieces = max(1, run.settings.large_bytes // n_procs // PIECE_BYTES)
        shards = [Shard(run.folder / f"shard{n}.ckpt", n, n_pieces, run.settings.seed) for n in range(n_procs)]
        n_mib = n_pieces * n_procs * PIECE_BYTES // MIB
        run.measure(SAVE, lambda worker: shards[worker].save(0), n_mib)
        run.measure(AGAIN, lambda worker: shards[worker].save(1), n_mib)
        cold = Cold([shard.path for shard in shards], {"LOOKUP": n_procs, "READ": n_mib}, n_mib * MIB)
        run.measure(RESTORE, lambda worker: shards[worker].restore(1), n_mib, cold=cold)
        if not run.can_be_cold:
            for shard in shards:
                shard.restore(1)


class Shard:
    """What one process saves: pieces whose bytes depend on the step."""

    def __init__(self, path: Path, number: int, n_pieces: int, seed: int) -> None:
        self.path = path
        self.number = number
        self.n_pieces = n_pieces
        self.content = Content(seed, PIECE_BYTES)

    def _piece(self, step: int, index: int) -> int:
        return (step << 16) + self.number * self.n_pieces + index

    def save(self, step: int) -> None:
        half_done = self.path.with_suffix(".tmp")
        with open(half_done, "xb", buffering=0) as file:
            for index in range(self.n_pieces):
                left = self.content.of(self._piece(step, index), PIECE_BYTES)
                while left:
                    left = left[file.write(left) or 0 :]
            os.fsync(file.fileno())
        os.replace(half_done, self.path)

    def restore(self, step: int) -> None:
        with open(self.path, "rb", buffering=PIECE_BYTES) as file:
            for index in range(self.n_pieces):
                found = file.read(PIECE_BYTES)
                self.content.check(f"{self.path} at piece {index}", self._piece(step, index), PIECE_BYTES, found)
