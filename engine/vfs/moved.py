"""Names that others have changed while the kernel may still walk through them: who came that way is sent back once.

The kernel resolves a path from names it keeps, and opens an inode. If another node has renamed, replaced or removed something
on the way, the names are dropped here and, a moment later, in the kernel; but a walk that was over before, or has begun, ends
with the OPEN of what the path meant. It is answered ESTALE: the kernel then walks the path again with a LOOKUP for every name,
and opens what it finds. That OPEN, the thread's next one in the same system call, is let pass, since the path may well lead
through what has moved. Likewise for a LOOKUP of a name that does not exist, in a directory that may not be the one the path
means any more; but mkdir, mknod, symlink and link have no second try then, and one when the request that makes the name is
refused: it is that which is sent back. So are CREATE, UNLINK, RMDIR and RENAME, whose names the kernel may have had for long.
The kernel tries twice and no more, so whatever refuses a walk with ESTALE counts (`walk`), and who was sent back is known after
a death. As long as somebody is to come again, compiled code leaves opens to Python: else that OPEN would not be seen, and a
later one be let pass.

An inode is *noted* when the log tells of a change of names it took part in. It counts until the kernel has dropped the names
(`settle`), and if the kernel knew it, for GRACE_S more, so that walks that had gone through them have ended. What is below a
symbolic link cannot be known: when one has changed, everything counts, which the root stands for. Names that are absent in the
root are not sent back: walks begin there.
"""

import errno
import stat
import threading
from collections.abc import Callable, Collection, Mapping
from types import TracebackType

from cairnfs.clock import Clock
from cairnfs.const import ROOT_INO
from cairnfs.errors import FsError
from cairnfs.ext.arena import Arena
from cairnfs.types import Inode
from cairnfs.vfs.carried import Carried
from cairnfs.vfs.sent_back import UNKNOWN_PID, Place, SentBack, SentBackRecords, place_of
from cairnfs.vfs.system_call import UNKNOWN_CALL, SystemCall, waiting_in

GRACE_S = 5.0  # as the lease: a walk that takes longer from a name to its end is waiting for a store that is away
NAME_GRACE_S = 0.25  # where a name is absent and the call unknown: mkdir and its like would fail, so this must be short
SAME_CALL_S = 0.1  # from a look at a name to the change of it; a loop may make the same call again, with the same mark
SECOND_TRY_S = 10.0  # for a thread that was sent back to come again, on a busy machine
WALK_S = 2.0  # from there to its OPEN, while each LOOKUP is Python's


def _all(inos: list[Inode]) -> list[Inode]:
    return inos


