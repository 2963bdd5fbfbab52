"""A Redis store for the length of a block, and a counter in it; a replica that has what its master has."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from cairnfs.meta.stores import open_store
from cairnfs.meta.stores.redis_store import RedisStore
from support.redis_server import RedisServer
from support.rows import value

COUNT = (b"count", b"")


@contextmanager
def opened(url: str, io_timeout_s: float = 20.0) -> Iterator[RedisStore]:
    store = open_store(url, io_timeout_s=io_timeout_s)
    assert isinstance(store, RedisStore)
    try:
        yield store
    finally:
        store.close()


def counted(store: RedisStore) -> int:
    return int.from_bytes(value(store, COUNT) or b"", "big")


def synced(replica: RedisServer, db: int) -> None:
    with replica.client() as client:
        client.select(db)
        while client.info("replication")["master_link_status"] != "up" or not client.dbsize():
            time.sleep(0.01)
