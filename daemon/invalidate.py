"""Follows the volume's change log, and makes the VFS and the kernel forget what other processes have changed.

One follower per mount. It reads the log from the position at which it was made, skips the commits of its own session, and
drops exactly what the others touched: first from the VFS, then from the kernel, so that whatever the kernel asks next is
answered afresh. After a gap in the log everything is dropped.

Its thread polls, and is woken by the first commit after it has found nothing, where the store can do that. An open does not
wait for the next poll: the VFS calls `fence`, which reads what the log has got since and drops attributes at once, on the
thread of the request. Pages and names are left to the follower's own thread, because the kernel may hold a directory's lock, or
a page's, until the very request is answered that would wait for it.

Commits of this process are told to the kernel by `tell_own`, before the operation that made them is answered: a reply with
attributes that it overtakes is then dropped there. README.md has what the kernel would otherwise miss.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from cairnfs.const import ROOT_INO
from cairnfs.daemon.lease import CHECK_S, LEASE_S, Lease
from cairnfs.daemon.shared_call import SharedCall
from cairnfs.errors import CairnError
from cairnfs.ext.arena import Arena
from cairnfs.meta.core import MetaCore
from cairnfs.meta.passed_on import PassedOn
from cairnfs.meta.records import ATTR_SUBKEY, DENTRY_PREFIX, INODE_PREFIX, LOCKS_SUBKEY
from cairnfs.meta.stores.base import Key, LogRecord, LogTrimmed, Store
from cairnfs.types import Inode, Position
from cairnfs.vfs.moved import Moved

log = logging.getLogger(__name__)

SHORTEST_POLL_S = 0.01  # while others commit
LONGEST_POLL_S = 0.1  # while they do not; ten empty reads of a store per second cost nothing
LOG_BATCH = 1000
SHOWN_WITHIN_S = 5.0  # dropping pages waits for those who read them; a lock is not withheld for ever,
OPENED_WITHIN_S = 1.0  # nor is an open, or a direct write,
DROPPED_WITHIN_S = 0.005  # and any other write may have one of the pages locked until it is answered
INO8 = 8
_INODE = INODE_PREFIX[0]
NEWEST = Position(0)

Changes = tuple[set[Inode], set[tuple[Inode, bytes]]]


class Cached(Protocol):
    """Something that keeps what it knows of inodes and names: the VFS, the kernel behind a front."""

    def invalidate(self, inos: Iterable[Inode], dentries: Iterable[tuple[Inode, bytes]]) -> object: ...

    def invalidate_all(self) -> None: ...


class Vfs(Cached, Protocol):
    """What the VFS is told besides."""

    def invalidate(self, inos: Iterable[Inode], dentries: Iterable[tuple[Inode, bytes]]) -> set[Inode]:
        """Returns those inodes of which the kernel may have pages."""
        ...

    def released(self, inos: Iterable[Inode]) -> None: ...


class KernelCaches(Cached, Protocol):
    """What a front can make the kernel forget."""

    def invalidate(self, inos: Iterable[Inode], dentries: Iterable[tuple[Inode, bytes]]) -> set[Inode]:
        """Returns those inodes that the kernel does not know."""
        ...

    def leaving(self, on: bool) -> None:
        """Whether there is something that the kernel is still to forget: then whoever opens a file calls `dropped`."""
        ...

    def invalidate_attributes(self, inos: Iterable[Inode]) -> None: ...

    def invalidate_own(self, inos: Iterable[Inode]) -> None:
        """As before, for what a commit of the request has changed that the thread serves: in time for the reply to that."""
        ...

    def trust(self, followed: bool) -> None: ...


class Follower(threading.Thread):
    """The thread; made before the mount, so that nothing is missed.

    Attributes of an inode that the kernel did not know are dropped at the next poll again: if it learned of that inode by a reply
    under way meanwhile, it would keep what that reply says.
    """

    def __init__(
        self,
        store: Store,
        vfs: Vfs,
        front: KernelCaches,
        arena: Arena | None = None,
        told: int | None = None,
        is_pushed: bool = False,
        core: MetaCore | None = None,
        moved: Moved | None = None,
    ) -> None:
        """`is_pushed`: opens do not ask for the end of the log, but take what it has brought so far.

        What the `arena` got before counts for nothing: nobody has told of changes until now. `told`: up to where a predecessor
        of this process has told the kernel of changes; all later ones are told of, whoever made them.
        """
        super().__init__(name="follower", daemon=True)
        self._store = store
        self._vfs = vfs
        self._front = front
        self._reading = threading.Lock()  # guards the position and what follows from it
        self._arena = arena
        self._is_pushed = is_pushed
        self._core = core
        self._moved = None if is_pushed else moved
        self._is_watched = store.watch() is not None
        self._shared_fence = SharedCall(self._ask_for_the_end)
        mark = store.mark()
        newest = store.position()
        self._position = newest if told is None else Position(told)
        self._strange_until = Position(0) if told is None else newest
        self.on_told: Callable[[Position], None] = lambda position: None
        self.on_gap: Callable[[], None] = lambda: None  # before everything is dropped
        self.on_read: Callable[[], None] = lambda: None  # on this thread, each time after the log was read
        passed_on = None if arena is None else PassedOn(arena)
        if core is not None and not self._is_watched:
            core.recall.start(passed_on=passed_on)
            core.neighbours.start()
        elif core is not None and arena is not None:
            core.recall.start(arena.fresh, passed_on)
        if arena is not None:
            arena.drop_all()
            arena.saw(self._position, mark if told is None else None)
        self._inos: set[Inode] = set()  # still to be dropped from the kernel
        self._dentries: set[tuple[Inode, bytes]] = set()
        self._everything = False
        self._ended_rounds = threading.Condition(self._reading)
        self._n_rounds = 0  # of dropping from the kernel, ended
        self._leaving: set[Inode] | None = None  # what the present round drops, if there is one,
        self._leaves_nothing = False  # and whether that is everything
        self._again: set[Inode] = set()  # for the follower's own thread only
        self._lease = Lease(self._lease_lost, lambda: front.trust(True), vfs.invalidate_all)
        self.hold = self._lease.hold  # for requests that are answered from what is known
        self._wake = threading.Event()
        self._ended = False
        self._silent = threading.Event()
        self._bell = threading.Thread(target=store.listen, args=(self._wake.set, self._silent), name="bell", daemon=True)
        self._failing = False

    @property
    def position(self) -> Position:
        """Everything up to this position is known here."""
        return self._position

    def fence(self, position: Position = NEWEST) -> None:
        """Return when every commit acknowledged before the call (or those up to a position) is known to the VFS, and the kernel
        shows no older attributes. For requests; StoreError (EIO) when the log cannot be read.
        """
        if self._arena is not None and self._arena.fresh_for_open():
            return
        if self._is_known(position):
            return
        self._shared_fence()

    def _is_known(self, position: Position) -> bool:
        """Whether everything up to a position (NEWEST: nobody knows which) is known here, with own commits in a row."""
        known = max(self._position, 0 if self._arena is None else self._arena.applied)
        return position != NEWEST and max(position, self._strange_until) <= known

    def show(self, ino: Inode, position: Position = NEWEST) -> None:
        """Return when the kernel has no older pages of an inode than what was committed before the call, or up to a position.
        For requests that the kernel makes without the lock of a page. StoreError (EIO) when the log cannot be read.
        """
        if not self._is_known(position):
            self.ask()
        if not self._wait_for_round(ino, SHOWN_WITHIN_S):
            log.warning("inode %d: the kernel has not dropped its pages for %g s", ino, SHOWN_WITHIN_S)

    def dropped(self, ino: Inode, position: Position = NEWEST) -> None:
        """Return when the kernel has forgotten what is outdated of a file, which is about to be opened or was asked for its size:
        as far as is known, or up to a position.

        A notification makes the kernel throw away the answer to a GETATTR that is under way, and go on with the size that it
        had: one after the OPEN would let its first read end there, or show zeros beyond the end.
        """
        if position != NEWEST and not self._is_known(position):
            self.ask()
        leaving = self._inos, self._leaving  # in this order: see `catch_up`
        if self._everything or self._leaves_nothing or any(inos and ino in inos for inos in leaving):
            self._wait_for_round(ino, OPENED_WITHIN_S)

    def drop(self, ino: Inode, holds_page: bool) -> None:
        """Have the kernel drop pages of a file that do not show what a write has put there. When this returns it has, or is just
        about to. For the request that has written: the kernel may hold the lock of one of them until that is answered.
        """
        with self._reading:
            self._front.leaving(True)
            self._inos.add(ino)
        self._wait_for_round(ino, DROPPED_WITHIN_S if holds_page else OPENED_WITHIN_S)

    def _wait_for_round(self, ino: Inode, seconds: float) -> bool:
        """Wait until what is known to be outdated of an inode is dropped. False: it takes longer."""
        with self._ended_rounds:
            is_under_way = self._leaving is not None
            if self._everything or ino in self._inos:
                last = self._n_rounds + 1 + is_under_way
            elif self._leaving is not None and (self._leaves_nothing or ino in self._leaving):
                last = self._n_rounds + 1
            else:
                return True
            self._wake.set()
            return self._ended_rounds.wait_for(lambda: self._n_rounds >= last or self._ended, seconds)

    def ask(self) -> None:
        """As `fence`, whatever is thought to be known here."""
        self._shared_fence()

    def way(self) -> Position | None:
        """The position up to which the VFS knows everything, where it takes a round trip to know more, and opens do so."""
        if self._is_watched or self._is_pushed:
            return None
        return max(self._position, Position(0 if self._arena is None else self._arena.applied))

    def _ask_for_the_end(self) -> None:
        if self._catch_up():
            self._wake.set()

    def stop(self) -> None:
        """End the thread and wait for it. Also when it was never started."""
        self._ended = True
        self._wake.set()
        self._silent.set()
        if self.ident is not None:
            self.join()
            self._bell.join()
        self._lease.stop()

    def run(self) -> None:
        pause_s = SHORTEST_POLL_S
        self._lease.start()
        self._bell.start()
        while not self._ended:
            self._wake.wait(pause_s)
            self._wake.clear()
            pause_s = SHORTEST_POLL_S if self._poll() else min(2 * pause_s, LONGEST_POLL_S)

    def _poll(self) -> bool:
        """Catch up with the log, whatever happens. True when others had changed something."""
        try:
            found = self.catch_up()
        except CairnError as error:
            if not self._failing:
                log.warning("cannot read the change log: %s; what other processes change is seen late", error)
            self._failing = True
            return False
        except Exception:
            log.exception("cannot apply the change log")
            return False
        self._failing = False
        self.on_read()
        return found

    def catch_up(self) -> bool:
        """Apply what the log has, to the kernel too. True when others had changed something. StoreError when it cannot be
        read. Not from a request.
        """
        from_s = self._lease.now_s()
        self._catch_up(rings=True)
        again, self._again = self._again, set()
        with self._reading:
            position = self._position
            # Whoever looks without the lock finds an inode in the first or in the second.
            self._leaving, self._leaves_nothing = inos, everything = self._inos, self._everything
            self._inos, self._everything = set(), False
            dentries, self._dentries = self._dentries, set()
            n_notes = 0 if self._moved is None else self._moved.n_notes
        try:
            if everything:
                self._front.invalidate_all()
            if inos:
                self._again = self._front.invalidate(inos, ())
        finally:
            with self._ended_rounds:
                self._leaving, self._leaves_nothing = None, False
                if not self._inos and not self._everything:
                    self._front.leaving(False)
                self._n_rounds += 1
                self._ended_rounds.notify_all()
        if dentries:  # apart: these wait for requests in the same directories, for which no open of another file is to wait
            self._front.invalidate((), dentries)
        if again:
            self._front.invalidate_attributes(again)
        if self._moved is not None:
            self._moved.settle(n_notes)
        self._lease.renew(from_s)
        if self._arena is not None and not self._is_watched:
            self._arena.lease(from_s + LEASE_S - CHECK_S, self._is_pushed)
        self.on_told(position)
        return bool(everything or inos or dentries)

    def _catch_up(self, rings: bool = False) -> bool:
        """Read the log if there is anything in it. True when others had changed something."""
        if not self._is_watched:
            found = self._read_log(rings)
            if self._arena is not None:
                self._arena.saw(self._position, None)
            return found
        mark = self._store.mark()
        position = self._store.position()
        found = position != self._position and self._read_log()
        self._see(max(position, self._position), mark)
        return found

    def _see(self, position: Position, mark: bytes | None) -> None:
        """Everything up to a position is known. A commit since `mark` was taken may have moved the fence on: leave that."""
        if self._arena is None:
            return
        if self._store.mark() == mark:
            self._arena.saw(position, mark)
        elif position > self._arena.applied:
            self._arena.saw(position, None)

    def _read_log(self, rings: bool = False) -> bool:
        """Make the VFS forget what others changed since the position, and note it for the kernel. True when there was any."""
        found = False
        with self._reading:
            try:
                more = True
                while more and (records := self._store.log(self._position, LOG_BATCH, rings=rings)):
                    more = len(records) == LOG_BATCH
                    others = [record for record in records if not self._own(record)]
                    if self._core is not None and others:
                        self._core.recall.changed(key for record in others for key in record.keys)
                    elsewhere = {i for record in others if not self._of_session(record) for i in moved(record)}
                    noted = None if self._moved is None else self._moved.look(elsewhere)
                    if self._arena is not None:
                        for record in others:
                            self._arena.changed(record.keys, record.position)
                    if self._moved is not None and noted:
                        self._moved.note(noted)
                    if unlocked := locked_inodes(others):
                        self._vfs.released(unlocked)
                    inos, dentries = changes(others)
                    if inos or dentries:
                        found = True
                        self._front.leaving(True)
                        # A size that the kernel learns while it has older pages makes the last of them show zeros.
                        self._front.invalidate_attributes(inos - self._vfs.invalidate(inos, dentries))
                        self._inos |= inos
                        self._dentries |= dentries
                    if self._arena is not None and not self._is_watched:
                        self._arena.heard([record.position for record in others])
                    self._position = records[-1].position
            except LogTrimmed:
                self._drop_everything()
                return True
        return found

    def _own(self, record: LogRecord) -> bool:
        """Whether this process made the commit. Whoever has no session (origin 0) knows none of its own."""
        return self._of_session(record) and record.position > self._strange_until

    def _of_session(self, record: LogRecord) -> bool:
        """Whether this process or a predecessor made it: the kernel has these names from the very requests that changed them."""
        return record.origin == self._store.origin != 0

    def _lease_lost(self) -> None:
        """On the lease's thread. From now on the kernel is promised little, so what it learns until the next drop ends soon."""
        self._front.trust(False)
        if self._arena is not None:
            self._arena.lease(0, False)
        self._vfs.invalidate_all()
        self._front.invalidate_all()

    def _drop_everything(self) -> None:
        """The position is taken first: what is committed while caches are dropped will be found in the log. It counts
        afterwards: whoever finds it reached takes everything up to it for known.
        """
        log.warning("the change log no longer reaches back to position %d: dropping every cache", self._position)
        position = self._store.position()
        self.on_gap()
        if self._core is not None:
            self._core.forget()
        if self._arena is not None:
            self._arena.restart(position)  # the store may be one that lacks commits which were known here
        self._vfs.invalidate_all()
        if self._moved is not None:
            self._moved.note({Inode(ROOT_INO): True})
        self._front.leaving(True)
        self._everything = True
        self._position = position


