"""Names in order, of which there may be more than memory should hold: sorted by runs, which wait in temporary files.

A run is a few ten MiB of memory; 50 million names of packs are 100 runs and 1.5 GB below TMPDIR for as long as they are read.
"""

import heapq
import tempfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from cairnfs.errors import ObjectError

RUN_NAMES = 500_000


def in_order(batches: Iterable[list[bytes]]) -> Iterator[bytes]:
    """Every name once, in order; names must be without newlines. ObjectError when the temporary files cannot be written."""
    runs: list[BinaryIO] = []
    names: list[bytes] = []
    try:
        for batch in batches:
            names += batch
            if len(names) >= RUN_NAMES:
                runs.append(_written(sorted(names)))
                names = []
        names.sort()
        last = b""
        for name in heapq.merge(*map(_names, runs), names) if runs else names:
            if name != last:
                yield name
            last = name
    finally:
        for run in runs:
            run.close()


def _written(names: list[bytes]) -> BinaryIO:
    try:
        run: BinaryIO = tempfile.TemporaryFile(prefix="cairnfs-names-")  # noqa: SIM115 - outlives this function
        run.writelines(name + b"\n" for name in names)
        run.seek(0)
    except OSError as e:
        raise ObjectError(f"cannot sort names of objects in {tempfile.gettempdir()}: {e.strerror}") from e
    return run


def _names(run: BinaryIO) -> Iterator[bytes]:
    return (line[:-1] for line in run)
