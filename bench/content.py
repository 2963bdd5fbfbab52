"""How large files are and what they hold: the same in every directory, and known to whoever reads them back.

A file, or a piece of one, has a number. Its bytes are a run of one random stream that begins elsewhere for every number, so
they cannot be mistaken for those of another, and are compared in place: one memcmp, no copy.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from cairnfs.bench.sense import BenchError
from cairnfs.const import MIB
from cairnfs.errors import UsageError
from cairnfs.units import format_size, parse_size

SPAN_BYTES = MIB
STEP = 4099  # prime, so every number below SPAN_BYTES begins elsewhere
WAV_HEADER_BYTES, WAV_MIN_BYTES, WAV_MAX_BYTES = 44, 8_000, 100_000
WAV_MEAN_LOG, WAV_SPREAD_LOG = 10.7, 0.5  # of the lognormal distribution: the median is 44 kB, 1.4 s at 16 kHz and 16 bits


class Sizes(NamedTuple):
    """A distribution of file sizes."""

    name: str
    max_bytes: int
    of: Callable[[int], int]  # the size of the file of a number

    def first(self, n_files: int) -> list[int]:
        return [self.of(n) for n in range(n_files)]


def _wav_bytes(n: int) -> int:
    drawn = random.Random(n).lognormvariate(WAV_MEAN_LOG, WAV_SPREAD_LOG)
    return WAV_HEADER_BYTES + 2 * int(min(max(drawn, WAV_MIN_BYTES), WAV_MAX_BYTES - WAV_HEADER_BYTES) / 2)


def parse_sizes(text: str) -> Sizes:
    """`wav`: speech of 8 to 100 kB; else one size for all, such as 64K. UsageError when it is neither."""
    if text == "wav":
        return Sizes("wav", WAV_MAX_BYTES, _wav_bytes)
    try:
        size = parse_size(text)
    except UsageError as error:
        raise UsageError(f"'{text}' is not a size of files: write wav, or a size such as 64K") from error
    if not 0 < size <= 64 * MIB:
        raise UsageError(f"'{text}' is not a size of files: it must be from 1 byte to 64M")
    return Sizes(format_size(size), size, lambda n: size)


class Content:
    """Bytes by number."""

    def __init__(self, seed: int, max_bytes: int) -> None:
        self._stream = random.Random(seed).randbytes(SPAN_BYTES + max_bytes)
        self._view = memoryview(self._stream)

    def of(self, n: int, size: int) -> memoryview:
        start = n * STEP % SPAN_BYTES
        return self._view[start : start + size]

    def check(self, what: object, n: int, size: int, found: bytes) -> None:
        """BenchError naming `what` when `found` is not the bytes of number `n`."""
        self.check_part(what, n, 0, size, found)

    def check_part(self, what: object, n: int, offset: int, size: int, found: bytes) -> None:
        """The same for `size` bytes at `offset` of what has number `n`."""
        if len(found) != size:
            raise BenchError(f"{what}: {len(found)} bytes were read, {size} were written")
        start = n * STEP % SPAN_BYTES + offset
        if not self._stream.startswith(found, start):
            expected = self._view[start : start + size]
            at = next(i for i in range(size) if found[i] != expected[i])
            raise BenchError(f"{what}: byte {at} of {size} is not what was written")