def done_requests(store: Store, after: Position) -> set[int]:
    """Requests of this session whose commits are in the log after a position. LogTrimmed, StoreError."""
    done: set[int] = set()
    while records := store.log(after, LOG_BATCH):
        done.update(record.request for record in records if record.origin == store.origin and record.request)
        after = records[-1].position
    return done


def changes(records: Iterable[LogRecord]) -> Changes:
    """Inodes and names that records touch. Lock rows change nothing that anybody keeps."""
    inos: set[Inode] = set()
    dentries: set[tuple[Inode, bytes]] = set()
    for record in records:
        inos.update(changed_inodes(record.keys))
        for partition, name in record.keys:
            if is_dentry(partition):
                dentries.add((Inode(int.from_bytes(partition[1:], "big")), name))
    return inos, dentries


def moved(record: LogRecord) -> set[Inode]:
    """Inodes that have lost a name by a commit, or got one instead of others: all that it has changed but the directories with
    these names. Nobody has come anywhere by a name that was not there.
    """
    if record.only_adds:
        return set()
    into = {Inode(int.from_bytes(partition[1:], "big")) for partition, _ in record.keys if is_dentry(partition)}
    return changed_inodes(record.keys) - into if into else set()


def is_dentry(partition: bytes) -> bool:
    """Whether it has the names of a directory."""
    return partition[:1] == DENTRY_PREFIX and len(partition) == 1 + INO8


