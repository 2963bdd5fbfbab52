"""Sending commands and taking their replies, looked for a while before sleeping."""

from typing import final

from typing_extensions import Buffer

@final
class BusyPoll:
    """What is known of the replies of one server. Thread-safe."""

    def exchange(self, /, fd: int, data: Buffer, out: Buffer, wait_ms: int) -> tuple[int, int]:
        """Send what a socket takes at once; if that was all, take what comes first of the reply: looked for up to 150 us, then
        waited for up to `wait_ms`. The GIL is let go once.

        Returns how many bytes were sent: with fewer than all, the caller sends the rest, and finds out what is wrong. And how
        many were received: with none, the caller waits for the reply.
        """

    @property
    def is_vain(self) -> bool:
        """Have the latest 4 replies taken longer than that? Then only one of 65 is looked for, until it is there in time."""

    @property
    def may_look(self) -> bool:
        """Were the CPUs free enough of late? False for 1 to 128 ms after others had the CPU for 500 us."""

def packed(words: tuple[str | bytes | int, ...]) -> bytes:
    """A command as the protocol has it: an array of bulk strings."""
