"""What the kernel was told long ago against what it would be told now: every field of stat, after every kind of change.

One mount keeps everything for a day, the other nothing. What both see must be the same after each operation on the first.
"""

import ctypes
import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.answers import until
from support.mounts import MountFactory

pytestmark = pytest.mark.fuse

N_STEPS = 250
RENAME_EXCHANGE = 2
ACL = "system.posix_acl_access"
FIELDS = (
    "st_mode",
    "st_ino",
    "st_nlink",
    "st_uid",
    "st_gid",
    "st_size",
    "st_blocks",
    "st_atime_ns",
    "st_mtime_ns",
    "st_ctime_ns",
)
libc = ctypes.CDLL(None, use_errno=True)


def seen(root: Path) -> dict[str, tuple[object, ...]]:
    """Every name below `root` with its attributes, and the ACL that a file has."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(root):
        for name in (".", *folders, *files):
            path = os.path.join(folder, name)
            st = os.lstat(path)
            has_acl = not os.path.islink(path) and ACL in os.listxattr(path)
            acl = os.getxattr(path, ACL) if has_acl else b""
            found[os.path.relpath(path, root)] = (*(getattr(st, field) for field in FIELDS), acl)
    return found


def shows(root: Path, expected: dict[str, tuple[object, ...]]) -> bool:
    """Whether it is what is seen there now; a name may go away while it is looked at."""
    try:
        return seen(root) == expected
    except FileNotFoundError:
        return False


class Changes:
    """Random operations below a folder."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.rng = random.Random(seed)
        self.kinds: list[Callable[[], object]] = [
            self.create, self.create, self.mkdir, self.link, self.unlink, self.rmdir, self.rename, self.exchange, self.write,
            self.write_open, self.truncate, self.chmod, self.chown, self.utime, self.xattr, self.acl, self.allocate, self.copy,
            self.symlink,
        ]  # fmt: skip

    def step(self) -> str:
        kind = self.rng.choice(self.kinds)
        try:
            kind()
        except OSError:
            pass  # not possible now, which must change nothing either
        return str(kind.__name__)

    def any(self, *, folder: bool = False) -> Path:
        found = [self.root]
        for at, folders, files in os.walk(self.root):
            found += [Path(at, name) for name in (folders if folder else files)]
        return self.rng.choice(found if folder else found[1:] or found)

    def new(self) -> Path:
        return self.any(folder=True) / self.rng.choice("abcdefgh")

    def create(self) -> None:
        self.new().write_bytes(os.urandom(self.rng.choice((0, 10, 5000, 70_000))))

    def mkdir(self) -> None:
        self.new().mkdir()

    def symlink(self) -> None:
        self.new().symlink_to("a")

    def link(self) -> None:
        os.link(self.any(), self.new(), follow_symlinks=False)

    def unlink(self) -> None:
        self.any().unlink()

    def rmdir(self) -> None:
        self.any(folder=True).rmdir()

    def rename(self) -> None:
        os.rename(self.rng.choice((self.any(), self.any(folder=True))), self.new())

    def exchange(self) -> None:
        libc.renameat2(-100, os.fsencode(self.any()), -100, os.fsencode(self.any()), RENAME_EXCHANGE)

    def write(self) -> None:
        with open(self.any(), "r+b") as file:
            file.seek(self.rng.randrange(10_000))
            file.write(os.urandom(self.rng.randrange(1, 9000)))

    def write_open(self) -> None:
        """Attributes asked for while data is not stored, which are other ones when it is."""
        path = self.any()
        with open(path, "r+b", buffering=0) as file:
            file.write(os.urandom(6000))
            os.stat(path)
            file.seek(100_000)
            file.write(b"x")
            os.fstat(file.fileno())

    def truncate(self) -> None:
        os.truncate(self.any(), self.rng.choice((0, 1, 4096, 50_000)))

    def chmod(self) -> None:
        os.chmod(self.rng.choice((self.any(), self.any(folder=True))), self.rng.choice((0o600, 0o644, 0o4755, 0o2755, 0o777)))

    def chown(self) -> None:
        os.chown(self.any(), self.rng.choice((0, 1)), self.rng.choice((0, 1)))

    def utime(self) -> None:
        os.utime(self.any(), ns=(self.rng.randrange(10**18), self.rng.randrange(10**18)))

    def xattr(self) -> None:
        os.setxattr(self.any(), "user.a", os.urandom(4))

    def acl(self) -> None:
        entries = [(1, 6, -1), (2, 4, 1234), (4, 4, -1), (16, self.rng.choice((4, 6)), -1), (32, 0, -1)]
        value = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
        os.setxattr(self.any(), ACL, value)

    def allocate(self) -> None:
        fd = os.open(self.any(), os.O_RDWR)
        try:
            libc.fallocate(fd, self.rng.choice((0, 1, 3, 16)), ctypes.c_long(self.rng.randrange(9000)), ctypes.c_long(8192))
        finally:
            os.close(fd)

    def copy(self) -> None:
        with open(self.any(), "rb") as source, open(self.any(), "r+b") as target:
            os.copy_file_range(source.fileno(), target.fileno(), 20_000, 0, self.rng.randrange(9000))


