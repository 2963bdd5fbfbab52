"""One file's layout while a transaction changes it: chunks are loaded as needed, overlaid, and written back once.

The layout of chunk 0 is the tail of the inode record, further chunks have `c` rows; a row that would be empty is deleted.
Every change goes with a new inode record that is conditional on the old one. Chunk rows change only that way, so they
need no conditions of their own, even when they were read at another moment than the inode row.
"""

import errno
from collections.abc import Iterator
from typing import NamedTuple

from cairnfs.const import CHUNK_BYTES
from cairnfs.errors import CorruptError, FsError
from cairnfs.ext import slicer
from cairnfs.meta.ledger import Ledger
from cairnfs.meta.records import (
    CHUNK_SUBPREFIX,
    chunk_key,
    chunk_no_of,
    decode_attr,
    encode_attr,
    inode_key,
    inode_part,
)
from cairnfs.meta.txn import Txn
from cairnfs.types import Attr, PackId, SliceRef

FEW_CHUNKS = 64  # up to this many, chunk rows are asked for by key; beyond, only those that exist are scanned for
SCAN_ROWS = 256  # a `c` row is 40 bytes to some KiB


class Run(NamedTuple):
    """`length` bytes of a file at `file_off`, mapped to the plain bytes of a slice from `off` on."""

    file_off: int
    length: int
    off: int
    ref: SliceRef


def file_attr(txn: Txn, ino: int) -> Attr:
    """The attributes of a regular file, read in `txn`. ENOENT when there is no inode, EINVAL when it is no file."""
    row = txn.get(inode_key(ino))
    if row is None:
        raise FsError(errno.ENOENT)
    attr = decode_attr(ino, row)
    if not attr.is_file:
        raise FsError(errno.EISDIR if attr.is_dir else errno.EINVAL)
    return attr


def stored_layout(txn: Txn, ino: int, chunk_no: int) -> bytes | None:
    """The layout of one chunk as stored; None when the inode is gone. EISDIR, EINVAL as `file_attr`."""
    keys = [inode_key(ino)] if chunk_no == 0 else [inode_key(ino), chunk_key(ino, chunk_no)]
    rows = txn.get_many(keys)
    if rows[0] is None:
        return None
    if chunk_no == 0:
        return file_attr(txn, ino).tail
    return b"" if rows[1] is None else rows[1].value


def malformed(ino: int, chunk_no: int, why: ValueError) -> CorruptError:
    """The error for a layout that breaks an invariant of the slicer."""
    return CorruptError(f"inode {ino}: the layout of chunk {chunk_no} is malformed: {why}")


