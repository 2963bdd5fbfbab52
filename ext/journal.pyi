"""The journal: a ring of writes that are not committed, and grants for compiled code to add to it. `journal_impl.h`: contract."""

from typing import final

from typing_extensions import Buffer

UNTIMED_NS: int
"""Instead of the time of a write: it must not change the modification time, which was set since."""

@final
class Ring:
    """A journal in memory that is somebody else's. Thread-safe, and safe between processes."""

    def __new__(cls, memory: Buffer, ring_bytes: int) -> Ring:
        """Zeroed memory, or that of another process's journal. ValueError for a size that it has not."""

    @staticmethod
    def region_bytes(ring_bytes: int) -> int:
        """Bytes of memory for a ring of so many."""

    def check(self) -> None:
        """ValueError when an invariant of journal_impl.h is broken. Nobody may use the journal meanwhile."""

    @property
    def used_bytes(self) -> int:
        """From the oldest record that is needed to the newest."""

    def add(self, ino: int, offset: int, data: Buffer, request: int, when_ns: int) -> int:
        """Note a write: its place, or -1 when there is no room."""

    def free(self, places: list[int]) -> None:
        """Records that are needed no longer."""

    def untime(self, places: list[int]) -> None:
        """Writes whose inode's modification time is set explicitly: when they were made does not count any more."""

    def oldest(self) -> int:
        """The inode of the oldest record, 0 when there is none."""

    def appended(self, request: int) -> bool:
        """Whether an append of this request is, or was, in the ring."""

    def resume(self) -> list[tuple[int, tuple[int, int, memoryview, int]]]:
        """Every process that used it has died: what counts, in order: (inode, (place, offset, bytes, ns)). Grants are over."""

    def grant(self, ino: int, fh: int, left_bytes: int, max_end: int, plain: bool) -> bool:
        """Let compiled code take writes through a handle, so many bytes from now on, none at or beyond `max_end`; those that
        would take privileges away only if `plain` says that there are none. Whether there was room for another grant.
        """

    def unplain(self, ino: int) -> None:
        """The inode may have got privileges."""

    def hold(self, ino: int) -> int:
        """Leave writes to Python until `let`. Returns how many records nobody has taken."""

    def let(self, ino: int, unmarked: bool = False) -> None:
        """The end of one `hold`; `unmarked`: the inode is not DIRTY any more."""

    def pending(self, ino: int) -> int:
        """How many records of the inode nobody has taken."""

    def take(self, ino: int) -> list[tuple[int, int, memoryview, int]]:
        """The records that nobody has taken yet, in order: (place, offset, bytes, ns). They live until they are freed."""

    def end_idle(self, ino: int) -> bool:
        """The grant is over if nobody need take anything; whether it is."""

    def end(self, ino: int) -> list[tuple[int, int, memoryview, int]]:
        """The grant is over; returns what `take` would."""

    def tear(self, ino: int, n_bytes: int) -> int:
        """For tests of what a death leaves: take the ring's lock, reserve a record, and leave it at that."""

    def add_unnoted(self, ino: int, data: Buffer, request: int) -> int:
        """For these tests: an append that counts, before its request is noted apart."""

    def add_granted(self, ino: int, offset: int, data: Buffer) -> bool:
        """For these tests: what compiled code does for a write of an inode that has a grant; whether there was room."""

    def hold_grant(self, ino: int) -> None:
        """For these tests: take the lock of a grant, and keep it."""
