"""What each operation of a mount costs in round trips, counted by the Redis server itself (MONITOR), by kind."""

import fcntl
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cairnfs.const import CHUNK_BYTES
from cairnfs.vfs.chunks_ahead import BLOCK
from support.answers import drop_caches, served
from support.filling import fill
from support.mounts import Mount, MountFactory
from support.redis_server import RedisServer
from support.round_trips import round_trips
from support.taking_over import eventually

pytestmark = [pytest.mark.fuse, pytest.mark.usefixtures("kernel_caches")]

K = 50
N_MANY = 5000
N_FOLDERS = 12  # of 300 files: few enough that the arena pushes out none of their attributes
EXACT = ("--heartbeat", "30", "--workers", "1")  # a worker that fetches has read rows which the one that serves has not
N_CHUNKS = 40
SLACK = 6  # of each kind: two heartbeats, another batch of numbers
CONNECTIONS = 30  # greetings of some; each is some five commands
POLLS_PER_S = 10  # while others do not commit
CONTENT = os.urandom(5000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, shared_redis: RedisServer) -> Iterator[RedisServer]:
    """One that nobody else asks anything."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def make(mounts: MountFactory, server: RedisServer) -> Callable[..., Mount]:
    """Makes mounts of one new volume."""
    with server.client() as client:
        client.flushall()
    volume = mounts.volume(url=f"{server.url}/5")
    return lambda *options: mounts.new(volume, *EXACT, *options)


def counted(server: RedisServer, call: Callable[[], object]) -> Counter[str]:
    """Round trips of a call, without those in the background, which are few: polls come when a commit rings, and by time."""
    started_s = time.monotonic()
    found = round_trips(server, call)
    passed_s = time.monotonic() - started_s
    assert found.pop("poll", 0) <= found["commit"] + POLLS_PER_S * passed_s + SLACK, found
    assert found.pop("greeting", 0) <= CONNECTIONS, found
    return found


def costs(server: RedisServer, call: Callable[[Path], object], paths: list[Path], **each: int) -> None:
    """So many round trips of each kind for each path, and no others."""
    found = counted(server, lambda: [call(path) for path in paths])
    for kind in found.keys() | each:
        n = each.get(kind, 0) * len(paths)
        assert n <= found[kind] <= n + SLACK, (kind, found)


def n_released(mount: Mount) -> int:
    """Handles that Python has let go, to the end."""
    lines = (mount.path / ".stats").read_text().splitlines()
    return int(next(line.split(" ")[1] for line in lines if line.startswith('cairnfs_operation_seconds_count{op="release"}')))


def test_changes_of_what_is_known_are_one_round_trip_each(make: Callable[..., Mount], server: RedisServer) -> None:
    """LOOKUP of a name that this mount knows not to exist comes before the kernel makes it: the fence, whether others have."""
    mount = make()
    there = mount.path / "d"
    there.mkdir()
    paths = [there / f"f{i}" for i in range(K)]
    opened: dict[Path, int] = {}

    def create(path: Path) -> None:
        opened[path] = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)

    costs(server, create, paths, fence=1, commit=1)
    costs(server, lambda path: os.write(opened[path], CONTENT), paths)
    costs(server, lambda path: os.close(opened[path]), paths, commit=1)
    costs(server, lambda path: path.stat(), paths)
    costs(server, lambda path: path.read_bytes(), paths, fence=1)
    for path in paths:
        opened[path] = os.open(path, os.O_RDWR)
    costs(server, lambda path: fcntl.flock(opened[path], fcntl.LOCK_EX), paths, HMGET=1, commit=1)
    costs(server, lambda path: fcntl.flock(opened[path], fcntl.LOCK_UN), paths, HMGET=1, commit=1)
    released = n_released(mount)
    for path in paths:
        os.close(opened[path])
    eventually(lambda: n_released(mount) >= released + K)  # nobody waits for that, and it looks for locks of these: a round trip
    costs(server, lambda path: path.chmod(0o600), paths, commit=1)
    costs(server, lambda path: os.utime(path), paths, commit=1)
    costs(server, lambda path: os.truncate(path, 4000), paths, commit=1)
    costs(server, lambda path: path.read_bytes(), paths, fence=1)
    costs(server, lambda path: os.rename(path, f"{path}.new"), paths, fence=1, commit=1)
    costs(server, lambda path: os.path.exists(path), paths, fence=1)
    costs(server, lambda path: os.link(f"{path}.new", path), paths, fence=1, commit=1)
    costs(server, lambda path: os.replace(f"{path}.new", there / "one"), paths[:1], fence=1, commit=1)
    costs(server, lambda path: os.unlink(path), paths, commit=1)
    costs(server, lambda path: os.symlink("target", path), paths, fence=1, commit=1)
    costs(server, lambda path: os.mkdir(f"{path}.dir"), paths, fence=1, commit=1)
    costs(server, lambda path: os.rmdir(f"{path}.dir"), paths, commit=1)


@pytest.mark.parametrize(("consistency", "n_fences"), [("close-to-open", 1), ("push", 0)])
def test_a_lookup_brings_all_that_reading_a_small_file_takes(
    make: Callable[..., Mount], server: RedisServer, consistency: str, n_fences: int
) -> None:
    """In a directory each, where there are no neighbours."""
    mount = make("--consistency", consistency)
    paths = [mount.path / f"d{i}" / "f" for i in range(K)]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(CONTENT)

    def read(path: Path) -> None:
        assert path.read_bytes() == CONTENT

    mount.restart()
    assert {entry.stat().st_nlink for entry in os.scandir(mount.path)} == {2}
    costs(server, lambda path: path.stat(), paths, via=1)
    costs(server, read, paths, fence=n_fences)
    costs(server, read, paths, fence=n_fences)
    mount.restart()
    assert {entry.stat().st_nlink for entry in os.scandir(mount.path)} == {2}
    costs(server, lambda path: os.path.exists(path.parent / "absent"), paths, via=1)


FAR = (CHUNK_BYTES + 5, 2 * CHUNK_BYTES + 7)  # in the second and third chunk of a file


def append(path: Path) -> None:
    for part in (CONTENT, *(b"line %d" % i for i in range(5))):
        with path.open("ab") as file:
            file.write(part)


def overwrite(path: Path) -> None:
    path.write_bytes(CONTENT * 20)
    for i in range(5):
        with path.open("r+b") as file:
            file.seek(i * 9000)
            file.write(b"in place %d" % i)


def far(path: Path) -> None:
    with path.open("wb") as file:
        for at in (0, *FAR):
            file.seek(at)
            file.write(CONTENT)


def pread(path: Path, places: list[tuple[int, int]]) -> list[bytes]:
    """Without asking for attributes in between, as a Python file does: that would bring the layout."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return [os.pread(fd, n_bytes, at) for n_bytes, at in places]
    finally:
        os.close(fd)


