"""A server that says where the log ends, or something else."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

COMMAND = b"*2\r\n$3\r\nGET\r\n$8\r\nposition\r\n"
PATIENCE_S = 20.0


def bulk(position: int) -> bytes:
    digits = b"%d" % position
    return b"$%d\r\n%s\r\n" % (len(digits), digits)


class Teller:
    """One connection of it, answered from a thread; a context manager. `fd` is the client's end, to be given away."""

    def __init__(self, answer: Callable[[], bytes | list[bytes] | None]) -> None:
        """`answer`: what to say to a command, in pieces perhaps; None: nothing, and hang up."""
        self.n_asked = 0
        self._answer = answer
        self._own, theirs = socket.socketpair()
        self.fd = theirs.detach()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        with suppress(ConnectionError):  # whoever asks has hung up
            self._talk()

    def _talk(self) -> None:
        asked = b""
        while data := self._own.recv(4096):
            asked += data
            assert COMMAND.startswith(asked)
            if asked != COMMAND:
                continue
            asked, said = b"", self._answer()
            self.n_asked += 1
            if said is None:
                self._own.shutdown(socket.SHUT_RDWR)
                return
            for piece in [said] if isinstance(said, bytes) else said:
                self._own.sendall(piece)

    def __enter__(self) -> "Teller":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._own.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)
        self._own.close()
