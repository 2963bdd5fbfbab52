"""Sending commands, and looking for their replies a while before sleeping."""

from typing import final

from typing_extensions import Buffer

@final
class BusyPoll:
    """What is known of the replies of one server. Thread-safe."""

    def send(self, /, fd: int, data: Buffer) -> int:
        """Send what a socket takes at once, without the GIL; if that was all, wait up to 150 us for a reply, without reading it.

        Returns how many bytes were sent: with fewer than all, the caller sends the rest, and finds out what is wrong.
        """

    @property
    def is_vain(self) -> bool:
        """Have the latest 4 replies taken longer than that? Then only one of 65 is looked for, until it is there in time."""

    @property
    def may_look(self) -> bool:
        """Were the CPUs free enough of late? False for 1 to 128 ms after others had the CPU for 500 us."""