def contents(path: Path) -> list[bytes]:
    return pread(path, [(200_000, 0), *((len(CONTENT), at) for at in FAR)])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may drop the kernel's caches")
@pytest.mark.parametrize(("consistency", "n_fences"), [("close-to-open", 1), ("push", 0)])
@pytest.mark.parametrize(
    ("make_file", "n_layouts"), [(append, 0), (overwrite, 0), (far, 1)], ids=["appended", "overwritten", "far"]
)
def test_a_file_of_several_slices_costs_no_more_than_a_small_one(
    make: Callable[..., Mount],
    server: RedisServer,
    make_file: Callable[[Path], None],
    n_layouts: int,
    consistency: str,
    n_fences: int,
) -> None:
    """But for layouts of further chunks, which come together. Python has no part in it while the kernel has its pages."""
    mount = make("--consistency", consistency)
    paths = [mount.path / f"d{i}" / "f" for i in range(K)]
    for path in paths:
        path.parent.mkdir()
        make_file(path)
    wanted = {path: contents(path) for path in paths}

    def read(path: Path) -> None:
        assert contents(path) == wanted[path]

    costs(server, read, paths, fence=n_fences)
    drop_caches()
    costs(server, read, paths, fence=n_fences)
    costs(server, lambda path: os.close(os.open(path, os.O_WRONLY | os.O_APPEND)), paths, fence=n_fences)
    mount.restart()
    assert {entry.stat().st_nlink for entry in os.scandir(mount.path)} == {2}
    costs(server, lambda path: path.stat(), paths, via=1)
    costs(server, read, paths, fence=n_fences, HMGET=n_layouts)
    costs(server, read, paths, fence=n_fences)
    drop_caches()
    costs(server, read, paths, fence=n_fences)
    read(paths[0])
    found = served(mount, lambda: read(paths[0]))
    assert found.compiled["OPEN"] == found.compiled["RELEASE"] == 1, found
    assert not found.python["OPEN"] and not found.python["READ"] and not found.python["RELEASE"], found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may drop the kernel's caches")
