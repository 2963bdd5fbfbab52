"""Giving space back: inodes without names, the chunks of deleted large files, packs that nothing refers to.

    last name and last handle gone -> free_inode: the inode, its attributes and chunk 0 go, usage is given back at once;
                                      a file with further chunks leaves a `z` row
    `z` row                        -> free_deleted: its `c` rows go in bounded commits, then the `z` row
    live bytes of a pack decreased -> a `g` row: garbage() looks at it, and reports the pack if no live bytes are left
    pack reported                  -> its object is deleted (cairnfs.data), then drop_packs: their rows and `g` rows go
A process killed between any two steps leaves rows from which the next one, anywhere, goes on.
"""

from collections.abc import Sequence
from functools import partial

from cairnfs.const import CHUNK_BYTES
from cairnfs.ext import slicer
from cairnfs.meta.ledger import Ledger
from cairnfs.meta.records import (
    CHUNK_SUBPREFIX,
    DELETED_PART,
    FLAG_XATTR,
    GARBAGE_PART,
    LIVE_BYTES_AT,
    XATTR_SUBPREFIX,
    decode_pack,
    deleted_key,
    encode_attr,
    garbage_key,
    inode_key,
    inode_part,
    locks_key,
    number_of,
    pack_key,
)
from cairnfs.meta.stores.base import Row, Store, Unchanged
from cairnfs.meta.stores.fields import field
from cairnfs.meta.txn import Txn, transact
from cairnfs.types import Attr, PackId

SCAN_ROWS = 256
CHUNKS_PER_COMMIT = 64  # 4 GiB of a file; keeps a commit to about a hundred rows


def free_inode(txn: Txn, attr: Attr) -> None:
    """Delete an inode, in the caller's transaction, which must have read `attr`: record, extended attributes, locks, content.

    Gives the usage back in full. Chunks beyond the first are left to `free_deleted`. Names are the caller's business.
    """
    ino = attr.ino
    ledger = Ledger()
    ledger.used_inodes = -1
    key = inode_key(ino)
    txn.unchanged(key)
    txn.delete(key)
    txn.delete(locks_key(ino))
    if attr.flags & FLAG_XATTR:
        _delete_xattrs(txn, ino)
    if attr.is_file:
        ledger.used_bytes = -attr.alloc_bytes
        n_freed = _free_layout(ledger, attr.tail)
        if attr.size > CHUNK_BYTES:
            rest = attr.copy()
            rest.tail = b""
            rest.alloc_bytes -= n_freed
            txn.put(deleted_key(ino), encode_attr(rest))
    ledger.settle(txn)


def free_deleted(store: Store, limit: int) -> int:
    """Free up to `limit` chunks of deleted files; how many were freed (fewer than `limit`: no more are left)."""
    n_freed = 0
    after: bytes | None = None
    while n_freed < limit:
        page = store.scan(DELETED_PART, after, SCAN_ROWS)
        for key, _ in page:
            n_freed += _free_chunks(store, number_of(key), limit - n_freed)
            if n_freed >= limit:
                return n_freed
        if len(page) < SCAN_ROWS:
            return n_freed
        after = page[-1][0]
    return n_freed


def garbage(store: Store, limit: int, after: PackId | None = None) -> list[PackId]:
    """Up to `limit` packs without live bytes. Marks of packs that still have some are removed on the way."""
    found: list[PackId] = []
    mark = None if after is None else garbage_key(after)[1]
    while len(found) < limit:
        page = store.scan(GARBAGE_PART, mark, SCAN_ROWS)
        packs = [PackId(number_of(key)) for key, _ in page]
        rows = store.read([pack_key(pack) for pack in packs]) if packs else []
        for pack, row in zip(packs, rows, strict=True):
            if row is not None and field(row.value, LIVE_BYTES_AT) == 0:
                found.append(pack)
            elif row is None or field(row.value, LIVE_BYTES_AT) > 0:
                _unmark(store, pack)
        if len(page) < SCAN_ROWS:
            break
        mark = page[-1][0]
    return found[:limit]


def drop_packs(store: Store, packs: Sequence[PackId]) -> int:
    """Delete the rows of packs whose objects are gone, in one commit; how many. Those with live bytes or without a row stay."""

    def build(txn: Txn) -> int:
        n_dropped = 0
        keys = [pack_key(pack) for pack in packs]
        for pack, key, row in zip(packs, keys, txn.get_many(keys), strict=True):
            if row is None or decode_pack(pack, row.value).live_bytes != 0:
                continue
            txn.unchanged(key)
            txn.delete(key)
            txn.delete(garbage_key(pack))
            n_dropped += 1
        return n_dropped

    return transact(store, build)


def _free_layout(ledger: Ledger, layout: bytes) -> int:
    """Enter everything a chunk refers to as freed; how many bytes that is.

    Nobody can tell what a damaged layout refers to. It must not keep a file from being deleted: the volume check recounts
    the packs, whose live bytes are too high then, never too low.
    """
    try:
        _, freed = slicer.overlay(layout, 0, CHUNK_BYTES, None)
    except ValueError:
        return 0
    return ledger.freed(freed)


def _free_chunks(store: Store, ino: int, limit: int) -> int:
    """Free up to `limit` `c` rows of a deleted inode, and its `z` row with the last; how many."""
    n_freed = 0
    more = True
    while more and n_freed < limit:
        step = partial(_free_some, ino=ino, limit=min(limit - n_freed, CHUNKS_PER_COMMIT))
        n_chunks, more = transact(store, step)
        n_freed += n_chunks
    return n_freed


def _free_some(txn: Txn, ino: int, limit: int) -> tuple[int, bool]:
    """One step of `_free_chunks`: (rows freed, whether there are more). Nothing when another process took the rest."""
    if txn.get(deleted_key(ino)) is None:
        return 0, False
    ledger = Ledger()
    page = txn.scan(inode_part(ino), None, limit + 1, prefix=CHUNK_SUBPREFIX)
    for key, row in page[:limit]:
        _free_row(txn, ledger, ino, key, row)
    if len(page) <= limit:
        txn.delete(deleted_key(ino))
    txn.unchanged(deleted_key(ino))
    ledger.settle(txn)
    return len(page[:limit]), len(page) > limit


def _free_row(txn: Txn, ledger: Ledger, ino: int, key: bytes, row: Row) -> None:
    """Free one `c` row; conditional on it, so that of two processes freeing the same file one starts over."""
    _free_layout(ledger, row.value)
    txn.conditions.append(Unchanged((inode_part(ino), key), row.version))
    txn.delete((inode_part(ino), key))


def _delete_xattrs(txn: Txn, ino: int) -> None:
    after: bytes | None = None
    while True:
        page = txn.scan(inode_part(ino), after, SCAN_ROWS, prefix=XATTR_SUBPREFIX)
        for key, _ in page:
            txn.delete((inode_part(ino), key))
        if len(page) < SCAN_ROWS:
            return
        after = page[-1][0]


def _unmark(store: Store, pack: PackId) -> None:
    """Remove the mark of a pack that has live bytes, unless they change at this moment."""

    def build(txn: Txn) -> None:
        row = txn.get(pack_key(pack))
        if row is not None and field(row.value, LIVE_BYTES_AT) <= 0:
            return
        txn.unchanged(pack_key(pack))
        txn.delete(garbage_key(pack))

    transact(store, build)
