"""A mount on a Redis server: round trips of each operation, and what two mounts see of each other."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support.mounts import Mount, MountFactory
from support.redis_server import RedisServer

pytestmark = pytest.mark.fuse

N = 40
SLACK = 4  # a heartbeat, another batch of numbers


@pytest.fixture
def mount(mounts: MountFactory, redis_server: RedisServer) -> Mount:
    mount = mounts.new(mounts.volume(url=f"{redis_server.url}/5"), "--heartbeat", "30", "--workers", "1")
    (mount.path / "d").mkdir()
    (mount.path / "d" / "first").write_bytes(b"x")
    return mount


def round_trips(mount: Mount, call: Callable[[Path], object]) -> dict[str, int]:
    """Of `call` for each of N names, by kind; polls of the log are not among them."""
    kinds = ("read", "commit", "scan")
    before = [counted(mount, kind) for kind in kinds]
    for i in range(N):
        call(mount.path / "d" / f"f{i}")
    return {kind: counted(mount, kind) - n for kind, n in zip(kinds, before, strict=True)}


def counted(mount: Mount, kind: str) -> int:
    name = f'cairnfs_meta_store_seconds_count{{kind="{kind}"}} '
    return next(int(line[len(name) :]) for line in (mount.path / ".stats").read_text().splitlines() if line.startswith(name))


def costs(found: dict[str, int], *, read: int, commit: int) -> None:
    """So many round trips for each name."""
    assert found["scan"] == 0
    assert read * N <= found["read"] <= read * N + SLACK, found
    assert commit * N <= found["commit"] <= commit * N + SLACK, found


def drop_caches() -> None:
    Path("/proc/sys/vm/drop_caches").write_text("3")


def test_round_trips(mount: Mount) -> None:
    data = os.urandom(5000)
    # A lookup of the name that is not there yet; creating it; storing what was written.
    costs(round_trips(mount, lambda path: path.write_bytes(data)), read=1, commit=2)
    costs(round_trips(mount, lambda path: path.stat()), read=0, commit=0)
    costs(round_trips(mount, lambda path: path.chmod(0o600)), read=0, commit=1)
    costs(round_trips(mount, lambda path: os.rename(path, f"{path}.new")), read=1, commit=1)
    costs(round_trips(mount, lambda path: Path(f"{path}.dir").mkdir()), read=1, commit=1)
    costs(round_trips(mount, lambda path: Path(f"{path}.dir").rmdir()), read=0, commit=1)
    # That the old name is not there any more is known, but another node may have made it again.
    costs(round_trips(mount, lambda path: os.link(f"{path}.new", path)), read=1, commit=1)
    costs(round_trips(mount, lambda path: path.unlink()), read=0, commit=1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may drop the kernel's caches")
def test_what_is_known_costs_nothing_but_the_fence_of_an_open(mount: Mount) -> None:
    data = os.urandom(5000)
    round_trips(mount, lambda path: path.write_bytes(data))
    drop_caches()
    costs(round_trips(mount, lambda path: path.stat()), read=0, commit=0)

    def read(path: Path) -> None:
        assert path.read_bytes() == data

    before = counted(mount, "log")
    costs(round_trips(mount, read), read=0, commit=0)
    assert counted(mount, "log") - before >= N
    mount.restart()
    # Unknown again: each name brings its inode and where the bytes are.
    costs(round_trips(mount, read), read=1, commit=0)


def test_pushed_changes_arrive_without_being_asked_for(mounts: MountFactory, redis_server: RedisServer) -> None:
    volume = mounts.volume(url=f"{redis_server.url}/5")
    one, two = mounts.new(volume), mounts.new(volume, "--consistency", "push")
    (one.path / "d").mkdir()
    (one.path / "d" / "f0").write_bytes(b"0")
    while not (two.path / "d" / "f0").exists():
        pass
    for n in range(20):
        (one.path / "d" / "f0").write_bytes(b"%d" % n)
        while (two.path / "d" / "f0").read_bytes() != b"%d" % n:
            pass