@pytest.mark.parametrize("in_order", [True, False])
def test_layouts_of_a_large_file_come_many_at_a_time(make: Callable[..., Mount], server: RedisServer, in_order: bool) -> None:
    mount = make()
    path = mount.path / "d" / "large"
    path.parent.mkdir()
    places = [no * CHUNK_BYTES for no in range(N_CHUNKS)]
    with path.open("wb") as file:
        for no, at in enumerate(places):
            os.pwrite(file.fileno(), b"chunk %04d" % no, at)
    mount.restart()
    path.stat()
    order = list(range(N_CHUNKS)) if in_order else random.Random(1).sample(range(N_CHUNKS), N_CHUNKS)

    def read() -> None:
        assert pread(path, [(10, places[no]) for no in order]) == [b"chunk %04d" % no for no in order]

    costs(server, lambda path: read(), [path], fence=1, HMGET=2 if in_order else -(-N_CHUNKS // BLOCK))
    drop_caches()
    costs(server, lambda path: read(), [path], fence=1)


def n_fetched(mount: Mount) -> int:
    """Requests for which another worker has fetched something."""
    return int((mount.path / ".stats").read_text().partition("\ncairnfs_fuse_fetched_total ")[2].partition("\n")[0])


def test_what_other_workers_have_fetched_of_files_of_several_slices_is_not_asked_for_again(
    make: Callable[..., Mount], server: RedisServer
) -> None:
    """They fetch while many ask at once, from the moment when they are ready."""
    mount = make("--workers", "4")
    paths = [mount.path / f"d{i}" / "f" for i in range(K)]
    for path in paths:
        path.parent.mkdir()
        append(path)
    wanted = contents(paths[0])

    def read(path: Path) -> None:
        assert contents(path) == wanted

    for pause_s in (0.5, 1, 2, 4, 8):
        mount.restart()
        time.sleep(pause_s)
        with ThreadPoolExecutor(16) as pool:
            found = round_trips(server, lambda: list(pool.map(read, paths)))
        assert found["HMGET"] <= SLACK, found
        if n_fetched(mount) > 2 * SLACK:
            return
    pytest.fail("workers that fetch do nothing")


@pytest.mark.parametrize("make_file", [append, overwrite, far])
def test_what_another_mount_has_closed_is_read_of_a_file_of_several_slices(
    make: Callable[..., Mount], server: RedisServer, make_file: Callable[[Path], None]
) -> None:
    """At the same size, so that nothing but its layout tells. The log is read once for it, and then all is known again."""
    one, two = (mount.path / "f" for mount in (make(), make()))
    make_file(one)
    places = (100, FAR[0] + 100, FAR[1] + 100) if make_file is far else (100, 2000, 4900)
    for i in range(20):
        for writes, reads in ((one, two), (two, one)):
            assert contents(reads) == contents(writes)
            new = b"%d of %s" % (i, os.fsencode(writes.parent.name))
            with writes.open("r+b") as file:
                file.seek(places[i % 3])
                file.write(new)
            assert pread(reads, [(len(new), places[i % 3])]) == [new]


def test_a_listing_with_attributes_takes_a_round_trip_for_5000(make: Callable[..., Mount], server: RedisServer) -> None:
    mount = make()
    for n in (N_MANY, 4 * N_MANY):
        there = mount.path / f"d{n}"
        there.mkdir()
        fill(mount.volume.url, there.stat().st_ino, [b"f%06d" % i for i in range(n)])
    mount.restart()
    for n in (N_MANY, 4 * N_MANY):
        entries: list[int] = []
        found = counted(
            server, lambda n=n, entries=entries: entries.extend(e.stat().st_ino for e in os.scandir(mount.path / f"d{n}"))
        )
        assert len(set(entries)) == n
        assert n / 5000 <= found.pop("scan_via") <= n / 5000 + 4, (n, found)  # those before are of 128, 512, 2,048
        assert all(others <= SLACK for others in found.values()), found


def listed(path: Path) -> dict[str, int]:
    with os.scandir(path) as entries:
        return {entry.name: entry.stat(follow_symlinks=False).st_ino for entry in entries}


def test_a_listing_of_some_hundred_names_is_one_round_trip(make: Callable[..., Mount], server: RedisServer) -> None:
    """Of what this mount has made, it brings no attributes; nobody asks for the end of the log besides, and Python serves OPENDIR
    only. What another mount has made before is there.
    """
    mount, other = make(), make()
    folders = [mount.path / f"d{i}" for i in range(2 * N_FOLDERS)]
    names = [f"f{i:03}" for i in range(300)]
    for folder in folders:
        folder.mkdir()
        for name in names:
            os.mknod(folder / name)
    costs_of_listing(mount, server, folders[:N_FOLDERS], n_attributes=0)
    for i, folder in enumerate(folders):
        os.mknod(other.path / folder.name / f"g{i}")
        assert listed(folder).keys() == {*names, f"g{i}"}
    mount.restart()
    listed(mount.path)
    costs_of_listing(mount, server, folders[:N_FOLDERS], n_attributes=len(names) + 1)
    unlisted = folders[N_FOLDERS:]
    costs(server, lambda path: os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY)), unlisted, fence=1)


