"""A few names, many versions, several mounts: whoever opens a file gets a whole version, and none older than was promised before.

Each name has one process that changes it; version numbers, begun and acknowledged, are in memory that all share. Versions of some
names come by renaming over, of others by writing in place; every fifth version is that there is no such file. On the mount that
changes a name everything is seen at once.

python versions.py MEMORY TOP AT SEED CHANGES SECONDS OPENS: one process of a test whose mounts are on other hosts.
"""

import errno
import hashlib
import mmap
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

NAMES_FOLLOW_S = 2.0  # what a name may take to be seen elsewhere where that is not asked for
N_NAMES = 8
ABSENT_EVERY = 5
PAGE_BYTES = 3000  # what is written in place has one size, and is one page: no reader may see two versions of it
SHORTEST, STEP, LONGEST = 100, 777, 60_000
MOST_PROCESSES = 16
MEMORY_BYTES = 8 * (2 * N_NAMES + MOST_PROCESSES)  # versions begun, and promised; opens that each process has made


def is_renamed(name: int) -> bool:
    return name % 2 == 0


def mount_of(name: int) -> int:
    """Where the name is changed."""
    return name // 2 % 2


def is_absent(version: int) -> bool:
    return version % ABSENT_EVERY == 0


def size_of(name: int, version: int) -> int:
    return SHORTEST + version * STEP % LONGEST if is_renamed(name) else PAGE_BYTES


def data_of(name: int, version: int) -> bytes:
    head = b"%d %d;" % (name, version)
    piece = hashlib.sha256(head).digest()
    size = size_of(name, version)
    return (head + piece * (size // len(piece) + 1))[:size]


def read_all(fd: int) -> bytes:
    pieces = list(iter(lambda: os.read(fd, 1 << 17), b""))
    return b"".join(pieces)


class Worker:
    """One process: changes its own names, looks at all."""

    def __init__(
        self,
        top: Path,
        at: int,
        seed: int,
        owned: list[int],
        begun: memoryview,
        promised: memoryview,
        names_follow_s: float = NAMES_FOLLOW_S,
    ) -> None:
        """`at`: the number of the mount `top` is on. `names_follow_s` 0: every open sees all that was promised before."""
        self.top = top
        self.at = at
        self.names_follow_s = names_follow_s
        self.rng = random.Random(seed)
        self.owned = owned
        self.begun = begun
        self.promised = promised
        self.kept: list[tuple[int, bytes]] = []
        self.counts: Counter[str] = Counter()
        self.samples = [(0.0, [0] * N_NAMES)]  # what was promised when

    def path(self, name: int) -> Path:
        return self.top / f"n{name}"

    def run(self, seconds: float, enough: Callable[[int], bool] = lambda n_opens: False) -> None:
        """For so long, or until there were `enough` opens, of which it is told how many there were here."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end and not enough(self.counts["opens"]):
            self.samples.append((now, list(self.promised)))
            while len(self.samples) > 1 and self.samples[1][0] < now - self.names_follow_s:
                del self.samples[0]
            if self.owned and self.rng.random() < 0.4:
                name = self.rng.choice(self.owned)
                self.change(name)
                self.look(name)
            self.look(self.rng.randrange(N_NAMES))
            if self.kept and self.rng.random() < 0.3:
                self.look_again(self.rng.randrange(len(self.kept)))
        while self.kept:
            self.look_again(0, close=True)
        assert self.counts["stale"] <= 1 + self.counts["looks"] // 50, self.counts

    def change(self, name: int) -> None:
        version = self.begun[name] = self.begun[name] + 1
        path = self.path(name)
        if is_absent(version):
            path.unlink()
        elif is_renamed(name) or not path.exists():
            fresh = self.top / f"t{name}"
            fresh.write_bytes(data_of(name, version))
            os.rename(fresh, path)
        else:
            fd = os.open(path, os.O_WRONLY)
            os.pwrite(fd, data_of(name, version), 0)
            os.close(fd)
        self.promised[name] = version

    def look(self, name: int) -> None:
        """Open and read, or stat, and see that it is a version that may be seen now."""
        least = self.promised[name]
        quiet = self.begun[name] == least
        mine = mount_of(name) == self.at
        try:
            if self.rng.random() < 0.3:
                found: bytes | None = None
                size = os.stat(self.path(name)).st_size
            else:
                self.counts["opens"] += 1
                fd = os.open(self.path(name), os.O_RDONLY)
                found = read_all(fd)
                self.keep(name, fd, found, mine)
        except OSError as error:
            allowed = self.allowed(name, least, mine)
            if error.errno == errno.ESTALE:  # another file twice within one open, once more than the kernel tries
                self.counts["stale"] += 1
                self.counts["needless"] += len(allowed) == 1
                assert self.counts["needless"] <= 1 + self.counts["looks"] // 100_000
                return
            assert error.errno == errno.ENOENT
            assert any(map(is_absent, allowed)), f"n{name}: no file, of versions {allowed}"
            return
        self.counts["looks"] += 1
        allowed = self.allowed(name, least, mine)
        quiet = quiet and self.begun[name] == least
        if found is not None:
            self.check(name, found, allowed, quiet or not mine)
        elif mine and quiet:
            assert not is_absent(least) and size == size_of(name, least)

    def allowed(self, name: int, least: int, mine: bool) -> list[int]:
        """Versions that may be seen by a look that began when `least` was promised."""
        versions = range(least, self.begun[name] + 1)
        if mine or not self.names_follow_s:
            return list(versions)
        older = range(self.samples[0][1][name], least)
        same_file = () if is_renamed(name) else range(least - least % ABSENT_EVERY + 1, least)
        return [version for version in older if version not in same_file] + list(versions)

    def check(self, name: int, found: bytes, allowed: list[int], strict: bool) -> None:
        if any(found == data_of(name, version) for version in allowed if not is_absent(version)):
            return
        # While a page is written in place, a reader on the same mount may copy half of it.
        assert not strict and not is_renamed(name), f"n{name}: {found[:20]!r} ({len(found)}), of versions {allowed}"
        self.counts["torn"] += 1

    def keep(self, name: int, fd: int, found: bytes, mine: bool) -> None:
        """A file that is only ever replaced here stays as it was opened."""
        if mine and is_renamed(name) and len(self.kept) < 10:
            self.kept.append((fd, found))
        else:
            os.close(fd)

    def look_again(self, at: int, close: bool = False) -> None:
        fd, data = self.kept[at]
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(fd, 1 << 17, 0) == data
        if close or self.rng.random() < 0.5:
            os.close(fd)
            del self.kept[at]


def owned_by(at: int) -> list[int]:
    """Names that are changed on a mount."""
    return [name for name in range(N_NAMES) if mount_of(name) == at]


def main(memory: str, top: str, at: str, seed: str, changes: str, seconds: str, n_opens: str) -> None:
    owned = owned_by(int(at)) if changes == "yes" else []
    with open(memory, "r+b") as file, mmap.mmap(file.fileno(), MEMORY_BYTES) as mapped, ExitStack() as views:
        shared = views.enter_context(views.enter_context(memoryview(mapped)).cast("q"))
        begun, promised = (views.enter_context(shared[first : first + N_NAMES]) for first in (0, N_NAMES))
        made = views.enter_context(shared[2 * N_NAMES :])

        def enough(here: int) -> bool:
            made[int(seed)] = here
            return 0 < int(n_opens) <= sum(made)

        worker = Worker(Path(top), int(at), int(seed), owned, begun, promised, names_follow_s=0)
        worker.run(float(seconds), enough)
        print(worker.counts["opens"], worker.counts["stale"], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
