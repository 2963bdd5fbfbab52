"""Extended attributes, POSIX ACLs among them. One row each; the inode's flags tell whether there may be any.

Attributes are in the namespaces user, trusted and security, whose permissions the kernel checks, or are one of the two ACLs:
other names of system.* mean nothing here. An access ACL and the mode change together, in one commit.

While no inode of the volume was ever given an attribute in security., asking for one is EOPNOTSUPP: programs that look for labels
on every file (`ls -l`) then stop asking. Only what would be ENODATA becomes that, so no attribute is ever hidden by it.
"""

import errno
import stat

from cairnfs.const import MAX_XATTR_BYTES, MAX_XATTR_NAME_BYTES
from cairnfs.errors import FsError
from cairnfs.meta import acl
from cairnfs.meta.core import MetaCore
from cairnfs.meta.records import (
    CTIME_AT,
    FLAG_ACCESS_ACL,
    FLAG_DEFAULT_ACL,
    FLAG_XATTR,
    NEVER_GIVEN,
    SECURITY,
    SECURITY_KEY,
    WAS_GIVEN,
    XATTR_SUBPREFIX,
    decode_attr,
    encode_attr,
    inode_key,
    inode_part,
    time_field,
    xattr_key,
)
from cairnfs.meta.stores.base import Row
from cairnfs.meta.txn import Txn
from cairnfs.types import Attr, Inode

CREATE = 1  # XATTR_CREATE and XATTR_REPLACE of setxattr()
REPLACE = 2

NAMESPACES = (b"user.", b"trusted.", SECURITY)
SCAN_NAMES = 256

_ACL_FLAG = {acl.ACCESS: FLAG_ACCESS_ACL, acl.DEFAULT: FLAG_DEFAULT_ACL}


class Xattrs:
    """Extended attributes of inodes. Every method may raise StoreError and CorruptError (EIO)."""

    def __init__(self, core: MetaCore) -> None:
        self._core = core

    def get(self, ino: Inode, name: bytes) -> bytes:
        """The value. ENODATA, EOPNOTSUPP (no such namespace, or none in security. yet), ERANGE (name too long)."""
        _check_name(name)
        key = xattr_key(ino, name)
        row, *security = self._core.store.read((key, SECURITY_KEY) if name.startswith(SECURITY) else (key,))
        if row is None:
            raise FsError(errno.EOPNOTSUPP if security and _is_never_given(security[0]) else errno.ENODATA)
        return row.value

    def list(self, ino: Inode) -> list[bytes]:
        """All names, in bytewise order."""
        names: list[bytes] = []
        after: bytes | None = None
        while page := self._core.store.scan(inode_part(ino), after, SCAN_NAMES, prefix=XATTR_SUBPREFIX):
            names += [key[len(XATTR_SUBPREFIX) :] for key, _ in page]
            after = page[-1][0]
            if len(page) < SCAN_NAMES:
                break
        return names

    def set(self, ino: Inode, name: bytes, value: bytes, flags: int = 0, kill_sgid: bool = False) -> None:
        """Store a value. With CREATE it must be new (EEXIST), with REPLACE it must exist (ENODATA).

        ACLs know no such flags; `kill_sgid`: the caller may not keep set-group-id when it changes the mode through an ACL.
        ENOENT, EOPNOTSUPP, ERANGE (name too long), E2BIG (value), EINVAL (flags; a malformed ACL), EACCES (default ACL of
        something that is no directory).
        """
        _check_name(name)
        if len(value) > MAX_XATTR_BYTES:
            raise FsError(errno.E2BIG)
        if flags not in (0, CREATE, REPLACE):
            raise FsError(errno.EINVAL)
        now_ns = self._core.now_ns()
        if name in _ACL_FLAG:
            entries = acl.parse(value)
            self._core.transact(lambda txn: _set_acl(txn, ino, name, entries, kill_sgid, now_ns))
        else:
            self._core.transact(lambda txn: _set_plain(txn, ino, name, value, flags, now_ns))

    def remove(self, ino: Inode, name: bytes) -> None:
        """Remove an attribute; without its ACL an inode keeps its mode. That there is no ACL is no error, as on disks.
        ENODATA, ENOENT, EOPNOTSUPP, ERANGE.
        """
        _check_name(name)
        now_ns = self._core.now_ns()

        def build(txn: Txn) -> None:
            inode, row = txn.get_many((inode_key(ino), xattr_key(ino, name)))
            if inode is None:
                raise FsError(errno.ENOENT)
            if row is None and name in _ACL_FLAG:
                return
            if row is None:
                raise FsError(errno.ENODATA)
            txn.unchanged(xattr_key(ino, name))
            txn.delete(xattr_key(ino, name))
            if name in _ACL_FLAG:
                attr = decode_attr(ino, inode)
                _rewrite(txn, attr, attr.flags & ~_ACL_FLAG[name], now_ns)
            else:
                txn.max(inode_key(ino), CTIME_AT, time_field(now_ns))

        self._core.transact(build)


