"""Mending what a check found, one commit per finding, each conditional on the rows being as the check saw them.

Every method returns whether it changed something: False means that somebody else changed the rows, so that the finding must
be looked at again. Nothing here deletes bytes that a file may need: inodes without a name get one in /lost+found.
"""

import errno
import stat
from dataclasses import replace
from typing import Any

from cairnfs.check.findings import CheckedVolume
from cairnfs.check.verify import read_pack
from cairnfs.const import ROOT_INO
from cairnfs.errors import CorruptError, FsError, ObjectError
from cairnfs.meta import records
from cairnfs.meta.free import free_inode
from cairnfs.meta.layout_edit import LayoutEdit
from cairnfs.meta.ledger import Ledger
from cairnfs.meta.records import PackInfo, Usage
from cairnfs.meta.stores.base import Key, Row
from cairnfs.meta.txn import Txn, transact
from cairnfs.types import Attr, Caller, Inode, PackId, Position

LOST_FOUND = b"lost+found"
DELETE_ROWS = 1000


class Mender:
    """The ways to mend one volume."""

    def __init__(self, volume: CheckedVolume) -> None:
        self._volume = volume
        self._store = volume.meta.store

    def set_attr(self, ino: int, version: int, **fields: Any) -> bool:
        """Correct fields of an inode record."""

        def build(txn: Txn) -> bool:
            attr = _inode(txn, ino, version)
            if attr is None:
                return False
            txn.put(records.inode_key(ino), records.encode_attr(replace(attr, **fields)))
            return True

        return transact(self._store, build)

    def cut(self, ino: int, version: int, last_end: int) -> bool:
        """Remove records beyond the size of a file."""

        def build(txn: Txn) -> bool:
            attr = _inode(txn, ino, version)
            if attr is None:
                return False
            ledger = Ledger()
            size, attr.size = attr.size, last_end
            edit = LayoutEdit(txn, attr, ledger)
            edit.punch(size, last_end)
            attr.size = size
            edit.save()
            ledger.settle(txn)
            return True

        return transact(self._store, build)

    def adopt(self, ino: int, version: int) -> bool:
        """Give an inode without a name one in /lost+found."""
        home = self._lost_found()
        if home is None or home == ino:
            return False
        name = b"#%d" % ino

        def build(txn: Txn) -> bool:
            attr = _inode(txn, ino, version)
            if attr is None:
                return False
            attr.parent = home
            attr.nlink = attr.nlink if attr.is_dir else 1
            txn.put(records.inode_key(ino), records.encode_attr(attr))
            txn.absent(records.dentry_key(home, name), FsError(errno.EEXIST))
            txn.put(records.dentry_key(home, name), records.dentry_value(ino, attr.mode))
            _count_entry(txn, home, 1, attr.is_dir)
            return True

        return transact(self._store, build)

    def free(self, ino: int, version: int) -> bool:
        """Finish the deletion of an inode that has no link any more."""

        def build(txn: Txn) -> bool:
            attr = _inode(txn, ino, version)
            if attr is None or attr.nlink != 0:
                return False
            free_inode(txn, attr)
            return True

        return transact(self._store, build)

    def drop_entry(self, parent: int, name: bytes, version: int) -> bool:
        """Remove a name that leads nowhere, or that belongs to no directory."""

        def build(txn: Txn) -> bool:
            row = _seen(txn, records.dentry_key(parent, name), version)
            if row is None:
                return False
            txn.delete(records.dentry_key(parent, name))
            home = txn.get(records.inode_key(parent))
            if home is not None and records.decode_attr(parent, home).is_dir:
                kind = records.decode_dentry(Inode(parent), name, row.value).type
                _count_entry(txn, parent, -1, kind == stat.S_IFDIR)
            return True

        return transact(self._store, build)

    def set_entry_type(self, parent: int, name: bytes, version: int, ino: int, kind: int) -> bool:
        """Let an entry say the type that its inode has. Mounts know by the directory's row whether their listings still hold."""

        def build(txn: Txn) -> bool:
            if _seen(txn, records.dentry_key(parent, name), version) is None:
                return False
            txn.put(records.dentry_key(parent, name), records.dentry_value(ino, kind))
            if txn.get(records.inode_key(parent)) is not None:
                txn.max(records.inode_key(parent), records.CTIME_AT, bytes(8))
            return True

        return transact(self._store, build)

    def drop_stray(self, ino: int) -> bool:
        """Delete the rows of an inode that does not exist."""

        def build(txn: Txn) -> bool:
            keys = [records.inode_key(ino), records.deleted_key(ino)]
            rows = txn.scan(records.inode_part(ino), None, DELETE_ROWS)
            if not rows or any(txn.get_many(keys)):
                return False
            for key in keys:
                txn.unchanged(key)
            for subkey, _ in rows:
                txn.delete((records.inode_part(ino), subkey))
            return True

        n_times = 0
        while transact(self._store, build):
            n_times += 1
        return n_times > 0

    def drop_sustained(self, session: int, ino: int) -> bool:
        """Forget that a session held an inode open that does not exist any more."""

        def build(txn: Txn) -> bool:
            if txn.get(records.session_key(session)) is not None:
                return False
            txn.unchanged(records.session_key(session))
            txn.delete(records.sustained_key(session, ino))
            return True

        return transact(self._store, build)

    def set_live(self, pack: int, version: int, live_bytes: int) -> bool:
        """Correct the live bytes of a pack."""
        key = records.pack_key(pack)

        def build(txn: Txn) -> bool:
            row = _seen(txn, key, version)
            if row is None:
                return False
            txn.put(key, records.encode_pack(records.decode_pack(PackId(pack), row.value)._replace(live_bytes=live_bytes)))
            if live_bytes == 0:
                txn.put(records.garbage_key(pack), b"")
            return True

        return transact(self._store, build)

    def restore_pack(self, pack: int, live_bytes: int) -> bool:
        """Make the row of a pack anew from its object; not if that is damaged."""
        data = self._read_pack(pack)
        if data is None:
            return False

        def build(txn: Txn) -> bool:
            if txn.get(records.pack_key(pack)) is not None:
                return False
            txn.unchanged(records.pack_key(pack))
            txn.put(records.pack_key(pack), records.encode_pack(PackInfo(live_bytes, *data)))
            return True

        return transact(self._store, build)

    def mark(self, pack: int) -> bool:
        """List a pack without live bytes for deletion."""

        def build(txn: Txn) -> bool:
            txn.put(records.garbage_key(pack), b"")  # a mark without a pack is removed by whoever looks at it
            return True

        return transact(self._store, build)

    def set_usage(self, version: int, usage: Usage) -> bool:
        """Correct the usage counters; `version` is 0 when there was no row."""
        return self._put_seen(records.USAGE_KEY, version, records.encode_usage(usage))

    def raise_numbers(self, version: int, inode: int, pack: int, session: int) -> bool:
        """Let the counters of unused numbers begin no lower than these; `version` is 0 when there was no row."""
        return self._put_seen(records.NEXT_KEY, version, records.encode_numbers(inode, pack, session))

    def note_security(self, version: int) -> bool:
        """Let the volume say that it has, or had, attributes in security."""
        return self._put_seen(records.SECURITY_KEY, version, records.WAS_GIVEN)

    def make_directory(self, ino: int) -> bool:
        """Make the record of a directory anew, for its owner only; counters are corrected when it is looked at again."""
        now_ns = self._volume.meta.clock.now_ns()
        key = records.inode_key(ino)
        made = Attr(Inode(ino), stat.S_IFDIR | 0o700, 0, 0, 2, 0, 0, now_ns, now_ns, now_ns, now_ns, ino)

        def build(txn: Txn) -> bool:
            if txn.get(key) is not None:
                return False
            txn.unchanged(key)
            txn.put(key, records.encode_attr(made))
            return True

        return transact(self._store, build)

    def _put_seen(self, key: Key, version: int, value: bytes) -> bool:
        def build(txn: Txn) -> bool:
            row = txn.get(key)
            if (0 if row is None else row.version) != version:
                return False
            txn.unchanged(key)
            txn.put(key, value)
            return True

        return transact(self._store, build)

    def _lost_found(self) -> Inode | None:
        """The directory /lost+found, made if need be; None when something else has that name."""
        names = self._volume.meta.names
        try:
            found = names.lookup(Inode(ROOT_INO), LOST_FOUND)
        except FsError as e:
            if e.errno != errno.ENOENT:
                raise
            found = names.create(Caller(), Inode(ROOT_INO), LOST_FOUND, stat.S_IFDIR | 0o700)
        return found.ino if found.is_dir else None

    def _read_pack(self, pack: int) -> tuple[int, int] | None:
        """Plain bytes and object bytes of a stored pack that proves its identity."""
        try:
            data, entries = read_pack(self._volume, PackId(pack))
        except (ObjectError, CorruptError):
            return None
        return sum(entry.plain_len for entry in entries), len(data)


def _seen(txn: Txn, key: Key, version: int) -> Row | None:
    """A row, and the condition that it stays so, if it still has the version that the check saw."""
    row = txn.get(key)
    if row is None or row.version != Position(version):
        return None
    txn.unchanged(key)
    return row


def _inode(txn: Txn, ino: int, version: int) -> Attr | None:
    row = _seen(txn, records.inode_key(ino), version)
    return None if row is None else records.decode_attr(ino, row)


def _count_entry(txn: Txn, home: int, n: int, is_dir: bool) -> None:
    txn.add(records.inode_key(home), records.SIZE_AT, n)
    if is_dir:
        txn.add(records.inode_key(home), records.NLINK_AT, n)
