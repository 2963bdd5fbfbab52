"""Where the bytes of a file are: the face of everything about layouts, and its reading half.

A file is divided into chunks of 64 MiB; each has a layout, slice records in order (`cairnfs.ext.slicer`), and what no record
covers is a hole. Answers are about what is committed: a caller with unwritten buffers flushes them first.
"""

import errno
import os
from collections.abc import Iterable, Iterator, Sequence

from cairnfs.const import CHUNK_BYTES
from cairnfs.errors import FsError
from cairnfs.ext import slicer
from cairnfs.meta import free, layout_write
from cairnfs.meta.core import MetaCore
from cairnfs.meta.free import free_inode
from cairnfs.meta.layout_edit import FEW_CHUNKS, file_attr, malformed, runs_of, stored_chunks
from cairnfs.meta.layout_write import Piece
from cairnfs.meta.ledger import NewPack
from cairnfs.meta.records import chunk_key, inode_key
from cairnfs.meta.txn import UNCOMMITTED, Txn
from cairnfs.types import Attr, Extent, Inode, PackId, Position

__all__ = ["Layout", "NewPack", "Piece", "free_inode"]


class Layout:
    """Reads and changes layouts. Offsets, lengths and sizes are bytes; `now_ns` defaults to the clock's time.

    Every operation may raise ENOENT (no such inode), EISDIR or EINVAL (not a regular file), CorruptError (EIO) for a
    malformed record, and StoreError.
    """

    def __init__(self, core: MetaCore) -> None:
        self._core = core

    def read(self, ino: Inode, chunk_no: int, version: Position = UNCOMMITTED, along: Iterable[int] = ()) -> bytes:
        """The layout of one chunk; empty when it is all hole or beyond the end. ENOENT. `version`: that of the inode, if known;
        what was read of this version before is not read again. Where round trips cost time, those of chunks `along` come with it.
        """
        kept = self._core.layouts.get(ino, chunk_no, version)
        if kept is not None:
            return kept
        numbers = sorted({chunk_no, *along} if self._core.neighbours.started else {chunk_no})
        txn = Txn(self._core.store)
        inode, *rows = txn.get_many([inode_key(ino), *(chunk_key(ino, no) for no in numbers if no)])
        if inode is None:
            raise FsError(errno.ENOENT)
        if not chunk_no:
            return file_attr(txn, ino).tail
        layouts = {no: b"" if row is None else row.value for no, row in zip(numbers, rows, strict=True)}
        for no, layout in layouts.items():
            self._core.layouts.put(ino, no, inode.version, layout)
        return layouts[chunk_no]

    def extents(self, ino: Inode, offset: int, size: int) -> list[Extent]:
        """What [offset, offset + size), clipped at the end of the file, is made of: in order and without gaps."""
        txn = Txn(self._core.store)
        attr = file_attr(txn, ino)
        end = min(offset + size, attr.size)
        extents: list[Extent] = []
        at = offset
        for chunk_no, layout in _chunks(txn, attr, offset, end):
            for run in runs_of(ino, chunk_no, layout, offset, end):
                if run.file_off > at:
                    extents.append(Extent(at, run.file_off - at, 0, None))
                extents.append(Extent(run.file_off, run.length, run.off, run.ref))
                at = run.file_off + run.length
        if at < end:
            extents.append(Extent(at, end - at, 0, None))
        return extents

    def seek(self, ino: Inode, offset: int, whence: int) -> int:
        """SEEK_DATA and SEEK_HOLE; the end of the file is a hole. ENXIO beyond the end or with no more data, EINVAL."""
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise FsError(errno.EINVAL)
        txn = Txn(self._core.store)
        attr = file_attr(txn, ino)
        if not 0 <= offset < attr.size:
            raise FsError(errno.ENXIO)
        return _next_data(txn, attr, offset) if whence == os.SEEK_DATA else _next_hole(txn, attr, offset)

    def commit_write(
        self,
        ino: Inode,
        pieces: Sequence[Piece],
        *,
        mtime_ns: int | None,
        new_packs: Sequence[NewPack],
        kill_suid: bool = False,
    ) -> Attr:
        """Make stored slices content, in one commit: the first `length` bytes of each slice at its file offset.

        Later pieces lie on top of earlier ones; the size grows to cover them. `new_packs` are (pack, plain bytes, bytes of
        the object) for packs that no commit has named yet. Without `mtime_ns` the times stay. EFBIG, ENOSPC.
        """
        return layout_write.commit_write(self._core, ino, pieces, mtime_ns, new_packs, kill_suid)

    def truncate(self, ino: Inode, size: int, now_ns: int | None = None, kill_suid: bool = False) -> Attr:
        """Cut a file or extend it by a hole. EINVAL for a negative size, EFBIG."""
        return layout_write.truncate(self._core, ino, size, self._now(now_ns), kill_suid)

    def punch(self, ino: Inode, offset: int, length: int, keep_size: bool = True, now_ns: int | None = None) -> Attr:
        """Make a range a hole, giving its space back. EINVAL for an empty or negative range, EFBIG."""
        return layout_write.zero(self._core, ino, offset, length, keep_size, self._now(now_ns))

    def zero(self, ino: Inode, offset: int, length: int, keep_size: bool = False, now_ns: int | None = None) -> Attr:
        """Make a range read as zeros, extending the file unless `keep_size`. EINVAL, EFBIG."""
        return layout_write.zero(self._core, ino, offset, length, keep_size, self._now(now_ns))

    def allocate(self, ino: Inode, offset: int, length: int, keep_size: bool = False, now_ns: int | None = None) -> Attr:
        """Extend the file to hold a range; ENOSPC when the volume has no room for it now. Nothing is reserved. EINVAL, EFBIG."""
        return layout_write.allocate(self._core, ino, offset, length, keep_size, self._now(now_ns))

    def copy_range(
        self, source: Inode, source_off: int, target: Inode, target_off: int, length: int, now_ns: int | None = None
    ) -> tuple[int, Attr]:
        """Let a range of one file share the bytes of another (or the same): (bytes copied, attributes of the target).

        Short at the source's end, and after 4 GiB; a hole is copied as a hole. EINVAL for overlapping ranges of one file,
        EFBIG, ENOSPC.
        """
        now_ns = self._now(now_ns)
        return layout_write.copy_range(self._core, source, source_off, target, target_off, length, now_ns)

    def replace(
        self, ino: Inode, chunk_no: int, expected_layout: bytes, new_layout: bytes, new_packs: Sequence[NewPack] = ()
    ) -> bool:
        """Exchange a chunk's layout for one with the same bytes in other packs; False when it is no longer the expected one.

        ValueError when the new layout is malformed or maps other positions.
        """
        return layout_write.replace(self._core, ino, chunk_no, expected_layout, new_layout, new_packs)

    def garbage(self, limit: int, after: PackId | None = None) -> list[PackId]:
        """Up to `limit` packs with number > `after` whose live bytes are zero, for good: objects that can be deleted."""
        return free.garbage(self._core.store, limit, after)

    def drop_pack(self, pack: PackId) -> bool:
        """Forget a pack whose object has been deleted; False when it is not garbage."""
        return self.drop_packs([pack]) == 1

    def drop_packs(self, packs: Sequence[PackId]) -> int:
        """`drop_pack` for several, in one commit; how many were garbage."""
        return free.drop_packs(self._core.store, packs)

    def free_deleted(self, limit: int) -> int:
        """Free up to `limit` chunks of deleted large files; how many were freed (less than `limit`: none is left)."""
        return free.free_deleted(self._core.store, limit)

    def _now(self, now_ns: int | None) -> int:
        return self._core.clock.now_ns() if now_ns is None else now_ns


