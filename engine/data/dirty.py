"""Bytes written to one block of a file and not sealed yet. Pure bookkeeping: no locks, no I/O.

A block keeps runs of bytes that do not touch, in order. A run grows as it is written, so that a file of ten bytes takes
ten bytes and not a block; a sequential writer appends to one run until the block is full.
"""

from bisect import bisect_left, bisect_right

from cairnfs.types import Buffer


class DirtyBlock:
    """The dirty runs of the block [`base`, `base + block_bytes`). `born_s` is when its first byte came (monotonic)."""

    __slots__ = ("_ends_at", "_runs", "_starts", "base", "born_s", "n_bytes")

    def __init__(self, base: int, block_bytes: int, born_s: float) -> None:
        self.base = base
        self.born_s = born_s
        self.n_bytes = 0
        self._ends_at = base + block_bytes
        self._starts: list[int] = []
        self._runs: list[bytearray] = []

    @property
    def full(self) -> bool:
        return self.n_bytes == self._ends_at - self.base

    @property
    def end(self) -> int:
        """File offset after the last dirty byte."""
        return self._starts[-1] + len(self._runs[-1]) if self._runs else 0

    def runs(self) -> list[tuple[int, bytearray]]:
        """(file offset, bytes) of each run, in order. After this the block must not be written any more."""
        return list(zip(self._starts, self._runs, strict=True))

    def write(self, offset: int, data: Buffer) -> int:
        """Copy `data`, which lies within the block, to file offset `offset`. Returns by how many bytes the block grew."""
        starts, runs = self._starts, self._runs
        end = offset + len(data)
        i = bisect_right(starts, offset) - 1
        if i < 0 or starts[i] + len(runs[i]) < offset:
            i += 1  # the run before does not touch; this one is the first that may
        j = bisect_right(starts, end)
        before = self.n_bytes
        if i >= j:
            starts.insert(i, offset)
            runs.insert(i, bytearray(data))
            self.n_bytes += len(data)
        elif offset >= starts[i] and j == i + 1:
            self.n_bytes += _put(runs[i], offset - starts[i], data)
        else:
            self._merge(i, j, offset, data)
        return self.n_bytes - before

    def copy(self, offset: int, end: int) -> list[tuple[int, bytes]]:
        """Copies of the dirty pieces within [offset, end), in order."""
        found = []
        first = max(0, bisect_right(self._starts, offset) - 1)
        for i in range(first, bisect_left(self._starts, end)):
            start, run = self._starts[i], self._runs[i]
            a, b = max(offset, start), min(end, start + len(run))
            if a < b:
                found.append((a, bytes(memoryview(run)[a - start : b - start])))
        return found

    def _merge(self, i: int, j: int, offset: int, data: Buffer) -> None:
        """Runs i..j-1 touch the new bytes: make one run of all."""
        start = min(offset, self._starts[i])
        merged = bytearray(max(offset + len(data), self._starts[j - 1] + len(self._runs[j - 1])) - start)
        for at, run in zip(self._starts[i:j], self._runs[i:j], strict=True):
            merged[at - start : at - start + len(run)] = run
            self.n_bytes -= len(run)
        merged[offset - start : offset - start + len(data)] = data
        self._starts[i:j] = [start]
        self._runs[i:j] = [merged]
        self.n_bytes += len(merged)


def _put(run: bytearray, at: int, data: Buffer) -> int:
    """Write into a run at `at` <= its length, growing it as needed; returns the growth."""
    before = len(run)
    if at == before:
        run += data
    else:
        run[at : at + len(data)] = data  # replaces what overlaps, appends the rest
    return len(run) - before
