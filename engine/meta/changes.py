"""What happened, from the change log: names made, moved and removed, content and attributes changed, with their paths.

A record of the log says which rows a commit touched, and not what they were. So each batch of records is read together with what
these rows are now, and compared with what is remembered from before. What is told exactly: that something was made, moved or
removed, and where. What is told as well as can be:

- a name that came and went within one batch is told by the other rows of its commit; of a hard link that is a guess;
- whether an inode's content or only its attributes changed, when first seen, and no pack was touched: by its times;
- the path of a file with several names is one of them, or not known.

Directories on the way are searched once, to find their names, and remembered. Not thread-safe.
"""

import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from cairnfs.const import ROOT_INO
from cairnfs.meta import Meta
from cairnfs.meta.records import (
    ATTR_SUBKEY,
    CHUNK_SUBPREFIX,
    DENTRY_PREFIX,
    INODE_PREFIX,
    LOCKS_SUBKEY,
    PACK_PREFIX,
    SUSTAINED_PREFIX,
    USAGE_KEY,
    XATTR_SUBPREFIX,
    decode_attr,
    decode_dentry,
    dentry_part,
    ino_of_part,
    inode_key,
)
from cairnfs.meta.stores.base import Key, LogRecord, Row
from cairnfs.types import Inode, Position, SessionId

BATCH = 256  # records read at a time
SCAN_NAMES = 5000  # of a directory in which a name is looked for
MAX_KNOWN = 200_000  # inodes whose names and versions are remembered
DEEPEST = 4096

MADE = {stat.S_IFDIR: "mkdir", stat.S_IFLNK: "symlink", stat.S_IFREG: "create", 0: "create"}


class Change(NamedTuple):
    """One change; paths begin at the root of the volume, None for one that is not known. `new_path`: of what was moved.

    `what`: create, mkdir, symlink, mknod, link, rename, exchange, remove, rmdir, write, attributes, xattr. `type`: S_IFMT bits, 0
    for one that is not known.
    """

    position: Position
    session: SessionId
    what: str
    path: bytes | None
    ino: Inode
    type: int
    new_path: bytes | None = None


class Place(NamedTuple):
    """A name: that of `name` in directory `parent`."""

    parent: Inode
    name: bytes


class Seen(NamedTuple):
    """What an inode was when it was last looked at."""

    version: int
    type: int
    data_version: int = 0
    ctime_ns: int = 0


class Touched:
    """The rows of one commit, by what they are about."""

    def __init__(self, record: LogRecord) -> None:
        self.position = record.position
        self.session = record.origin
        self.places = [Place(ino_of_part(part), name) for part, name in record.keys if part[:1] == DENTRY_PREFIX]
        self.parents = {place.parent for place in self.places}
        rows = [(ino_of_part(part), key) for part, key in record.keys if part[:1] == INODE_PREFIX]
        self.inos = list(dict.fromkeys(ino for ino, key in rows if key != LOCKS_SUBKEY))
        self.children = [ino for ino in self.inos if ino not in self.parents]
        self.attrs = {ino for ino, key in rows if key == ATTR_SUBKEY}
        self.xattrs = {ino for ino, key in rows if key[:1] == XATTR_SUBPREFIX}
        self.frees = any(key == LOCKS_SUBKEY for _, key in rows) or self._has(record, SUSTAINED_PREFIX)
        self.counts = USAGE_KEY in record.keys
        self.moves_data = self.counts or self._has(record, PACK_PREFIX) or any(key[:1] == CHUNK_SUBPREFIX for _, key in rows)

    @staticmethod
    def _has(record: LogRecord, prefix: bytes) -> bool:
        return any(part[:1] == prefix for part, _ in record.keys)


