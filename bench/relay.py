"""A Redis server as if it were on another machine: a relay on loopback whose answers come later by a fixed time.

    python -m cairnfs.bench.relay PORT MS     prints its own port, and relays to PORT of 127.0.0.1 until it is terminated

On one machine a round trip costs processor time and hardly any waiting, where a network makes it wait. The relay uses processor
time, too, and so adds more than was asked for: `round_trip_ms` says what came of it.
"""

import contextlib
import select
import socket
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator

import redis

from cairnfs.bench.servers import ServerError

MOST_BYTES = 1 << 18
N_PINGS = 200


@contextlib.contextmanager
def relayed(url: str, delay_ms: float) -> Iterator[str]:
    """The URL at which the server of `redis://HOST:PORT` answers later by `delay_ms`. ServerError."""
    port = url.rpartition(":")[2]
    command = [sys.executable, "-m", "cairnfs.bench.relay", port, str(delay_ms)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    try:
        own_port = process.stdout.readline().strip().decode()
        if not own_port:
            raise ServerError("the relay to Redis has not started")
        yield f"redis://127.0.0.1:{own_port}"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def round_trip_ms(url: str) -> float:
    """How long a PING takes: the median of many, on one connection."""
    times_s = []
    with redis.Redis.from_url(url) as client:
        for _ in range(N_PINGS):
            begin_s = time.perf_counter()
            client.ping()
            times_s.append(time.perf_counter() - begin_s)
    return statistics.median(times_s) * 1000


class Relay:
    """Connections in pairs: what a client says goes on at once, what the server says after the delay."""

    def __init__(self, port: int, delay_s: float) -> None:
        self._to = ("127.0.0.1", port)
        self._delay_s = delay_s
        self._door = socket.create_server(("127.0.0.1", 0))
        self._other: dict[socket.socket, socket.socket] = {}
        self._clients: set[socket.socket] = set()
        self._late: deque[tuple[float, socket.socket, bytes]] = deque()  # (when, to whom, what); no bytes: the end

    @property
    def port(self) -> int:
        return int(self._door.getsockname()[1])

    def run(self) -> None:
        """For ever."""
        while True:
            wait_s = max(0.0, self._late[0][0] - time.monotonic()) if self._late else None
            ready, _, _ = select.select([self._door, *self._other], [], [], wait_s)
            for peer in ready:
                if peer is self._door:
                    self._accept()
                elif peer in self._other:
                    self._take(peer)
            while self._late and self._late[0][0] <= time.monotonic():
                _, peer, data = self._late.popleft()
                self._give(peer, data)

    def _accept(self) -> None:
        client, _ = self._door.accept()
        try:
            server = socket.create_connection(self._to)
        except OSError:
            client.close()
            return
        for peer in (client, server):
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._clients.add(client)
        self._other |= {client: server, server: client}

    def _take(self, peer: socket.socket) -> None:
        try:
            data = peer.recv(MOST_BYTES)
        except OSError:
            data = b""
        if peer in self._clients and data:
            self._give(self._other[peer], data)
        else:
            self._late.append((time.monotonic() + self._delay_s, self._other[peer], data))
        if not data:
            other = self._other.pop(peer)
            if other not in self._other:  # both have said their last
                self._clients -= {peer, other}

    def _give(self, peer: socket.socket, data: bytes) -> None:
        with contextlib.suppress(OSError):  # it has gone: the other one is told as soon as it says something
            if data:
                peer.sendall(data)
            else:
                peer.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    relay = Relay(int(sys.argv[1]), float(sys.argv[2]) / 1000)
    print(relay.port, flush=True)
    relay.run()
