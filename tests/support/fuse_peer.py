"""The kernel's side of the FUSE protocol over a socket, so that requests no kernel would send can be sent.

A SOCK_SEQPACKET socket keeps messages apart as /dev/fuse does. The channel then serves it on one shared descriptor.
"""

import itertools
import select
import socket
import struct
import threading
from typing import Any, NamedTuple

from cairnfs.ext.fuse_chan import Channel
from cairnfs.ext.fuse_table import OPCODES
from cairnfs.types import Lock, SetAttr

OPCODE = {name: number for number, (name, _) in OPCODES.items()}
IN_HEADER = struct.Struct("=IIQQIIIHH")
OUT_HEADER = struct.Struct("=IiQ")
INIT_IN = struct.Struct("=IIIII44x")
INIT_OUT = struct.Struct("=IIIIHHIIHHIIH22x")
ENTRY_OUT = struct.Struct("=QQQQII")
ATTR = struct.Struct("=6Q10I")
OPEN_OUT = struct.Struct("=QII")
NO_REPLY = ("FORGET", "BATCH_FORGET", "INTERRUPT", "NOTIFY_REPLY")
EVERY_FEATURE = 0xFFFFFFFF
PATIENCE_S = 20.0


class Reply(NamedTuple):
    """`error` is a positive errno, or a notification's code when `unique` is 0."""

    error: int
    unique: int
    body: bytes


class FusePeer:
    """A channel in a thread, and the kernel's end of it. A context manager; at its end the kernel hangs up."""

    def __init__(self, handler: object, **options: Any) -> None:
        self.kernel, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.kernel.settimeout(PATIENCE_S)
        self.channel = Channel(self._theirs.fileno(), handler, set_attr=SetAttr, lock=Lock, **options)
        self.failure: BaseException | None = None
        self._uniques = itertools.count(2, 2)
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        try:
            self.channel.serve()
        except BaseException as error:
            self.failure = error

    def __enter__(self) -> "FusePeer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kernel.close()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the channel does not end when the kernel hangs up"
        self._theirs.close()

    def join(self) -> None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def init(self, major: int = 7, minor: int = 45, flags: int = EVERY_FEATURE, flags2: int = EVERY_FEATURE) -> tuple[int, ...]:
        """Send INIT; the fields of the answer."""
        reply = self.call("INIT", INIT_IN.pack(major, minor, 131072, flags, flags2))
        assert reply.error == 0
        return INIT_OUT.unpack(reply.body)

    def send(self, opcode: str | int, body: bytes = b"", nodeid: int = 1, *, uid: int = 0, unique: int | None = None) -> int:
        """Send a request; its unique number."""
        if unique is None:
            unique = next(self._uniques)
        number = OPCODE[opcode] if isinstance(opcode, str) else opcode
        header = IN_HEADER.pack(IN_HEADER.size + len(body), number, unique, nodeid, uid, 100, 4242, 0, 0)
        self.kernel.send(header + body)
        return unique

    def receive(self) -> Reply:
        """The next reply or notification, whosever it is."""
        message = self.kernel.recv(1 << 21)
        length, error, unique = OUT_HEADER.unpack_from(message)
        assert length == len(message), "a message must be as long as it says"
        assert unique == 0 or -512 < error <= 0, f"the kernel refuses the error {error}"
        assert not (error and unique and len(message) > OUT_HEADER.size), "an error has no body"
        return Reply(abs(error), unique, message[OUT_HEADER.size :])

    def call(self, opcode: str | int, body: bytes = b"", nodeid: int = 1, *, uid: int = 0) -> Reply:
        """Send a request and wait for its reply."""
        unique = self.send(opcode, body, nodeid, uid=uid)
        reply = self.receive()
        assert reply.unique == unique
        return reply

    def is_silent(self, seconds: float = 0.0) -> bool:
        """Has the channel sent nothing that was not received?"""
        return not select.select([self.kernel], [], [], seconds)[0]
