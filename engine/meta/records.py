"""Metadata rows: their keys and byte layouts, in one place. All integers are big-endian; `ino8` is an inode number as u64.

| partition | key | value |
|---|---|---|
| `v` | `format` | the volume format, JSON (`engine.meta.volume`) |
| `v` | `usage` | i64 used_bytes @0, i64 used_inodes @8 |
| `v` | `next` | next unused numbers: i64 inode @0, i64 pack @8, i64 session @16 |
| `v` | `moves` | i64: how many times a directory was renamed (`engine.meta.rename`); no row: never |
| `v` | `former` | as `next`, where the numbers of the next volume begin; only while there is no volume |
| `v` | `security` | u8: 0 while no inode was ever given an attribute in `security.`, then 1 for ever; no row: not known |
| `i`+ino8 | `a` | inode record, below |
| `i`+ino8 | `c`+u64 chunk number >= 1 | layout of that chunk (40-byte slice records); no row: all hole |
| `i`+ino8 | `x`+name | value of an extended attribute |
| `i`+ino8 | `l` | locks, 38 bytes each, below; no row: none |
| `d`+ino8 | name | u64 inode @0, u8 type @8 (S_IFMT bits >> 12) |
| `p`+low byte of pack id | u64 pack id | i64 live_bytes @0, i64 plain_bytes @8, i64 object_bytes @16 |
| `g` | u64 pack id | empty: live bytes of this pack were given up, look whether any are left |
| `n` | u64 session id | a session, JSON (`engine.meta.sessions`); with the top bit set: it is dead, and being cleaned up after |
| `s`+u64 session id | ino8 | empty: this session holds the inode open although it has no name |
| `k`+u64 session id | ino8 | empty: this session may hold locks on the inode (`l` row) |
| `z` | ino8 | record of a deleted inode whose `c` rows are still to be freed |

Inode record, version 1: u8 version @0, u8 flags @1, u16 mode @2, u32 uid @4, u32 gid @8, u32 rdev @12, i64 nlink @16,
i64 size @24, t64 atime @32, t64 mtime @40, t64 ctime @48, t64 btime @56, u64 parent @64, i64 alloc_bytes @72,
u64 data_version @80, tail @88.
t64 is nanoseconds since the epoch plus 2**63 as u64, so that bytewise order is order in time. A reader refuses other versions.
Lock: u64 session @0, u64 owner @8, i64 start @16, i64 end @24 (inclusive), u32 pid @32, u8 fcntl type @36, u8 1 for flock @37.
"""

import stat
import struct
from collections.abc import Iterable
from typing import NamedTuple

from cairnfs.errors import CorruptError
from cairnfs.meta.stores.base import Key, Row
from cairnfs.types import Attr, Inode, Lock, PackId, Position, SessionId

RECORD_VERSION = 1
BURIED = 1 << 63  # in the number of a session

FLAG_XATTR = 1  # the inode has, or had, an `x` row: without it no read of extended attributes is needed
FLAG_ACCESS_ACL = 2
FLAG_DEFAULT_ACL = 4

NLINK_AT = 16
SIZE_AT = 24
ATIME_AT = 32
MTIME_AT = 40
CTIME_AT = 48
ALLOC_BYTES_AT = 72
DATA_VERSION_AT = 80
TAIL_AT = 88

USED_BYTES_AT = 0
USED_INODES_AT = 8

NEXT_INODE_AT = 0
NEXT_PACK_AT = 8
NEXT_SESSION_AT = 16

LIVE_BYTES_AT = 0

FORMAT_KEY: Key = (b"v", b"format")
USAGE_KEY: Key = (b"v", b"usage")
NEXT_KEY: Key = (b"v", b"next")
MOVES_KEY: Key = (b"v", b"moves")  # names that directories and symbolic links have lost or got instead of others
SECURITY_KEY: Key = (b"v", b"security")
FORMER_KEY: Key = (b"v", b"former")

INODE_PREFIX = b"i"
DENTRY_PREFIX = b"d"
PACK_PREFIX = b"p"
GARBAGE_PART = b"g"
SESSION_PART = b"n"
SUSTAINED_PREFIX = b"s"
LOCKED_PREFIX = b"k"
DELETED_PART = b"z"

ATTR_SUBKEY = b"a"
CHUNK_SUBPREFIX = b"c"
XATTR_SUBPREFIX = b"x"
LOCKS_SUBKEY = b"l"

