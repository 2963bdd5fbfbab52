"""Commands to one Redis server on connections that are kept.

A connection of redis-py, for which compiled code makes commands and hiredis takes replies apart, needs some 15 us less of
processor time for a command than redis-py's client with its pool, of 20 to 40. A connection is used by one thread at a time.
"""

import os
import socket
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import redis

from cairnfs.ext.busy_poll import BusyPoll, packed

WAIT_MS = 100  # a server that is there answers within one; longer pauses are redis-py's

Argument = bytes | int

Words = tuple[str | Argument, ...]  # a command and its arguments


class Wire:
    """Connections to the server of a redis-py client. Thread-safe."""

    def __init__(self, client: Any, greeting: Words = ()) -> None:
        """`greeting`: what is sent first on each connection."""
        self._pool = client.connection_pool
        self._idle: list[Any] = []  # appended to and popped from by one step each
        self._is_over = False
        self._greeting = greeting
        self._poll = BusyPoll()
        _wires.add(self)

    def is_to(self, client: Any) -> bool:
        """Is this the server of that client?"""
        return self._pool is client.connection_pool

    def to(self, client: Any) -> "Wire":
        """The same, to the server of another client."""
        return Wire(client, self._greeting)

    def ask(self, words: Words) -> Any:
        """The reply to a command, which is sent again when the server has closed a kept connection. Raises as redis-py."""
        return self._ask(packed(words), 1)[0]

    def ask_all(self, commands: Sequence[Words]) -> list[Any]:
        """The replies to commands that go together, on one connection, in one round trip; all are sent again when the server has
        closed a kept connection. Raises as redis-py, after all replies, what the first of them says that is an error.
        """
        return self._ask(b"".join(map(packed, commands)), len(commands))

    def _ask(self, commands: bytes, n: int) -> list[Any]:
        try:
            connection = self._idle.pop()
        except IndexError:
            return self._exchange(self._connected(), commands, n)
        try:
            return self._exchange(connection, commands, n)
        except redis.exceptions.ConnectionError:
            self.close()  # the others are most likely closed, too
        return self._exchange(self._connected(), commands, n)

    def new_socket(self) -> int:
        """The descriptor of another connection, which is the caller's from now on. Raises as redis-py."""
        connection = self._connected()
        try:
            return int(connection._sock.detach())  # redis-py has no other way to it
        finally:
            self._give_up(connection)

    def end(self) -> None:
        """Close all connections: those that no call uses, and the others when they are given back."""
        self._is_over = True
        self.close()

    def close(self) -> None:
        """Close all connections that no call uses."""
        with suppress(IndexError):
            while True:
                self._give_up(self._idle.pop())

    def forget(self) -> None:
        """All connections are those of the process that this one was forked from."""
        self._idle = []

    def _connected(self) -> Any:
        connection = self._pool.get_connection()
        try:
            if self._greeting:
                self._say(connection, packed(self._greeting), 1)
        except BaseException:
            self._give_up(connection)
            raise
        return connection

    def _exchange(self, connection: Any, commands: bytes, n: int) -> list[Any]:
        is_usable = False
        try:
            replies = self._say(connection, commands, n)
            is_usable = True
        except redis.exceptions.ResponseError as error:
            # A master that has become a replica stays one: whoever connects is led elsewhere.
            is_usable = not isinstance(error, redis.exceptions.ReadOnlyError)
            raise
        finally:
            if is_usable:
                self._idle.append(connection)
                if self._is_over:
                    self.close()
            else:
                self._give_up(connection)
        return replies

    def _say(self, connection: Any, commands: bytes, n: int) -> list[Any]:
        self._send(connection, commands)
        if n == 1:
            return [_reply(connection)]
        replies: list[Any] = []
        errors: list[Exception] = []
        for _ in range(n):
            try:
                replies.append(_reply(connection))
            except redis.exceptions.ResponseError as error:  # the connection is in order, and the next reply will come
                errors.append(error)
        if errors:
            raise errors[0]
        return replies

    def _send(self, connection: Any, command: bytes) -> None:
        """Send, and give the connection's parser what comes first of the replies, by one call that gives up the GIL."""
        if type(connection._sock) is not socket.socket:  # but TLS's; redis-py has no other way to it, nor to its parser
            connection.send_packed_command([command])
            return
        parser = connection._parser
        n_sent, n_received = self._poll.exchange(connection._sock.fileno(), command, parser._buffer, WAIT_MS)
        if n_received:
            parser._reader.feed(parser._buffer, 0, n_received)
        elif n_sent < len(command):
            connection.send_packed_command([command[n_sent:]])

    def _give_up(self, connection: Any) -> None:
        connection.disconnect()
        self._pool.release(connection)  # which counts how many there are


def _reply(connection: Any) -> Any:
    """The next reply: one that is there already, as nearly always, without the turns that redis-py takes. Raises as redis-py."""
    parser = connection._parser
    found = parser._reader.gets()
    if type(found) is list:
        return found
    if isinstance(found, Exception):
        raise found
    if type(found) is object:  # redis-py's sign for a reply that is not whole yet
        return connection.read_response()
    if isinstance(found, list):  # nobody has asked for it
        parser.handle_push_response(found)
        return connection.read_response()
    return found


_wires: "weakref.WeakSet[Wire]" = weakref.WeakSet()


def _after_fork() -> None:
    for wire in list(_wires):
        wire.forget()


os.register_at_fork(after_in_child=_after_fork)