def _check_name(name: bytes) -> None:
    if not 0 < len(name) <= MAX_XATTR_NAME_BYTES:
        raise FsError(errno.ERANGE)
    if name in _ACL_FLAG:
        return
    if not name.startswith(NAMESPACES):
        raise FsError(errno.EOPNOTSUPP)
    if name in NAMESPACES:
        raise FsError(errno.EINVAL)


def _set_plain(txn: Txn, ino: Inode, name: bytes, value: bytes, flags: int, now_ns: int) -> None:
    key = xattr_key(ino, name)
    keys = (inode_key(ino), key, SECURITY_KEY) if name.startswith(SECURITY) else (inode_key(ino), key)
    inode, row, *security = txn.get_many(keys)
    if inode is None:
        raise FsError(errno.ENOENT)
    if security:
        _note_security(txn, security[0])
    if flags == CREATE:
        if row is not None:
            raise FsError(errno.EEXIST)
        txn.absent(key, FsError(errno.EEXIST))
    elif flags == REPLACE:
        if row is None:
            raise FsError(errno.ENODATA)
        txn.exists(key, FsError(errno.ENODATA))
    txn.put(key, value)
    attr = decode_attr(ino, inode)
    if attr.flags & FLAG_XATTR:
        txn.max(inode_key(ino), CTIME_AT, time_field(now_ns))
    else:
        _rewrite(txn, attr, attr.flags | FLAG_XATTR, now_ns)


def _is_never_given(security: Row | None) -> bool:
    """What the row of SECURITY_KEY says; volumes made before there was one may have any attributes."""
    return security is not None and security.value == NEVER_GIVEN


def _note_security(txn: Txn, security: Row | None) -> None:
    """The commit gives an attribute in security.; its first effect, so that whoever reads the log knows this before the rest."""
    txn.unchanged(SECURITY_KEY)  # after a failover the row that was read may be lost
    if _is_never_given(security):
        txn.put(SECURITY_KEY, WAS_GIVEN)


def _set_acl(txn: Txn, ino: Inode, name: bytes, entries: acl.Acl, kill_sgid: bool, now_ns: int) -> None:
    """Store an ACL, or only the mode when that says it all. An empty ACL removes the one there is."""
    row = txn.get(inode_key(ino))
    if row is None:
        raise FsError(errno.ENOENT)
    attr = decode_attr(ino, row)
    if attr.is_symlink:
        raise FsError(errno.EOPNOTSUPP)
    if name == acl.DEFAULT and not attr.is_dir:
        if entries:
            raise FsError(errno.EACCES)
        return
    if name == acl.ACCESS and entries:
        attr.mode = acl.apply_to_mode(entries, attr.mode & ~(stat.S_ISGID if kill_sgid else 0))
    if not entries or (name == acl.ACCESS and acl.is_minimal(entries)):
        txn.delete(xattr_key(ino, name))
        _rewrite(txn, attr, attr.flags & ~_ACL_FLAG[name], now_ns)
    else:
        txn.put(xattr_key(ino, name), acl.encode(entries))
        _rewrite(txn, attr, attr.flags | FLAG_XATTR | _ACL_FLAG[name], now_ns)


def _rewrite(txn: Txn, attr: Attr, flags: int, now_ns: int) -> None:
    """Effects of new flags (and mode) on the inode itself, conditional on the row as read."""
    attr.flags = flags
    attr.ctime_ns = now_ns
    txn.unchanged(inode_key(attr.ino))
    txn.put(inode_key(attr.ino), encode_attr(attr))
