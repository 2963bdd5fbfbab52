"""Sessions: who uses the volume, and cleaning up after those who are gone.

A session is a row with the process's identity and a heartbeat. What dies with it: its locks, and the inodes without a name
that it held open. Cleaning begins by burying the row, if there was no heartbeat since it was looked at: from then on its node
can take no lock and keep no inode open under it (`MetaCore.while_alive`). It ends by deleting what was buried, so a
cleaner that is killed leaves the rest to the next one; two cleaners do not harm each other.

A session that was cleaned up while it lived (its node was cut off for long) learns it from its next heartbeat, or from a commit
that depends on it. Then `on_lost` is told, and another session is opened in its place.

While a mount passes from one process to another, its session has both, and lives as long as either of them.

A session is dead when its process is known to have ended (this machine tells) or, for processes this machine cannot see,
when this process has watched it for five of its periods and seen no heartbeat. No clocks are compared for that: the store's,
too, is set at times, and then all heartbeats are old. Where it says besides that the machine was started again since the last
one, two periods are enough. A process seen to run is never dead, however old its heartbeat: so it is after a suspended machine
wakes up. Who could not look for long begins to watch anew: the store may have been away, and then nobody's heart could beat.
"""

import builtins
import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from cairnfs.errors import CorruptError, StoreError
from cairnfs.meta.core import MetaCore
from cairnfs.meta.free import free_inode
from cairnfs.meta.process import Process, this_process
from cairnfs.meta.records import (
    BURIED,
    SESSION_PART,
    buried_key,
    decode_attr,
    ino8,
    inode_key,
    number_of,
    session_key,
    sustained_key,
    sustained_part,
)
from cairnfs.meta.txn import Txn
from cairnfs.types import Inode, PackId, Position, SessionId

log = logging.getLogger(__name__)

MISSED_BEATS = 5
DOUBTED_BEATS = 2  # of who is dead by the store's clock: one comes within a period if that clock was set
SHORTEST_STALE_S = 5.0  # a process may well be kept waiting for a second or two
DEFAULT_PERIOD_S = 12.0
SCAN_ROWS = 256
LOOK_AGAIN_S = 0.5  # while a heartbeat is waited for

_NONE = SessionId(0)


class SessionInfo(NamedTuple):
    """One session; `started` and `heartbeat` are seconds since the epoch, by the store's clock; `period_s` is from one beat to
    the next. `is_buried`: somebody cleans up after it. `serving`: what it says of how, if it serves. `first_pack`: all packs
    that it stores have this number or a greater one (0: not known).
    """

    id: SessionId
    process: Process
    mountpoint: str
    version: str
    started: int
    heartbeat: int
    period_s: float = DEFAULT_PERIOD_S
    is_buried: bool = False
    serving: Mapping[str, Any] = MappingProxyType({})
    successor: Process | None = None  # who is about to go on with it
    first_pack: PackId = PackId(0)

    def is_alive(self) -> bool | None:
        """Whether a process of it runs; None if that is not known here."""
        alive = [process.is_alive() for process in (self.process, self.successor) if process is not None]
        return any(alive) or (None if None in alive else False)

    @property
    def stale_s(self) -> float:
        """Without a heartbeat for so long it is dead."""
        return max(MISSED_BEATS * self.period_s, SHORTEST_STALE_S)

    @property
    def host(self) -> str:
        return self.process.host

    @property
    def pid(self) -> int:
        return self.process.pid