class Walk:
    """Context of one request, see `Moved.walk`: nearly all requests have one, and a generator would cost three times as much."""

    __slots__ = ("_moved", "_pid")

    def __init__(self, moved: "Moved", pid: int) -> None:
        self._moved = moved
        self._pid = pid

    def __enter__(self) -> None:
        """Nothing is done before."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, FsError) and error.errno == errno.ESTALE:
            self._moved.refused(self._pid)


class Moved:
    """Of one mount. Thread-safe."""

    def __init__(
        self, parent_of: Callable[[Inode], Inode | None], arena: Arena, clock: Clock, carried: Carried | None = None
    ) -> None:
        """`parent_of`: the directory with the only name of an inode, None when it has several names; raises ENOENT.

        What a predecessor of this process had noted is not known: everything counts, as of its last note.
        """
        self.knows: Callable[[list[Inode]], list[Inode]] = _all  # which of these inodes the kernel knows
        self.waiting_in: Callable[[int], SystemCall] = waiting_in  # the system call of a thread
        self._parent_of = parent_of
        self._arena = arena
        self._clock = clock
        self._lock = threading.Lock()
        self._carried = carried
        self._n_notes = 0 if carried is None else carried.notes
        self._noted: dict[Inode, tuple[int, bool]] = {}  # -> number of the note, whether the kernel knew it
        self._counting: dict[Inode, tuple[int, float]] = {}  # -> number of the note, until when
        self._sent_back = SentBackRecords() if carried is None else carried.sent_back
        self._coming: dict[int, float] = {}  # threads whose next OPEN is let pass -> since when
        self._walking: dict[int, float] = {}  # those that were sent back and have opened nothing yet -> until when
        if self._n_notes:
            self._noted[Inode(ROOT_INO)] = (self._n_notes, True)
            self._coming[UNKNOWN_PID] = clock.monotonic_s()  # those whom the predecessor has sent back
        self._tell_compiled_code()

    def look(self, inos: Collection[Inode]) -> dict[Inode, bool]:
        """What to `note` of inodes whose names others have changed, and whether the kernel knows it; before all forget it."""
        known = set(self.knows(list(inos)))
        found = {ino: ino in known for ino in inos}
        if any(self._may_be_link(ino) for ino in known):
            found[Inode(ROOT_INO)] = True
        return found

    def note(self, found: Mapping[Inode, bool]) -> None:
        """The names are changed, and the arena has forgotten them. The root stands for everything."""
        with self._lock:
            self._n_notes += 1
            if self._carried is not None:
                self._carried.notes = self._n_notes
            for ino, is_known in found.items():
                before = self._noted.get(ino)
                self._noted[ino] = (self._n_notes, is_known or (before is not None and before[1]))
            self._tell_compiled_code()

    @property
    def n_notes(self) -> int:
        """Taken before the kernel is told of what was noted so far, given to `settle` afterwards."""
        return self._n_notes

    def settle(self, n_notes: int) -> None:
        """The kernel has dropped all names of the first so many notes."""
        if not (self._noted or self._counting or self._coming or self._walking):
            return
        now_s = self._clock.monotonic_s()
        with self._lock:
            self._coming = {pid: since_s for pid, since_s in self._coming.items() if now_s - since_s < SECOND_TRY_S}
            self._walking = {pid: until_s for pid, until_s in self._walking.items() if until_s > now_s}
            counting = {ino: entry for ino, entry in self._counting.items() if entry[1] > now_s}
            for ino, (number, is_known) in list(self._noted.items()):
                if number <= n_notes:
                    del self._noted[ino]
                    if is_known:
                        counting[ino] = (number, now_s + GRACE_S)
            self._counting = counting
            self._tell_compiled_code()

    def walks(self, pid: int) -> bool:
        """Whether a thread was sent back just now, and has opened nothing yet: what it looks up, it may be about to open."""
        until_s = self._walking.get(pid)
        return until_s is not None and self._clock.monotonic_s() < until_s

    def _arrive(self, pid: int, name: bytes | None = None) -> None:
        """The thread's walk is over, or will be soon: where it finds that a `name` is absent, it may ask once more."""
        with self._lock:
            until_s = self._walking.pop(pid, None)
            if until_s is not None and name is not None:
                self._walking[pid] = min(until_s, self._clock.monotonic_s() + SAME_CALL_S)
            self._tell_compiled_code()

    def check(self, pid: int, ino: Inode, name: bytes | None = None) -> None:
        """ESTALE if a thread may have come to the inode by a name that has changed, and was not sent back just now. `name`: it
        has come to a directory that does not have that name; the root is where every way begins.
        """
        if pid in self._walking:
            self._arrive(pid, name)
        if not (self._noted or self._counting) or (name is not None and ino == ROOT_INO):
            with self._lock:
                self._take(pid)
            return
        call = self.waiting_in(pid)
        if name is None or not call.makes_name:  # else `check_new` is to come
            self._check(pid, call, ino, name, NAME_GRACE_S if name is not None and call == UNKNOWN_CALL else GRACE_S)

    def check_new(self, pid: int, parent: Inode, name: bytes) -> bool:
        """The same, for a thread that makes a name by a call of its own. If the call is unknown, `check` has seen to it.

        True if the thread has to be let pass from here on: it was sent back in this very call, or cannot be.
        """
        if parent == ROOT_INO or not (self._noted or self._counting or self._coming):
            return False
        call = self.waiting_in(pid)
        return call == UNKNOWN_CALL or self._check(pid, call, parent, name, GRACE_S)

    def check_change(self, pid: int, *names: tuple[Inode, bytes]) -> bool:
        """The same, for a thread that changes these names of directories by a call that always has a second try: open, unlink,
        rmdir, rename.
        """
        if pid in self._walking:
            self._arrive(pid)
        if not (self._noted or self._counting or self._coming):
            return False
        now_s, call = self._clock.monotonic_s(), self.waiting_in(pid)
        number = max((self._newest_above(parent, now_s) for parent, _ in names if parent != ROOT_INO), default=0)
        with self._lock:
            sent, places = self._take(pid), [place_of(*name) for name in names]
            if self._lets_pass(sent, call, now_s, number, places):
                return True
            if sent is not None and sent.place in places and sent.call == call.mark != 0 and now_s - sent.when_s < SAME_CALL_S:
                return True  # the kernel has no third try for what is new since that look
            if not number:
                return False
            self._send_back(pid, call, now_s)
        raise FsError(errno.ESTALE)

    def walk(self, pid: int) -> "Walk":
        """Around what the kernel asks for on its way along a path: where that is refused with ESTALE because something is gone,
        the thread was sent back, too.
        """
        return Walk(self, pid)

    def refused(self, pid: int) -> None:
        """A thread was sent back, perhaps before the change is noted that its second try will meet."""
        call = self.waiting_in(pid)
        with self._lock:
            self._send_back(pid, call, self._clock.monotonic_s())

    def _check(self, pid: int, call: SystemCall, ino: Inode, name: bytes | None, grace_s: float) -> bool:
        """Whether the thread was sent back before, and is let pass."""
        now_s = self._clock.monotonic_s()
        number = self._newest_above(ino, now_s + GRACE_S - grace_s)
        place = None if name is None else place_of(ino, name)
        with self._lock:
            sent = self._take(pid)
            if self._lets_pass(sent, call, now_s, number, (place,)):
                is_last = sent is not None and sent.place is not None and not call.mark
                if place is not None and not is_last:  # the kernel may look it up again, or ask for what it is to become
                    self._sent_back.put(pid, SentBack(now_s, call.mark, place, self._n_notes))
                return True
            if not number:
                return False
            self._send_back(pid, call, now_s)
        raise FsError(errno.ESTALE)

    def _lets_pass(
        self, sent: SentBack | None, call: SystemCall, now_s: float, number: int, places: Collection[Place | None]
    ) -> bool:
        """Whether this is the second try of a thread: the first request since it was sent back, or one at a place that it has
        looked at since, with nothing new.
        """
        if sent is None or now_s - sent.when_s >= SECOND_TRY_S or not sent.may_be_in(call.mark):
            return False
        return sent.place is None or (sent.place in places and number <= sent.number)

    def _send_back(self, pid: int, call: SystemCall, now_s: float) -> None:
        """The caller holds the lock, as for what follows."""
        self._sent_back.put(pid, SentBack(now_s, call.mark))
        if pid != UNKNOWN_PID:  # of whom each may come again, whoever does
            self._coming[pid] = now_s
            self._walking[pid] = now_s + WALK_S
            self._tell_compiled_code()

    def _take(self, pid: int) -> SentBack | None:
        if self._coming.pop(pid, None) is not None:
            self._tell_compiled_code()
        return self._sent_back.take(pid)

    def _tell_compiled_code(self) -> None:
        self._arena.careful(bool(self._noted or self._counting or self._coming), bool(self._walking))

    def _may_be_link(self, ino: Inode) -> bool:
        attr = self._arena.attr(ino)
        return attr is None or stat.S_ISLNK(attr[1])

    def _newest_above(self, ino: Inode, until_s: float) -> int:
        """The number of the newest note that counts, until that time at least, of the inode and the directories above it; 0: none
        does. Where one of them has moved since, it is itself among these.
        """
        with self._lock:
            noted = [entry for entry in self._noted.items() if not entry[1][1]]
            numbers = {ino: number for ino, (number, counts_until_s) in self._counting.items() if counts_until_s > until_s}
            numbers |= {ino: number for ino, (number, is_known) in self._noted.items() if is_known}
        if noted:  # the kernel may know them by now, from replies that were overtaken by the change
            known = set(self.knows([ino for ino, _ in noted]))
            numbers |= {ino: number for ino, (number, _) in noted if ino in known}
        if not numbers:
            return 0
        newest = 0
        try:
            while True:
                newest = max(newest, numbers.get(ino, 0))
                if ino == ROOT_INO:
                    return newest
                parent = self._parent_of(ino)
                if parent is None:  # one of its names, perhaps
                    return max(numbers.values())
                ino = parent
        except FsError:
            return max(numbers.values())  # something is gone
