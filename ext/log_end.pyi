"""Asking a Redis server where the change log ends, without Python."""

from typing import final

from typing_extensions import Buffer

@final
class LogEnd:
    """Connections on which compiled code asks by itself. Thread-safe."""

    def __new__(cls, times: Buffer | None = None) -> LogEnd:
        """`times`: memory of a histogram of engine/metrics.py (27 signed 64-bit integers), where round trips are counted, and
        nothing else is. ValueError for another number.
        """

    def add(self, fd: int, command: bytes) -> None:
        """Take over a connected socket, on which `command` is to be sent: the same one for all. One thread at a time.

        ValueError for another command, or one of more than 256 bytes; OSError: ENOSPC when there are enough, ENOTSOCK. The
        descriptor is the caller's then.
        """

    @property
    def wants_link(self) -> bool:
        """Would another connection have been used?"""

    @property
    def n_links(self) -> int:
        """Connections, in use and not; 8 at most."""

    def ask(self) -> int | None:
        """The position that the server tells after the call began.

        None when no connection is free, or the server does not answer within 0.1 s, or not as it should, which closes the
        connection: Python has to ask.
        """

    def close(self) -> None:
        """Close the connections that nobody uses."""