SECURITY = b"security."  # how names of attributes begin that SECURITY_KEY is about
NEVER_GIVEN = b"\0"  # values of its row
WAS_GIVEN = b"\1"

_HEADER = struct.Struct(">BBHIIIqqQQQQQqQ")
_U64 = struct.Struct(">Q")
_I64 = struct.Struct(">q")
_DENTRY = struct.Struct(">QB")
_PACK = struct.Struct(">qqq")
_USAGE = struct.Struct(">qq")
_LOCK = struct.Struct(">QQqqIBB")
_TIME_BIAS = 1 << 63


class Dentry(NamedTuple):
    """What a name stands for; `type` is the S_IFMT bits."""

    ino: Inode
    type: int


class PackInfo(NamedTuple):
    """Bytes of a pack: referenced by layouts, before compression, and of the stored object."""

    live_bytes: int
    plain_bytes: int
    object_bytes: int


class Usage(NamedTuple):
    """What the volume holds; `used_bytes` is the sum of alloc_bytes over all inodes."""

    used_bytes: int
    used_inodes: int


class HeldLock(NamedTuple):
    """A lock and the session whose process holds it."""

    session: SessionId
    lock: Lock


# --- keys ---


def ino8(ino: int) -> bytes:
    """An inode number as it stands in keys."""
    return _U64.pack(ino)


def inode_part(ino: int) -> bytes:
    """The partition of everything that belongs to one inode."""
    return b"i" + _U64.pack(ino)


def inode_key(ino: int) -> Key:
    """The inode record."""
    return b"i" + _U64.pack(ino), b"a"


def chunk_key(ino: int, chunk_no: int) -> Key:
    """The layout of chunk `chunk_no` >= 1 (that of chunk 0 is the tail of the inode record)."""
    return b"i" + _U64.pack(ino), b"c" + _U64.pack(chunk_no)


def chunk_no_of(key: bytes) -> int:
    """The chunk number in the key of a `c` row."""
    return int.from_bytes(key[1:], "big")


def xattr_key(ino: int, name: bytes) -> Key:
    """One extended attribute."""
    return b"i" + _U64.pack(ino), b"x" + name


def locks_key(ino: int) -> Key:
    """All locks on one inode."""
    return b"i" + _U64.pack(ino), b"l"


def dentry_part(parent: int) -> bytes:
    """The partition of a directory's names."""
    return b"d" + _U64.pack(parent)


def dentry_key(parent: int, name: bytes) -> Key:
    """One name in a directory."""
    return b"d" + _U64.pack(parent), name


def pack_key(pack: int) -> Key:
    """Liveness of a pack; spread over 256 partitions so that no partition holds them all."""
    return b"p" + bytes((pack & 0xFF,)), _U64.pack(pack)


def garbage_key(pack: int) -> Key:
    """The mark that a pack gave up live bytes."""
    return GARBAGE_PART, _U64.pack(pack)


def session_key(session: int) -> Key:
    """One session."""
    return SESSION_PART, _U64.pack(session)


def buried_key(session: int) -> Key:
    """A session that nobody goes on with, until all that was its is gone."""
    return SESSION_PART, _U64.pack(session | BURIED)


def sustained_part(session: int) -> bytes:
    """The partition of nameless inodes a session holds open."""
    return b"s" + _U64.pack(session)


def sustained_key(session: int, ino: int) -> Key:
    """The mark that a session holds a nameless inode open."""
    return b"s" + _U64.pack(session), _U64.pack(ino)


def locked_part(session: int) -> bytes:
    """The partition of inodes a session may hold locks on."""
    return b"k" + _U64.pack(session)


def locked_key(session: int, ino: int) -> Key:
    """The mark that a session may hold locks on an inode."""
    return b"k" + _U64.pack(session), _U64.pack(ino)


def deleted_key(ino: int) -> Key:
    """A deleted inode that still has `c` rows."""
    return DELETED_PART, _U64.pack(ino)


def number_of(key: bytes) -> int:
    """The number in a key that is one u64 (`g`, `n`, `s`, `k`, `z` rows and packs)."""
    return int.from_bytes(key, "big")


def ino_of_part(part: bytes) -> Inode:
    """The inode number in the name of an `i` or `d` partition."""
    return Inode(int.from_bytes(part[1:], "big"))


# --- values ---


def time_field(time_ns: int) -> bytes:
    """A time as t64, for `Max` effects."""
    return _U64.pack(time_ns + _TIME_BIAS)


