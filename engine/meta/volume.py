"""The volume format: what is fixed when a volume is created, and the rows a new volume begins with.

Stored as JSON in the `format` row. Fields a reader does not know are kept when the format is rewritten; a format_version
newer than ours is refused, because rows or packs may then mean something else.
"""

import errno
import json
import re
import uuid
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, get_origin

from cairnfs.const import DEFAULT_BLOCK_BYTES, FORMAT_VERSION, MAX_BLOCK_BYTES, MIN_BLOCK_BYTES, ROOT_INO
from cairnfs.errors import CorruptError, FsError, UsageError, VolumeError
from cairnfs.meta import records
from cairnfs.meta.stores.base import Store
from cairnfs.meta.stores.fields import field as number_at
from cairnfs.meta.txn import Txn, transact
from cairnfs.types import Attr, Inode, SessionId

COMPRESSION_PATTERN = re.compile(r"none|zstd(:[1-9]|:1[0-9])?")  # what `cairnfs.objects.codec` can make
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")  # JuiceFS's rule; a name is also part of object names

OLDEST_FORMAT = 1  # that can be read
NUMBERS_AT = (records.NEXT_INODE_AT, records.NEXT_PACK_AT, records.NEXT_SESSION_AT)
BETWEEN_VOLUMES = 1 << 20  # numbers: more than mounts of a volume take while it is being deleted

_DIRECTORY = 0o040000


