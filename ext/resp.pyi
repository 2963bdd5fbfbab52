"""Requests to a Redis server and their replies, without the GIL from the first byte sent to the last one received."""

from typing import Any

class ReplyError(Exception):
    """The server's reply is an error, and this is its text."""

def exchange(fd: int, arguments: list[bytes | int]) -> Any:
    """Send a command on a connected socket, which must block and have its time limits by SO_RCVTIMEO and SO_SNDTIMEO, and return
    the reply: bytes, numbers, None, lists of these. Messages that the server pushes in between are passed over.

    After any exception but ReplyError the connection is of no use: TimeoutError, OSError, ConnectionResetError when the
    server has closed it, ValueError for what is no reply. TypeError, before anything is sent, for an argument that is neither
    bytes nor a number.
    """
