"""Listings leave out the attributes that the kernel holds, so that it keeps ACLs too: what looking at everything again costs, as
`ls -l` does it, that changes are seen all the same, and that nothing is left out which the kernel would have to ask for.
"""

import errno
import os
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from support.answers import until
from support.mounts import Mount, MountFactory
from support.requests import requests, sent

pytestmark = [pytest.mark.fuse, pytest.mark.usefixtures("kernel_caches")]

N = 2000
PER_REPLY = 500  # entries with attributes in the 64 KiB of a readdir(3): 390 to 410
FEW = 5
ACL = "system.posix_acl_access"
N_TRIES = 5  # the kernel may forget inodes meanwhile, where others need memory


class Seen(NamedTuple):
    """What `ls -l` shows of an entry."""

    ino: int
    mode: int
    n_links: int
    size: int
    acl: bytes | None


def acl_of(path: str | Path) -> bytes | None:
    try:
        return os.getxattr(path, ACL, follow_symlinks=False)
    except OSError as error:
        assert error.errno == errno.ENODATA
        return None


def acl(user: int) -> bytes:
    entries = [(1, 6, -1), (2, 4, user), (4, 4, -1), (16, 4, -1), (32, 0, -1)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)


def walk(folder: Path) -> dict[str, Seen]:
    """Each entry looked at as it comes."""
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            st = os.lstat(entry.path)
            assert st.st_ino == entry.inode()
            found[entry.name] = Seen(st.st_ino, st.st_mode & 0o7777, st.st_nlink, st.st_size, acl_of(entry.path))
    return found


def fill(folder: Path, data: bytes = b"", n: int = N) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"file-{i:05}" for i in range(n)]
    for path in paths:
        path.write_bytes(data)
    return paths


def hold(mount: Mount, folder: Path) -> dict[str, Seen]:
    """Look at everything until the kernel need not ask for it any more."""
    seen: list[dict[str, Seen]] = []
    for _ in range(N_TRIES):
        found = sent(mount, lambda: seen.append(walk(folder)))
        if asked_for(found) + found.get("GETXATTR", 0) <= FEW:
            return seen[-1]
    raise AssertionError(f"{len(seen[-1])} entries that were looked at before: {found}")


def drop_caches(mount: Mount, what: str) -> None:
    """Returns when the mount knows what was forgotten. Twice: what was used lately survives the first time."""
    if os.geteuid() != 0:
        pytest.skip("only root may make the kernel forget")
    os.sync()
    for _ in range(2):
        Path("/proc/sys/vm/drop_caches").write_text(what)
    last: list[dict[str, int]] = [{}]

    def is_quiet() -> bool:
        time.sleep(0.2)
        before, last[0] = last[0], {op: n for op, n in requests(mount).items() if "FORGET" in op}
        return before == last[0]

    until(is_quiet, seconds=30)


def asked_for(found: dict[str, int]) -> int:
    """Requests for single entries."""
    return found.get("LOOKUP", 0) + found.get("GETATTR", 0)


@pytest.mark.parametrize("options", [(), ("-o", "ro")])
def test_a_second_walk_asks_a_hundredth_of_what_it_sees(mounts: MountFactory, options: tuple[str, ...]) -> None:
    one = mounts.new(None, "--heartbeat", "30")
    fill(one.path / "d")
    mount = mounts.new(one.volume, *options) if options else one
    hold(mount, mount.path / "d")
    found = sent(mount, lambda: walk(mount.path / "d"))
    assert sum(found.values()) <= N / 100, found
    assert found.get("GETXATTR", 0) <= FEW, found
    assert found["READDIRPLUS"] == 1, "the kernel asks for attributes at the beginning, and goes on with names"


def test_what_the_kernel_has_dropped_comes_with_the_listing_again(channel_mount: Mount) -> None:
    """Pages, too, which keep inodes elsewhere, keep none here without its name."""
    folder = channel_mount.path / "d"
    for path in fill(folder, b"x" * 5000):
        path.read_bytes()
    before = hold(channel_mount, folder)
    drop_caches(channel_mount, "2")
    seen: list[dict[str, Seen]] = []
    found = sent(channel_mount, lambda: seen.append(walk(folder)))
    assert seen == [before]
    assert asked_for(found) <= FEW, found
    assert found["READDIRPLUS"] >= N / PER_REPLY, found
    assert hold(channel_mount, folder) == before


def test_changes_made_elsewhere_are_in_the_next_walk(mounts: MountFactory) -> None:
    one = mounts.new()
    two = mounts.new(one.volume)
    here, there = one.path / "d", two.path / "d"
    names = [path.name for path in fill(there, b"x", 1200)]
    follows_s = 10.0 if one.volume.is_shared else 0.0
    hold(one, here)

    def shows(what: Callable[[dict[str, Seen]], object]) -> None:
        until(lambda: what(walk(here)), "a change is not seen", follows_s)
        hold(one, here)

    for i in range(6):  # beyond the first reply
        a, b, c = names[600 + i], names[1100 + i], names[-1 - i]
        os.chmod(there / a, 0o600 + i)
        shows(lambda seen, i=i, a=a: seen[a].mode == 0o600 + i)
        os.setxattr(there / c, ACL, acl(1000 + i))
        shows(lambda seen, i=i, c=c: seen[c].acl == acl(1000 + i))
        os.removexattr(there / c, ACL)
        shows(lambda seen, c=c: seen[c].acl is None)
        (there / b).write_bytes(b"y" * (100 + i))
        shows(lambda seen, i=i, b=b: seen[b].size == 100 + i)
        ino = os.stat(there / a).st_ino
        os.rename(there / a, there / b)
        shows(lambda seen, a=a, b=b, ino=ino: a not in seen and seen[b].ino == ino)
        os.link(there / b, there / a)
        shows(lambda seen, a=a, b=b: seen[a] == seen[b] and seen[a].n_links == 2)
        os.unlink(there / b)
        shows(lambda seen, a=a, b=b, ino=ino: b not in seen and (seen[a].ino, seen[a].n_links) == (ino, 1))
        (there / b).touch()
        shows(lambda seen, b=b: seen[b].size == 0)