def locked_inodes(records: Iterable[LogRecord]) -> set[Inode]:
    """Inodes whose locks have changed."""
    return {
        Inode(int.from_bytes(partition[1:], "big"))
        for record in records
        for partition, key in record.keys
        if key == LOCKS_SUBKEY and partition[:1] == INODE_PREFIX
    }


def changed_inodes(keys: Iterable[Key]) -> set[Inode]:
    """Inodes whose attributes or content are in these rows."""
    return {
        Inode(int.from_bytes(partition[1:], "big"))
        for partition, key in keys
        if partition[:1] == INODE_PREFIX and len(partition) == 1 + INO8 and key != LOCKS_SUBKEY
    }


def tell_own(front: KernelCaches) -> Callable[[Mapping[Key, bytes | None]], None]:
    """What is to be called with the rows of each commit of this process: the kernel asks for those attributes again.

    Not for those of an inode that is gone: nobody is given any, and the kernel itself drops what it has, and answers under way.
    """

    def told(rows: Mapping[Key, bytes | None]) -> None:
        changed: set[bytes] = set()
        gone: list[bytes] = []
        for (partition, key), value in rows.items():
            if partition[0] == _INODE:
                if value is None and key == ATTR_SUBKEY:
                    gone.append(partition)
                elif key != LOCKS_SUBKEY:
                    changed.add(partition)
        changed.difference_update(gone)
        if changed:
            front.invalidate_own([Inode(int.from_bytes(partition[1:], "big")) for partition in changed])

    return told
