"""Requests that are served on the thread of a forked child, so that it can be stopped anywhere, and by who comes after it."""

import contextlib
import os
import socket
import struct
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cairnfs.ext import fuse_chan, fuse_files, fuse_names, fuse_req, fuse_resumed
from cairnfs.ext.arena import Arena
from cairnfs.ext.fuse_chan import Channel
from cairnfs.ext.fuse_slots import Slots
from cairnfs.ext.journal import Ring
from cairnfs.ext.shm import SharedMemory
from cairnfs.types import Lock, SetAttr, serving
from support.fuse_peer import IN_HEADER, NO_REPLY, OPCODE, OUT_HEADER, FusePeer, Reply
from support.memory_handler import MemoryHandler
from support.stepping import Deaths, Memory, code_of, interpreter, stepped

N_SLOTS, REQUEST_BYTES, WRITE_BYTES = 4, 8192, 4096
SHARED_BYTES, PAGE_BYTES, TRIES_AT = 28672, 4096, 24  # as in fuse_slot.h
JOBS, SLEEPS_AT, WORDS_AT = range(20480, 20480 + 528 + 4 * N_SLOTS), 272, 528  # and fuse_jobs.h
SILENT = [OPCODE[name] for name in NO_REPLY]
ARENA_BYTES, RING_BYTES = 1 << 20, 4096
BEFORE, NOW = 7, 41  # positions in the change log: of what slots have served long ago, and the newest


class Sent(NamedTuple):
    """A request of the kernel."""

    opcode: str
    unique: int
    message: bytes


def request(opcode: str, unique: int, body: bytes = b"", nodeid: int = 1) -> Sent:
    return Sent(
        opcode, unique, IN_HEADER.pack(IN_HEADER.size + len(body), OPCODE[opcode], unique, nodeid, 0, 100, 4242, 0, 0) + body
    )


class Here:
    """In place of threading.Thread: lanes run on the thread that starts the last of them, or when somebody runs them before."""

    lanes: list["Here"] = []
    order: list[int] = []  # in which they run, stepped through; none: the first does, and calls `stepped` for what matters
    n_lanes = 0

    def __init__(self, target: Callable[..., object], args: tuple[Any, ...], **_: object) -> None:
        self._work = lambda: target(*args)
        self._ran = False

    def start(self) -> None:
        self.lanes.append(self)
        if len(self.lanes) == self.n_lanes:
            if self.order:
                stepped(self._run_all)
            else:
                self.lanes[0].run()

    def _run_all(self) -> None:
        for number in self.order:
            self.lanes[number].run()

    def run(self) -> None:
        if not self._ran:
            self._ran = True
            self._work()

    def join(self) -> None:
        self.run()

    def is_alive(self) -> bool:
        return not self._ran