def _chunks(txn: Txn, attr: Attr, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """The chunks of [start, end) that may hold data, in order, with their layouts; few are read in one round trip."""
    if start >= end:
        return
    first, last = start // CHUNK_BYTES, (end - 1) // CHUNK_BYTES
    if first == 0:
        yield 0, attr.tail
    if last - first >= FEW_CHUNKS:
        yield from stored_chunks(txn, attr.ino, first, last)
        return
    numbers = range(max(first, 1), last + 1)
    for chunk_no, row in zip(numbers, txn.get_many([chunk_key(attr.ino, no) for no in numbers]), strict=True):
        if row is not None:
            yield chunk_no, row.value


def _next_data(txn: Txn, attr: Attr, offset: int) -> int:
    for chunk_no, layout in _chunks(txn, attr, offset, attr.size):
        first = chunk_no * CHUNK_BYTES
        try:
            pos = slicer.next_data(layout, max(offset - first, 0))
        except ValueError as why:
            raise malformed(attr.ino, chunk_no, why) from why
        if pos >= 0:
            return first + pos
    raise FsError(errno.ENXIO)


def _next_hole(txn: Txn, attr: Attr, offset: int) -> int:
    at = offset
    for chunk_no, layout in _chunks(txn, attr, offset, attr.size):
        first = chunk_no * CHUNK_BYTES
        if first > at:
            break  # the chunk before has no row
        try:
            pos = slicer.next_hole(layout, at - first)
        except ValueError as why:
            raise malformed(attr.ino, chunk_no, why) from why
        at = first + pos
        if pos < CHUNK_BYTES:
            break
    return min(at, attr.size)
