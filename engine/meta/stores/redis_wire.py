"""Commands to one Redis server on connections of redis-py, sent and answered by compiled code.

redis-py makes the connections (login, database, Sentinel's choice of a server) and knows its errors; between the two it takes a
multiple of the time that the server needs for a command. A connection is used by one thread at a time and kept for the next one.
"""

import os
import socket
import struct
import threading
from typing import Any

import redis

from cairnfs.ext.resp import ReplyError, exchange

Argument = bytes | int

_TIMEVAL = struct.Struct("@ll")  # seconds, microseconds


class Wire:
    """Connections to the server of a redis-py client, without TLS. Thread-safe."""

    def __init__(self, client: Any, timeout_s: float) -> None:
        """`timeout_s`: how long a server may take to take in a part of a command, or to give a part of its reply."""
        self._pool = client.connection_pool
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._idle: list[Any] = []
        self._pid = os.getpid()

    def ask(self, arguments: list[Argument]) -> Any:
        """The reply to a command, which is sent again when the server has closed a kept connection. Raises as redis-py."""
        connection = self._take()
        if connection is not None:
            try:
                return self._exchange(connection, arguments)
            except redis.exceptions.ConnectionError:
                self.close()  # the others are most likely closed, too
        return self._exchange(self._connected(), arguments)

    def close(self) -> None:
        """Close all connections that no call uses."""
        while (connection := self._take()) is not None:
            self._give_up(connection)

    def _take(self) -> Any | None:
        with self._lock:
            if self._pid != os.getpid():
                self._idle, self._pid = [], os.getpid()  # they are our parent's
            return self._idle.pop() if self._idle else None

    def _connected(self) -> Any:
        connection = self._pool.get_connection()
        sock = connection._sock
        sock.settimeout(None)
        limit = _TIMEVAL.pack(int(self._timeout_s), int(self._timeout_s % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        return connection

    def _exchange(self, connection: Any, arguments: list[Argument]) -> Any:
        try:
            reply = exchange(connection._sock.fileno(), arguments)
        except ReplyError as error:
            refusal = connection._parser.parse_error(str(error))
            if isinstance(refusal, (redis.exceptions.ConnectionError, redis.exceptions.ReadOnlyError)):
                self._give_up(connection)  # it has become a replica, or takes no more commands: whoever connects is led elsewhere
            else:
                self._give_back(connection)
            raise refusal from None
        except BaseException as error:
            self._give_up(connection)
            if isinstance(error, TimeoutError):
                raise redis.exceptions.TimeoutError(str(error)) from error
            if isinstance(error, (OSError, ValueError)):
                raise redis.exceptions.ConnectionError(str(error)) from error
            raise
        self._give_back(connection)
        return reply

    def _give_back(self, connection: Any) -> None:
        with self._lock:
            self._idle.append(connection)

    def _give_up(self, connection: Any) -> None:
        connection.disconnect()
        self._pool.release(connection)  # which counts how many there are
