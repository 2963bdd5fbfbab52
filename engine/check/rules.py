"""What must hold between the rows of a volume, each rule a query over the index.

Names and inodes
  (1) there is a root directory; every other directory has exactly one name, and a way up to the root
  (2) every entry names an inode that exists and is of the type the entry says, and belongs to a directory that exists
  (3) every inode has a name, or no link and a session that holds it open
  (4) nlink is the number of names; of a directory 2 + subdirectories; size of a directory is its number of entries
  (5) parent is the directory with the only name, or 0 when there are or were several
  (6) flags say which extended attributes there are; a volume with any in security. says that it has
  (7) rows of an inode are there only with its record, or, chunks, with a `z` row
Content and space
  (8) alloc_bytes is what the layout maps, and nothing is mapped beyond the size
  (9) live bytes of a pack are the sum of what layouts refer to; a pack without any is marked for deletion
 (10) usage is the sum over all inodes; numbers still to be given out are greater than any in use
A rule whose numbers would be guesses, because rows they come from cannot be read, says nothing.
"""

import stat
from collections.abc import Iterator
from functools import partial

from cairnfs.check.findings import Finding, about_inodes, about_pack
from cairnfs.check.index import UNREADABLE, Index
from cairnfs.check.mend import Mender
from cairnfs.const import ROOT_INO
from cairnfs.meta import records
from cairnfs.meta.records import Usage
from cairnfs.meta.stores.base import Row, Store
from cairnfs.meta.stores.fields import field

_DIR = stat.S_IFDIR
_MAY_BE_ABSENT = records.FLAG_XATTR  # "has, or had": it may be set without a row

# Expected counters of every readable inode, beside the stored ones.
_EXPECTED = f"""
SELECT i.ino, i.version, i.type, i.nlink, i.size, i.parent,
       (SELECT COUNT(*) FROM dentry d WHERE d.ino = i.ino) AS n_names,
       (SELECT MIN(d.parent) FROM dentry d WHERE d.ino = i.ino) AS home,
       CASE i.type WHEN {_DIR} THEN (SELECT COUNT(*) FROM dentry d WHERE d.parent = i.ino) END AS n_entries,
       CASE i.type WHEN {_DIR} THEN 2 + (SELECT COUNT(*) FROM dentry d LEFT JOIN inode c ON c.ino = d.ino
            WHERE d.parent = i.ino AND COALESCE(NULLIF(c.type, {UNREADABLE}), d.type) = {_DIR}) END AS dir_links,
       EXISTS (SELECT 1 FROM sustained s WHERE s.ino = i.ino) AS held
FROM inode i WHERE i.type != {UNREADABLE}
"""

# Directories that can be reached from the root, or from one that has no name (which is a finding of its own).
_REACHED = f"""
WITH RECURSIVE reached(ino) AS (
  SELECT ino FROM inode WHERE ino = {ROOT_INO}
  UNION SELECT ino FROM inode WHERE type = {_DIR} AND ino NOT IN (SELECT ino FROM dentry)
  UNION SELECT d.ino FROM reached r JOIN dentry d ON d.parent = r.ino WHERE d.type = {_DIR}
)
SELECT ino FROM inode WHERE type = {_DIR} AND ino NOT IN (SELECT ino FROM reached)
"""


def stored_usage(row: Row | None) -> Usage:
    """The usage row, also when it is damaged."""
    value = None if row is None else row.value
    return Usage(field(value, records.USED_BYTES_AT), field(value, records.USED_INODES_AT))


