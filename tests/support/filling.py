"""Many files at once, for tests that are about finding them: made by a few large commits, without a mount."""

import stat
import time

from cairnfs.const import CHUNK_BYTES
from cairnfs.ext import slicer
from cairnfs.meta.core import MetaCore
from cairnfs.meta.dirs import change_directory, directory
from cairnfs.meta.ledger import Ledger
from cairnfs.meta.records import decode_attr, dentry_key, dentry_value, encode_attr, inode_key
from cairnfs.meta.stores import open_store
from cairnfs.meta.txn import Txn
from cairnfs.types import Attr, Inode, PackId

BATCH = 1000


def fill(url: str, parent: int, names: list[bytes], like: int | None = None) -> None:
    """Give a directory of the volume at `url` files of these names: empty ones, or copies of the small file `like`."""
    store = open_store(url)
    try:
        core = MetaCore(store)
        for begin in range(0, len(names), BATCH):
            _fill(core, Inode(parent), names[begin : begin + BATCH], None if like is None else Inode(like))
    finally:
        store.close()


def _fill(core: MetaCore, parent: Inode, names: list[bytes], like: Inode | None) -> None:
    now_ns = time.time_ns()
    mode = stat.S_IFREG | 0o644

    def build(txn: Txn) -> None:
        into = directory(parent, txn.get(inode_key(parent)))
        ledger = Ledger()
        row = None if like is None else txn.get(inode_key(like))
        model = _empty(now_ns) if like is None or row is None else decode_attr(like, row)
        for name in names:
            attr = model.copy()
            attr.ino, attr.mode, attr.parent = core.ids.inode(), mode, parent
            for pack, n_bytes in slicer.overlay(attr.tail, 0, CHUNK_BYTES, None)[1]:
                ledger.referenced(PackId(pack), n_bytes)
            ledger.used_bytes += attr.alloc_bytes
            txn.put(inode_key(attr.ino), encode_attr(attr))
            txn.put(dentry_key(parent, name), dentry_value(attr.ino, mode))
        ledger.used_inodes = len(names)
        ledger.settle(txn)
        change_directory(txn, into, now_ns, entries=len(names))

    core.transact(build)


def _empty(now_ns: int) -> Attr:
    times = dict.fromkeys(("atime_ns", "mtime_ns", "ctime_ns", "btime_ns"), now_ns)
    return Attr(Inode(0), stat.S_IFREG, 0, 0, nlink=1, size=0, **times)
