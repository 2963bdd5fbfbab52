"""Which process somebody is, precisely enough to tell later, on the same machine, that it has ended.

A pid alone is not enough: pids are used again, and another container on this machine counts its own.
"""

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One process. `pid_start` is in clock ticks since boot; "" and 0 stand for what the system did not tell."""

    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    pid_start: int

    def is_alive(self) -> bool | None:
        """Whether the process still runs; None when it cannot be told from here."""
        here = this_process()
        if not self.boot_id or (self.boot_id, self.pid_namespace) != (here.boot_id, here.pid_namespace):
            return None
        start = _start_of(self.pid)
        if start == 0 and _exists(self.pid):
            return None  # /proc hides other users' processes (hidepid)
        return start == self.pid_start

    def ended_by_boot(self, last_seen_s: float, now_s: float) -> bool:
        """Whether this machine has been started again since the process was last seen, at `last_seen_s` (unix time).

        Two machines may have the same host name. One that runs was seen after the other started, so it is safe.
        """
        here = this_process()
        booted_s = now_s - time.clock_gettime(time.CLOCK_BOOTTIME)
        return self.host == here.host and bool(self.boot_id) and self.boot_id != here.boot_id and last_seen_s < booted_s


def this_process() -> Process:
    """The calling process."""
    return process_of(os.getpid())


def process_of(pid: int) -> Process:
    """A process of this machine that is known to run."""
    return Process(socket.gethostname(), _boot_id(), _pid_namespace(), pid, _start_of(pid))


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _start_of(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 when there is none, -1 when it has ended but was not reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    after_name = stat[stat.rindex(b")") + 2 :].split()  # the name may contain spaces and brackets
    return -1 if after_name[0] in b"ZX" else int(after_name[19])


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
