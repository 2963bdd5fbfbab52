"""Redis's disk is full under a mount: whoever writes waits until there is room, and whoever reads does not notice."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.mounts import MountFactory
from support.redis_disk import its_log_is_on_a_full_disk
from support.redis_server import RedisServer
from support.storing import wait

pytestmark = pytest.mark.fuse

N_FILES = 4
SAID = "cannot write to its disk and takes no commits"


@pytest.fixture
def server(shared_redis: RedisServer, tmp_path: Path) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path / "redis")
    yield started
    started.kill()


def store(path: Path, data: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())


def test_who_writes_waits_until_there_is_room(server: RedisServer, mounts: MountFactory) -> None:
    mount = mounts.new(mounts.volume(url=f"{server.url}/0"))
    mount.expected_log += [SAID, "keeps nothing on disk"]  # the latter when it is mounted again
    (mount.path / "before").write_bytes(b"before")
    with server.client() as client, ThreadPoolExecutor(N_FILES) as pool:
        with its_log_is_on_a_full_disk(server, client):
            writing = [pool.submit(store, mount.path / f"{n}", b"%d" % n * 1000) for n in range(N_FILES)]
            wait(lambda: SAID in mount.log.read_text(), "the log does not say what is wrong")
            assert (mount.path / "before").read_bytes() == b"before"
            assert not any(each.done() for each in writing)
        for each in writing:
            each.result()
    mount.restart()
    assert [(mount.path / f"{n}").read_bytes() for n in range(N_FILES)] == [b"%d" % n * 1000 for n in range(N_FILES)]
    assert mount.log.read_text().count(SAID) == 1
