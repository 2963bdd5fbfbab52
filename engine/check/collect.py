"""One pass over every row of a volume: facts go into the index, rows that cannot be decoded become findings.

Nothing is compared here, except what one inode's own rows say about each other.
"""

import json
import stat
from collections.abc import Callable, Iterator

from cairnfs.check.findings import Finding, about_inodes
from cairnfs.check.index import UNREADABLE, Index, storable
from cairnfs.check.report import Stage
from cairnfs.const import CHUNK_BYTES
from cairnfs.errors import CairnError, CorruptError
from cairnfs.ext import slicer
from cairnfs.meta import acl, records
from cairnfs.meta.stores.base import Row, Store
from cairnfs.meta.volume import decode_format
from cairnfs.types import Attr, Inode, PackId

SCAN_ROWS = 1000

Scan = Iterator[tuple[bytes, Row]]

_ACL_FLAGS = {acl.ACCESS: records.FLAG_ACCESS_ACL, acl.DEFAULT: records.FLAG_DEFAULT_ACL}


class Collector:
    """Fills an index from a store. `slices`: also note every slice, which verifying data needs."""

    def __init__(self, store: Store, index: Index, found: Callable[[Finding], None], *, slices: bool) -> None:
        self._store = store
        self._index = index
        self._found = found
        self._slices = slices
        self._by_prefix: dict[bytes, tuple[int, Callable[[bytes, Scan], None]]] = {
            b"v": (1, self._volume),
            records.INODE_PREFIX: (9, self._inode),
            records.DENTRY_PREFIX: (9, self._directory),
            records.PACK_PREFIX: (2, self._packs),
            records.GARBAGE_PART: (1, self._marks),
            records.SESSION_PART: (1, self._sessions),
            records.SUSTAINED_PREFIX: (9, self._sustained),
            records.LOCKED_PREFIX: (9, self._locked),
            records.DELETED_PART: (1, self._deleted),
        }

    def collect(self, stage: Stage) -> None:
        """Read everything; `stage` advances by one per inode."""
        after: bytes | None = None
        while page := self._store.partitions(b"", after, SCAN_ROWS):
            for part in page:
                self._partition(part)
            stage.advance(sum(part[:1] == records.INODE_PREFIX for part in page))
            after = page[-1]
        # Whose rows were found without a record may have been deleted since the names of partitions were listed.
        self._partition(records.DELETED_PART)
        self._index.finish()

    def _partition(self, part: bytes) -> None:
        length, read = self._by_prefix.get(part[:1], (0, None))
        if read is None or len(part) != length:
            self._undecodable(f"partition {part!r}", "no rows are ever put there")
        elif length == 9 and not storable(records.ino_of_part(part)):
            self._undecodable(f"partition {part!r}", "no such number was ever given out")
        else:
            read(part, self._scan(part))

    def _scan(self, part: bytes) -> Scan:
        after: bytes | None = None
        while True:
            page = self._store.scan(part, after, SCAN_ROWS)
            yield from page
            if len(page) < SCAN_ROWS:
                return
            after = page[-1][0]

    def _undecodable(self, subject: str, detail: str) -> None:
        self._found(Finding("undecodable-row", subject, detail))

    def _number(self, part: bytes, key: bytes) -> int | None:
        """The number that is a key; None, and a finding, when it cannot be one."""
        if len(key) == 8 and storable(records.number_of(key)):
            return records.number_of(key)
        self._undecodable(f"row {part!r}, {key!r}", "the key is not a number that was ever given out")
        return None

    def _volume(self, part: bytes, rows: Scan) -> None:
        for key, row in rows:
            try:
                if key == b"format":
                    decode_format(row.value)
                elif len(row.value) != {b"usage": 16, b"next": 24, b"moves": 8, b"security": 1}.get(key, -1):
                    raise CorruptError(f"the row has {len(row.value)} bytes, or is unknown")
            except CairnError as why:
                self._undecodable(f"volume row {key.decode('ascii', 'backslashreplace')}", str(why))

    def _inode(self, part: bytes, rows: Scan) -> None:
        _InodeRows(records.ino_of_part(part), self._index, self._found, self._slices).read(rows)

    def _directory(self, part: bytes, rows: Scan) -> None:
        parent = records.ino_of_part(part)
        self._index.add_many("dentry", self._entries(parent, rows), 5)

    def _entries(self, parent: Inode, rows: Scan) -> Iterator[tuple[object, ...]]:
        for name, row in rows:
            try:
                entry = records.decode_dentry(parent, name, row.value)
                if not storable(entry.ino):
                    raise CorruptError(f"inode {entry.ino} was never given out")
            except CorruptError as why:
                self._undecodable(f"entry {name!r} of directory {parent}", str(why))
            else:
                yield parent, name, entry.ino, entry.type, row.version

    def _packs(self, part: bytes, rows: Scan) -> None:
        for key, row in rows:
            number = self._number(part, key)
            if number is None:
                continue
            try:
                info = records.decode_pack(PackId(number), row.value)
            except CorruptError as why:
                self._undecodable(f"pack {number:016x}", str(why))
            else:
                self._index.add("pack", number, row.version, *info)

    def _marks(self, part: bytes, rows: Scan) -> None:
        numbers = (self._number(part, key) for key, _ in rows)
        self._index.add_many("mark", ((number,) for number in numbers if number is not None), 1)

    def _sessions(self, part: bytes, rows: Scan) -> None:
        for key, row in rows:
            number = self._number(part, key)
            if number is None:
                continue
            number &= ~records.BURIED
            self._index.add("session", number)
            try:
                json.loads(row.value)
            except ValueError as why:
                self._undecodable(f"session {number}", str(why))

    def _sustained(self, part: bytes, rows: Scan) -> None:
        for key, _ in rows:
            ino = self._number(part, key)
            if ino is not None:
                self._index.add("sustained", records.number_of(part[1:]), ino)

    def _locked(self, part: bytes, rows: Scan) -> None:
        for key, _ in rows:
            self._number(part, key)

    def _deleted(self, part: bytes, rows: Scan) -> None:
        for key, _ in rows:
            ino = self._number(part, key)
            if ino is not None:
                self._index.add("deleted", ino)