def chunk_parts(start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """[start, end) of a file as (chunk number, first position in the chunk, end position in the chunk)."""
    while start < end:
        chunk_no, pos = divmod(start, CHUNK_BYTES)
        stop = min(CHUNK_BYTES, pos + end - start)
        yield chunk_no, pos, stop
        start += stop - pos


class LayoutEdit:
    """Changes to the layout and attributes of one file; `save` makes them effects of the transaction."""

    def __init__(self, txn: Txn, attr: Attr, ledger: Ledger) -> None:
        self.attr = attr
        self.content_changed = False
        self._txn = txn
        self._ledger = ledger
        self._chunks: dict[int, bytes] = {0: attr.tail}
        self._changed: set[int] = set()

    @classmethod
    def open(cls, txn: Txn, ino: int, ledger: Ledger) -> "LayoutEdit":
        """Start from the rows as they are. ENOENT, EISDIR and EINVAL as `file_attr`."""
        attr = file_attr(txn, ino)
        txn.unchanged(inode_key(ino))
        return cls(txn, attr, ledger)

    def write(self, file_off: int, length: int, ref: SliceRef, off: int = 0) -> None:
        """Map [file_off, file_off + length) to the bytes of a slice from `off` on."""
        for chunk_no, pos, stop in chunk_parts(file_off, file_off + length):
            record = slicer.pack_record(
                pos, stop - pos, off, ref.plain_len, ref.pack, ref.stored_off, ref.stored_len, ref.crc, ref.codec
            )
            self._overlay(chunk_no, pos, stop - pos, record)
            off += stop - pos

    def punch(self, start: int, end: int) -> None:
        """Make [start, end) a hole."""
        last = (end - 1) // CHUNK_BYTES
        for chunk_no in self._present(start // CHUNK_BYTES, last):
            first = chunk_no * CHUNK_BYTES
            pos = max(start - first, 0)
            self._overlay(chunk_no, pos, min(end - first, CHUNK_BYTES) - pos, None)

    def grow(self, end: int) -> None:
        """Let the file reach at least to `end`."""
        if end > self.attr.size:
            self.attr.size = end
            self.content_changed = True

    def runs(self, start: int, end: int) -> list[Run]:
        """What [start, end) is mapped to; holes are what is between."""
        return [
            run
            for chunk_no in self._present(start // CHUNK_BYTES, (end - 1) // CHUNK_BYTES)
            for run in runs_of(self.attr.ino, chunk_no, self.layout(chunk_no), start, end)
        ]

    def unmapped_bytes(self, start: int, end: int) -> int:
        """How many bytes of [start, end) are holes."""
        return end - start - sum(run.length for run in self.runs(start, end))

    def layout(self, chunk_no: int) -> bytes:
        """The layout of one chunk as it is now."""
        if chunk_no not in self._chunks:
            row = self._txn.get(chunk_key(self.attr.ino, chunk_no))
            self._chunks[chunk_no] = b"" if row is None else row.value
        return self._chunks[chunk_no]

    def exchange(self, chunk_no: int, layout: bytes) -> None:
        """Give a chunk another layout of the same content. ValueError when the new one is malformed."""
        slicer.check(layout, CHUNK_BYTES)
        old = self.layout(chunk_no)
        self._account(slicer.overlay(old, 0, CHUNK_BYTES, None)[1], slicer.covered(layout, 0, CHUNK_BYTES))
        for record in slicer.unpack(layout):
            self._ledger.referenced(PackId(record[4]), record[1])
        self._chunks[chunk_no] = layout
        self._changed.add(chunk_no)

    def save(self) -> None:
        """Add the changed rows to the transaction; `attr` then is what the inode row will say."""
        ino = self.attr.ino
        for chunk_no in sorted(self._changed - {0}):
            layout = self._chunks[chunk_no]
            if layout:
                self._txn.put(chunk_key(ino, chunk_no), layout)
            else:
                self._txn.delete(chunk_key(ino, chunk_no))
        self.attr.tail = self._chunks[0]
        self.attr.data_version += self.content_changed
        self._txn.put(inode_key(ino), encode_attr(self.attr))

    def _overlay(self, chunk_no: int, pos: int, length: int, record: bytes | None) -> None:
        old = self.layout(chunk_no)
        try:
            new, freed = slicer.overlay(old, pos, length, record)
        except ValueError as why:
            raise malformed(self.attr.ino, chunk_no, why) from why
        self._account(freed, 0 if record is None else length)
        if record is not None:
            self._ledger.referenced(PackId(int.from_bytes(record[16:24], "big")), length)
        if new != old:
            self._chunks[chunk_no] = new
            self._changed.add(chunk_no)
            self.content_changed = True

    def _account(self, freed: list[tuple[int, int]], n_mapped: int) -> None:
        n_bytes = n_mapped - sum(n for _, n in freed)
        self._ledger.freed(freed)
        self._ledger.used_bytes += n_bytes
        self.attr.alloc_bytes += n_bytes

    def _present(self, first: int, last: int) -> list[int]:
        """Numbers of the chunks in [first, last] that are not all hole."""
        last = min(last, max(self.attr.size - 1, 0) // CHUNK_BYTES)
        if last - first < FEW_CHUNKS:
            keys = [chunk_key(self.attr.ino, no) for no in range(max(first, 1), last + 1)]
            self._txn.get_many(keys)
            return [no for no in range(first, last + 1) if self.layout(no)]
        for chunk_no, layout in stored_chunks(self._txn, self.attr.ino, first, last):
            self._chunks.setdefault(chunk_no, layout)
        return sorted(no for no, layout in self._chunks.items() if layout and first <= no <= last)


def stored_chunks(txn: Txn, ino: int, first: int, last: int) -> Iterator[tuple[int, bytes]]:
    """The chunks >= 1 in [first, last] that have a row, with their layouts."""
    after = chunk_key(ino, max(first, 1) - 1)[1]
    while True:
        page = txn.scan(inode_part(ino), after, SCAN_ROWS, prefix=CHUNK_SUBPREFIX)
        for key, row in page:
            if chunk_no_of(key) > last:
                return
            yield chunk_no_of(key), row.value
        if len(page) < SCAN_ROWS:
            return
        after = page[-1][0]


def runs_of(ino: int, chunk_no: int, layout: bytes, start: int, end: int) -> Iterator[Run]:
    """The mapped runs of one chunk within [start, end) of the file."""
    first = chunk_no * CHUNK_BYTES
    try:
        records = slicer.unpack(layout)
        found = slicer.extents(layout, max(start - first, 0), max(min(end - first, CHUNK_BYTES), 0)) if layout else []
    except ValueError as why:
        raise malformed(ino, chunk_no, why) from why
    for pos, length, off, index in found:
        if index >= 0:
            _, _, _, plain_len, pack, stored_off, stored_len, crc, codec = records[index]
            yield Run(first + pos, length, off, SliceRef(PackId(pack), stored_off, stored_len, plain_len, crc, codec))
