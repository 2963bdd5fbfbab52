"""Opens that wait for a Redis server that does not answer for a while: all go on, and Python asks it once for those that wait."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cairnfs.bench.mounted import counters
from support.mounts import MountFactory
from support.redis_server import RedisServer
from support.stopping import stop_process

pytestmark = pytest.mark.fuse

N_FILES = 40
STOPPED_S = 3.0  # less than a lease


@pytest.fixture
def server(tmp_path: Path, shared_redis: RedisServer) -> Iterator[RedisServer]:
    """One that nobody else needs meanwhile."""
    server = RedisServer(tmp_path / "redis")
    yield server
    server.kill()


def name(kind: str) -> str:
    return f'cairnfs_meta_store_seconds_count{{kind="{kind}"}}'


@pytest.mark.parametrize("front", ["channel", "pyfuse3"])
def test_all_go_on_and_share_what_is_asked(server: RedisServer, mounts: MountFactory, front: str) -> None:
    mount = mounts.new(mounts.volume(url=f"{server.url}/5"), front=front)
    paths = [mount.path / f"f{n}" for n in range(N_FILES)]
    for path in paths:
        path.write_bytes(path.name.encode())
    assert [path.read_bytes() for path in paths] == [path.name.encode() for path in paths]
    with ThreadPoolExecutor(N_FILES) as pool:
        before = counters(mount.path)
        stop_process(server.pid)
        try:
            read = [pool.submit(path.read_bytes) for path in paths]
            time.sleep(STOPPED_S)
            assert not any(each.done() for each in read), "an open was answered without asking"
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert [each.result() for each in read] == [path.name.encode() for path in paths]
        asked = {kind: counters(mount.path)[name(kind)] - before[name(kind)] for kind in ("log", "fence")}
    assert sum(asked.values()) <= N_FILES / 2, "each asked for itself"
