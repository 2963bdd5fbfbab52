"""A Redis server that several hosts reach, and a volume on it; the bucket is a folder that all of them have."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.hosts import Network
from support.mounts import MountFactory, Volume
from support.redis_server import RedisServer


@pytest.fixture
def server(network: Network, shared_redis: RedisServer, tmp_path: Path) -> Iterator[RedisServer]:
    started = network.redis(tmp_path / "redis")
    yield started
    started.kill()


@pytest.fixture
def volume(network: Network, server: RedisServer, mounts: MountFactory) -> Volume:
    return mounts.volume(url=network.url(server))