@pytest.mark.parametrize("seed", [1, 2])
def test_what_the_kernel_keeps_is_what_it_would_be_told(mounts: MountFactory, seed: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("changing owners needs root")
    warm = mounts.new(None, front="channel")
    fresh = mounts.new(warm.volume, "--attr-cache", "0", "--entry-cache", "0", "--dir-entry-cache", "0", front="channel")
    follows_s = 5.0 if warm.volume.is_shared else 0.0
    (warm.path / "top").mkdir()
    changes = Changes(warm.path / "top", seed)
    done: list[str] = []
    for _ in range(N_STEPS):
        done.append(changes.step())
        if changes.rng.random() < 0.3:
            continue  # some changes come together
        kept = seen(warm.path / "top")
        until(lambda kept=kept: shows(fresh.path / "top", kept), f"kept {kept} after {done[-4:]}", follows_s)


def test_looking_while_things_change_leaves_nothing_outdated_behind(mounts: MountFactory) -> None:
    """Replies to those who look are overtaken by those who change, here and elsewhere; what stays must be the last state."""
    warm = mounts.new(None, front="channel")
    fresh = mounts.new(warm.volume, "--attr-cache", "0", "--entry-cache", "0", "--dir-entry-cache", "0", front="channel")
    (warm.path / "top").mkdir()
    (warm.path / "top" / "shared").write_bytes(b"x")
    script = """
import os, random, sys, time
root, seed, act = sys.argv[1], int(sys.argv[2]), sys.argv[3]
rng, end = random.Random(seed), time.monotonic() + 2
while time.monotonic() < end:
    path = os.path.join(root, rng.choice("abcd"))
    try:
        if act == "look":
            os.stat(root), os.stat(os.path.join(root, "shared")), os.stat(path), os.listdir(root)
        else:
            rng.choice((
                lambda: os.mkdir(path), lambda: os.rmdir(path), lambda: os.link(os.path.join(root, "shared"), path),
                lambda: os.unlink(path), lambda: os.rename(path, os.path.join(root, rng.choice("abcd"))),
                lambda: os.chmod(os.path.join(root, "shared"), rng.choice((0o600, 0o644))),
            ))()
    except OSError:
        pass
"""
    acts = [(warm, "look"), (warm, "look"), (warm, "change"), (fresh, "change")]
    running = [
        subprocess.Popen([sys.executable, "-c", script, mount.path / "top", str(seed), act])
        for seed, (mount, act) in enumerate(acts)
    ]
    assert [process.wait(30) for process in running] == [0] * len(running)
    time.sleep(1.5)  # the follower's poll, and the second for which replies to changes are valid
    assert seen(warm.path / "top") == seen(fresh.path / "top")
