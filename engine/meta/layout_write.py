"""Changes of file content, each as one commit: written slices, truncation, holes, allocation, copies by reference.

The bytes that a layout names are in the object store before the commit. Nothing here moves bytes: a range is punched,
zeroed or copied by changing records. Every commit keeps all records within the file's size.
Times are given by the caller (`now_ns`), offsets and lengths are bytes.
"""

import errno
import stat
from collections.abc import Callable, Sequence

from cairnfs.clock import is_ahead
from cairnfs.const import CHUNK_BYTES, MAX_FILE_BYTES
from cairnfs.errors import FsError
from cairnfs.ext import slicer
from cairnfs.meta.core import MetaCore
from cairnfs.meta.layout_edit import LayoutEdit, chunk_parts, file_attr, stored_layout
from cairnfs.meta.ledger import Ledger, NewPack
from cairnfs.meta.records import FLAG_XATTR, USAGE_KEY, USED_BYTES_AT, chunk_key, inode_key, pack_key, xattr_key
from cairnfs.meta.txn import Txn
from cairnfs.types import Attr, Inode, PackId, SliceRef

Piece = tuple[int, int, SliceRef]  # file offset, length, and the slice whose first `length` bytes belong there

# One copy touches at most this many chunks on each side, so that a commit stays small; callers go on after a short copy.
MAX_COPY_BYTES = 64 * CHUNK_BYTES

CAPABILITY_XATTR = b"security.capability"


def commit_write(
    core: MetaCore, ino: Inode, pieces: Sequence[Piece], mtime_ns: int | None, new_packs: Sequence[NewPack], kill_suid: bool
) -> Attr:
    """Put stored slices into a file, later pieces on top. EFBIG, ENOSPC."""
    end = _checked_end(max((file_off + length for file_off, length, _ in pieces), default=0))

    def change(txn: Txn, edit: LayoutEdit, ledger: Ledger) -> None:
        ledger.admit(txn, {ref.pack for _, _, ref in pieces}, new_packs)
        for file_off, length, ref in pieces:
            edit.write(file_off, length, ref)
        edit.content_changed = bool(pieces)
        edit.grow(end)
        if mtime_ns is not None:
            edit.attr.mtime_ns = mtime_ns
            is_wrong = is_ahead(edit.attr.ctime_ns, core.now_ns())  # by the clock of another node: it would hide this change
            edit.attr.ctime_ns = mtime_ns if is_wrong else max(edit.attr.ctime_ns, mtime_ns)
        if kill_suid:
            drop_privileges(txn, edit.attr)

    return _commit(core, ino, change, prefetch=_rows_of(ino, pieces), new=[pack_key(pack) for pack, _, _ in new_packs])


def truncate(core: MetaCore, ino: Inode, size: int, now_ns: int, kill_suid: bool) -> Attr:
    """Cut a file or extend it by a hole. EINVAL for a negative size, EFBIG."""
    if size < 0:
        raise FsError(errno.EINVAL)
    _checked_end(size)

    def change(txn: Txn, edit: LayoutEdit, ledger: Ledger) -> None:
        if size < edit.attr.size:
            edit.punch(size, edit.attr.size)
        edit.content_changed = size != edit.attr.size
        edit.attr.size = size
        edit.attr.mtime_ns = edit.attr.ctime_ns = now_ns
        if kill_suid:
            drop_privileges(txn, edit.attr)

    return _commit(core, ino, change)


def zero(core: MetaCore, ino: Inode, offset: int, length: int, keep_size: bool, now_ns: int) -> Attr:
    """Make a range read as zeros by making it a hole. EINVAL for an empty or negative range, EFBIG."""
    end = _checked_range(offset, length)

    def change(txn: Txn, edit: LayoutEdit, ledger: Ledger) -> None:
        if offset < edit.attr.size:
            edit.punch(offset, min(end, edit.attr.size))
        if not keep_size:
            edit.grow(end)
        edit.attr.mtime_ns = edit.attr.ctime_ns = now_ns

    return _commit(core, ino, change)


def allocate(core: MetaCore, ino: Inode, offset: int, length: int, keep_size: bool, now_ns: int) -> Attr:
    """Extend the file to hold the range, and say ENOSPC now if the volume has no room for its holes. EINVAL, EFBIG.

    Nothing is reserved: slices are immutable, so space is taken when bytes are written.
    """
    end = _checked_range(offset, length)

    def change(txn: Txn, edit: LayoutEdit, ledger: Ledger) -> None:
        capacity_bytes = core.format.capacity_bytes
        if capacity_bytes:
            n_bytes = edit.unmapped_bytes(offset, end)
            txn.at_most(USAGE_KEY, USED_BYTES_AT, n_bytes, capacity_bytes, FsError(errno.ENOSPC))
        edit.attr.mtime_ns = edit.attr.ctime_ns = now_ns  # as ext4 and XFS do, even when nothing is visible of it
        if not keep_size and end > edit.attr.size:
            edit.grow(end)

    return _commit(core, ino, change)