@dataclass(frozen=True)
class VolumeFormat:
    """What a volume is. `capacity_bytes` and `inodes` are limits, 0 for none; `created` is in seconds since the epoch.

    `storage_options`: what the kind of storage needs besides the bucket to be found; nothing secret.
    """

    name: str
    storage: str = "file"
    bucket: str = ""
    block_bytes: int = DEFAULT_BLOCK_BYTES
    compression: str = "none"
    capacity_bytes: int = 0
    inodes: int = 0
    created: int = 0
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    format_version: int = FORMAT_VERSION
    storage_options: dict[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raise UsageError naming the first field that cannot be."""
        if not NAME_PATTERN.fullmatch(self.name):
            raise UsageError(f"'{self.name}' is not a volume name; use 3 to 63 of a-z, 0-9 and -, no - at either end")
        if not MIN_BLOCK_BYTES <= self.block_bytes <= MAX_BLOCK_BYTES or self.block_bytes & (self.block_bytes - 1):
            raise UsageError(
                f"block size {self.block_bytes}: use a power of two from {MIN_BLOCK_BYTES >> 10} KiB "
                f"to {MAX_BLOCK_BYTES >> 20} MiB"
            )
        if not COMPRESSION_PATTERN.fullmatch(self.compression):
            raise UsageError(f"unknown compression '{self.compression}'; use none, zstd, or zstd:LEVEL with a level from 1 to 19")
        if self.capacity_bytes < 0 or self.inodes < 0:
            raise UsageError("capacity and inodes must be 0 (no limit) or more")

    def encode(self) -> bytes:
        """The `format` row."""
        return json.dumps(asdict(self), indent=1).encode()


def decode_format(value: bytes) -> VolumeFormat:
    """What a `format` row says. VolumeError for a newer format_version, CorruptError when it makes no sense."""
    try:
        stored: Any = json.loads(value)
        version = int(stored["format_version"])
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptError(f"the volume's format row cannot be read: {error!r}") from error
    if not OLDEST_FORMAT <= version <= FORMAT_VERSION:
        raise VolumeError(
            f"the volume has format version {version}, this cairnfs reads versions {OLDEST_FORMAT} to {FORMAT_VERSION}: "
            f"{'upgrade cairnfs' if version > FORMAT_VERSION else 'the format row is damaged'}"
        )
    try:
        stored.setdefault("storage_options", {})  # volumes made before there was a choice of storage
        found = VolumeFormat(**{known.name: stored[known.name] for known in fields(VolumeFormat)})
        if any(type(getattr(found, known.name)) is not (get_origin(known.type) or known.type) for known in fields(VolumeFormat)):
            raise TypeError("a field has the wrong type")
        if any(type(word) is not str for pair in found.storage_options.items() for word in pair):
            raise TypeError("a storage option is not text")
        found.check()
    except (KeyError, TypeError, UsageError) as error:
        raise CorruptError(f"the volume's format row cannot be read: {error}") from error
    return found


def load_format(store: Store) -> VolumeFormat:
    """The format of the volume in a store. VolumeError when there is none, or when it is newer than this program."""
    row = store.read([records.FORMAT_KEY])[0]
    if row is None:
        raise VolumeError("the metadata store holds no volume: create one with 'cairnfs format META-URL NAME'")
    return decode_format(row.value)


def create_volume(store: Store, fmt: VolumeFormat, now_ns: int, *, uid: int = 0, gid: int = 0, force: bool = False) -> None:
    """Begin an empty volume whose root directory belongs to `uid`, `gid`. `force` first deletes what the store holds.

    UsageError for a format that cannot be, VolumeError when the store already holds a volume and `force` is not given.
    """
    fmt.check()
    if force:
        wipe_volume(store)
    root = Attr(
        Inode(ROOT_INO),
        _DIRECTORY | 0o777,
        uid,
        gid,
        nlink=2,
        size=0,
        atime_ns=now_ns,
        mtime_ns=now_ns,
        ctime_ns=now_ns,
        btime_ns=now_ns,
        parent=ROOT_INO,
    )

    def build(txn: Txn) -> None:
        taken = FsError(errno.EEXIST, "the metadata store already holds a volume; delete it with 'cairnfs format --force'")
        former = txn.get(records.FORMER_KEY)
        txn.absent(records.FORMAT_KEY, taken)
        txn.put(records.FORMAT_KEY, fmt.encode())
        txn.put(records.USAGE_KEY, records.encode_usage(records.Usage(0, 1)))
        first = records.encode_numbers(inode=ROOT_INO + 1, pack=1, session=1)
        txn.put(records.NEXT_KEY, first if former is None else former.value)
        txn.delete(records.FORMER_KEY)
        txn.put(records.SECURITY_KEY, records.NEVER_GIVEN)
        for offset in NUMBERS_AT:
            txn.add(records.NEXT_KEY, offset, 0, unused=True)  # which begins the series that is given out there
        txn.put(records.inode_key(ROOT_INO), records.encode_attr(root))

    try:
        transact(store, build)
    except FsError as error:
        raise VolumeError(str(error), error.errno) from None


def wipe_volume(store: Store, known: VolumeFormat | None = None) -> None:
    """Delete a volume's metadata. Numbers go on in the next volume of the store: a mount that was not told, or stood still, knows
    inodes, packs and sessions by theirs, and would take those of the next volume for them.

    VolumeError when it is not the one that is `known` any more.
    """
    stored, row, former = store.read([records.FORMAT_KEY, records.NEXT_KEY, records.FORMER_KEY])
    if known is not None and stored is not None and decode_format(stored.value).uuid != known.uuid:
        raise VolumeError(f"volume '{known.name}' was destroyed by somebody else meanwhile, and another one made in its place")
    row = row or former
    if row is None:
        store.wipe()
        return
    numbers = records.encode_numbers(*(number_at(row.value, offset) + BETWEEN_VOLUMES for offset in NUMBERS_AT))
    store.wipe(SessionId(number_at(numbers, records.NEXT_SESSION_AT)))

    def build(txn: Txn) -> None:
        txn.delete(records.NEXT_KEY)  # which is gone: Redis without memory takes a row only behind a deletion
        txn.put(records.FORMER_KEY, numbers)

    transact(store, build)


def update_format(store: Store, **changes: Any) -> VolumeFormat:
    """Change limits or the bucket, and nothing that somebody else changes meanwhile; the format then. VolumeError for a change of
    what stored data depends on.
    """

    def build(txn: Txn) -> VolumeFormat:
        row = txn.get(records.FORMAT_KEY)
        if row is None:
            raise VolumeError("the metadata store holds no volume: create one with 'cairnfs format META-URL NAME'")
        stored = decode_format(row.value)
        fmt = replace(stored, **changes)
        fmt.check()
        for fixed in ("uuid", "name", "format_version", "block_bytes", "created"):
            if getattr(stored, fixed) != getattr(fmt, fixed):
                raise VolumeError(f"{fixed} of a volume cannot be changed (it is {getattr(stored, fixed)!r})")
        txn.unchanged(records.FORMAT_KEY)
        txn.put(records.FORMAT_KEY, (json.dumps(json.loads(row.value) | asdict(fmt), indent=1)).encode())
        return fmt

    return transact(store, build)
