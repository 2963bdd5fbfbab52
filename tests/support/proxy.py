"""A bad line to a server: every connection through it may be slow, end in the middle of an answer, or fall silent."""

import random
import socket
import threading
import time
from typing import Self

PIECE_BYTES = 1 << 16


class Proxy:
    """Passes on what clients and a server on loopback say. What is wrong with the line may be set at any time."""

    def __init__(self, to_port: int, seed: int = 1) -> None:
        self._to_port = to_port
        self._chance = random.Random(seed)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.slow_s = 0.0  # longest delay of an answer
        self.breaking = 0.0  # part of all answers of which only the first half arrives, and then the connection ends
        self.silent = 0.0  # ... and then nothing ever does
        self.n_broken = self.n_silent = 0
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to_port))
            self._sockets += [client, server]
            for pump in (self._requests, self._answers):
                self._threads.append(threading.Thread(target=pump, args=(client, server)))
                self._threads[-1].start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := client.recv(PIECE_BYTES):
                server.sendall(data)
        except OSError:
            pass
        _end(client, server)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := server.recv(PIECE_BYTES):
                time.sleep(self._chance.uniform(0, self.slow_s))
                fate = self._chance.random()
                if fate < self.breaking:
                    self.n_broken += 1
                    client.sendall(data[: len(data) // 2])
                    break
                if fate < self.breaking + self.silent:
                    self.n_silent += 1
                    client.sendall(data[: len(data) // 2])
                    while server.recv(PIECE_BYTES):
                        pass
                    break
                client.sendall(data)
        except OSError:
            pass
        _end(client, server)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _end(self._listening)
        self._listening.close()
        for each in self._sockets:
            _end(each)
        for thread in self._threads:
            thread.join(10)
        for each in self._sockets:
            each.close()


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        try:
            each.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