class _InodeRows:
    """The rows of one inode, read in order of key: record, chunks, locks, extended attributes."""

    def __init__(self, ino: Inode, index: Index, found: Callable[[Finding], None], slices: bool) -> None:
        self._ino = ino
        self._index = index
        self._found = found
        self._slices = slices
        self._attr: Attr | None = None
        self._damaged = False
        self._mapped = 0
        self._last_end = 0
        self._flags = 0
        self._n_others = 0
        self._refs: dict[int, tuple[int, int]] = {}  # pack -> bytes, end of the last slice in the object

    def read(self, rows: Scan) -> None:
        """Take in every row, then write the index's."""
        readers: dict[bytes, Callable[[bytes, Row], None]] = {
            records.ATTR_SUBKEY: self._record,
            records.CHUNK_SUBPREFIX: self._chunk,
            records.LOCKS_SUBKEY: self._locks,
            records.XATTR_SUBPREFIX: self._xattr,
        }
        for key, row in rows:
            reader = readers.get(key[:1])
            if reader is None:
                self._undecodable(f"row {key!r}", "no such row is ever put there")
            else:
                reader(key, row)
        self._add()

    def _record(self, key: bytes, row: Row) -> None:
        try:
            self._attr = records.decode_attr(self._ino, row)
        except CorruptError as why:
            self._index.add("inode", self._ino, row.version, UNREADABLE, *(0,) * 8)
            self._undecodable("record", str(why))
            return
        if self._attr.is_file:
            self._layout(0, self._attr.tail)

    def _chunk(self, key: bytes, row: Row) -> None:
        self._n_others += 1
        chunk_no = records.chunk_no_of(key)
        if len(key) != 9 or not 1 <= chunk_no < 1 << 37:
            self._undecodable(f"chunk row {key!r}", "the key is not the number of a chunk")
        elif not row.value:
            self._malformed(chunk_no, "an empty layout has no row")
        else:
            self._layout(chunk_no, row.value)

    def _layout(self, chunk_no: int, layout: bytes) -> None:
        try:
            slicer.check(layout, CHUNK_BYTES)
            found = slicer.unpack(layout)
        except ValueError as why:
            self._malformed(chunk_no, str(why))
            return
        for pos, length, _, plain_len, pack, stored_off, stored_len, crc, codec in found:
            if not storable(pack):
                self._malformed(chunk_no, f"pack {pack:016x} was never given out")
                continue
            n_bytes, stored_end = self._refs.get(pack, (0, 0))
            self._refs[pack] = n_bytes + length, max(stored_end, stored_off + stored_len)
            self._mapped += length
            self._last_end = chunk_no * CHUNK_BYTES + pos + length
            if self._slices:
                self._index.add("slice", pack, stored_off, stored_len, plain_len, crc, codec, self._ino)

    def _locks(self, key: bytes, row: Row) -> None:
        self._n_others += 1
        try:
            if key != records.LOCKS_SUBKEY or not records.decode_locks(self._ino, row):
                raise CorruptError("the lock row is empty or has a wrong key")
        except CorruptError as why:
            self._undecodable("locks", str(why))

    def _xattr(self, key: bytes, row: Row) -> None:
        self._n_others += 1
        self._flags |= records.FLAG_XATTR | _ACL_FLAGS.get(key[1:], 0)
        if key[1:].startswith(records.SECURITY):
            self._index.add("labelled", self._ino)

    def _add(self) -> None:
        attr = self._attr
        if attr is not None:
            self._index.add(
                "inode", attr.ino, attr.version, stat.S_IFMT(attr.mode), attr.nlink, attr.size, attr.parent, attr.alloc_bytes,
                None if self._damaged else self._mapped, self._last_end, attr.flags, self._flags,
            )  # fmt: skip
        elif self._n_others:
            self._index.add("stray", self._ino, self._n_others)  # unless there is an unreadable record, or a `z` row
        rows = ((pack, self._ino, n_bytes, stored_end) for pack, (n_bytes, stored_end) in self._refs.items())
        self._index.add_many("ref", rows, 4)

    def _malformed(self, chunk_no: int, why: str) -> None:
        self._damaged = True
        subject = f"inode {self._ino}, chunk {chunk_no}"
        self._found(Finding("malformed-layout", subject, why, about_inodes(self._ino)))

    def _undecodable(self, what: str, why: str) -> None:
        self._found(Finding("undecodable-row", f"inode {self._ino}: {what}", why, about_inodes(self._ino)))