def encode_attr(attr: Attr) -> bytes:
    """An inode record, tail included."""
    return (
        _HEADER.pack(
            RECORD_VERSION,
            attr.flags,
            attr.mode,
            attr.uid,
            attr.gid,
            attr.rdev,
            attr.nlink,
            attr.size,
            attr.atime_ns + _TIME_BIAS,
            attr.mtime_ns + _TIME_BIAS,
            attr.ctime_ns + _TIME_BIAS,
            attr.btime_ns + _TIME_BIAS,
            attr.parent,
            attr.alloc_bytes,
            attr.data_version,
        )
        + attr.tail
    )


def decode_attr(ino: int, row: Row) -> Attr:
    """The attributes in an inode record. Raises CorruptError (EIO) when it is too short or of another version."""
    value, version = row
    if len(value) < TAIL_AT or value[0] != RECORD_VERSION:
        raise CorruptError(
            f"inode {ino}: the record has {len(value)} bytes and version {value[0] if value else 'none'}, "
            f"expected at least {TAIL_AT} bytes and version {RECORD_VERSION}"
        )
    (_, flags, mode, uid, gid, rdev, nlink, size, atime, mtime, ctime, btime, parent, alloc_bytes, data_version) = (
        _HEADER.unpack_from(value)
    )
    return Attr(
        Inode(ino),
        mode,
        uid,
        gid,
        nlink,
        size,
        rdev,
        atime - _TIME_BIAS,
        mtime - _TIME_BIAS,
        ctime - _TIME_BIAS,
        btime - _TIME_BIAS,
        parent,
        alloc_bytes,
        data_version,
        flags,
        value[TAIL_AT:],
        version,
    )


def decode_kept_attr(ino: int, record: bytes) -> Attr:
    """The attributes in an inode record that was kept outside of the store. CorruptError (EIO)."""
    return decode_attr(ino, Row(record, Position(0)))


def dentry_value(ino: int, mode: int) -> bytes:
    """A dentry for an inode of this mode (only the S_IFMT bits matter)."""
    return _DENTRY.pack(ino, stat.S_IFMT(mode) >> 12)


def decode_dentry(parent: int, name: bytes, value: bytes) -> Dentry:
    """What a dentry row says. Raises CorruptError (EIO) when it is malformed."""
    if len(value) != _DENTRY.size:
        raise CorruptError(f"directory {parent}: the entry {name!r} has {len(value)} bytes, expected {_DENTRY.size}")
    ino, kind = _DENTRY.unpack(value)
    return Dentry(Inode(ino), kind << 12)


def encode_pack(info: PackInfo) -> bytes:
    """A pack row."""
    return _PACK.pack(*info)


def decode_pack(pack: PackId, value: bytes) -> PackInfo:
    """What a pack row says. Raises CorruptError (EIO) when it is malformed."""
    if len(value) != _PACK.size:
        raise CorruptError(f"pack {pack:016x}: the row has {len(value)} bytes, expected {_PACK.size}")
    return PackInfo(*_PACK.unpack(value))


def encode_usage(usage: Usage) -> bytes:
    """The usage row."""
    return _USAGE.pack(*usage)


def decode_usage(row: Row | None) -> Usage:
    """What the usage row says; a missing row means an empty volume."""
    return Usage(0, 0) if row is None else Usage(*_USAGE.unpack(row.value))


def encode_numbers(inode: int, pack: int, session: int) -> bytes:
    """The row of next unused numbers."""
    return _I64.pack(inode) + _I64.pack(pack) + _I64.pack(session)


def encode_locks(held: Iterable[HeldLock]) -> bytes:
    """A lock row. An empty one must not be stored: delete the row."""
    return b"".join(
        _LOCK.pack(session, lock.owner, lock.start, lock.end, lock.pid, lock.type, lock.flock) for session, lock in held
    )


def decode_locks(ino: int, row: Row | None) -> list[HeldLock]:
    """The locks on an inode; none when the row is missing. Raises CorruptError (EIO) when it is malformed."""
    if row is None:
        return []
    if len(row.value) % _LOCK.size:
        raise CorruptError(f"inode {ino}: the lock row has {len(row.value)} bytes, expected a multiple of {_LOCK.size}")
    return [
        HeldLock(SessionId(session), Lock(kind, start, end, pid, owner, bool(flock)))
        for session, owner, start, end, pid, kind, flock in _LOCK.iter_unpack(row.value)
    ]
