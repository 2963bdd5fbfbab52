"""Operations on names against a model of nested dictionaries, over every store; everything is compared after each step.

Two nodes take turns on one volume. The model knows names, link counts, parents, who holds what open, and nothing of rows.
"""

import errno
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cairnfs.errors import FsError
from cairnfs.meta import records
from cairnfs.meta.rename import EXCHANGE, NOREPLACE
from cairnfs.meta.stores import open_store
from cairnfs.meta.stores.base import Store
from cairnfs.meta.stores.memory import MemoryStore
from cairnfs.types import Inode
from support.namespaces import ROOT, USER, Volume

NAMES = st.sampled_from([b"a", b"b", b"\xff"])
PICK = st.integers(0, 1 << 16)
KINDS = st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO])
MANY = 1000
T = TypeVar("T")


class Item:
    """An inode of the model; `entries` only for directories."""

    def __init__(self, kind: int, parent: int) -> None:
        self.kind = kind
        self.parent = parent
        self.n_names = 1
        self.entries: dict[bytes, int] = {}

    @property
    def is_dir(self) -> bool:
        return self.kind == stat.S_IFDIR


class Refused(Exception):
    def __init__(self, code: int) -> None:
        self.code = code


class Model:
    """What the name space should be."""

    def __init__(self) -> None:
        self.items = {int(ROOT): Item(stat.S_IFDIR, ROOT)}
        self.items[ROOT].n_names = 0
        self.gone: list[int] = []
        self.sustained: dict[int, int] = {}  # inode without names -> session that holds it open

    def dir(self, ino: int) -> Item:
        if ino not in self.items:
            raise Refused(errno.ENOENT)
        if not self.items[ino].is_dir:
            raise Refused(errno.ENOTDIR)
        return self.items[ino]

    def find(self, parent: int, name: bytes) -> int:
        found = self.items[parent].entries.get(name) if parent in self.items else None
        if found is None:
            raise Refused(errno.ENOENT)
        return found

    def nlink(self, ino: int) -> int:
        item = self.items[ino]
        if not item.is_dir:
            return item.n_names
        return 2 + sum(self.items[below].is_dir for below in item.entries.values())

    def below(self, ino: int, top: int) -> bool:
        while ino not in (top, ROOT):
            ino = self.items[ino].parent
        return ino == top

    def free(self, ino: int) -> None:
        del self.items[ino]
        self.gone.append(ino)

    def drop(self, ino: int, session: int, is_open: bool) -> None:
        item = self.items[ino]
        if item.is_dir and item.entries:
            raise Refused(errno.ENOTEMPTY)
        item.n_names -= 1
        if item.n_names:
            return
        if is_open and not item.is_dir:
            item.parent = 0
            self.sustained[ino] = session
        else:
            self.free(ino)

    def rename(self, old: tuple[int, bytes], new: tuple[int, bytes], flags: int, session: int, is_open: set[int]) -> None:
        self.dir(old[0])
        self.dir(new[0])
        source, target = self.find(*old), self.items[new[0]].entries.get(new[1])
        if target is None and flags == EXCHANGE:
            raise Refused(errno.ENOENT)
        if target is not None and flags == NOREPLACE:
            raise Refused(errno.EEXIST)
        if source == target:
            return
        if target is not None and flags != EXCHANGE:
            self._check_kinds(self.items[source], self.items[target])
        self._check_loop(source, new[0])
        if target is not None and flags == EXCHANGE:
            self._check_loop(target, old[0])
            self._place(target, old)
        else:
            if target is not None:
                self.drop(target, session, target in is_open)
            del self.items[old[0]].entries[old[1]]
        self._place(source, new)

    def _check_kinds(self, moved: Item, there: Item) -> None:
        if moved.is_dir and not there.is_dir:
            raise Refused(errno.ENOTDIR)
        if there.is_dir and not moved.is_dir:
            raise Refused(errno.EISDIR)
        if there.entries:
            raise Refused(errno.ENOTEMPTY)

    def _check_loop(self, moved: int, into: int) -> None:
        if self.items[moved].is_dir and self.below(into, moved):
            raise Refused(errno.EINVAL)

    def _place(self, ino: int, at: tuple[int, bytes]) -> None:
        self.items[at[0]].entries[at[1]] = ino
        if self.items[ino].parent:
            self.items[ino].parent = at[0]


