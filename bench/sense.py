"""Whether a result can be trusted: the error that ends a run, dropping the kernel's caches, and the proof that a phase was cold.

A cold phase is one before which the kernel has forgotten names, attributes and pages. The proof depends on what the directory is:

- cairnfs: its own counters must show the requests that a kernel without caches has to send;
- a block device: the processes must have read the bytes from it (`read_bytes` of /proc/self/io);
- anything else: before the phase, pages of a few of its files must not be in memory (mincore(2)).
"""

import ctypes
import mmap
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from cairnfs.errors import CairnError

ENOUGH = 0.9  # of what a cold phase must cause: some caches are filled by neighbours (readahead, inodes of one block)
N_PROBES = 8
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
MENDING = "; something else keeps it in memory: use another directory, or --no-cold"


class BenchError(CairnError):
    """A result that cannot be trusted: wrong bytes, a cold phase that was warm, work that failed."""


class Cold(NamedTuple):
    """What a phase must cause if it is cold."""

    paths: list[Path]  # files that it reads or asks about
    requests: Mapping[str, int]  # of a cairnfs mount, by opcode
    n_bytes: int = 1  # from the storage; 1: anything


def drop_caches() -> None:
    """Have the kernel forget names, attributes and clean pages. OSError when that is not allowed."""
    os.sync()
    DROP_CACHES.write_text("3\n")


def can_drop_caches() -> bool:
    return os.access(DROP_CACHES, os.W_OK)


def check_requests(where: str, cold: Cold, n_asked: Mapping[str, float]) -> None:
    """BenchError when a cairnfs mount was asked less than a kernel without caches asks."""
    for opcode, least in cold.requests.items():
        if n_asked[opcode] < ENOUGH * least:
            found = f"only {n_asked[opcode]:.0f} {opcode} requests for {least}"
            raise BenchError(f"{where} was not cold: {found}{MENDING}")


def check_storage(where: str, cold: Cold, n_read_bytes: int) -> None:
    """BenchError when processes have read less from the block device than they were given."""
    if n_read_bytes < ENOUGH * cold.n_bytes:
        raise BenchError(f"{where} was not cold: {n_read_bytes} of {cold.n_bytes} bytes came from the device{MENDING}")


def check_pages(where: str, paths: Iterable[Path]) -> None:
    """BenchError when pages of files are in the kernel's page cache."""
    n_pages = n_resident = 0
    for path in paths:
        pages = resident_pages(path)
        n_pages += len(pages)
        n_resident += sum(pages)
    if n_resident > (1 - ENOUGH) * n_pages:
        raise BenchError(f"{where} was not cold: {n_resident} of {n_pages} pages looked at are in memory{MENDING}")


def probes(paths: list[Path]) -> list[Path]:
    """A few of the paths, evenly spread: looking at a file makes its name known to the kernel, so no more than that."""
    return paths[:: max(1, len(paths) // N_PROBES)][:N_PROBES]


def resident_pages(path: Path) -> list[bool]:
    """For every page of a file: is it in the page cache? Nothing of it is read."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return []
        # A private writable mapping, because ctypes takes the address of writable buffers only.
        with mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
            n_pages = -(-size // mmap.PAGESIZE)
            found = (ctypes.c_ubyte * n_pages)()
            start = ctypes.c_char.from_buffer(mapped)
            failed = ctypes.CDLL(None, use_errno=True).mincore(ctypes.byref(start), ctypes.c_size_t(size), found)
            del start  # the mapping cannot be closed under it
            if failed:
                raise OSError(ctypes.get_errno(), "mincore failed", str(path))
    return [bool(page & 1) for page in found]
