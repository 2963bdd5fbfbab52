"""What stands between clients and a server on loopback: a thread for each connection, in which tests do as they like."""

import socket
import threading
from contextlib import suppress
from typing import Self


class Relay:
    """Listens at `port` on loopback, or where it is told (that may be in another network). What comes is given to `serve`, with a
    connection to the server at `to_port`.
    """

    def __init__(self, to_port: int, listening: socket.socket | None = None) -> None:
        self._to_port = to_port
        self._listening = listening or socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.n_connections = 0
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def lead_to(self, port: int) -> None:
        """Connections from now on go there."""
        self._to_port = port

    def serve(self, client: socket.socket, server: socket.socket) -> None:
        """Until one of them ends; both are closed afterwards. OSError and EOFError end it as well."""
        raise NotImplementedError

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self.n_connections += 1
            self._sockets.append(client)
            self._threads.append(threading.Thread(target=self._connected, args=(client,), daemon=True))
            self._threads[-1].start()

    def _connected(self, client: socket.socket) -> None:
        with client, suppress(OSError, EOFError), socket.create_connection(("127.0.0.1", self._to_port)) as server:
            self._sockets.append(server)
            self.serve(client, server)

    def close(self) -> None:
        end(self._listening)
        self._listening.close()
        self._threads[0].join(10)  # from then on there are no more of either
        end(*self._sockets)
        for thread in self._threads:
            thread.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def end(*sockets: socket.socket) -> None:
    """Both directions, for whoever waits for them in another thread."""
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
