"""Large files: how fast are bytes written and read, in order and at random?

One file for each process. In order: pieces of 1 MiB, and an fsync at the end of writing. At random: 4 KiB at aligned places,
reading anything the file holds, writing over it; the writes end with an fsync and are read back.
"""

import os
import random
from pathlib import Path

from cairnfs.bench.content import Content
from cairnfs.bench.sense import Cold
from cairnfs.bench.workload import WHY_DURABLE, WHY_KERNEL, WHY_PIECES, WHY_REQUESTS, Line, Run, Workload
from cairnfs.const import KIB, MIB

PIECE_BYTES, BLOCK_BYTES = MIB, 4 * KIB
WRITE, READ_COLD, READ = "write in order, fsync", "read in order, cold", "read in order, warm"
RANDOM_COLD, RANDOM, RANDOM_WRITE = "read 4 KiB at random, cold", "read 4 KiB at random, warm", "write 4 KiB at random, fsync"
ONE_IN = 32  # of the blocks of a file, how many are read or written at random
LEAST_FUSE_READ_BYTES = MIB  # of one READ request: the kernel asks for no more at once


class LargeFiles(Workload):
    """Files of `large_bytes` divided by the number of processes."""

    name = "large files"
    question = "How fast are large files written and read, in order and at random?"

    @property
    def lines(self) -> list[Line]:
        in_order = [Line(WRITE, "MiB/s", WHY_DURABLE), Line(READ_COLD, "MiB/s", WHY_PIECES), Line(READ, "MiB/s", WHY_KERNEL)]
        at_random = [(RANDOM_COLD, WHY_REQUESTS), (RANDOM, WHY_KERNEL), (RANDOM_WRITE, WHY_DURABLE)]
        return in_order + [Line(name, "blocks/s", why) for name, why in at_random]

    def run(self, run: Run) -> None:
        n_procs = run.settings.n_procs
        n_pieces = max(1, run.settings.large_bytes // n_procs // PIECE_BYTES)
        files = [LargeFile(run.folder / f"large{n}", n, n_pieces, run.settings.seed) for n in range(n_procs)]
        paths = [file.path for file in files]
        n_mib = n_pieces * n_procs
        n_blocks = files[0].n_random * n_procs
        whole = Cold(paths, {"READ": n_mib * MIB // LEAST_FUSE_READ_BYTES}, n_mib * MIB)
        run.measure(WRITE, lambda worker: files[worker].write(), n_mib)
        run.measure(READ_COLD, lambda worker: files[worker].read(), n_mib, cold=whole)
        for file in files:
            file.read()
        run.measure(READ, lambda worker: files[worker].read(), n_mib, again=True)
        seed = run.rng.randrange(1 << 30)
        some = Cold(paths, {"READ": n_blocks // ONE_IN}, n_blocks * BLOCK_BYTES)  # readahead may bring neighbours
        run.measure(RANDOM_COLD, lambda worker: files[worker].read_blocks(seed), n_blocks, cold=some)
        for file in files:
            file.read()
        run.measure(RANDOM, lambda worker: files[worker].read_blocks(seed), n_blocks, again=True)
        run.measure(RANDOM_WRITE, lambda worker: files[worker].write_blocks(seed), n_blocks)
        for file in files:
            file.check_blocks(seed)


class LargeFile:
    """One file, whose pieces have numbers of their own."""

    def __init__(self, path: Path, number: int, n_pieces: int, seed: int) -> None:
        self.path = path
        self.number = number
        self.n_pieces = n_pieces
        self.content = Content(seed, PIECE_BYTES)
        self.rewritten = Content(seed + 1, BLOCK_BYTES)
        self.blocks_a_piece = PIECE_BYTES // BLOCK_BYTES
        self.n_random = n_pieces * self.blocks_a_piece // ONE_IN

    def _piece(self, index: int) -> int:
        return self.number * self.n_pieces + index

    def _random_blocks(self, seed: int) -> list[int]:
        return random.Random(seed + self.number).sample(range(self.n_pieces * self.blocks_a_piece), self.n_random)

    def write(self) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            for index in range(self.n_pieces):
                os.write(fd, self.content.of(self._piece(index), PIECE_BYTES))
            os.fsync(fd)
        finally:
            os.close(fd)

    def read(self) -> None:
        with open(self.path, "rb", buffering=0) as file:
            for index in range(self.n_pieces):
                self.content.check(f"{self.path} at {index} MiB", self._piece(index), PIECE_BYTES, file.read(PIECE_BYTES))

    def read_blocks(self, seed: int) -> None:
        fd = os.open(self.path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            for block in self._random_blocks(seed):
                index, inside = divmod(block, self.blocks_a_piece)
                found = os.pread(fd, BLOCK_BYTES, block * BLOCK_BYTES)
                what = f"{self.path} at block {block}"
                self.content.check_part(what, self._piece(index), inside * BLOCK_BYTES, BLOCK_BYTES, found)
        finally:
            os.close(fd)

    def write_blocks(self, seed: int) -> None:
        fd = os.open(self.path, os.O_WRONLY)
        try:
            for block in self._random_blocks(seed):
                os.pwrite(fd, self.rewritten.of(block, BLOCK_BYTES), block * BLOCK_BYTES)
            os.fsync(fd)
        finally:
            os.close(fd)

    def check_blocks(self, seed: int) -> None:
        """What was written over must be there."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            for block in self._random_blocks(seed):
                found = os.pread(fd, BLOCK_BYTES, block * BLOCK_BYTES)
                self.rewritten.check(f"{self.path} at block {block}", block, BLOCK_BYTES, found)
        finally:
            os.close(fd)
