"""Slots: shared memory for the requests that a channel's lanes have in work. `fuse_slot.h` is the contract."""

from typing import final

@final
class Slots:
    """Room for `n_slots` requests of up to `request_bytes`, shared by every process forked from now on."""

    def __new__(cls, n_slots: int, request_bytes: int) -> Slots:
        """ValueError for more than 1,024 slots or 2 MiB; OSError without memory."""

    @property
    def agreed(self) -> bool:
        """Has INIT been answered?"""

    def waiting(self) -> list[tuple[int, int, int]]:
        """(slot, unique, opcode) of the requests that were read and have no reply yet."""