def costs_of_listing(mount: Mount, server: RedisServer, folders: list[Path], n_attributes: int) -> None:
    drop_caches()
    with server.client() as client:
        client.config_resetstat()
        found = served(mount, lambda: costs(server, lambda path: listed(path), folders, scan_via=1))
        n_rows = client.info("commandstats")["cmdstat_hget"]["calls"]
    assert n_rows <= len(folders) * (1 + n_attributes) + 4 * SLACK, n_rows  # one is the directory's own
    assert found.python["OPENDIR"] == len(folders) and not found.python["READDIRPLUS"], found
    assert found.compiled["READDIRPLUS"] == 2 * len(folders), found  # the second says that there is no more


def test_misses_in_one_directory_bring_pages_of_neighbours(make: Callable[..., Mount], server: RedisServer) -> None:
    mount = make()
    there = mount.path / "d"
    there.mkdir()
    paths = [there / f"f{i:04}" for i in range(N_MANY)]
    fill(mount.volume.url, there.stat().st_ino, [os.fsencode(path.name) for path in paths])
    random.Random(1).shuffle(paths)
    mount.restart()
    found = counted(server, lambda: [path.stat() for path in paths])
    assert N_MANY / 1000 <= found.pop("via") <= 20, found  # pages of 64, 128, ... 1,000
    assert all(others <= SLACK for others in found.values()), found


def test_opens_one_after_the_other_on_each_of_several_threads_ask_once_each_at_most(
    make: Callable[..., Mount], server: RedisServer
) -> None:
    """Compiled code does not share fences: each thread asks on a connection of its own."""
    path = make().path / "f"
    path.write_bytes(CONTENT)
    threads = [threading.Thread(target=lambda: [path.read_bytes() for _ in range(K)]) for _ in range(4)]

    def work() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    found = counted(server, work)
    assert K <= found.pop("fence") <= 4 * K + SLACK, found
    assert all(others <= SLACK for others in found.values()), found
