"""Sessions: who uses the volume, and cleaning up after those who are gone.

A session is a row with the process's identity and a heartbeat. What dies with it: its locks, and the inodes without a name
that it held open. Cleaning deletes the row last, so a cleaner that is killed leaves the rest to the next one; two
cleaners do not harm each other. A session that was cleaned up while it lived (cut off for long) learns it from `heartbeat`.

While a mount passes from one process to another, its session has both, and lives as long as either of them.

A session is dead when its process is known to have ended (this machine tells) or, for processes this machine cannot see,
when its heartbeat is older than `STALE_S`. A process seen to run is never dead, however old its heartbeat: after a
suspended machine wakes up all heartbeats are old.
"""

import builtins
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, NamedTuple

from cairnfs.errors import CorruptError, StoreError
from cairnfs.meta.core import MetaCore
from cairnfs.meta.free import free_inode
from cairnfs.meta.process import Process, this_process
from cairnfs.meta.records import (
    SESSION_PART,
    decode_attr,
    ino8,
    inode_key,
    number_of,
    session_key,
    sustained_key,
    sustained_part,
)
from cairnfs.meta.txn import Txn
from cairnfs.types import Inode, SessionId

STALE_S = 60  # five heartbeats of the default period
SCAN_ROWS = 256

_NONE = SessionId(0)


class SessionInfo(NamedTuple):
    """One session; `started` and `heartbeat` are seconds since the epoch. `serving`: what it says of how, if it serves."""

    id: SessionId
    process: Process
    mountpoint: str
    version: str
    started: int
    heartbeat: int
    serving: Mapping[str, Any] = MappingProxyType({})
    successor: Process | None = None  # who is about to go on with it

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
        self._writing = threading.Lock()  # of the own row, which a heartbeat and `describe` write
        self.n_known = 0  # sessions when they were last listed, with this process's own since

    def open(self, mountpoint: str, version: str, process: Process | None = None) -> SessionId:
        """Register a session that lives as long as `process` (the calling one); commits then carry its id in the change log."""
        now_s = self._core.now_ns() // 10**9
        session = self._core.ids.session()
        self._own = SessionInfo(session, process or this_process(), mountpoint, version, now_s, now_s)
        self._core.store.origin = session
        self._core.transact(_put(self._own))
        self.n_known += 1
        return session

    def resume(self, session: SessionId, process: Process | None = None, version: str | None = None) -> bool:
        """Go on with a session that another process has opened. False when it was taken for dead and cleaned up meanwhile.

        From now on it lives as long as `process`, and is of `version`, if they are given.
        """
        row = self._core.store.read((session_key(session),))[0]
        if row is None:
            return False
        found = _decode(session, row.value)
        own = found._replace(process=process or found.process, version=version or found.version, successor=None)
        if own != found and not self._core.transact(_replace(own)):
            return False
        self._own = own
        self._core.store.origin = session
        return True

    def expect(self, session: SessionId, successor: Process) -> None:
        """Another process is about to go on with a session: until somebody does, it lives as long as either of them."""
        row = self._core.store.read((session_key(session),))[0]
        if row is not None:
            self._core.transact(_replace(_decode(session, row.value)._replace(successor=successor)))

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
        """Say that this session lives. StoreError when it was cleaned up meanwhile; it is then registered again."""
        with self._writing:
            if self._own is None:
                return
            self._own = own = self._own._replace(heartbeat=self._core.now_ns() // 10**9)
            if self._core.transact(_refresh(own)):
                return
        raise StoreError(f"session {own.id} was taken for dead after {STALE_S} s without a heartbeat: its locks were given up")

    def describe(self, serving: Mapping[str, Any]) -> None:
        """Say how this session serves: JSON, shown by `status`. Nothing is written where that is known."""
        with self._writing:
            if self._own is None or self._own.serving == serving:
                return
            self._own = self._own._replace(serving=dict(serving))
            self._core.transact(_replace(self._own))  # cleaned up meanwhile: the next heartbeat finds out, and writes all of it

    def close(self) -> None:
        """End this process's session: its locks and nameless inodes go. Without a session, nothing happens."""
        if self._own is not None:
            own, self._own = self._own, None
            self._clean(own.id)
            self._core.store.origin = _NONE

    def clean_stale(self, now_ns: int) -> list[SessionInfo]:
        """Clean up after every dead session; returns those."""
        own = _NONE if self._own is None else self._own.id
        dead = [session for session in self.list() if session.id != own and is_dead(session, now_ns)]
        for session in dead:
            self._clean(session.id)
        return dead

    def list(self) -> list[SessionInfo]:
        """All sessions, dead ones included, in the order they began. CorruptError (EIO) for a malformed row."""
        found: list[SessionInfo] = []
        after: bytes | None = None
        while True:
            page = self._core.store.scan(SESSION_PART, after, SCAN_ROWS)
            found += [_decode(SessionId(number_of(key)), row.value) for key, row in page]
            if len(page) < SCAN_ROWS:
                self.n_known = len(found)
                return found
            after = page[-1][0]

    def _clean(self, session: SessionId) -> None:
        self._drop_locks(session)
        while page := self._core.store.scan(sustained_part(session), None, SCAN_ROWS):
            for key, _ in page:
                self._core.transact(_release(session, Inode(number_of(key))))
        self._core.transact(lambda txn: txn.delete(session_key(session)))


def is_dead(session: SessionInfo, now_ns: int) -> bool:
    """Whether nobody is behind a session any more; see the module's text."""
    alive = [process.is_alive() for process in (session.process, session.successor) if process is not None]
    if any(alive) or None not in alive:
        return not any(alive)
    now_s = now_ns / 10**9
    return now_s - session.heartbeat > STALE_S or session.process.ended_by_boot(session.heartbeat, now_s)


def _put(session: SessionInfo) -> Callable[[Txn], None]:
    return lambda txn: txn.put(session_key(session.id), _encode(session))


def _refresh(session: SessionInfo) -> Callable[[Txn], bool]:
    """Write the row; whether it was still there."""

    def build(txn: Txn) -> bool:
        known = txn.get(session_key(session.id)) is not None
        txn.put(session_key(session.id), _encode(session))
        return known

    return build


def _replace(session: SessionInfo) -> Callable[[Txn], bool]:
    """Write the row if it is still there; whether it was."""

    def build(txn: Txn) -> bool:
        if txn.get(session_key(session.id)) is None:
            return False
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
        "serving": dict(session.serving),
        "successor": session.successor and asdict(session.successor),
    }
    return json.dumps(row).encode()


def _decode(session: SessionId, value: bytes) -> SessionInfo:
    try:
        row: dict[str, Any] = json.loads(value)
        times = int(row["started"]), int(row["heartbeat"])
        more = dict(row.get("serving", {})), _process(row["successor"]) if row.get("successor") else None
        return SessionInfo(session, _process(row), row["mountpoint"], row["version"], *times, *more)
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptError(f"session {session}: the row cannot be read: {error!r}") from error


def _process(row: dict[str, Any]) -> Process:
    return Process(row["host"], row["boot_id"], row["pid_namespace"], int(row["pid"]), int(row["pid_start"]))