class Effects:
    """What was done and cannot be undone: numbers of requests in a file, which a process adds to by one write."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)
        self._kept = 0

    def close(self) -> None:
        self._file.close()

    def add(self) -> None:
        os.pwrite(self._file.fileno(), struct.pack("=Q", serving.request), self._n_bytes())

    def _n_bytes(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def keep(self) -> None:
        """What was done until now is not taken back any more."""
        self._kept = self._n_bytes()

    def take_back(self) -> None:
        os.ftruncate(self._file.fileno(), self._kept)

    def found(self) -> Counter[int]:
        data = os.pread(self._file.fileno(), self._n_bytes(), 0)
        return Counter(struct.unpack(f"={len(data) // 8}Q", data))


class World:
    """Slots, an arena and a journal, which processes die of using; and the kernel that asks them."""

    def __init__(self, handler: Callable[["World"], MemoryHandler], n_lanes: int = 1, order: Sequence[int] = (0,)) -> None:
        """`n_lanes`: and `order`: of the lanes of a child, see Here."""
        self.slots, slots_memory = Memory.made("cairnfs-slots", lambda: Slots(N_SLOTS, REQUEST_BYTES))
        self.arena, arena_memory = Memory.made("cairnfs-arena", lambda: Arena(ARENA_BYTES))
        ring_bytes = Ring.region_bytes(RING_BYTES)
        shared, ring_memory = Memory.made("cairnfs-journal", lambda: SharedMemory("journal", ring_bytes))
        self.ring = Ring(shared.view, RING_BYTES)
        self.memory = Memory.joined(slots_memory, arena_memory, ring_memory)
        self.effects = Effects()
        self.sent: list[Sent] = []
        self._handler, self._n_lanes, self._order = handler, n_lanes, order
        self._wire: tuple[socket.socket, socket.socket] | None = None  # the kernel's end, and ours
        self.arena.saw(BEFORE, None)
        with FusePeer(handler(self), **self._options()) as peer:
            peer.init()
            for _ in range(20):
                assert peer.call("SYNCFS", bytes(8)).error == 0
        self.arena.saw(NOW, None)
        self.arena.lease(time.clock_gettime(time.CLOCK_BOOTTIME) + 3600, True)
        self.counts = self.counted = peer.channel.counts()

    def _options(self) -> dict[str, Any]:
        sizes = {"min_threads": self._n_lanes, "max_threads": N_SLOTS, "max_write_bytes": WRITE_BYTES}
        return sizes | {"slots": self.slots, "arena": self.arena, "journal": self.ring, "serving": serving}

    def close(self) -> None:
        self._hang_up()
        self.effects.close()

    def _hang_up(self) -> None:
        for end in self._wire or ():
            end.close()
        self._wire = None

    def put(self, slot: int, sent: Sent) -> None:
        """A request that somebody has read and died of at once."""
        at = self._slot(slot) + PAGE_BYTES
        self.slots.memory.view[at : at + len(sent.message)] = sent.message

    # The process that is to die

    def deaths(self, **options: Any) -> Deaths:
        modules = (fuse_chan, fuse_files, fuse_names, fuse_req, fuse_resumed)
        over = interpreter()
        return Deaths(self._serve, self.memory, JOBS, code_of(*modules), False, over, self._prepare, **options)

    def _prepare(self) -> None:
        """Requests wait, and nothing has come of them."""
        self._hang_up()
        self.effects.take_back()
        self._wire = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for one in self.sent:
            self._wire[0].send(one.message)
        self._wire[0].shutdown(socket.SHUT_WR)

    def _serve(self) -> None:
        """Serve them on this thread until the kernel has nothing more to say."""
        assert self._wire is not None
        threading.Thread = Here  # type: ignore[misc,assignment] # this process serves, and dies
        Here.n_lanes, Here.order = self._n_lanes, list(self._order)
        done = set(self.effects.found())
        Channel(self._wire[1].fileno(), self._handler(self), set_attr=SetAttr, lock=Lock, done=done, **self._options()).serve()

    # What it has left

    def _slot(self, number: int) -> int:
        return SHARED_BYTES + number * (PAGE_BYTES + REQUEST_BYTES)

    def held(self) -> dict[int, int]:
        """The numbers of the requests that slots hold, answered or not; and how many processes have tried to serve them."""
        found = {}
        for number in range(N_SLOTS):
            length, _, unique, *_ = IN_HEADER.unpack_from(self.slots.memory.view, self._slot(number) + PAGE_BYTES)
            n_tries = struct.unpack_from("=I", self.slots.memory.view, self._slot(number) + TRIES_AT)[0]
            if length or n_tries:
                found[unique] = n_tries
        return found

    def jobs(self) -> list[int]:
        """The states of all jobs."""
        return list(struct.unpack_from(f"={N_SLOTS}I", self.slots.memory.view, JOBS.start + WORDS_AT))

    def sleeps(self, worker: int, n: int) -> None:
        """So many threads of a worker wait for jobs."""
        struct.pack_into("=I", self.slots.memory.view, JOBS.start + SLEEPS_AT + 4 * worker, n)

    def survived(self) -> tuple[list[Reply], list[bytes]]:
        """What the kernel has got from the process that has died, and what that has not read."""
        assert self._wire is not None
        return _replies(self._wire[0]), _received(self._wire[1])

    def take_over(self, unread: list[bytes]) -> list[Reply]:
        """Another process serves what is left; its replies."""
        numbers = {IN_HEADER.unpack_from(message)[2]: IN_HEADER.unpack_from(message)[1] for message in unread}
        numbers |= {unique: opcode for _, unique, opcode in self.slots.waiting()}
        expected = {unique for unique, opcode in numbers.items() if opcode not in SILENT}
        found: list[Reply] = []
        with FusePeer(self._handler(self), **self._options(), done=set(self.effects.found())) as peer:
            for message in unread:
                peer.kernel.send(message)
            while not expected <= {reply.unique for reply in found}:
                found.append(peer.receive())
            eventually(lambda: not self.held())
            found += _replies(peer.kernel)
        self.counted = peer.channel.counts()
        return found


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline_s = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline_s, "it never came true"
        time.sleep(0.0005)


def _received(end: socket.socket) -> list[bytes]:
    found = []
    end.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while message := end.recv(1 << 16):
            found.append(message)
    return found


def _replies(end: socket.socket) -> list[Reply]:
    unpacked = [(OUT_HEADER.unpack_from(message), message[OUT_HEADER.size :]) for message in _received(end)]
    return [Reply(-error, unique, body) for (_, error, unique), body in unpacked]
