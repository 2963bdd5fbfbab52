"""Compiled kernels by themselves: nanoseconds of each call, and bytes a second where a kernel works through bytes.

Calls are made from Python on one thread, so each line holds the call's own 30 to 100 ns. The fastest of several repeats counts,
because whatever disturbs only ever adds.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from random import Random
from typing import NamedTuple

from cairnfs.const import MIB, PAGE_BYTES
from cairnfs.ext import arena, checksum, file_io, ino_map, journal, kept_rows, listing, log_keys, page, shm, slicer, steps
from cairnfs.meta.recall import MAX_ROWS, MAX_VALUE_BYTES, RECALLED
from cairnfs.meta.records import USAGE_KEY, dentry_key, dentry_value, encode_attr, inode_key, locks_key, pack_key
from cairnfs.meta.stores.base import Absent, Add, Exists, Key, Max, Put, Row
from cairnfs.meta.stores.redis_store import CODES
from cairnfs.types import Attr, Inode, Position

N_REPEATS = 5
SLICE_BYTES = 64 << 10
N_KEYS = 1 << 14
FILE = 0o100644
FOLDER_MODE = 0o40755
FOLDER, FOLDER_VERSION, N_ENTRIES = 7, 1000, 1000
ONE = "one"  # the variant of a kernel that has no others

# Kernels that only serve requests of the kernel's FUSE layer, memory for these, or a cluster: nothing to be called by itself.
NOT_ALONE = ("busy_poll", "fuse_chan", "fuse_files", "fuse_names", "fuse_notify") + (
    "fuse_req",
    "fuse_resumed",
    "fuse_slots",
    "fuse_table",
    "log_end",
    "parts",
    "rados_io",
)


class Case(NamedTuple):
    """One line: `act` does `n_operations` on `n_bytes` in all; 0 bytes where bytes mean nothing."""

    kernel: str
    variant: str
    operation: str
    act: Callable[[], object]
    n_operations: int = 1
    n_bytes: int = 0


class Timing(NamedTuple):
    """What one operation takes."""

    kernel: str
    variant: str
    operation: str
    ns: float
    gb_per_s: float  # 0: bytes mean nothing


def measure(seconds: float) -> list[Timing]:
    """Every line, for about so long each."""
    return [timed(case, seconds) for case in cases()]


def timed(case: Case, seconds: float) -> Timing:
    n_calls, taken_ns = 1, 0
    while (taken_ns := _run(case.act, n_calls)) < seconds / N_REPEATS * 5e8 and n_calls < 1 << 30:
        n_calls *= 2
    ns = min(taken_ns, *(_run(case.act, n_calls) for _ in range(N_REPEATS - 1))) / n_calls
    gb_per_s = case.n_bytes / ns if ns else 0.0
    return Timing(case.kernel, case.variant, case.operation, ns / case.n_operations, gb_per_s)


def _run(act: Callable[[], object], n_calls: int) -> int:
    started_ns = time.perf_counter_ns()
    for _ in range(n_calls):
        act()
    return time.perf_counter_ns() - started_ns


def cases() -> Iterator[Case]:
    """Every line of every kernel."""
    for of_kernel in (
        _checksum,
        _slicer,
        _ino_map,
        _arena,
        _listing,
        _page,
        _journal,
        _shm,
        _file_io,
        _steps,
        _log_keys,
        _kept_rows,
    ):
        yield from of_kernel()


def _checksum() -> Iterator[Case]:
    for n_bytes in (4096, SLICE_BYTES, MIB):
        data = Random(n_bytes).randbytes(n_bytes)
        for variant in checksum.available():
            what = f"CRC32C of {n_bytes >> 10} KiB"
            yield Case("checksum", variant, what, partial(checksum.crc32c_with, variant, data), 1, n_bytes)
    pages = Random(0).randbytes(MIB)
    what = f"CRC32C of each {PAGE_BYTES >> 10} KiB of 1 MiB"
    yield Case("checksum", checksum.kernel, what, lambda: checksum.crc32c_pages(pages, PAGE_BYTES), 1, MIB)


def _slicer() -> Iterator[Case]:
    for n_records in (1, 16, 256):
        # Every other 4 KiB is mapped, so that no two records can be merged.
        records = [slicer.pack_record(i * 8192, 4096, 0, 4096, i + 1, 512, 4096, 0, 0) for i in range(n_records)]
        layout, end = b"".join(records), n_records * 8192
        middle = n_records // 2 * 8192
        over = slicer.pack_record(middle, 4096, 0, 4096, 1 << 20, 512, 4096, 0, 0)
        size = f"layout of {n_records}"
        yield Case("slicer", ONE, f"extents, {size}", partial(slicer.extents, layout, 0, end))
        yield Case(
            "slicer",
            ONE,
            f"overlay, {size}",
            partial(slicer.overlay, layout, middle, 4096, over),
        )
        yield Case("slicer", ONE, f"check, {size}", partial(slicer.check, layout, 64 * MIB))


def _ino_map() -> Iterator[Case]:
    table = ino_map.InoMap()
    inos = Random(0).sample(range(1, 1 << 40), N_KEYS)

    def put() -> None:
        for ino in inos:
            table.put(ino, 1)

    def get() -> None:
        for ino in inos:
            table.get(ino)

    yield Case("ino_map", ONE, f"put, {N_KEYS} inodes", put, N_KEYS)
    yield Case("ino_map", ONE, f"get, {N_KEYS} inodes", get, N_KEYS)


def _arena() -> Iterator[Case]:
    memory = arena.Arena(64 * MIB)
    names = [b"file-%06d" % n for n in range(1000)]
    keys: list[Key] = []
    rows: list[Row] = []
    for ino, name in enumerate(names, 10):
        keys += [inode_key(ino), dentry_key(1, name)]
        attr = Attr(Inode(ino), FILE, 0, 0, 1, 0, data_version=1)
        rows += [Row(encode_attr(attr), Position(1)), Row(dentry_value(ino, FILE), Position(1))]

    def note() -> None:
        memory.note(keys, rows, memory.token())

    def each_name() -> None:
        for name in names:
            memory.name(1, name)

    def each_attr() -> None:
        for ino in range(10, 10 + len(names)):
            memory.attr(ino)

    def each_absent_name() -> None:
        for name in names:
            memory.name(9, name)

    folder = encode_attr(Attr(Inode(9), FOLDER_MODE, 0, 0, 2, 0, data_version=1))
    data = Random(0).randbytes(SLICE_BYTES)
    memory.slice_put(1, 0, data)
    yield Case("arena", ONE, "note a row", note, len(keys))
    yield Case("arena", ONE, "name", each_name, len(names))
    memory.note([inode_key(Inode(9))], [Row(folder, Position(1))], memory.token())
    yield Case("arena", ONE, "absent name, whole directory", each_absent_name, len(names))
    yield Case("arena", ONE, "attributes", each_attr, len(names))
    yield Case("arena", ONE, "get a slice of 64 KiB", lambda: memory.slice_get(1, 0), 1, SLICE_BYTES)
    packs = iter(range(2, 1 << 60))
    yield Case("arena", ONE, "put a slice of 64 KiB", lambda: memory.slice_put(next(packs), 0, data), 1, SLICE_BYTES)


def _listing() -> Iterator[Case]:
    memory = arena.Arena(64 * MIB)
    versions = iter(range(FOLDER_VERSION, 1 << 60))

    def keep() -> None:
        made = listing.Listing(memory, FOLDER, next(versions), 1)
        for n in range(N_ENTRIES):
            made.add(n, b"file-%06d" % n, 10 + n, 0o100000)
        made.keep()

    kept = listing.Listing(memory, FOLDER + 1, FOLDER_VERSION, 1)
    for n in range(N_ENTRIES):
        kept.add(n, b"file-%06d" % n, 10 + n, 0o100000)
    kept.keep()
    yield Case("listing", ONE, "read a page, each entry", *_first_page(memory))
    yield Case("listing", ONE, "keep, each entry", keep, N_ENTRIES)


def _page() -> Iterator[Case]:
    memory = arena.Arena(64 * MIB)
    record = encode_attr(Attr(Inode(1), FILE, 0, 0, 1, 0, data_version=1))
    rows = [(b"file-%06d" % n, 1, dentry_value(10 + n, FILE), 1, record) for n in range(N_ENTRIES)]
    raw = b"".join(
        len(key).to_bytes(2, "big")
        + b"".join((8 + len(value)).to_bytes(4, "big") for value in (row, named))
        + key
        + version.to_bytes(8, "big")
        + row
        + named_version.to_bytes(8, "big")
        + named
        for key, version, row, named_version, named in rows
    )
    made = page.Page(raw)
    yield Case("page", ONE, "check and order, each row", partial(page.Page, raw), N_ENTRIES)
    yield Case("page", ONE, "put together, each row", partial(page.Page.of, rows), N_ENTRIES)
    yield Case("page", ONE, "keep in the arena, each row", lambda: made.note(memory, FOLDER, memory.token()), N_ENTRIES)
    yield Case("page", ONE, "take apart into objects, each row", made.rows, N_ENTRIES)


def _first_page(memory: arena.Arena) -> tuple[Callable[[], object], int]:
    def read() -> list[tuple[bytes, int, int, int]]:
        return listing.read_on(memory, FOLDER + 1, FOLDER_VERSION, 2) or []

    return read, len(read())


def _journal() -> Iterator[Case]:
    ring_bytes = MIB
    memory = shm.SharedMemory("bench", journal.Ring.region_bytes(ring_bytes))
    ring = journal.Ring(memory.view, ring_bytes)

    def add(data: bytes) -> None:
        ring.free([ring.add(7, 0, data, 0, 0)])

    for n_bytes in (4096, SLICE_BYTES):
        data = Random(n_bytes).randbytes(n_bytes)
        what = f"add and free {n_bytes >> 10} KiB"
        yield Case("journal", ONE, what, partial(add, data), 1, n_bytes)


def _shm() -> Iterator[Case]:
    memory = shm.SharedMemory("bench", MIB)
    yield Case("shm", ONE, "copy 1 MiB out", lambda: bytes(memory.view), 1, MIB)


def _file_io() -> Iterator[Case]:
    """In the folder for temporary files: what a sync costs there is in it."""
    data = Random(0).randbytes(SLICE_BYTES)
    with tempfile.TemporaryDirectory(prefix="cairnfs-kernels-") as folder:
        path = f"{folder}/object"

        def put_and_remove() -> None:
            file_io.put(folder, path, [data])
            os.unlink(path)

        size = f"{SLICE_BYTES >> 10} KiB"
        yield Case("file_io", ONE, f"put and remove {size}", put_and_remove, 1, SLICE_BYTES)
        file_io.put(folder, path, [data])
        yield Case("file_io", ONE, f"get {size}", partial(file_io.get, path, 0, SLICE_BYTES), 1, SLICE_BYTES)


def _steps() -> Iterator[Case]:
    """A commit as for a new file."""
    folder, name, new = inode_key(Inode(1)), dentry_key(1, b"file-000001"), inode_key(Inode(9))
    record = encode_attr(Attr(Inode(9), FILE, 0, 0, 1, 0, data_version=1))
    conditions = [Exists(folder), Absent(name)]
    effects = [Put(new, record), Put(name, dentry_value(9, FILE)), Max(folder, 40, b"12345678"), Add(folder, 24, 1)]
    yield Case("steps", ONE, "a commit of 6 steps", partial(steps.gathered, conditions, effects, CODES, Put, 4))


def _kept_rows() -> Iterator[Case]:
    """A commit as for a removal."""
    kept = kept_rows.KeptRows(RECALLED, partial(tuple.__new__, Row), MAX_ROWS, MAX_VALUE_BYTES)
    folder, name, gone, pack = inode_key(Inode(1)), dentry_key(1, b"file-000001"), inode_key(Inode(9)), pack_key(7)
    rows = {name: None, folder: bytes(88), gone: None, locks_key(9): None, USAGE_KEY: bytes(16), pack: bytes(24)}
    positions = count(1)

    def commit() -> None:
        kept.committed(kept.may_keep(rows), rows, next(positions))

    yield Case("kept_rows", ONE, "a commit of 6 rows", commit)


def _log_keys() -> Iterator[Case]:
    keys = [inode_key(Inode(ino)) for ino in range(8)]
    joined = log_keys.joined(keys)
    yield Case("log_keys", ONE, "join 8 keys", partial(log_keys.joined, keys))
    yield Case("log_keys", ONE, "take 8 keys apart", partial(log_keys.taken_apart, joined))
