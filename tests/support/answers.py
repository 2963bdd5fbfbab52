"""Who answered the kernel: compiled code from the arena, or Python. Counted by the mount itself, in its `.stats`."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

from cairnfs.meta.records import SUSTAINED_PREFIX
from cairnfs.volume import open_volume
from support.mounts import Mount, Volume

SETTLED_S = 0.15  # what nobody waits for (RELEASE, FORGET) has been answered after that


class Served(NamedTuple):
    """Requests by opcode."""

    compiled: Counter[str]
    python: Counter[str]


def totals(mount: Mount) -> Served:
    """Since the mount began."""
    asked: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    for line in (mount.path / ".stats").read_text().splitlines():
        for into, metric in ((asked, "cairnfs_fuse_requests_total{"), (answered, "cairnfs_fuse_answers_total{")):
            if line.startswith(metric):
                into[line.split('"')[1]] = int(float(line.split(" ")[1]))
    return Served(answered, asked - answered)


def served(mount: Mount, act: Callable[[], object]) -> Served:
    """What an act causes, less what looking causes."""
    first = totals(mount)
    before = _after(mount, lambda: None)
    after = _after(mount, act)
    looking = Served(before.compiled - first.compiled, before.python - first.python)
    return Served(after.compiled - before.compiled - looking.compiled, after.python - before.python - looking.python)


def served_cold(mount: Mount, act: Callable[[], object]) -> Served:
    """The same, where the kernel has forgotten names, attributes and pages before the act."""
    drop_caches()
    first = totals(mount)
    drop_caches()
    before = _after(mount, lambda: None)
    drop_caches()
    after = _after(mount, act)
    looking = Served(before.compiled - first.compiled, before.python - first.python)
    return Served(after.compiled - before.compiled - looking.compiled, after.python - before.python - looking.python)


def _after(mount: Mount, act: Callable[[], object]) -> Served:
    act()
    time.sleep(SETTLED_S)
    return totals(mount)


def drop_caches() -> None:
    """Make the kernel forget what nobody uses, everywhere. Twice: what was used lately survives the first time."""
    if os.geteuid() != 0:
        pytest.skip("only root may make the kernel forget everything")
    os.sync()
    for _ in range(2):
        Path("/proc/sys/vm/drop_caches").write_text("3")


def open_compiled(mount: Mount, path: Path) -> int:
    """A descriptor for reading that compiled code has given out."""
    fds: list[int] = []
    found = served(mount, lambda: fds.append(os.open(path, os.O_RDONLY)))
    assert (found.compiled["OPEN"], found.python["OPEN"]) == (1, 0), f"{path} was opened by Python"
    return fds[0]


def until(holds: Callable[[], object], what: str = "it never came true", seconds: float = 10) -> None:
    """With 0 seconds, it must hold at once."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def sustained(volume: Volume) -> list[bytes]:
    """Inodes without a name that sessions keep, as names of the partitions that list them."""
    with open_volume(volume.url, data=False) as opened:
        return opened.store.partitions(SUSTAINED_PREFIX, None, 100)


def used_inodes(mount: Mount) -> int:
    found = os.statvfs(mount.path)
    return found.f_files - found.f_ffree


def run_all(script: str, calls: Iterable[tuple[object, ...]], timeout: float = 60) -> None:
    """Run a Python script in a process for each list of arguments, all at once; each must succeed."""
    running = [subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)]) for arguments in calls]
    try:
        assert [process.wait(timeout) for process in running] == [0] * len(running)
    finally:
        for process in running:
            process.kill()
            process.wait()