class Sessions:
    """The sessions of one volume, and this process's own. Every method may raise StoreError (EIO)."""

    def __init__(self, core: MetaCore, drop_locks: Callable[[SessionId], object]) -> None:
        """`drop_locks` gives up every lock of a session."""
        self._core = core
        self._drop_locks = drop_locks
        self._own: SessionInfo | None = None
        self._changing = threading.RLock()  # which session is the own one
        self._watched: dict[SessionId, tuple[Position, float]] = {}  # version of the row, since when (monotonic)
        self._looked_s = 0.0  # when they were watched last
        self.has_lost = False  # the one that was to be resumed
        self.on_opened: Callable[[SessionId], None] = lambda session: None
        self.on_lost: Callable[[], None] = lambda: None  # before another session is opened in the place of one that was lost
        self.n_known = 0  # sessions when they were last listed, with this process's own since

    @property
    def own(self) -> SessionId:
        """This process's session, 0 for none."""
        return _NONE if self._own is None else self._own.id

    @property
    def _period_s(self) -> float:
        """From one look at the others to the next."""
        return DEFAULT_PERIOD_S if self._own is None else self._own.period_s

    def now_ns(self) -> int:
        """Nanoseconds since the epoch, by the clock of heartbeats."""
        shared = self._core.store.now_ns()
        return self._core.now_ns() if shared is None else shared

    def open(
        self, mountpoint: str, version: str, process: Process | None = None, period_s: float = DEFAULT_PERIOD_S
    ) -> SessionId:
        """Register a session that lives as long as `process` (the calling one); commits then carry its id in the change log."""
        now_s = self.now_ns() // 10**9
        self._register(SessionInfo(_NONE, process or this_process(), mountpoint, version, now_s, now_s, period_s))
        return self.own

    def _register(self, info: SessionInfo) -> None:
        """Open a session that has the next number. It goes on with the packs of the one before it, if there was one."""
        session, first_pack = self._core.ids.session()
        own = info._replace(id=session, first_pack=info.first_pack or first_pack)
        self._core.transact(lambda txn: txn.put(session_key(own.id), _encode(own)))
        self._go_on_as(own)
        self.n_known += 1

    def _go_on_as(self, own: SessionInfo) -> None:
        self._own = own
        self._core.store.origin = own.id
        self._core.renew = self._renew_for_commit
        self.on_opened(own.id)

    def resume(self, session: SessionId, process: Process | None = None, version: str | None = None) -> bool:
        """Go on with a session that another process has opened. False when it was taken for dead and cleaned up meanwhile.

        From now on it lives as long as `process`, and is of `version`, if they are given.
        """
        row = self._core.store.read((session_key(session),))[0]
        if row is not None:
            found = _decode(int(session), row.value)
            own = found._replace(process=process or found.process, version=version or found.version, successor=None)
            if own == found or self._core.transact(_replace(own)):
                self._go_on_as(own)
                return True
        self.has_lost = True
        return False

    def expect(self, session: SessionId, successor: Process) -> None:
        """Another process is about to go on with a session: until somebody does, it lives as long as either of them."""
        row = self._core.store.read((session_key(session),))[0]
        if row is not None:
            self._core.transact(_replace(_decode(int(session), row.value)._replace(successor=successor)))

    def describe(self, serving: Mapping[str, Any]) -> None:
        """Say how this session serves: JSON, shown by `status`. Nothing is written where that is known."""
        with self._changing:
            if self._own is None or self._own.serving == serving:
                return
            self._own = self._own._replace(serving=dict(serving))
            self._core.transact(_replace(self._own))  # cleaned up meanwhile: the next heartbeat finds out, and writes all of it

    def renew(self) -> None:
        """Open another session if this process's has been taken for dead. StoreError."""
        with self._changing:
            own = self._own
            if own is None or self._core.store.read((session_key(own.id),))[0] is not None:
                return
            self.on_lost()
            now_s = self.now_ns() // 10**9
            self._register(own._replace(started=now_s, heartbeat=now_s))

    def _renew_for_commit(self) -> None:
        own = self._own
        self.renew()
        if own is not None and self.own != own.id:
            log.warning("%s", self._lost(own))

    def _lost(self, own: SessionInfo) -> str:
        return (
            f"session {own.id} was taken for dead after {own.stale_s:g} s without a heartbeat: its locks were given up, and "
            f"deleted files that it held open were removed; session {self.own} goes on"
        )

    def sustained(self) -> builtins.list[Inode]:
        """Inodes without a name that this session holds open."""
        found: builtins.list[Inode] = []
        while self._own is not None:
            after = ino8(found[-1]) if found else None
            page = self._core.store.scan(sustained_part(self._own.id), after, SCAN_ROWS)
            found += [Inode(number_of(key)) for key, _ in page]
            if len(page) < SCAN_ROWS:
                break
        return found

    def heartbeat(self) -> None:
        """Say that this session lives. StoreError when it was cleaned up meanwhile; another one is open then."""
        with self._changing:
            own = self._own
            if own is None:
                return
            self._own = own = own._replace(heartbeat=self.now_ns() // 10**9)
            if self._core.transact(_replace(own)):
                return
            self.renew()
        raise StoreError(self._lost(own))

    def close(self) -> None:
        """End this process's session: its locks and nameless inodes go. Without a session, nothing happens."""
        with self._changing:
            own, self._own, self._core.renew = self._own, None, None
        if own is not None:
            self._clean(own.id)
            self._core.store.origin = _NONE

    def clean_stale(self) -> list[SessionInfo]:
        """Clean up after every session that is known to be dead; returns those. Whose process cannot be seen must have been
        watched by earlier calls.
        """
        found = self._scan()
        shared_ns = self._core.store.now_ns()
        by_clock_s = (self._core.now_ns() if shared_ns is None else shared_ns) / 10**9
        now_s = self._core.clock.monotonic_s()
        watched, self._watched = self._watched, {}
        away_s, self._looked_s = now_s - self._looked_s - self._period_s, now_s
        dead = []
        for session, version in found:
            alive = None if session.is_buried else session.is_alive()
            if session.id == self.own or alive:
                continue
            seen, since_s = watched.get(session.id, (version, now_s))
            if seen != version or away_s > session.stale_s / 2:
                since_s = now_s
            self._watched[session.id] = version, since_s
            missed_s = now_s - since_s
            # Without a clock of its own a store is for one machine, and another boot is over.
            may_be_over = shared_ns is None or missed_s > DOUBTED_BEATS * session.period_s
            ended = alive is False or (may_be_over and session.process.ended_by_boot(session.heartbeat, by_clock_s))
            if (session.is_buried or ended or missed_s > session.stale_s) and self._bury(session, version):
                self._clean(session.id)
                dead.append(session)
        return dead

    def active(self) -> list[SessionInfo]:
        """Who uses the volume now; sessions that are known to be dead are cleaned up first. If all others seem dead by the
        store's clock, heartbeats of theirs are waited for: it may have been set.
        """
        self.clean_stale()
        now_ns = self.now_ns()
        found = [(session, version) for session, version in self._scan() if _may_live(session)]
        doubted = {session.id: version for session, version in found if _is_doubtful(session, now_ns)}
        active = [session for session, _ in found if session.id not in doubted]
        if active or not doubted:
            return active
        wait_s = DOUBTED_BEATS * max(session.period_s for session, _ in found)
        log.warning("waiting up to %g s for a heartbeat of who uses the volume", wait_s)
        until_s = self._core.clock.monotonic_s() + wait_s
        while not active and self._core.clock.monotonic_s() < until_s:
            self._core.clock.sleep(LOOK_AGAIN_S)
            active = [each for each, version in self._scan() if _may_live(each) and doubted.get(each.id) != version]
        return active

    def list(self) -> builtins.list[SessionInfo]:
        """All sessions, dead ones included, in the order they began. CorruptError (EIO) for a malformed row."""
        return sorted((session for session, _ in self._scan()), key=lambda session: session.id)

    def _scan(self) -> builtins.list[tuple[SessionInfo, Position]]:
        """All sessions, with the versions of their rows."""
        found: builtins.list[tuple[SessionInfo, Position]] = []
        after: bytes | None = None
        while True:
            page = self._core.store.scan(SESSION_PART, after, SCAN_ROWS)
            found += [(_decode(number_of(key), row.value), row.version) for key, row in page]
            if len(page) < SCAN_ROWS:
                self.n_known = len(found)
                return found
            after = page[-1][0]

    def _bury(self, session: SessionInfo, version: Position) -> bool:
        """Let nobody go on with a session that has not changed since it had that version; whether it has not."""

        def build(txn: Txn) -> bool:
            row = txn.get(session_key(session.id))
            if row is None or row.version != version:
                return False
            txn.unchanged(session_key(session.id))
            txn.delete(session_key(session.id))
            txn.put(buried_key(session.id), row.value)
            return True

        return session.is_buried or self._core.transact(build)

    def _clean(self, session: SessionId) -> None:
        self._drop_locks(session)
        while page := self._core.store.scan(sustained_part(session), None, SCAN_ROWS):
            for key, _ in page:
                self._core.transact(_release(session, Inode(number_of(key))))
        self._core.transact(partial(_forget, session))


def is_dead(session: SessionInfo, now_ns: int) -> bool:
    """Whether nobody seems to be behind a session any more, for showing it; `now_ns` is that of `Sessions.now_ns`."""
    alive = session.is_alive()
    if alive is not None or session.is_buried:
        return not alive
    now_s = now_ns / 10**9
    return now_s - session.heartbeat > session.stale_s or session.process.ended_by_boot(session.heartbeat, now_s)


def _may_live(session: SessionInfo) -> bool:
    return not session.is_buried and session.is_alive() is not False


def _is_doubtful(session: SessionInfo, now_ns: int) -> bool:
    """Whether a clock is all that says whether it is dead, and what it says is no recent heartbeat."""
    is_recent = abs(now_ns / 10**9 - session.heartbeat) <= session.stale_s
    return session.is_alive() is None and (not is_recent or is_dead(session, now_ns))


def _forget(session: SessionId, txn: Txn) -> None:
    txn.delete(session_key(session))
    txn.delete(buried_key(session))


def _replace(session: SessionInfo) -> Callable[[Txn], bool]:
    """Write the row if it is still there; whether it was."""

    def build(txn: Txn) -> bool:
        if txn.get(session_key(session.id)) is None:
            return False
        txn.exists(session_key(session.id))
        txn.delete(buried_key(session.id))  # which is not there: Redis without memory takes a row only behind a deletion
        txn.put(session_key(session.id), _encode(session))
        return True

    return build


def _release(session: SessionId, ino: Inode) -> Callable[[Txn], None]:
    """Free an inode that a session held open, unless it has a name again; and forget that it was held."""

    def build(txn: Txn) -> None:
        row = txn.get(inode_key(ino))
        txn.delete(sustained_key(session, ino))
        if row is None:
            return
        attr = decode_attr(ino, row)
        if attr.nlink == 0:
            free_inode(txn, attr)

    return build


def _encode(session: SessionInfo) -> bytes:
    row = {
        **asdict(session.process),
        "mountpoint": session.mountpoint,
        "version": session.version,
        "started": session.started,
        "heartbeat": session.heartbeat,
        "period_s": session.period_s,
        "serving": dict(session.serving),
        "successor": session.successor and asdict(session.successor),
        "first_pack": session.first_pack,
    }
    return json.dumps(row).encode()


def _decode(number: int, value: bytes) -> SessionInfo:
    session, is_buried = SessionId(number & ~BURIED), bool(number & BURIED)
    try:
        row: dict[str, Any] = json.loads(value)
        times = int(row["started"]), int(row["heartbeat"]), float(row.get("period_s", DEFAULT_PERIOD_S))
        successor = _process(row["successor"]) if row.get("successor") else None
        more = dict(row.get("serving", {})), successor, PackId(int(row.get("first_pack", 0)))
        return SessionInfo(session, _process(row), row["mountpoint"], row["version"], *times, is_buried, *more)
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptError(f"session {session}: the row cannot be read: {error!r}") from error


def _process(row: dict[str, Any]) -> Process:
    return Process(row["host"], row["boot_id"], row["pid_namespace"], int(row["pid"]), int(row["pid_start"]))