def test_own_changes_are_in_the_next_walk_and_cost_nothing_of_the_others(channel_mount: Mount) -> None:
    folder = channel_mount.path / "d"
    paths = fill(folder, b"x")
    a, b, c = paths[0], paths[1000], paths[-1]
    expected = hold(channel_mount, folder)

    def check(act: Callable[[], object], **changes: dict[str, object] | None) -> None:
        """`changes` of a, b and c: of what is seen of them, None when they are gone."""
        act()
        for key, change in changes.items():
            path = {"a": a, "b": b, "c": c}[key]
            before = expected.pop(path.name, None)
            if change is not None:
                expected[path.name] = (before or Seen(0, 0o644, 1, 0, None))._replace(**change)  # type: ignore[arg-type]
        seen: list[dict[str, Seen]] = []
        found = sent(channel_mount, lambda: seen.append(walk(folder)))
        assert seen == [expected]
        assert asked_for(found) + found.get("GETXATTR", 0) <= N / 100, found

    ino = expected[a.name].ino
    check(lambda: a.chmod(0o600), a={"mode": 0o600})
    check(lambda: os.setxattr(c, ACL, acl(1000)), c={"mode": 0o640, "acl": acl(1000)})
    check(lambda: os.removexattr(c, ACL), c={"acl": None})
    check(lambda: b.write_bytes(b"y" * 100), b={"size": 100})
    check(lambda: os.rename(a, b), a=None, b={"ino": ino, "mode": 0o600, "size": 1})
    check(lambda: os.link(b, a), a={"ino": ino, "mode": 0o600, "size": 1, "n_links": 2}, b={"n_links": 2})
    check(lambda: os.unlink(b), a={"n_links": 1}, b=None)
    check(lambda: os.truncate(c, 50), c={"size": 50})


def test_what_makes_the_kernel_ask_again_brings_attributes(channel_mount: Mount) -> None:
    """Many entries that were held: written, read, or changed from the middle of the directory on."""
    folder = channel_mount.path / "d"
    paths = fill(folder, b"x" * 100)

    def check(act: Callable[[], object]) -> None:
        hold(channel_mount, folder)
        act()
        found = sent(channel_mount, lambda: walk(folder))
        assert asked_for(found) <= FEW, found

    check(lambda: [path.write_bytes(b"y" * 200) for path in paths])
    check(lambda: [path.chmod(0o600) for path in paths[N // 2 :]])
    check(lambda: [path.chmod(0o640) for path in paths[::3]])
    check(lambda: [os.rename(path, f"{path}-new") for path in paths[N // 2 :]])
    drop_caches(channel_mount, "1")
    check(lambda: [entry.read_bytes() for entry in folder.iterdir()])


def test_files_with_several_names_always_come_with_attributes(channel_mount: Mount) -> None:
    folder = channel_mount.path / "d"
    paths = fill(folder)
    (channel_mount.path / "e").mkdir()
    for path in paths:
        os.link(path, channel_mount.path / "e" / path.name)
    walk(folder)
    found = sent(channel_mount, lambda: walk(folder))
    assert asked_for(found) <= FEW and found["READDIRPLUS"] >= N / PER_REPLY, found


def test_what_the_kernel_keeps_for_a_short_time_always_comes(mounts: MountFactory) -> None:
    mount = mounts.new(None, "--attr-cache", "5s")
    fill(mount.path / "d")
    for _ in range(3):
        found = sent(mount, lambda: walk(mount.path / "d"))
        assert asked_for(found) <= FEW and found["READDIRPLUS"] >= N / PER_REPLY, found


@pytest.mark.slow
def test_what_the_kernel_keeps_comes_again_before_its_time_is_over(mounts: MountFactory, pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("--full"):
        pytest.skip("takes 33 s: --full")
    mount = mounts.new(None, "--attr-cache", "60s")
    fill(mount.path / "d")
    hold(mount, mount.path / "d")
    time.sleep(31)
    found = sent(mount, lambda: walk(mount.path / "d"))
    assert asked_for(found) <= FEW and found["READDIRPLUS"] >= N / PER_REPLY, found


def test_a_successor_gives_everything_once(mounts: MountFactory) -> None:
    mount = mounts.new(None, "--workers", "1")
    folder = mount.path / "d"
    fill(folder)
    before = hold(mount, folder)
    os.kill(mount.pids[1], signal.SIGKILL)
    mount.expected_log.append("another one takes over")
    seen: list[dict[str, Seen]] = []
    found = sent(mount, lambda: seen.append(walk(folder)))
    assert seen == [before]
    assert asked_for(found) <= FEW, found
    assert hold(mount, folder) == before
