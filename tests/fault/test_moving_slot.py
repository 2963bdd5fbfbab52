"""The slot with a volume's metadata moves from one node of a Redis Cluster to another, and back, under real mounts."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from support.mounts import MountFactory
from support.redis_cluster import end_moving, move_keys, start_moving, two_nodes
from support.redis_server import RedisServer

pytestmark = pytest.mark.fuse

TAG = "{cairnfs:4}"
Two = tuple[RedisServer, RedisServer, int]


@pytest.fixture
def two(tmp_path: Path, shared_redis: RedisServer) -> Iterator[Two]:
    source, target, slot = two_nodes(tmp_path / "cluster", TAG)
    yield source, target, slot
    source.kill()
    target.kill()


def work(folder: Path, ended: Event) -> list[str]:
    """Make, rename and remove files until told to end, some at least; those that are there now. Raises what is refused."""
    folder.mkdir()
    names: list[str] = []
    n = 0
    while n < 40 or not ended.is_set():
        path = folder / f"new{n}"
        path.write_bytes(b"%d" % n * 100)
        path.rename(folder / f"f{n}")
        names.append(f"f{n}")
        if n % 3 == 2:
            os.unlink(folder / names.pop(0))
        assert (folder / names[-1]).read_bytes() == b"%d" % n * 100
        n += 1
    return names


def test_nothing_fails_or_is_lost_while_the_slot_moves(two: Two, mounts: MountFactory) -> None:
    source, target, slot = two
    volume = mounts.volume(url=f"{source.url}/4")
    made = [mounts.new(volume) for _ in range(2)]
    for mount in made:
        mount.expected_log.append("the change log no longer reaches back")  # as after any change of servers
    roots = [mount.path for mount in made]
    ended = Event()
    with ThreadPoolExecutor() as pool:
        working = [pool.submit(work, root / f"w{i}", ended) for i, root in enumerate(roots)]
        for left, reached in ((source, target), (target, source)):
            time.sleep(0.5)
            start_moving(slot, left, reached)
            time.sleep(0.2)
            move_keys(slot, left, reached)
            end_moving(slot, left, reached)
        time.sleep(0.5)
        ended.set()
        expected = [sorted(each.result()) for each in working]
    assert all(len(names) > 20 for names in expected)
    for root in roots:
        assert [sorted(os.listdir(root / f"w{i}")) for i in range(2)] == expected
        for i, names in enumerate(expected):
            for name in names:
                assert (root / f"w{i}" / name).read_bytes() == name[1:].encode() * 100
