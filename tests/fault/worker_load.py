"""One process that uses a mount and checks all it sees: worker_load.py KIND DIR SEED. Ends when its standard input does.

Prints the number of rounds, how long the longest single call took in seconds, which one it was, and "ok"; anything unexpected is
a traceback and exit code 1.
"""

import fcntl
import os
import random
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

PIECE = 4096


def content(seed: int, n_bytes: int) -> bytes:
    return random.Random(seed).randbytes(n_bytes)


class Load:
    """A directory of its own, and random numbers."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.seed = seed
        self.random = random.Random(seed)
        self.n_rounds = 0

    def writer(self) -> None:
        """Write, read back, rename, read again, remove."""
        n_bytes = self.random.choice([0, 1, 5000, 65536, 200_000])
        data = content(self.random.getrandbits(32), n_bytes)
        path, other = self.root / f"w{self.n_rounds}", self.root / f"r{self.n_rounds}"
        with path.open("xb", buffering=0) as file:
            for at in range(0, n_bytes, 50_000):
                assert file.write(data[at : at + 50_000]) == len(data[at : at + 50_000])
            assert os.fstat(file.fileno()).st_size == n_bytes
        assert path.read_bytes() == data
        os.rename(path, other)
        assert other.read_bytes() == data
        assert not path.exists()
        os.unlink(other)
        assert not other.exists()

    def appender(self) -> None:
        """Records of eight bytes at the end of one file, each once and in order."""
        path = self.root / "log"
        with path.open("ab", buffering=0) as file:
            for i in range(20):
                assert file.write((self.n_rounds * 20 + i).to_bytes(8, "big")) == 8
        data = path.read_bytes()
        found = [int.from_bytes(data[at : at + 8], "big") for at in range(0, len(data), 8)]
        assert found == list(range((self.n_rounds + 1) * 20)), found[-50:]

    def names(self) -> None:
        """What may succeed once succeeds once."""
        root = self.root
        os.mkdir(root / "d")
        os.symlink("target", root / "s")
        os.close(os.open(root / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.link(root / "f", root / "l")
        os.setxattr(root / "f", "user.x", b"1", os.XATTR_CREATE)
        assert sorted(os.listdir(root)) == ["d", "f", "l", "s"]
        assert os.stat(root / "f").st_nlink == 2
        os.removexattr(root / "f", "user.x")
        os.rename(root / "f", root / "d" / "g")
        os.unlink(root / "l")
        assert os.stat(root / "d" / "g").st_nlink == 1
        os.unlink(root / "d" / "g")
        os.rmdir(root / "d")
        os.unlink(root / "s")
        assert os.listdir(root) == []

    def unlinked(self) -> None:
        """A file that has no name is as good as any until it is closed."""
        path = self.root / "gone"
        data = bytearray(content(self.random.getrandbits(32), 100_000))
        with path.open("x+b", buffering=0) as file:
            file.write(data)
            if self.random.random() < 0.5:
                os.fsync(file.fileno())
            path.unlink()
            for _ in range(10):
                at = self.random.randrange(len(data) - PIECE)
                piece = content(at, PIECE)
                assert os.pwrite(file.fileno(), piece, at) == PIECE
                data[at : at + PIECE] = piece
                at = self.random.randrange(len(data) - PIECE)
                assert os.pread(file.fileno(), PIECE, at) == data[at : at + PIECE]
            assert os.fstat(file.fileno()).st_nlink == 0

    def counter(self) -> None:
        """A number that several processes count up under a lock; `seed` counts are this process's."""
        for lock in (fcntl.lockf, fcntl.flock):
            with (self.root / f"counter-{lock.__name__}").open("r+b", buffering=0) as file:
                lock(file, fcntl.LOCK_EX)
                value = int(os.pread(file.fileno(), 20, 0))
                os.pwrite(file.fileno(), b"%020d" % (value + 1), 0)
                if self.random.random() < 0.5:
                    lock(file, fcntl.LOCK_UN)

    def reader(self) -> None:
        """Files that nobody changes, through descriptors kept open and anew; and their directory."""
        names = sorted(os.listdir(self.root))
        assert names == sorted(f"file{i}" for i in range(50)), names
        i = self.random.randrange(50)
        data = content(i, 30_000)
        with (self.root / f"file{i}").open("rb", buffering=0) as file:
            if self.random.random() < 0.3:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert file.read() == data
            assert os.stat(file.name).st_size == len(data)

    def each(self) -> None:
        """All of a tree of files, in random order."""
        names = os.listdir(self.root)
        self.random.shuffle(names)
        for name in names:
            assert (self.root / name).read_bytes() == content(int(name.removeprefix("file")), 3_000)


class Longest:
    """The call of compiled code that takes longest while this is the profiler: each makes a system call or a few."""

    def __init__(self) -> None:
        self.s = 0.0
        self.what = "nothing"
        self._began_s = 0.0

    def __call__(self, frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call":
            self._began_s = time.monotonic()
        elif event in ("c_return", "c_exception") and time.monotonic() - self._began_s > self.s:
            self.s = time.monotonic() - self._began_s
            self.what = getattr(function, "__name__", "?")


def main(kind: str, root: str, seed: str) -> None:
    load = Load(Path(root), int(seed))
    step: Callable[[], None] = getattr(load, kind)
    longest = Longest()
    sys.setprofile(longest)
    while load.n_rounds == 0 or not select.select([sys.stdin], [], [], 0)[0]:
        step()
        load.n_rounds += 1
    sys.setprofile(None)
    print(f"{load.n_rounds} {longest.s:.3f} {longest.what} ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
