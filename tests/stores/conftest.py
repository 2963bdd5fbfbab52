"""The metadata stores that the contract's suite runs over, and the pools of the object stores' suite."""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from cairnfs.meta.stores.base import Store
from cairnfs.meta.stores.memory import MemoryStore
from cairnfs.meta.stores.redis_link import parse_url
from cairnfs.meta.stores.redis_store import RedisStore
from cairnfs.meta.stores.sqlite import SqliteStore
from cairnfs.objects.rados import Access
from support.ceph_server import CephCluster
from support.redis_server import RedisServer
from support.rows import LOG_RECORDS, Opener

_names = count()


@pytest.fixture(params=["memory", "sqlite", "redis", "valkey"])
def open_again(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens one and the same store, each time by a new object."""
    opened: list[Store] = []
    name = f"contract-{next(_names)}"
    server = request.getfixturevalue(f"{request.param}_server") if request.param in ("redis", "valkey") else None

    def opener() -> Store:
        if request.param == "memory":
            store: Store = MemoryStore(name, LOG_RECORDS)
        elif server is not None:
            store = RedisStore(parse_url("redis", f"127.0.0.1:{server.port}/3"), 20.0, LOG_RECORDS)
        else:
            store = SqliteStore(tmp_path / "m.db", "sqlite3://m.db", create=True, log_records=LOG_RECORDS)
        opened.append(store)
        return store

    yield opener
    for store in opened:
        store.close()


@pytest.fixture
def store(open_again: Opener) -> Store:
    return open_again()


@pytest.fixture(scope="session")
def open_pool(open_ceph: CephCluster) -> Access:
    """A pool of a cluster without authentication."""
    return Access(open_ceph.make_pool("open"), str(open_ceph.conf))


@pytest.fixture(scope="session")
def guarded_pool(shared_ceph: CephCluster) -> Access:
    """A namespace of a pool, for a user who may use nothing else."""
    pool = shared_ceph.make_pool("guarded")
    shared_ceph.make_user("trainer", pool, "corpora")
    return Access(pool, str(shared_ceph.conf), "trainer", "corpora")


@pytest.fixture
def own_server(tmp_path: Path, shared_redis: RedisServer) -> Iterator[Callable[..., RedisServer]]:
    """Makes servers that only this test uses."""
    with ExitStack() as started:

        def make(*options: str, **more: object) -> RedisServer:
            server = RedisServer(tmp_path / f"redis{random.getrandbits(32)}", *options, **more)  # type: ignore[arg-type]
            started.callback(server.kill)
            return server

        yield make
