"""What a worker inherits from its supervisor by fork: the mount's descriptor, shared memory, and a way to say something back."""

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from socket import socket
from typing import Any

from cairnfs.daemon.mount_options import MountRequest
from cairnfs.ext.arena import Arena
from cairnfs.ext.fuse_slots import Slots
from cairnfs.meta.process import Process, this_process
from cairnfs.vfs.carried import LEAST_JOURNAL_BYTES, Carried

LAYOUT = 7  # of all shared memory but the arena: slots, journal, tables, page. Another one for each change of what is where
MIN_ARENA_BYTES = 4 << 20
LONGEST_OTHER_BYTES = 72 << 10  # of a request that is no WRITE
PAGE_BYTES = 4096
PULSE_S = 0.25
MAX_THREADS = 256  # of one channel; more would only wait for the GIL
N_PARKED = 192  # requests that wait for a lock, beyond the threads that work


def arena_bytes(request: MountRequest) -> int:
    """The arena's part of the memory for caches; the rest is for slices that do not fit into it."""
    return max(request.engine.cache_bytes * 3 // 4, MIN_ARENA_BYTES)


class Pulse(threading.Thread):
    """Shows the supervisor that a worker is able to do anything: it runs, and its interpreter lets threads go on."""

    def __init__(self, carried: Carried, worker: int = 0) -> None:
        super().__init__(name="pulse", daemon=True)
        self._carried = carried
        self._worker = worker

    def run(self) -> None:
        while True:
            self._carried.beat(self._worker)
            time.sleep(PULSE_S)


class Outcomes:
    """A pipe on which a worker says, in lines of JSON, that it does its work (`ready`; the one that serves, with `remarks` for
    whoever mounts) or what was not stored (`failure`).
    """

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        self._rest = b""

    def say(self, **what: object) -> None:
        """One line; in the worker."""
        os.write(self._writing, json.dumps(what).encode() + b"\n")

    def heard(self) -> list[dict[str, Any]]:
        """What was said since; in the supervisor."""
        try:
            while data := os.read(self._reading, 65536):
                self._rest += data
        except BlockingIOError:
            pass
        *lines, self._rest = self._rest.split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        os.close(self._reading)
        os.close(self._writing)


@dataclass
class Inherited:
    """Made by the supervisor before the first worker. `fd` is that of the mount."""

    fd: int
    slots: Slots
    carried: Carried
    outcomes: Outcomes
    metrics: socket | None = None  # where they are asked for
    uuid: str | None = None  # the volume's
    supervisor: Process = field(default_factory=this_process)
    drops_names: bool = False  # the kernel keeps names which it must not keep any more
    first: list[Callable[[], None]] = field(default_factory=list)  # what a worker does before anything else


def make_inherited(request: MountRequest, fd: int, metrics: socket | None = None, uuid: str | None = None) -> Inherited:
    """Reserve everything. OSError without memory."""
    n_bytes = max(request.fuse.max_write_bytes, LONGEST_OTHER_BYTES) + PAGE_BYTES
    slots = Slots(min(request.fuse.max_threads, MAX_THREADS) + N_PARKED, n_bytes)
    journal_bytes = max(request.engine.buffer_bytes, LEAST_JOURNAL_BYTES)
    carried = Carried(Arena(arena_bytes(request)), journal_bytes, request.workers)
    return Inherited(fd, slots, carried, Outcomes(), metrics, uuid)
