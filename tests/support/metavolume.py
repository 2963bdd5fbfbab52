"""A volume in memory without fronts and without objects: what tests of layouts, deletion and checks start from."""

from cairnfs.const import ROOT_INO
from cairnfs.meta import records
from cairnfs.meta.core import MetaCore
from cairnfs.meta.layout import Layout, free_inode
from cairnfs.meta.records import PackInfo, Usage
from cairnfs.meta.stores.base import Key, Store
from cairnfs.meta.stores.memory import MemoryStore
from cairnfs.meta.txn import Txn, transact
from cairnfs.meta.volume import VolumeFormat, create_volume
from cairnfs.types import Attr, Inode, PackId, SliceRef

NOW_NS = 1_700_000_000 * 10**9


class MetaVolume:
    """Files with names, slices with made-up checksums, and the counters as they are stored."""

    def __init__(self, capacity_bytes: int = 0, store: Store | None = None) -> None:
        self.store = MemoryStore() if store is None else store
        create_volume(self.store, VolumeFormat("testing", capacity_bytes=capacity_bytes), NOW_NS)
        self.core = MetaCore(self.store)
        self.layout = Layout(self.core)

    def file(self, name: bytes, mode: int = 0o100644, parent: int = ROOT_INO) -> Inode:
        """A new empty file, or whatever the mode says."""
        ino = self.core.ids.inode()
        is_dir = mode & 0o170000 == 0o040000
        attr = Attr(ino, mode, 0, 0, 2 if is_dir else 1, 0, parent=parent, ctime_ns=NOW_NS, mtime_ns=NOW_NS)

        def build(txn: Txn) -> None:
            txn.put(records.inode_key(ino), records.encode_attr(attr))
            txn.put(records.dentry_key(parent, name), records.dentry_value(ino, mode))
            txn.add(records.inode_key(parent), records.SIZE_AT, 1)
            txn.add(records.inode_key(parent), records.NLINK_AT, int(is_dir))
            txn.add(records.USAGE_KEY, records.USED_INODES_AT, 1)

        transact(self.store, build)
        return ino

    def remove(self, ino: Inode, name: bytes, parent: int = ROOT_INO) -> None:
        """Take the only name of a file, and free the file."""

        def build(txn: Txn) -> None:
            txn.delete(records.dentry_key(parent, name))
            txn.add(records.inode_key(parent), records.SIZE_AT, -1)
            row = txn.get(records.inode_key(ino))
            assert row is not None
            free_inode(txn, records.decode_attr(ino, row))

        transact(self.store, build)

    def slice(self, length: int) -> SliceRef:
        """A new pack with one slice of `length` bytes."""
        return SliceRef(self.core.ids.pack(), 64, length, length, 0xC0FFEE, 0)

    def write(self, ino: Inode, file_off: int, length: int) -> SliceRef:
        """Write a new slice of its own pack."""
        ref = self.slice(length)
        self.layout.commit_write(ino, [(file_off, length, ref)], mtime_ns=NOW_NS, new_packs=[(ref.pack, length, length + 200)])
        return ref

    def attr(self, ino: Inode) -> Attr:
        row = self.store.read([records.inode_key(ino)])[0]
        assert row is not None
        return records.decode_attr(ino, row)

    def usage(self) -> Usage:
        return records.decode_usage(self.store.read([records.USAGE_KEY])[0])

    def packs(self) -> dict[PackId, PackInfo]:
        """Every pack row."""
        found = {}
        for part in self.store.partitions(records.PACK_PREFIX, None, 256):
            for key, row in self.store.scan(part, None, 100_000):
                pack = PackId(records.number_of(key))
                found[pack] = records.decode_pack(pack, row.value)
        return found

    def marked(self) -> set[int]:
        """Packs with a `g` row."""
        return {records.number_of(key) for key, _ in self.store.scan(records.GARBAGE_PART, None, 100_000)}

    def chunk_rows(self, ino: Inode) -> dict[int, bytes]:
        found = self.store.scan(records.inode_part(ino), None, 100_000, prefix=records.CHUNK_SUBPREFIX)
        return {records.chunk_no_of(key): row.value for key, row in found}

    def put(self, key: Key, value: bytes) -> None:
        """Overwrite a row, whatever it breaks."""
        transact(self.store, lambda txn: txn.put(key, value))

    def delete(self, key: Key) -> None:
        """Delete a row, whatever it breaks."""
        transact(self.store, lambda txn: txn.delete(key))
