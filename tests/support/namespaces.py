"""A volume's name space without fronts: the operation groups on one store, a clock that ticks, and a store one can interrupt."""

from collections.abc import Callable, Sequence

from cairnfs.const import ROOT_INO
from cairnfs.meta import records
from cairnfs.meta.attrs import Attrs
from cairnfs.meta.core import MetaCore
from cairnfs.meta.locks import Locks
from cairnfs.meta.names import Names
from cairnfs.meta.records import Usage
from cairnfs.meta.stores.base import NOTHING, Along, Committed, Condition, Effect, Key, Row, Scanned, Store, Via
from cairnfs.meta.stores.memory import MemoryStore
from cairnfs.meta.volume import VolumeFormat, create_volume
from cairnfs.meta.xattrs import Xattrs
from cairnfs.types import Attr, Caller, Inode, SessionId

ROOT = Inode(ROOT_INO)
START_NS = 1_700_000_000 * 10**9
USER = Caller(uid=1000, gid=100, pid=42, umask=0o022)


class TickingClock:
    """Every look at it is one microsecond later. `ahead_ns`: of the time of `of`."""

    def __init__(self, of: "TickingClock | None" = None, ahead_ns: int = 0) -> None:
        self.ns = START_NS
        self._of, self._ahead_ns = of, ahead_ns

    def now_ns(self) -> int:
        if self._of is not None:
            return self._of.now_ns() + self._ahead_ns
        self.ns += 1000
        return self.ns

    def monotonic_s(self) -> float:
        return self.ns / 1e9

    def sleep(self, seconds: float) -> None:
        self.ns += int(seconds * 1e9)


class WatchedStore:
    """A store that counts round trips, and lets a test do something right before the next commit."""

    def __init__(self, store: Store, origin: SessionId) -> None:
        self._store = store
        self.origin = origin
        self.trips: list[str] = []
        self.commits: list[tuple[Sequence[Condition], Sequence[Effect]]] = []
        self._before_commit: Callable[[], object] | None = None

    def before_next_commit(self, action: Callable[[], object]) -> None:
        self._before_commit = action

    def read(self, keys: Sequence[Key]) -> list[Row | None]:
        self.trips.append("read")
        return self._store.read(keys)

    def read_via(self, key: Key, prefix: bytes, subkey: bytes, along: Along = NOTHING) -> Via:
        self.trips.append("read")
        return self._store.read_via(key, prefix, subkey, along)

    def scan_via(
        self, partition: bytes, after: bytes | None, limit: int, prefix: bytes, subkey: bytes, *, with_named: bool = True
    ) -> Scanned:
        self.trips.append("scan")
        return self._store.scan_via(partition, after, limit, prefix, subkey, with_named=with_named)

    def scan(self, partition: bytes, after: bytes | None, limit: int, *, prefix: bytes = b"") -> list[tuple[bytes, Row]]:
        self.trips.append("scan")
        return self._store.scan(partition, after, limit, prefix=prefix)

    def commit(self, conditions: Sequence[Condition], effects: Sequence[Effect]) -> Committed:
        self.trips.append("commit")
        action, self._before_commit = self._before_commit, None
        if action is not None:
            action()
        self.commits.append((conditions, effects))
        return self._store.commit(conditions, effects)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


class Node:
    """One machine that has the volume mounted: its session and its operation groups."""

    def __init__(self, store: Store, session: int, clock: TickingClock) -> None:
        self.store = WatchedStore(store, SessionId(session))
        self.core = MetaCore(self.store, clock)  # type: ignore[arg-type]  # the rest of Store comes by __getattr__
        self.core.ids.inode()  # take the first batch of numbers now, so that tests can count round trips
        self.names = Names(self.core)
        self.attrs = Attrs(self.core)
        self.xattrs = Xattrs(self.core)
        self.locks = Locks(self.core)
        self.open: set[int] = set()
        self.store.trips.clear()

    def is_open(self, ino: Inode) -> bool:
        return ino in self.open

    def file(self, name: bytes, parent: Inode = ROOT, mode: int = 0o644, caller: Caller = USER) -> Attr:
        return self.names.create(caller, parent, name, 0o100000 | mode)

    def dir(self, name: bytes, parent: Inode = ROOT, mode: int = 0o755, caller: Caller = USER) -> Attr:
        return self.names.create(caller, parent, name, 0o040000 | mode)

    def symlink(self, name: bytes, target: bytes, parent: Inode = ROOT) -> Attr:
        return self.names.create(USER, parent, name, 0o120777, 0, target)

    def unlink(self, name: bytes, parent: Inode = ROOT) -> Attr:
        return self.names.unlink(parent, name, self.is_open).attr

    def rename(self, old: tuple[Inode, bytes], new: tuple[Inode, bytes], flags: int = 0) -> Attr:
        return self.names.rename(*old, *new, flags, self.is_open).moved

    def names_in(self, parent: Inode = ROOT) -> list[bytes]:
        return [listed.name for listed in self.names.list(parent, None, 10_000, False)]

    def usage(self) -> Usage:
        return records.decode_usage(self.store.read([records.USAGE_KEY])[0])

    def row(self, key: Key) -> Row | None:
        return self.store.read([key])[0]


class Volume:
    """An empty volume with one node; `node()` adds another."""

    def __init__(self, store: Store | None = None, inodes: int = 0) -> None:
        self.store = MemoryStore() if store is None else store
        self.clock = TickingClock()
        create_volume(self.store, VolumeFormat("testing", inodes=inodes), START_NS)
        self.n_nodes = 0

    def node(self, ahead_ns: int = 0) -> Node:
        """`ahead_ns`: how far its clock is ahead of the others'."""
        self.n_nodes += 1
        return Node(self.store, self.n_nodes, TickingClock(self.clock, ahead_ns))
