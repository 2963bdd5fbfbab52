"""A bad line to a server: every connection through it may be slow, end in the middle of an answer, or fall silent."""

import random
import socket
import threading
import time

from support.relay import Relay, end

PIECE_BYTES = 1 << 16
SLOW_S = 0.05  # an answer later than this counts as slow: far more than a server on loopback takes


class Proxy(Relay):
    """Passes on what clients and a server say. What is wrong with the line may be set at any time; what it did is counted."""

    def __init__(self, to_port: int, seed: int = 1, listening: socket.socket | None = None) -> None:
        self._chance = random.Random(seed)
        self.slow_s = 0.0  # longest delay of an answer
        self.breaking = 0.0  # part of all answers of which only the first half arrives, and then the connection ends
        self.silent = 0.0  # ... and then nothing ever does
        self.n_slow = self.n_broken = self.n_silent = 0
        super().__init__(to_port, listening)

    def serve(self, client: socket.socket, server: socket.socket) -> None:
        asking = threading.Thread(target=self._requests, args=(client, server), daemon=True)
        asking.start()
        try:
            self._answers(client, server)
        finally:
            end(client, server)
            asking.join(10)

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := client.recv(PIECE_BYTES):
                server.sendall(data)
        except OSError:
            pass
        end(client, server)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        while data := server.recv(PIECE_BYTES):
            delay_s = self._chance.uniform(0, self.slow_s)
            time.sleep(delay_s)
            self.n_slow += delay_s > SLOW_S
            fate = self._chance.random()
            if fate < self.breaking:
                client.sendall(data[: len(data) // 2])
                self.n_broken += 1
                return
            if fate < self.breaking + self.silent:
                client.sendall(data[: len(data) // 2])
                self.n_silent += 1
                while server.recv(PIECE_BYTES):
                    pass
                return
            client.sendall(data)