class NamesMachine(RuleBasedStateMachine):
    """Any operation on any inode there is or was, by either node."""

    def __init__(self) -> None:
        super().__init__()
        self.store = self.make_store()
        volume = Volume(self.store)
        self.nodes = [volume.node(), volume.node()]
        self.model = Model()

    def make_store(self) -> Store:
        return MemoryStore()

    def teardown(self) -> None:
        self.store.close()

    def pick(self, number: int) -> Inode:
        known = [*self.model.items, *self.model.gone[-2:]]
        return Inode(known[number % len(known)])

    def pick_dir(self, number: int) -> Inode:
        """Mostly directories; what is none must be refused."""
        dirs = [ino for ino, item in self.model.items.items() if item.is_dir]
        return self.pick(number) if number % 8 == 0 else Inode(dirs[number % len(dirs)])

    def agree(self, real: Callable[[], T], expected: Callable[[], object]) -> T | None:
        """Run both; they must succeed or be refused alike."""
        try:
            expected()
            code = 0
        except Refused as refused:
            code = refused.code
        try:
            done = real()
        except FsError as error:
            assert errno.errorcode.get(error.errno or 0) == errno.errorcode.get(code)
            return None
        assert code == 0, errno.errorcode[code]
        return done

    @rule(who=st.integers(0, 1), parent=PICK, name=NAMES, kind=KINDS)
    def create(self, who: int, parent: int, name: bytes, kind: int) -> None:
        into = self.pick_dir(parent)

        def expected() -> None:
            if name in self.model.dir(into).entries:
                raise Refused(errno.EEXIST)

        made = self.agree(lambda: self.nodes[who].names.create(USER, into, name, kind | 0o644, 0, b""), expected)
        if made is not None:
            self.model.items[made.ino] = Item(kind, into)
            self.model.items[into].entries[name] = made.ino

    @rule(who=st.integers(0, 1), ino=PICK, parent=PICK, name=NAMES)
    def link(self, who: int, ino: int, parent: int, name: bytes) -> None:
        source, into = self.pick(ino), self.pick_dir(parent)

        def expected() -> None:
            entries = self.model.dir(into).entries
            item = self.model.items.get(source)
            if item is None:
                raise Refused(errno.ENOENT)
            if item.is_dir:
                raise Refused(errno.EPERM)
            if not item.n_names:
                raise Refused(errno.ENOENT)
            if name in entries:
                raise Refused(errno.EEXIST)
            entries[name] = source
            item.n_names += 1
            item.parent = 0

        self.agree(lambda: self.nodes[who].names.link(source, into, name), expected)

    @rule(who=st.integers(0, 1), parent=PICK, name=NAMES)
    def unlink(self, who: int, parent: int, name: bytes) -> None:
        node, at = self.nodes[who], self.pick_dir(parent)

        def expected() -> None:
            ino = self.model.find(at, name)
            if self.model.items[ino].is_dir:
                raise Refused(errno.EISDIR)
            self.model.drop(ino, who + 1, ino in node.open)
            del self.model.items[at].entries[name]

        self.agree(lambda: node.names.unlink(at, name, node.is_open), expected)

    @rule(who=st.integers(0, 1), parent=PICK, name=NAMES)
    def rmdir(self, who: int, parent: int, name: bytes) -> None:
        at = self.pick_dir(parent)

        def expected() -> None:
            ino = self.model.find(at, name)
            if not self.model.items[ino].is_dir:
                raise Refused(errno.ENOTDIR)
            self.model.drop(ino, who + 1, False)
            del self.model.items[at].entries[name]

        self.agree(lambda: self.nodes[who].names.rmdir(at, name), expected)

    @rule(
        who=st.integers(0, 1), parent=PICK, name=NAMES, new_parent=PICK, new_name=NAMES,
        flags=st.sampled_from([0, 0, NOREPLACE, EXCHANGE]),
    )  # fmt: skip
    def rename(self, who: int, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        node = self.nodes[who]
        old, new = (self.pick_dir(parent), name), (self.pick_dir(new_parent), new_name)
        self.agree(
            lambda: node.names.rename(*old, *new, flags, node.is_open),
            lambda: self.model.rename(old, new, flags, who + 1, node.open),
        )

    @rule(who=st.integers(0, 1), ino=PICK)
    def open_or_close(self, who: int, ino: int) -> None:
        node, target = self.nodes[who], self.pick(ino)
        if target in node.open:
            node.open.discard(target)
            if self.model.sustained.get(target) == who + 1:
                node.names.release_deleted(target)
                del self.model.sustained[target]
                self.model.free(target)
        elif target in self.model.items and target not in self.model.sustained:
            node.open.add(target)

    @invariant()
    def every_directory_lists_its_names(self) -> None:
        node = self.nodes[0]
        for ino, item in self.model.items.items():
            listed = node.names.list(Inode(ino), None, MANY, True)
            assert [(one.name, one.ino) for one in listed] == sorted(item.entries.items())
            for one in listed:
                assert one.attr == node.names.lookup(Inode(ino), one.name)
                assert stat.S_IFMT(one.attr.mode) == one.type == self.model.items[one.ino].kind

    @invariant()
    def every_inode_has_the_right_counts(self) -> None:
        for ino, item in self.model.items.items():
            attr = self.nodes[1].names.get(Inode(ino))
            assert (attr.nlink, attr.parent) == (self.model.nlink(ino), item.parent)
            if item.is_dir:
                assert attr.size == len(item.entries)

    @invariant()
    def nothing_is_left_of_what_is_gone(self) -> None:
        parts = self.store.partitions(records.INODE_PREFIX, None, MANY)
        assert {records.ino_of_part(part) for part in parts} == set(self.model.items)
        assert self.nodes[0].usage() == (0, len(self.model.items))
        sustained = {
            records.number_of(key): session
            for session in (1, 2)
            for key, _ in self.store.scan(records.sustained_part(session), None, MANY)
        }
        assert sustained == self.model.sustained


class SqliteNamesMachine(NamesMachine):
    def make_store(self) -> Store:
        self.folder = Path(tempfile.mkdtemp())
        return open_store(f"sqlite3://{self.folder}/meta.db", create=True)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.folder)


class RecallingNamesMachine(NamesMachine):
    """Nodes that begin with the rows they remember, and are never told of what the other has changed."""

    def __init__(self) -> None:
        super().__init__()
        for node in self.nodes:
            node.core.recall.start()


TestNamesRecalled = RecallingNamesMachine.TestCase
TestNamesOverMemory = NamesMachine.TestCase
TestNamesOverSqlite = SqliteNamesMachine.TestCase
