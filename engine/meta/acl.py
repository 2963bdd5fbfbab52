"""POSIX access control lists as pure functions over the value that Linux keeps in `system.posix_acl_*`.

That value is little-endian: u32 version (2), then per entry u16 tag, u16 permissions, u32 uid or gid (all ones when the
tag names nobody). An ACL of only the owner, group and other entries says no more than a mode does; such an ACL is never
stored. In a longer ACL the group bits of the mode show the mask entry, not the group entry.

Nothing here reads or writes a store, and nothing checks permissions: the kernel does, with the values it is given.
"""

import errno
import struct
from collections.abc import Sequence
from typing import NamedTuple

from cairnfs.errors import FsError

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"

VERSION = 2
USER_OBJ = 0x01
USER = 0x02
GROUP_OBJ = 0x04
GROUP = 0x08
MASK = 0x10
OTHER = 0x20
NOBODY = 0xFFFFFFFF  # the id of an entry whose tag names neither a user nor a group

_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_RANK = {USER_OBJ: 0, USER: 1, GROUP_OBJ: 2, GROUP: 3, MASK: 4, OTHER: 5}
_NAMED = (USER, GROUP)


class Entry(NamedTuple):
    """One entry: `perm` is rwx as in one octal digit of a mode; `id` a uid or gid for USER and GROUP, else NOBODY."""

    tag: int
    perm: int
    id: int = NOBODY


Acl = list[Entry]


def parse(value: bytes) -> Acl:
    """The entries of an xattr value; empty for a value without entries.

    Raises FsError EOPNOTSUPP for an unknown version, EINVAL for anything that is not a valid ACL.
    """
    if len(value) < _HEADER.size or (len(value) - _HEADER.size) % _ENTRY.size:
        raise FsError(errno.EINVAL)
    if _HEADER.unpack_from(value)[0] != VERSION:
        raise FsError(errno.EOPNOTSUPP)
    acl = [_checked_entry(*fields) for fields in _ENTRY.iter_unpack(value[_HEADER.size :])]
    if acl:
        _check_order(acl)
    return acl


def encode(acl: Sequence[Entry]) -> bytes:
    """The xattr value of an ACL: the inverse of `parse`."""
    return _HEADER.pack(VERSION) + b"".join(_ENTRY.pack(*entry) for entry in acl)


def is_minimal(acl: Sequence[Entry]) -> bool:
    """Whether a mode alone says the same as this ACL."""
    return all(entry.tag in (USER_OBJ, GROUP_OBJ, OTHER) for entry in acl)


def apply_to_mode(acl: Sequence[Entry], mode: int) -> int:
    """`mode` with its nine permission bits as the access ACL shows them; the other bits stay."""
    return mode & ~0o777 | _perm(acl, USER_OBJ) << 6 | _perm(acl, _group_class(acl)) << 3 | _perm(acl, OTHER)


def chmod(acl: Sequence[Entry], mode: int) -> Acl:
    """The access ACL after chmod: owner, other, and the mask (or the group entry when there is no mask) follow `mode`."""
    bits = {USER_OBJ: mode >> 6 & 7, _group_class(acl): mode >> 3 & 7, OTHER: mode & 7}
    return [entry._replace(perm=bits.get(entry.tag, entry.perm)) for entry in acl]


def inherit(default: Sequence[Entry], mode: int) -> tuple[Acl | None, int]:
    """Access ACL (None when the mode says it all) and mode of a new inode in a directory with this default ACL.

    `mode` is what the creator asked for; it takes the place of the umask: permissions are those in both.
    """
    asked = {USER_OBJ: mode >> 6, _group_class(default): mode >> 3, OTHER: mode}
    acl = [entry._replace(perm=entry.perm & asked.get(entry.tag, 7)) for entry in default]
    return (None if is_minimal(acl) else acl), apply_to_mode(acl, mode)


def _group_class(acl: Sequence[Entry]) -> int:
    """Tag of the entry that the group bits of the mode stand for."""
    return MASK if any(entry.tag == MASK for entry in acl) else GROUP_OBJ


def _perm(acl: Sequence[Entry], tag: int) -> int:
    return next(entry.perm for entry in acl if entry.tag == tag)


def _checked_entry(tag: int, perm: int, who: int) -> Entry:
    if tag not in _RANK or perm > 7 or (tag in _NAMED and who == NOBODY):
        raise FsError(errno.EINVAL)
    return Entry(tag, perm, who if tag in _NAMED else NOBODY)


def _check_order(acl: Acl) -> None:
    """Entries come in the order of their tags, the three basic ones once each, one mask if users or groups are named."""
    ranks = [_RANK[entry.tag] for entry in acl]
    tags = [entry.tag for entry in acl]
    basic = all(tags.count(tag) == 1 for tag in (USER_OBJ, GROUP_OBJ, OTHER))
    n_masks = tags.count(MASK)
    named = any(tag in _NAMED for tag in tags)
    if ranks != sorted(ranks) or not basic or n_masks > 1 or (named and n_masks == 0):
        raise FsError(errno.EINVAL)