class ChangeReader:
    """Reads the log from where it is now on."""

    def __init__(self, meta: Meta) -> None:
        self._store = meta.store
        self.position = self._store.position()
        self._places: dict[Inode, Place] = {}
        self._seen: dict[Inode, Seen] = {}
        self._rows: dict[Key, Row | None] = {}

    def read(self) -> list[Change]:
        """What has happened since the last time, up to a batch. LogTrimmed: go on with `skip`. StoreError."""
        records = [Touched(record) for record in self._read_log()]
        if len(self._places) + len(self._seen) > MAX_KNOWN:
            self._places.clear()
            self._seen.clear()
        self._read_rows(records)
        self._learn_beforehand(records)
        return [change for touched in records for change in self._changes(touched)]

    def skip(self) -> Position:
        """Go on with what happens from now on; returns that position."""
        self.position = self._store.position()
        self._places.clear()
        self._seen.clear()
        return self.position

    def _read_log(self) -> Sequence[LogRecord]:
        found = self._store.log(self.position, BATCH)
        if found:
            self.position = found[-1].position
        return found

    def _read_rows(self, records: Iterable[Touched]) -> None:
        keys = list(
            dict.fromkeys(
                key for touched in records for key in [*map(_key_of, touched.places), *(inode_key(ino) for ino in touched.inos)]
            )
        )
        self._rows = dict(zip(keys, self._store.read(keys), strict=True)) if keys else {}

    def _learn_beforehand(self, records: Sequence[Touched]) -> None:
        """Where inodes were before the first of these records, and what, as far as they say: they may be nowhere by now."""
        for ino in {ino for touched in records for ino in touched.parents} - self._seen.keys():
            self._seen[ino] = Seen(0, stat.S_IFDIR)
        unknown = {ino for touched in records for ino in touched.children} - self._places.keys()
        for touched in reversed(records):
            if touched.places and len(touched.children) == 1 and touched.children[0] in unknown:
                self._places[touched.children[0]] = touched.places[0]

    # One commit

    def _changes(self, touched: Touched) -> Iterator[Change]:
        if len(touched.places) == 2:
            yield from self._moved(touched)
        elif touched.places:
            for place in touched.places:
                yield self._named(touched, place)
        else:
            for ino in touched.inos:
                yield from self._changed(touched, ino)

    def _named(self, touched: Touched, place: Place) -> Change:
        """A name was made or removed."""
        at, kind = self._found(touched, place)
        ino = at or next(iter(touched.children), Inode(0))
        self._look(ino)
        kind = kind or self._type(ino)
        if at is not None or self._was_made(touched, place, ino):
            what = MADE.get(kind, "mknod") if touched.counts else "link"
            self._places[ino] = place
            return Change(touched.position, touched.session, what, self._path(place), ino, kind)
        path = self._path(place)
        if self._places.get(ino) == place:
            del self._places[ino]
        return Change(touched.position, touched.session, "rmdir" if stat.S_ISDIR(kind) else "remove", path, ino, kind)

    def _was_made(self, touched: Touched, place: Place, ino: Inode) -> bool:
        """Of a name that another commit has changed since: was it made by this one?"""
        if touched.frees:
            return False
        return touched.counts or (self._rows[_key_of(place)] is not None and self._places.get(ino) != place)

    def _moved(self, touched: Touched) -> Iterator[Change]:
        """Two names: a rename or an exchange."""
        old, new = touched.places
        (old_ino, old_kind), (new_ino, new_kind) = self._found(touched, old), self._found(touched, new)
        if old_ino and not new_ino:
            old, new, old_ino, old_kind, new_ino, new_kind = new, old, new_ino, new_kind, old_ino, old_kind
        known = next((ino for ino in touched.children if self._places.get(ino) == old), None)
        ino = new_ino or known or next(iter(touched.children), Inode(0))
        paths = self._path(old), self._path(new)
        self._places[ino] = new
        if old_ino:
            self._places[old_ino] = old
        kind = new_kind or self._type(ino)
        yield Change(touched.position, touched.session, "exchange" if old_ino else "rename", paths[0], ino, kind, paths[1])

    def _changed(self, touched: Touched, ino: Inode) -> Iterator[Change]:
        """An inode, and no name."""
        before, now = self._seen.get(ino), self._look(ino)
        is_gone = self._rows[inode_key(ino)] is None
        if is_gone and (touched.frees or ino not in touched.attrs or ino not in self._places):
            return  # this is how it went, which is told by its name
        is_after = now is not None and now.version == touched.position  # else this is what it was after a later commit
        is_before = before is not None and 0 < before.version < touched.position
        if ino in touched.xattrs:
            what = "xattr"
        elif is_after and is_before and before is not None and now is not None and before[1:] == now[1:]:
            return  # bytes moved to another pack, or a time of access
        elif touched.moves_data or (is_after and self._has_new_content(before if is_before else None, ino)):
            what = "write"
        else:
            what = "attributes"
        place = self._place(ino)
        path = b"/" if ino == ROOT_INO else None if place is None else self._path(place)
        yield Change(touched.position, touched.session, what, path, ino, self._type(ino))

    def _has_new_content(self, before: Seen | None, ino: Inode) -> bool:
        row = self._rows[inode_key(ino)]
        if row is None:
            return False
        attr = decode_attr(ino, row)
        if before is not None:
            return before.data_version != attr.data_version
        return stat.S_ISREG(attr.mode) and attr.mtime_ns == attr.ctime_ns

    def _type(self, ino: Inode) -> int:
        return self._seen[ino].type if ino in self._seen else 0

    def _look(self, ino: Inode) -> Seen | None:
        """Remember what an inode is now."""
        row = self._rows.get(inode_key(ino))
        if row is not None:
            attr = decode_attr(ino, row)
            self._seen[ino] = Seen(row.version, stat.S_IFMT(attr.mode), attr.data_version, attr.ctime_ns)
        return self._seen.get(ino)

    def _found(self, touched: Touched, place: Place) -> tuple[Inode | None, int]:
        """What a name stands for since this commit; None when it stands for nothing, or another commit has changed it."""
        row = self._rows[_key_of(place)]
        if row is None or row.version != touched.position:
            return None, 0
        dentry = decode_dentry(place.parent, place.name, row.value)
        return dentry.ino, dentry.type

    # Paths

    def _path(self, place: Place) -> bytes | None:
        names = [place.name]
        while place.parent != ROOT_INO:
            above = self._place(place.parent)
            if above is None or len(names) > DEEPEST:
                return None
            names.append(above.name)
            place = above
        return b"/" + b"/".join(reversed(names))

    def _place(self, ino: Inode) -> Place | None:
        """Where an inode is; None when nobody knows."""
        found = self._places.get(ino)
        if found is None and ino != ROOT_INO:
            row = self._store.read([inode_key(ino)])[0]
            parent = Inode(0) if row is None else Inode(decode_attr(ino, row).parent)
            found = self._search(parent, ino) if parent else None
            if found is not None:
                self._places[ino] = found
        return found

    def _search(self, parent: Inode, ino: Inode) -> Place | None:
        after: bytes | None = None
        while page := self._store.scan(dentry_part(parent), after, SCAN_NAMES):
            for name, row in page:
                if decode_dentry(parent, name, row.value).ino == ino:
                    return Place(parent, name)
            after = page[-1][0]
        return None


def _key_of(place: Place) -> Key:
    return dentry_part(place.parent), place.name