def copy_range(
    core: MetaCore, source: Inode, source_off: int, target: Inode, target_off: int, length: int, now_ns: int
) -> tuple[int, Attr]:
    """Let a range of `target` be the bytes of a range of `source`: both then share slices.

    Returns how many bytes were copied (short at the source's end and beyond MAX_COPY_BYTES) and the target's attributes.
    EINVAL for negative numbers and for overlapping ranges of one file, EFBIG, ENOSPC.
    """
    if min(source_off, target_off, length) < 0:
        raise FsError(errno.EINVAL)
    copied = 0

    def build(txn: Txn) -> Attr:
        nonlocal copied
        txn.get_many([inode_key(source), inode_key(target)])
        available = max(0, file_attr(txn, source).size - source_off)
        copied = min(length, available, MAX_COPY_BYTES)
        if copied == 0:
            return file_attr(txn, target)
        if source == target and abs(source_off - target_off) < min(length, available):
            raise FsError(errno.EINVAL)
        core.fence(txn, target)
        ledger = Ledger()
        to = LayoutEdit.open(txn, target, ledger)
        _copy(to if source == target else LayoutEdit.open(txn, source, ledger), source_off, to, target_off, copied)
        to.attr.mtime_ns = to.attr.ctime_ns = now_ns
        to.save()
        ledger.settle(txn, core.format.capacity_bytes)
        return to.attr

    attr, done = core.transact_at(build)
    if copied:
        attr.version = done.position
    return copied, attr


def replace(
    core: MetaCore, ino: Inode, chunk_no: int, expected_layout: bytes, new_layout: bytes, new_packs: Sequence[NewPack]
) -> bool:
    """Exchange the layout of a chunk for another one of the same bytes; False when it is not the expected one any more.

    Content does not change, so neither do the data version nor the times. ValueError when the new layout is malformed or
    maps other positions than the old one.
    """
    if _mapped(new_layout) != _mapped(expected_layout):
        raise ValueError(f"the new layout of chunk {chunk_no} of inode {ino} does not map what the old one maps")

    def build(txn: Txn) -> bool:
        if stored_layout(txn, ino, chunk_no) != expected_layout:
            return False
        ledger = Ledger()
        edit = LayoutEdit.open(txn, ino, ledger)
        ledger.admit(txn, _packs(new_layout) - _packs(expected_layout), new_packs)
        edit.exchange(chunk_no, new_layout)
        edit.save()
        ledger.settle(txn)
        return True

    return core.transact(build)


def drop_privileges(txn: Txn, attr: Attr) -> None:
    """What a write by somebody without CAP_FSETID does to a file: no set-user-id, no set-group-id, no capabilities."""
    attr.mode &= ~stat.S_ISUID
    if attr.mode & stat.S_IXGRP:  # without it the bit marks a file for mandatory locks, and stays
        attr.mode &= ~stat.S_ISGID
    if attr.flags & FLAG_XATTR:
        txn.delete(xattr_key(attr.ino, CAPABILITY_XATTR))


def _commit(
    core: MetaCore,
    ino: Inode,
    change: Callable[[Txn, LayoutEdit, Ledger], None],
    prefetch: Sequence[tuple[bytes, bytes]] = (),
    new: Sequence[tuple[bytes, bytes]] = (),
) -> Attr:
    """Run `change` on a file's layout and commit the result; the attributes as committed. Rows `new` most likely do not exist."""

    def build(txn: Txn) -> Attr:
        txn.suppose_absent(new)
        core.fence(txn, ino)
        if prefetch:
            txn.get_many(prefetch)
        ledger = Ledger()
        edit = LayoutEdit.open(txn, ino, ledger)
        change(txn, edit, ledger)
        edit.save()
        ledger.settle(txn, core.format.capacity_bytes)
        return edit.attr

    attr, done = core.transact_at(build)
    attr.version = done.position
    return attr


def _rows_of(ino: Inode, pieces: Sequence[Piece]) -> list[tuple[bytes, bytes]]:
    """Every row a write needs, so that they come in one round trip."""
    chunks = {no for file_off, length, _ in pieces for no, _, _ in chunk_parts(file_off, file_off + length)}
    packs = {ref.pack for _, _, ref in pieces}
    return [inode_key(ino), *(chunk_key(ino, no) for no in sorted(chunks - {0})), *(pack_key(p) for p in sorted(packs))]


def _copy(source: LayoutEdit, source_off: int, target: LayoutEdit, target_off: int, length: int) -> None:
    runs = source.runs(source_off, source_off + length)
    end = _checked_end(target_off + length)
    if target_off < target.attr.size:
        target.punch(target_off, min(end, target.attr.size))
    for run in runs:
        target.write(target_off + run.file_off - source_off, run.length, run.ref, run.off)
    target.grow(end)
    target.content_changed = True


def _packs(layout: bytes) -> set[PackId]:
    return {PackId(record[4]) for record in slicer.unpack(layout)}


def _mapped(layout: bytes) -> list[tuple[int, int]]:
    """The mapped ranges of a layout, neighbours joined."""
    ranges: list[tuple[int, int]] = []
    for pos, length, *_ in slicer.unpack(layout):
        if ranges and ranges[-1][1] == pos:
            ranges[-1] = (ranges[-1][0], pos + length)
        else:
            ranges.append((pos, pos + length))
    return ranges


def _checked_range(offset: int, length: int) -> int:
    if offset < 0 or length <= 0:
        raise FsError(errno.EINVAL)
    return _checked_end(offset + length)


def _checked_end(end: int) -> int:
    if end > MAX_FILE_BYTES:
        raise FsError(errno.EFBIG)
    return end
