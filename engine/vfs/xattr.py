"""Extended attributes, and the virtual `cairnfs.info` that tells how a file is stored.

Virtual attributes are answered on request only: listing does not show them, so copying tools leave them alone.
"""

import errno

from cairnfs.const import MAX_XATTR_BYTES, MAX_XATTR_NAME_BYTES
from cairnfs.errors import FsError
from cairnfs.types import Caller, Inode
from cairnfs.vfs.info import describe
from cairnfs.vfs.state import VfsState

VIRTUAL_PREFIX = b"cairnfs."
TRUSTED = b"trusted."  # the kernel lets nobody else read these, but shows what it is told that there is
INFO = b"cairnfs.info"


class Xattrs:
    """Operations on extended attributes of an inode; what each promises is said at `Vfs`."""

    def __init__(self, state: VfsState) -> None:
        self._state = state
        self._xattrs = state.meta.xattrs

    def get(self, ino: Inode, name: bytes) -> bytes:
        _check(name)
        if name == INFO:
            return describe(self._state, ino)
        if name.startswith(VIRTUAL_PREFIX):
            raise FsError(errno.ENODATA)
        return self._xattrs.get(ino, name)

    def set(self, c: Caller, ino: Inode, name: bytes, value: bytes, flags: int, kill_sgid: bool) -> None:
        self._change(name)
        if len(value) > MAX_XATTR_BYTES:
            raise FsError(errno.E2BIG)
        self._xattrs.set(ino, name, value, flags, kill_sgid)
        self._changed(ino)

    def list(self, c: Caller, ino: Inode) -> list[bytes]:
        names = self._xattrs.list(ino)
        return [name for name in names if not name.startswith(TRUSTED)] if c.uid else names

    def remove(self, ino: Inode, name: bytes) -> None:
        self._change(name)
        self._xattrs.remove(ino, name)
        self._changed(ino)

    def _changed(self, ino: Inode) -> None:
        """Flags, capabilities and with an ACL the mode of the inode have changed."""
        file = self._state.files.get(ino)
        if file is not None:
            file.invalidate()

    def _change(self, name: bytes) -> None:
        self._state.writable()
        _check(name)
        if name.startswith(VIRTUAL_PREFIX):
            raise FsError(errno.EPERM)


def _check(name: bytes) -> None:
    if not name or len(name) > MAX_XATTR_NAME_BYTES or b"\0" in name:
        raise FsError(errno.ERANGE)
