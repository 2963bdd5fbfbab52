"""Slots: shared memory for the requests that a channel's lanes have in work. `fuse_slot.h` is the contract."""

from typing import final

from cairnfs.ext.shm import SharedMemory

MAX_FETCHERS: int

@final
class Slots:
    """Room for `n_slots` requests of up to `request_bytes`, shared by every process that has their memory."""

    def __new__(cls, n_slots: int, request_bytes: int, memory: SharedMemory | None = None) -> Slots:
        """New ones, or with `memory` those that another process has made.

        ValueError for more than 1,024 slots or 2 MiB, or memory of another size; OSError without memory.
        """

    @property
    def memory(self) -> SharedMemory: ...
    @property
    def n_slots(self) -> int: ...
    @property
    def request_bytes(self) -> int: ...
    @property
    def agreed(self) -> bool:
        """Has INIT been answered?"""

    def waiting(self) -> list[tuple[int, int, int]]:
        """(slot, unique, opcode) of the requests that were read and have no reply yet."""

    def began(self) -> int | None:
        """A position in the change log after which is all that these requests have committed. None when Python has none."""

    # Jobs: what is fetched for the process that serves, by workers with numbers from 1 on

    @property
    def n_fetchers(self) -> int:
        """The greatest number of a worker that may be given jobs."""

    @n_fetchers.setter
    def n_fetchers(self, n: int) -> None: ...
    @property
    def n_fetched(self) -> int:
        """Requests answered by compiled code after a job."""

    def take_job(self, worker: int, timeout_ms: int) -> tuple[int, int, bytes | None, bool] | None:
        """(slot, inode, name or None, whether bytes are wanted) of a request to fetch something for, taken by `worker`. None
        after a while without. The inode is that of the directory if there is a name.
        """

    def end_job(self, worker: int, slot: int) -> None:
        """What was to be fetched is there, or cannot be had."""

    def end_jobs_of(self, worker: int) -> None:
        """A worker has died."""
