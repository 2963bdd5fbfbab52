"""Slots: shared memory for the requests that a channel's lanes have in work. `fuse_slot.h` is the contract."""

from typing import final

from cairnfs.ext.shm import SharedMemory

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
