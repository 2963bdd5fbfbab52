"""What a supervisor and the process that takes its mount over say to each other, and what goes from one to the other.

      newcomer (takeover)                           supervisor (control)
      -------------------                           --------------------
      a child opens the volume: is it there?
      connects: version, layout  ---------------->
                                 <----------------  volume, settings, sizes; descriptors, if both have the same layout
      maps and checks everything
      ready                      ---------------->
                                 <----------------  its workers; starts none from now on
      kills them, names itself in the session and in the note
      forks a worker: mine       ---------------->  ends with exit code 0

Until `mine` the mount is the supervisor's: when the other end says no, or all its processes are gone, it starts a worker again.
The end of the connection says so, because the worker inherits it. From `mine` on the mount is the newcomer's. Before the workers
are named nothing has happened; when the supervisor is killed after that, the newcomer goes on as if nothing were.

Messages are JSON, one a datagram of a SOCK_SEQPACKET socket; descriptors go with them.
"""

import json
import os
import select
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from cairnfs.daemon.inherited import LAYOUT, Inherited, Outcomes
from cairnfs.daemon.running import Registration
from cairnfs.ext.arena import VERSION as ARENA_VERSION
from cairnfs.ext.arena import Arena
from cairnfs.ext.fuse_slots import Slots
from cairnfs.ext.shm import SharedMemory
from cairnfs.metrics import Metrics
from cairnfs.vfs.carried import Carried

LONGEST_MESSAGE_BYTES = 1 << 16
MAX_DESCRIPTORS = 64  # with one message

_CREDENTIALS = struct.Struct("=iII")
_FD = struct.Struct("=i")


def layout() -> list[int]:
    """Two processes with the same one can use each other's shared memory."""
    return [LAYOUT, ARENA_VERSION]


def counts_layout() -> str:
    """Two processes with the same one keep the same counts in the same cells."""
    names = [f"{family.name}{{{label}}}" for family in Metrics().families for label, _ in family.read()]
    return blake2b("\n".join(names).encode(), digest_size=8).hexdigest()


class Peer(NamedTuple):
    """Who is at the other end, as the kernel says."""

    pid: int
    uid: int


class Conversation:
    """One connection. Both ends close what they hold."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        connection.setblocking(False)  # whoever does not read must not hold up the other
        pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        self.peer = Peer(pid, uid)

    def say(self, what: dict[str, Any], fds: Iterable[int] = ()) -> None:
        """OSError when the other end is gone."""
        socket.send_fds(self._connection, [json.dumps(what).encode()], list(fds))

    def hear(self, timeout_s: float = 0) -> tuple[dict[str, Any], list[int]] | None:
        """A message and the descriptors with it, which are the caller's to close; None when none comes in time.

        EOFError when the other end is gone; ValueError for what is no message.
        """
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            return None
        try:
            data, fds, flags = self._receive()
        except ConnectionError as error:
            raise EOFError from error
        try:
            if not data:
                raise EOFError
            said = json.loads(data)
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or not isinstance(said, dict):
                raise ValueError("a message that cannot be read")
        except BaseException:
            close_all(fds)
            raise
        return said, fds

    def _receive(self) -> tuple[bytes, list[int], int]:
        room = socket.CMSG_SPACE(MAX_DESCRIPTORS * _FD.size)  # socket.recv_fds() of Python 3.11 leaves out the flags
        data, control, flags, _ = self._connection.recvmsg(LONGEST_MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
        fds = []
        for level, kind, held in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds += [fd for (fd,) in _FD.iter_unpack(held[: len(held) // _FD.size * _FD.size])]
        return data, fds, flags

    def refuse(self) -> None:
        """Whatever the other end has not said by now it cannot say any more; it finds `is_over` False."""
        self._connection.shutdown(socket.SHUT_RD)

    def is_over(self) -> bool:
        """Is the other end gone?"""
        poll = select.poll()
        poll.register(self._connection, 0)
        return bool(poll.poll(0))

    def close(self) -> None:
        self._connection.close()


def close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def listen(registration: Registration) -> socket.socket:
    """The socket of a mount, where others ask for it. For its owner."""
    with _short(registration.socket_path) as path:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            registration.socket_path.unlink(missing_ok=True)  # the note is ours: whoever left it is gone
            listening.bind(path)
            os.chmod(registration.socket_path, 0o600)
            listening.listen()
            listening.setblocking(False)
        except BaseException:
            listening.close()
            raise
    return listening


def connect(socket_path: Path) -> Conversation:
    """OSError when nobody listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with _short(socket_path) as path:
            connection.connect(path)
        return Conversation(connection)
    except BaseException:
        connection.close()
        raise


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A short name of the path while the block runs: the address of a socket has room for 107 bytes."""
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


# What goes over


def sizes(inherited: Inherited) -> dict[str, Any]:
    """What a process must know of shared memory beside its layout."""
    carried, slots = inherited.carried, inherited.slots
    return {
        "arena": carried.arena.n_bytes,
        "n_slots": slots.n_slots,
        "request_bytes": slots.request_bytes,
        "journal_ring": carried.journal.ring_bytes,
        "memories": {name: memory.n_bytes for name, memory in _memories(inherited).items()},
        "counts": counts_layout(),
    }


def descriptors(inherited: Inherited) -> dict[str, int]:
    """By name: the mount's, those of shared memory, and the socket of the metrics if there is one."""
    memories = {name: memory.fd for name, memory in _memories(inherited).items()}
    metrics = {} if inherited.metrics is None else {"metrics": inherited.metrics.fileno()}
    return {"device": inherited.fd, "arena": inherited.carried.arena.fd, **metrics, **memories}


def _memories(inherited: Inherited) -> dict[str, SharedMemory]:
    return {"slots": inherited.slots.memory, **inherited.carried.memories}


def inherited_from(told: dict[str, Any], fds: dict[str, int], n_workers: int) -> Inherited:
    """What another process's `sizes` and `descriptors` are about. Takes out of `fds` what is the result's from then on.

    OSError, ValueError, KeyError, TypeError for what does not fit together.
    """
    memories: dict[str, SharedMemory] = {}
    for name, n_bytes in told["memories"].items():
        memories[name] = SharedMemory(name, n_bytes, fds[name])
        del fds[name]
    arena = Arena(told["arena"], fds["arena"])
    del fds["arena"]
    slots = Slots(told["n_slots"], told["request_bytes"], memories.pop("slots"))
    carried = Carried(arena, told["journal_ring"], n_workers, memories)
    return Inherited(fds.pop("device"), slots, carried, Outcomes())