class Rules:
    """All rules over one index. `damaged` is how many rows could not be read."""

    def __init__(self, store: Store, index: Index, mender: Mender, damaged: int) -> None:
        self._store = store
        self._index = index
        self._mender = mender
        self._damaged = damaged

    def findings(self) -> Iterator[Finding]:
        """Everything that breaks a rule."""
        yield from self._root()
        yield from self._lost_directories()
        yield from self._entries()
        yield from self._inodes()
        yield from self._unreachable()
        yield from self._left_behind()
        yield from self._content()
        yield from self._packs()
        yield from self._usage()
        yield from self._numbers()

    def _root(self) -> Iterator[Finding]:
        kind = self._index.number(f"SELECT MAX(type) FROM inode WHERE ino = {ROOT_INO}")
        exists = self._index.number(f"SELECT COUNT(*) FROM inode WHERE ino = {ROOT_INO}")
        witnesses = about_inodes(ROOT_INO)
        if not exists:
            mend = partial(self._mender.make_directory, ROOT_INO)
            yield Finding("no-root", f"inode {ROOT_INO}", "there is no root directory", witnesses, mend)
        elif kind not in (_DIR, UNREADABLE):
            yield Finding("no-root", f"inode {ROOT_INO}", "the root is not a directory", witnesses)

    def _lost_directories(self) -> Iterator[Finding]:
        """A directory is removed only when it is empty, so one that has entries and no record has lost it."""
        query = f"""SELECT parent, COUNT(*) FROM dentry WHERE parent NOT IN (SELECT ino FROM inode) AND parent != {ROOT_INO}
        GROUP BY parent"""
        for ino, n_entries in self._index.ask(query):
            mend = partial(self._mender.make_directory, ino)
            detail = f"the directory has {n_entries} entries, but no record"
            yield Finding("lost-directory", f"inode {ino} ({self._index.path(ino)})", detail, about_inodes(ino), mend)

    def _entries(self) -> Iterator[Finding]:
        query = """
        SELECT d.parent, d.name, d.ino, d.type, d.version, p.type, c.type FROM dentry d
        LEFT JOIN inode p ON p.ino = d.parent LEFT JOIN inode c ON c.ino = d.ino
        WHERE (c.ino IS NULL AND d.ino NOT IN (SELECT parent FROM dentry)) OR c.type != d.type OR p.type != ?
        """
        for parent, name, ino, kind, version, home_kind, found_kind in self._index.ask(query, _DIR):
            subject = f"{self._index.path(parent).rstrip('/')}/{name.decode('utf-8', 'backslashreplace')}"
            witnesses = about_inodes(parent, ino)
            drop = partial(self._mender.drop_entry, parent, name, version)
            if home_kind not in (None, _DIR, UNREADABLE):
                detail = f"inode {parent} is no directory that could have the entry"
                yield Finding("entry-without-directory", subject, detail, witnesses, drop)
            elif found_kind is None and not self._has_entries(ino):
                yield Finding("dangling-entry", subject, f"inode {ino} does not exist", witnesses, drop)
            elif found_kind not in (None, kind, UNREADABLE):
                mend = partial(self._mender.set_entry_type, parent, name, version, ino, found_kind)
                detail = f"the entry says type {kind:o}, inode {ino} is of type {found_kind:o}"
                yield Finding("wrong-entry-type", subject, detail, witnesses, mend)

    def _has_entries(self, ino: int) -> bool:
        return self._index.number("SELECT EXISTS (SELECT 1 FROM dentry WHERE parent = ?)", ino) > 0

    def _inodes(self) -> Iterator[Finding]:
        query = f"""
        SELECT * FROM ({_EXPECTED}) WHERE nlink != COALESCE(dir_links, n_names) OR (n_entries IS NOT NULL AND size != n_entries)
        OR (n_names = 0 AND NOT held AND ino != {ROOT_INO}) OR (n_names > 1 AND n_entries IS NOT NULL)
        OR parent != CASE WHEN ino = {ROOT_INO} THEN ino WHEN n_names = 1 AND (parent != 0 OR n_entries IS NOT NULL) THEN home
                          WHEN n_names = 0 THEN parent ELSE 0 END
        """
        for row in self._index.ask(query):
            yield from self._inode(*row)

    def _inode(
        self, ino: int, version: int, kind: int, nlink: int, size: int, parent: int,
        n_names: int, home: int | None, n_entries: int | None, dir_links: int | None, held: int,
    ) -> Iterator[Finding]:  # fmt: skip
        """What is wrong with one inode that looks wrong."""
        witnesses = about_inodes(ino, *([] if home is None else [home]))
        subject = f"inode {ino} ({self._index.path(ino)})" if n_names else f"inode {ino}"
        mender = self._mender
        if n_names == 0 and not held and ino != ROOT_INO:
            if nlink == 0:
                yield Finding(
                    "unfreed-inode", subject, "it was deleted, but not freed", witnesses, partial(mender.free, ino, version)
                )
                return
            yield Finding("orphan", subject, "no directory has a name for it", witnesses, partial(mender.adopt, ino, version))
        if n_names > 1 and kind == _DIR:
            yield Finding("several-names", subject, f"a directory with {n_names} names", witnesses)
        links = n_names if dir_links is None else dir_links
        if nlink != links and (n_names or dir_links is not None or held):
            detail = f"the link count is {nlink}, it should be {links}"
            yield Finding("wrong-nlink", subject, detail, witnesses, partial(mender.set_attr, ino, version, nlink=links))
        if n_entries is not None and size != n_entries:
            detail = f"the entry count is {size}, there are {n_entries} entries"
            yield Finding("wrong-entry-count", subject, detail, witnesses, partial(mender.set_attr, ino, version, size=n_entries))
        yield from self._parent(ino, version, kind, parent, n_names, home, subject)

    def _parent(
        self, ino: int, version: int, kind: int, parent: int, n_names: int, home: int | None, subject: str
    ) -> Iterator[Finding]:
        if ino == ROOT_INO:
            expected = ROOT_INO
        elif n_names == 0 or (n_names > 1 and kind == _DIR):
            return
        else:
            expected = 0 if n_names > 1 or home is None or (parent == 0 and kind != _DIR) else home
        if parent != expected:
            detail = f"the parent is {parent}, it should be {expected}"
            mend = partial(self._mender.set_attr, ino, version, parent=expected)
            yield Finding("wrong-parent", subject, detail, about_inodes(ino, expected), mend)

    def _unreachable(self) -> Iterator[Finding]:
        for (ino,) in self._index.ask(_REACHED):
            home = self._index.number("SELECT MIN(parent) FROM dentry WHERE ino = ?", ino)
            detail = f"no way leads up to the root from it (it is in directory {home})"
            yield Finding("unreachable-directory", f"inode {ino}", detail, about_inodes(ino, home))

    def _left_behind(self) -> Iterator[Finding]:
        for ino, n_rows in self._index.ask("SELECT ino, n_rows FROM stray"):
            mend = partial(self._mender.drop_stray, ino)
            yield Finding("stray-rows", f"inode {ino}", f"{n_rows} rows of no inode", about_inodes(ino), mend)
        for session, ino in self._index.ask(
            "SELECT session, ino FROM sustained WHERE session NOT IN (SELECT session FROM session)"
        ):
            mend = partial(self._mender.drop_sustained, session, ino)
            witnesses = (*about_inodes(ino), records.session_key(session), records.sustained_key(session, ino))
            detail = f"held open by session {session}, which does not exist"
            yield Finding("stale-sustained", f"inode {ino}", detail, witnesses, mend)
        yield from self._flags()
        yield from self._security()

    def _flags(self) -> Iterator[Finding]:
        query = f"""SELECT ino, version, flags, wanted_flags FROM inode
        WHERE type != {UNREADABLE} AND (flags & ~{_MAY_BE_ABSENT} != wanted_flags & ~{_MAY_BE_ABSENT}
        OR flags & wanted_flags != wanted_flags)"""
        for ino, version, flags, wanted in self._index.ask(query):
            mend = partial(self._mender.set_attr, ino, version, flags=wanted | (flags & _MAY_BE_ABSENT))
            detail = f"flags are {flags}, its extended attributes want {wanted}"
            yield Finding("wrong-flags", f"inode {ino}", detail, about_inodes(ino), mend)

    def _security(self) -> Iterator[Finding]:
        row = self._store.read([records.SECURITY_KEY])[0]
        n_inodes = self._index.number("SELECT COUNT(*) FROM labelled")
        if n_inodes and row is not None and row.value == records.NEVER_GIVEN:
            mend = partial(self._mender.note_security, row.version)
            detail = f"it says that no inode was given attributes in security., there are {n_inodes}"
            yield Finding("wrong-security", "volume", detail, (records.SECURITY_KEY,), mend)

    def _content(self) -> Iterator[Finding]:
        query = f"""SELECT ino, version, size, alloc, mapped, last_end FROM inode WHERE type != {UNREADABLE}
        AND mapped IS NOT NULL AND (alloc != mapped OR (type = {stat.S_IFREG} AND last_end > size))"""
        for ino, version, size, alloc, mapped, last_end in self._index.ask(query):
            subject = f"inode {ino} ({self._index.path(ino)})"
            if alloc != mapped:
                mend = partial(self._mender.set_attr, ino, version, alloc_bytes=mapped)
                detail = f"alloc_bytes is {alloc}, the layout maps {mapped}"
                yield Finding("wrong-alloc-bytes", subject, detail, about_inodes(ino), mend)
            if last_end > size:
                mend = partial(self._mender.cut, ino, version, last_end)
                detail = f"the size is {size}, bytes are mapped up to {last_end}"
                yield Finding("beyond-size", subject, detail, about_inodes(ino), mend)

    def _packs(self) -> Iterator[Finding]:
        query = """SELECT p.pack, p.version, p.live, COALESCE(SUM(r.bytes), 0) AS counted FROM pack p
        LEFT JOIN ref r ON r.pack = p.pack GROUP BY p.pack HAVING p.live != counted"""
        for pack, version, live, counted in self._index.ask(query):
            if self._damaged and live > counted:
                continue  # what cannot be read may refer to it
            mend = partial(self._mender.set_live, pack, version, counted)
            detail = f"live bytes are {live}, layouts refer to {counted}"
            yield Finding("wrong-live-bytes", f"pack {pack:016x}", detail, about_pack(pack), mend)
        for (pack,) in self._index.ask("SELECT pack FROM pack WHERE live = 0 AND pack NOT IN (SELECT pack FROM mark)"):
            mend = partial(self._mender.mark, pack)
            detail = "it has no live bytes, but is not listed for deletion"
            yield Finding("unmarked-garbage", f"pack {pack:016x}", detail, about_pack(pack), mend)

    def _usage(self) -> Iterator[Finding]:
        if self._damaged:
            return
        row = self._store.read([records.USAGE_KEY])[0]
        counted = Usage(self._index.number("SELECT SUM(alloc) FROM inode"), self._index.number("SELECT COUNT(*) FROM inode"))
        stored = stored_usage(row)
        if stored != counted:
            mend = partial(self._mender.set_usage, 0 if row is None else row.version, counted)
            detail = (
                f"counted as {stored.used_bytes} bytes and {stored.used_inodes} inodes, "
                f"there are {counted.used_bytes} and {counted.used_inodes}"
            )
            yield Finding("wrong-usage", "volume", detail, (records.USAGE_KEY,), mend)

    def _numbers(self) -> Iterator[Finding]:
        row = self._store.read([records.NEXT_KEY])[0]
        stored = [0 if row is None else field(row.value, at) for at in (0, 8, 16)]
        used = [
            max(self._index.number(f"SELECT MAX(ino) FROM {table}") for table in ("inode", "deleted", "dentry")),
            max(self._index.number(f"SELECT MAX(pack) FROM {table}") for table in ("pack", "ref", "object")),
            max(self._index.number(f"SELECT MAX(session) FROM {table}") for table in ("session", "sustained")),
        ]
        if any(number <= last for number, last in zip(stored, used, strict=True)):
            numbers = [max(number, last + 1) for number, last in zip(stored, used, strict=True)]
            mend = partial(self._mender.raise_numbers, 0 if row is None else row.version, *numbers)
            detail = f"next inode, pack, session are {stored}, in use are numbers up to {used}"
            yield Finding("wrong-numbers", "volume", detail, (records.NEXT_KEY,), mend)
