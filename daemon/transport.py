"""How requests of the kernel reach the channel: read from /dev/fuse, or through io_uring where that is possible, and why not.

The kernel gives io_uring's requests to the process that registered memory for them, and they are lost with it: a request that is
on its way to a process which is just killed is answered by nobody. So a mount that outlives its workers has the descriptor.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

from cairnfs.options import FuseOptions

ENABLED = Path("/sys/module/fuse/parameters/enable_uring")
CPUS = Path("/sys/devices/system/cpu")
MAX_QUEUES = 128  # possible CPUs: each has a queue
THREADS_EACH = 2  # of the channel, at least
MIN_REQUEST_BYTES = 128 << 10  # a value of 64 KiB and its name must fit


class Transport(NamedTuple):
    """`name`: descriptor or io_uring. `reason`: why it is not io_uring, None when it is."""

    name: str
    reason: str | None


def descriptor(reason: str) -> Transport:
    return Transport("descriptor", reason)


IO_URING = Transport("io_uring", None)


def choose(options: FuseOptions, outlives: bool) -> tuple[Transport, int]:
    """What to try on a mount that is made now, and how many queues the kernel has. `outlives`: workers serve it."""
    try:
        enabled = ENABLED.read_text().strip() == "Y"
    except OSError:
        return descriptor("this kernel has no FUSE over io_uring"), 0
    if not options.io_uring:
        return descriptor("switched off by --no-io-uring"), 0
    if not enabled:
        return descriptor(f"switched off in the kernel ({ENABLED} is N)"), 0
    if outlives:
        return descriptor("requests over io_uring do not outlive the process that serves them: it needs --workers 0"), 0
    if options.max_write_bytes < MIN_REQUEST_BYTES:
        return descriptor(f"requests of {options.max_write_bytes} bytes are too small for it"), 0
    n_queues = _n_queues()
    if options.max_threads < THREADS_EACH * n_queues:
        return descriptor(f"it needs {THREADS_EACH} threads for each CPU, and --threads is {options.max_threads}"), 0
    if not n_queues:
        return descriptor(f"it needs a thread on every CPU, and at most {MAX_QUEUES} CPUs"), 0
    return IO_URING, n_queues


def _n_queues() -> int:
    """A queue per possible CPU; 0 when there are too many, or some that this process may not run on."""
    possible, online = _cpus("possible"), _cpus("online")
    if not possible or possible != set(range(len(possible))) or len(possible) > MAX_QUEUES:
        return 0
    return len(possible) if online <= os.sched_getaffinity(0) else 0


def _cpus(which: str) -> set[int]:
    """CPUs that a list of the kernel such as 0-3,8 names."""
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", (CPUS / which).read_text()):
        found.update(range(int(first), int(last or first) + 1))
    return found
