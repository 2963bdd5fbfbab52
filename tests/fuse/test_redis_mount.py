"""A mount on a Redis server: round trips of each operation, and what two mounts see of each other."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.filling import fill
from support.mounts import Mount, MountFactory
from support.redis_server import RedisServer
from support.taking_over import eventually

pytestmark = [pytest.mark.fuse, pytest.mark.usefixtures("kernel_caches")]

N = 40
EXACT = ("--heartbeat", "30", "--workers", "1")  # a worker that fetches has read rows which the one that serves has not
N_MANY = 5000
N_EACH = 150
SLACK = 4  # a heartbeat, another batch of numbers
FEW = 8  # a name of each directory on the way, pages of 64 and 128 entries, SLACK


@pytest.fixture
def mount(mounts: MountFactory, redis_server: RedisServer) -> Mount:
    mount = mounts.new(mounts.volume(url=f"{redis_server.url}/5"), *EXACT)
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


def fences(mount: Mount) -> int:
    """Times that the end of the log was asked for, by compiled code or with what came of it in Python; and polls."""
    return counted(mount, "fence") + counted(mount, "log")


def in_python(mount: Mount, operation: str) -> int:
    name = f'cairnfs_operation_seconds_count{{op="{operation}"}} '
    return next(int(line[len(name) :]) for line in (mount.path / ".stats").read_text().splitlines() if line.startswith(name))


def asked(mount: Mount, call: Callable[[], object]) -> int:
    """Round trips for reading rows that a call takes."""
    before = counted(mount, "read") + counted(mount, "scan")
    call()
    return counted(mount, "read") + counted(mount, "scan") - before


def costs(found: dict[str, int], *, read: int, commit: int) -> None:
    """So many round trips for each name."""
    assert found["scan"] == 0
    assert read * N <= found["read"] <= read * N + SLACK, found
    assert commit * N <= found["commit"] <= commit * N + SLACK, found


def drop_caches() -> None:
    Path("/proc/sys/vm/drop_caches").write_text("3")


def test_round_trips(mount: Mount) -> None:
    data = os.urandom(5000)
    # Which names there are is known, for this mount has made the directory, and the log says that nobody else has made one. Then
    # creating it, and storing what was written.
    before = fences(mount)
    costs(round_trips(mount, lambda path: path.write_bytes(data)), read=0, commit=2)
    assert fences(mount) - before >= N
    costs(round_trips(mount, lambda path: path.stat()), read=0, commit=0)
    costs(round_trips(mount, lambda path: path.chmod(0o600)), read=0, commit=1)
    costs(round_trips(mount, lambda path: os.rename(path, f"{path}.new")), read=0, commit=1)
    costs(round_trips(mount, lambda path: Path(f"{path}.dir").mkdir()), read=0, commit=1)
    costs(round_trips(mount, lambda path: Path(f"{path}.dir").rmdir()), read=0, commit=1)
    # That the old name is not there any more is known; the log says that nobody has made it again.
    costs(round_trips(mount, lambda path: os.link(f"{path}.new", path)), read=0, commit=1)
    costs(round_trips(mount, lambda path: path.unlink()), read=0, commit=1)


def test_a_name_in_a_directory_of_others_is_read(mount: Mount) -> None:
    mount.restart()
    (mount.path / "d" / "first").stat()
    costs(round_trips(mount, lambda path: path.write_bytes(b"x")), read=1, commit=2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may drop the kernel's caches")
def test_what_is_known_costs_nothing_but_the_fence_of_an_open(mount: Mount) -> None:
    data = os.urandom(5000)
    round_trips(mount, lambda path: path.write_bytes(data))
    drop_caches()
    costs(round_trips(mount, lambda path: path.stat()), read=0, commit=0)

    def read(path: Path) -> None:
        assert path.read_bytes() == data

    before, n_opened, n_looked_up = fences(mount), in_python(mount, "open"), in_python(mount, "lookup")
    costs(round_trips(mount, read), read=0, commit=0)
    assert fences(mount) - before >= N
    assert in_python(mount, "open") - n_opened <= FEW
    costs(round_trips(mount, lambda path: os.path.exists(f"{path}.absent")), read=0, commit=0)
    assert in_python(mount, "lookup") - n_looked_up <= FEW
    mount.restart()
    # Unknown again: names bring their inodes, where the bytes are, and their neighbours.
    found = round_trips(mount, read)
    assert found["read"] <= FEW, found
    assert found["commit"] == found["scan"] == 0, found


def test_a_cold_directory_takes_few_round_trips_in_any_order(mounts: MountFactory, redis_server: RedisServer) -> None:
    mount = mounts.new(mounts.volume(url=f"{redis_server.url}/5"), *EXACT)
    there = mount.path / "d"
    there.mkdir()
    data = os.urandom(5000)
    (mount.path / "model").write_bytes(data)
    paths = [there / f"f{i:04}" for i in range(N_MANY)]
    fill(mount.volume.url, there.stat().st_ino, [os.fsencode(path.name) for path in paths], (mount.path / "model").stat().st_ino)
    random.Random(1).shuffle(paths)
    mount.restart()
    assert asked(mount, lambda: [path.stat() for path in paths]) <= 20
    mount.restart()
    before = fences(mount)

    def read(paths: list[Path]) -> None:
        for path in paths:
            assert path.read_bytes() == data

    some = paths[:1000]
    assert asked(mount, lambda: read(some)) <= 20
    assert fences(mount) - before >= len(some)  # each open asks for the end of the log
    mount.options = ("--consistency", "push")
    mount.restart()
    with redis_server.client() as client:
        n_polls = counted(mount, "log")
        client.config_resetstat()
        assert asked(mount, lambda: read(paths)) <= 20
        calls = client.info("commandstats")
        n_polls = counted(mount, "log") - n_polls
    n_calls = sum(calls.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))
    assert n_calls - n_polls <= 20, (n_polls, calls)


def test_many_small_directories_take_a_round_trip_each(mounts: MountFactory, redis_server: RedisServer) -> None:
    mount = mounts.new(mounts.volume(url=f"{redis_server.url}/5"), *EXACT)
    for d in range(30):
        (mount.path / f"d{d}").mkdir()
        fill(mount.volume.url, (mount.path / f"d{d}").stat().st_ino, [b"f%d" % i for i in range(20)])
    paths = [mount.path / f"d{d}" / f"f{i}" for d in range(30) for i in range(20)]
    random.Random(1).shuffle(paths)
    mount.restart()
    assert asked(mount, lambda: [path.stat() for path in paths]) <= 30 + FEW


def test_a_listing_with_attributes_is_fetched_in_large_pages_as_it_is_read(
    mounts: MountFactory, redis_server: RedisServer, request: pytest.FixtureRequest
) -> None:
    n = 200_000 if request.config.getoption("--full") else 12_000
    mount = mounts.new(mounts.volume(url=f"{redis_server.url}/5"), *EXACT)
    there = mount.path / "d"
    there.mkdir()
    fill(mount.volume.url, there.stat().st_ino, [b"f%06d" % i for i in range(n)])
    mount.restart()
    before = {kind: counted(mount, kind) for kind in ("read", "scan")}
    with os.scandir(there) as entries:
        first = next(entries)
        first.stat()
        assert counted(mount, "scan") - before["scan"] <= 3  # 128, 512 and 2,048 entries
        names = [first.name]
        for entry in entries:
            assert entry.stat().st_size == 0
            names.append(entry.name)
    assert sorted(names) == [f"f{i:06}" for i in range(n)]
    assert counted(mount, "scan") - before["scan"] <= n / 5000 + 4
    assert counted(mount, "read") - before["read"] <= FEW
    assert asked(mount, lambda: [entry.stat() for entry in os.scandir(there)]) <= SLACK


def test_removing_what_was_listed_is_one_round_trip_each(mounts: MountFactory, redis_server: RedisServer) -> None:
    mount = mounts.new(mounts.volume(url=f"{redis_server.url}/5"), *EXACT)
    there = mount.path / "d"
    there.mkdir()
    fill(mount.volume.url, there.stat().st_ino, [b"f%06d" % i for i in range(1000)])
    mount.restart()
    before = counted(mount, "commit")
    assert asked(mount, lambda: shutil.rmtree(there)) <= 2 * FEW
    assert 1001 <= counted(mount, "commit") - before <= 1001 + SLACK


CREATE = """
import os, sys
for i in range(int(sys.argv[2])):
    os.close(os.open(f"{sys.argv[1]}-{i}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
"""


def conflicts(mount: Mount) -> int:
    name = "cairnfs_meta_conflicts_total{"
    return sum(int(line.split()[-1]) for line in (mount.path / ".stats").read_text().splitlines() if line.startswith(name))


def test_many_creates_in_one_directory_do_not_get_in_each_others_way(mounts: MountFactory, redis_server: RedisServer) -> None:
    volume = mounts.volume(url=f"{redis_server.url}/5")
    nodes = [mounts.new(volume) for _ in range(2)]
    (nodes[0].path / "d").mkdir()
    for node in nodes:
        list((node.path / "d").iterdir())
    before = [(conflicts(node), counted(node, "commit")) for node in nodes]
    places = [(node, node.path / "d" / f"{n}-{process}") for n, node in enumerate(nodes) for process in range(3)]
    working = [subprocess.Popen([sys.executable, "-c", CREATE, str(place), str(N_EACH)]) for _, place in places]
    assert [process.wait() for process in working] == [0] * len(working)
    names = [f"{place.name}-{i}" for _, place in places for i in range(N_EACH)]
    for node, (n_conflicts, n_commits) in zip(nodes, before, strict=True):
        assert conflicts(node) == n_conflicts
        assert 3 * N_EACH <= counted(node, "commit") - n_commits <= 3 * N_EACH + 2 * SLACK
        assert sorted(os.listdir(node.path / "d")) == sorted(names)
    assert (nodes[0].path / "d").stat().st_nlink == 2


def test_pushed_changes_arrive_without_being_asked_for(mounts: MountFactory, redis_server: RedisServer) -> None:
    volume = mounts.volume(url=f"{redis_server.url}/5")
    one, two = mounts.new(volume, *EXACT), mounts.new(volume, *EXACT, "--consistency", "push")
    (one.path / "d").mkdir()
    (one.path / "d" / "f0").write_bytes(b"0")
    while not (two.path / "d" / "f0").exists():
        pass
    for n in range(20):
        (one.path / "d" / "f0").write_bytes(b"%d" % n)
        while (two.path / "d" / "f0").read_bytes() != b"%d" % n:
            pass


def test_totals_are_read_again_when_something_was_committed(mounts: MountFactory, redis_server: RedisServer) -> None:
    volume = mounts.volume("--inodes", "1000", url=f"{redis_server.url}/5")
    mount, other = (mounts.new(volume, *EXACT) for _ in range(2))
    free = os.statvfs(mount.path).f_ffree
    before = in_python(mount, "statfs")
    assert {os.statvfs(mount.path).f_ffree for _ in range(N)} == {free}
    assert in_python(mount, "statfs") <= before + SLACK
    for i in range(N):
        (mount.path / f"f{i}").touch()
        assert os.statvfs(mount.path).f_ffree == free - i - 1, "one's own at once"
    (other.path / "g").touch()
    eventually(lambda: os.statvfs(mount.path).f_ffree == free - N - 1)
