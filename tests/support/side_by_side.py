"""Random operations on a mount and on a native directory side by side: results and whole trees must be equal."""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from support.syscalls import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE, fallocate, renameat2

names = st.sampled_from(["a", "b", "c", "d", "e"])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
sizes = st.one_of(st.integers(0, 10), st.integers(0, 300_000), st.sampled_from([4095, 4096, 4097, 65536, 131072]))
modes = st.sampled_from([0o600, 0o644, 0o755, 0o700, 0o4755, 0o2750])
times = st.integers(0, 4 * 10**18)


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returned, or the name of its errno."""
    try:
        return call()
    except OSError as error:
        return f"errno {error.errno}"


def describe(top: Path) -> dict[str, Any]:
    """Everything visible below a directory: types, modes, sizes, links, times, contents, attributes."""
    tree: dict[str, Any] = {}
    groups: dict[int, list[str]] = {}
    for folder, dirs, files in os.walk(top):
        for name in [*dirs, *files]:
            path = Path(folder) / name
            status = os.lstat(path)
            shown = str(path.relative_to(top))
            kind = stat.S_IFMT(status.st_mode)
            facts: list[Any] = [kind, stat.S_IMODE(status.st_mode), status.st_nlink]
            if kind == stat.S_IFREG:
                facts += [status.st_size, path.read_bytes(), status.st_mtime_ns if status.st_mtime_ns < 10**18 else "recent"]
                groups.setdefault(status.st_ino, []).append(shown)
            elif kind == stat.S_IFLNK:
                facts = [kind, os.readlink(path)]
            if kind != stat.S_IFLNK:
                facts.append({key: os.getxattr(path, key) for key in os.listxattr(path) if key.startswith("user.")})
            tree[shown] = facts
    tree["same inode"] = sorted(sorted(group) for group in groups.values())
    return tree


class Pair:
    """One operation, done in both places; both must end the same way."""

    def __init__(self, mount: Path, native: Path) -> None:
        self.mount = mount
        self.native = native

    def both(self, call: Callable[[Path], Any]) -> None:
        ours, theirs = outcome(lambda: call(self.mount)), outcome(lambda: call(self.native))
        assert ours == theirs, f"mount: {ours!r}, native: {theirs!r}"

    def compare(self) -> None:
        assert describe(self.mount) == describe(self.native)

    def clear(self) -> None:
        for top in (self.mount, self.native):
            for entry in list(os.scandir(top)):
                shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)


def write_at(path: Path, offset: int, data: bytes, flags: int = 0) -> int:
    fd = os.open(path, os.O_WRONLY | flags)
    try:
        return os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


def allocate(path: Path, mode: int, offset: int, length: int) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        fallocate(fd, mode, offset, length)
    finally:
        os.close(fd)


def copy_range(source: Path, target: Path, length: int, at: int, to: int) -> None:
    """Copy as much as there is; how much one call copies is the file system's choice."""
    one = os.open(source, os.O_RDONLY)
    try:
        two = os.open(target, os.O_WRONLY | os.O_CREAT)
        try:
            while length and (n := os.copy_file_range(one, two, length, at, to)):
                length, at, to = length - n, at + n, to + n
        finally:
            os.close(two)
    finally:
        os.close(one)


def fill(seed: int, size: int) -> bytes:
    return bytes((seed * 7 + i) % 251 + 1 for i in range(min(size, 251))) * (size // 251 + 1)


class FileSystemMachine(RuleBasedStateMachine):
    """Hypothesis drives this; `pair` is set by the test before it runs."""

    pair: Pair

    @initialize()
    def empty(self) -> None:
        self.pair.clear()

    @rule(path=paths, mode=modes)
    def mkdir(self, path: str, mode: int) -> None:
        self.pair.both(lambda top: os.mkdir(top / path, mode))

    @rule(path=paths, mode=modes, flags=st.sampled_from([os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_CREAT | os.O_TRUNC]))
    def create(self, path: str, mode: int, flags: int) -> None:
        self.pair.both(lambda top: os.close(os.open(top / path, flags | os.O_WRONLY, mode)))

    @rule(path=paths, offset=sizes, size=sizes, seed=st.integers(0, 30))
    def write(self, path: str, offset: int, size: int, seed: int) -> None:
        self.pair.both(lambda top: write_at(top / path, offset, fill(seed, size)[:size]))

    @rule(path=paths, size=sizes, seed=st.integers(0, 30))
    def append(self, path: str, size: int, seed: int) -> None:
        self.pair.both(lambda top: write_at(top / path, 0, fill(seed, size)[:size], os.O_APPEND))

    @rule(path=paths, size=sizes)
    def truncate(self, path: str, size: int) -> None:
        self.pair.both(lambda top: os.truncate(top / path, size))

    @rule(
        path=paths,
        mode=st.sampled_from([0, FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, FALLOC_ZERO_RANGE]),
        offset=sizes,
        length=sizes,
    )
    def fallocate(self, path: str, mode: int, offset: int, length: int) -> None:
        self.pair.both(lambda top: allocate(top / path, mode, offset, length))

    @rule(source=paths, into=paths, length=sizes, at=sizes, to=sizes)
    def copy(self, source: str, into: str, length: int, at: int, to: int) -> None:
        if source != into:
            self.pair.both(lambda top: copy_range(top / source, top / into, length, at, to))

    @rule(path=paths)
    def unlink(self, path: str) -> None:
        self.pair.both(lambda top: os.unlink(top / path))

    @rule(path=paths)
    def rmdir(self, path: str) -> None:
        self.pair.both(lambda top: os.rmdir(top / path))

    @rule(old=paths, new=paths, flags=st.sampled_from([0, 0, 0, 1, 2]))
    def rename(self, old: str, new: str, flags: int) -> None:
        self.pair.both(lambda top: renameat2(top / old, top / new, flags))

    @rule(old=paths, new=paths)
    def link(self, old: str, new: str) -> None:
        self.pair.both(lambda top: os.link(top / old, top / new, follow_symlinks=False))

    @rule(text=paths, path=paths)
    def symlink(self, text: str, path: str) -> None:
        self.pair.both(lambda top: os.symlink(text, top / path))

    @rule(path=paths, mode=modes)
    def chmod(self, path: str, mode: int) -> None:
        self.pair.both(lambda top: os.chmod(top / path, mode))

    @rule(path=paths, at=times, mt=times)
    def utime(self, path: str, at: int, mt: int) -> None:
        self.pair.both(lambda top: os.utime(top / path, ns=(at, mt)))

    @rule(path=paths, key=names, value=st.binary(max_size=40), flags=st.sampled_from([0, os.XATTR_CREATE, os.XATTR_REPLACE]))
    def setxattr(self, path: str, key: str, value: bytes, flags: int) -> None:
        self.pair.both(lambda top: os.setxattr(top / path, f"user.{key}", value, flags))

    @rule(path=paths, key=names)
    def removexattr(self, path: str, key: str) -> None:
        self.pair.both(lambda top: os.removexattr(top / path, f"user.{key}"))

    @invariant()
    def trees_are_equal(self) -> None:
        self.pair.compare()


def stay_equal(pair: Pair) -> None:
    """Whatever hypothesis does to them."""
    FileSystemMachine.pair = pair
    run_state_machine_as_test(FileSystemMachine, settings=settings(suppress_health_check=list(HealthCheck), deadline=None))
