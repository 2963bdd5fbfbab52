"""Changing attributes (mode, owner, times) and the volume's totals. Sizes are changed by `engine.meta.layout`.

The kernel has checked permissions, and has cleared set-group-id from a mode the caller may not set it in. What is left is
what only the file system can do in one step: keep the access ACL in agreement with the mode, and take set-user-id and
set-group-id away from files whose owner changes.
"""

import errno
import stat

from cairnfs.errors import FsError
from cairnfs.meta import acl
from cairnfs.meta.core import MetaCore
from cairnfs.meta.records import (
    FLAG_ACCESS_ACL,
    FLAG_XATTR,
    USAGE_KEY,
    decode_attr,
    decode_usage,
    encode_attr,
    inode_key,
    xattr_key,
)
from cairnfs.meta.txn import Txn
from cairnfs.types import Attr, Caller, Inode, SetAttr, StatFs

CAPABILITY = b"security.capability"


def without_suid(mode: int) -> int:
    """`mode` as it is after somebody else wrote to, cut or gave away the file: Linux's rule.

    Set-group-id stays when the group may not execute, for then it does not mean that; directories keep both bits.
    """
    if stat.S_ISDIR(mode):
        return mode
    return mode & ~(stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0))


class Attrs:
    """Attributes of inodes and of the volume. Every method may raise StoreError and CorruptError (EIO)."""

    def __init__(self, core: MetaCore) -> None:
        self._core = core

    def set(self, caller: Caller, ino: Inode, change: SetAttr) -> Attr:
        """Apply `change` (all but its size) and return the new attributes; ctime is now unless given. ENOENT."""
        now_ns = self._core.now_ns()

        def build(txn: Txn) -> Attr:
            row = txn.get(inode_key(ino))
            if row is None:
                raise FsError(errno.ENOENT)
            attr = _changed(decode_attr(ino, row), change, now_ns)
            txn.unchanged(inode_key(ino))
            if change.mode is not None and attr.flags & FLAG_ACCESS_ACL:
                _chmod_acl(txn, attr)
            if _kills_privileges(attr, change) and attr.flags & FLAG_XATTR:
                txn.delete(xattr_key(ino, CAPABILITY))
            txn.put(inode_key(ino), encode_attr(attr))
            return attr

        attr, committed = self._core.transact_at(build)
        attr.version = committed.position
        return attr

    def statfs(self) -> StatFs:
        """Limits of the volume (0: none) and what it uses."""
        usage = decode_usage(self._core.store.read((USAGE_KEY,))[0])
        fmt = self._core.format
        return StatFs(fmt.capacity_bytes, usage.used_bytes, fmt.inodes, usage.used_inodes)


def _changed(attr: Attr, change: SetAttr, now_ns: int) -> Attr:
    if change.uid is not None:
        attr.uid = change.uid
    if change.gid is not None:
        attr.gid = change.gid
    if change.mode is not None:
        attr.mode = stat.S_IFMT(attr.mode) | stat.S_IMODE(change.mode)
    elif _kills_privileges(attr, change):
        attr.mode = without_suid(attr.mode)
    if change.atime_ns is not None:
        attr.atime_ns = change.atime_ns
    if change.mtime_ns is not None:
        attr.mtime_ns = change.mtime_ns
    attr.ctime_ns = now_ns if change.ctime_ns is None else change.ctime_ns
    return attr


def _kills_privileges(attr: Attr, change: SetAttr) -> bool:
    """Whether a file loses set-user-id, set-group-id and capabilities: when it is given away, or when the kernel says so."""
    given_away = change.uid is not None or change.gid is not None
    return not attr.is_dir and (change.kill_suidgid or given_away)


def _chmod_acl(txn: Txn, attr: Attr) -> None:
    """Let the access ACL follow the mode. Each change of an ACL rewrites the inode row, so that row is condition enough."""
    key = xattr_key(attr.ino, acl.ACCESS)
    row = txn.get(key)
    if row is not None:
        txn.put(key, acl.encode(acl.chmod(acl.parse(row.value), attr.mode)))
