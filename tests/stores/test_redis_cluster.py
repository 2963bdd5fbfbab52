"""Redis Cluster: one node has all rows of a volume, whichever it is just now."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from cairnfs.errors import StoreError
from cairnfs.ext.log_end import LogEnd
from cairnfs.meta.stores.base import Add, Exists, Put
from cairnfs.types import Position
from support.redis_cluster import (
    N_SLOTS,
    ask,
    end_moving,
    is_up,
    join,
    move_keys,
    name_of,
    own,
    start_moving,
    start_node,
    two_nodes,
    wait_until,
)
from support.redis_rows import COUNT, opened
from support.redis_server import RedisServer
from support.rows import A, B, put, value

TAG = "{cairnfs:1}"


@pytest.fixture
def node(tmp_path: Path, shared_redis: RedisServer) -> Iterator[Callable[[], RedisServer]]:
    with ExitStack() as started:

        def make() -> RedisServer:
            server = start_node(tmp_path / f"node{len(list(tmp_path.iterdir()))}")
            started.callback(server.kill)
            return server

        yield make


@pytest.fixture
def two(tmp_path: Path, shared_redis: RedisServer) -> Iterator[tuple[RedisServer, RedisServer, int]]:
    """The node with the slot of the volume, another one, and the slot."""
    source, target, slot = two_nodes(tmp_path, TAG)
    yield source, target, slot
    source.kill()
    target.kill()


def test_one_node(node: Callable[[], RedisServer]) -> None:
    server = node()
    own(server, 0, N_SLOTS - 1)
    wait_until(lambda: is_up(server))
    with opened(f"{server.url}/1") as store, opened(f"{server.url}/2") as other:
        store.commit([Exists(COUNT)] * 0, [Add(COUNT, 0, 5), Put(A, b"a"), Put(B, b"b")])
        put(other, A, b"other")
        assert value(store, A) == b"a"
        assert [row.value if row else None for row in store.read([A, COUNT])] == [b"a", (5).to_bytes(8, "big")]
        assert store.partitions(b"", None, 10) == [b"count", b"p"]
        assert [record.position for record in store.log(Position(0), 10)] == [1]
        store.wipe()
        assert store.partitions(b"", None, 10) == []
        assert value(other, A) == b"other"


def test_the_node_that_has_the_rows_is_asked_for_its_settings(two: tuple[RedisServer, RedisServer, int]) -> None:
    owner, other, _ = two
    ask(other, "CONFIG", "SET", "appendonly", "no")
    for node in two[:2]:
        with opened(f"{node.url}/1") as store:
            assert store.hazards() == []
    ask(other, "CONFIG", "SET", "appendonly", "yes")
    ask(owner, "CONFIG", "SET", "appendonly", "no")
    for node in two[:2]:
        with opened(f"{node.url}/1") as store:
            assert [hazard.is_known for hazard in store.hazards()] == [True]


def n_moved(server: RedisServer) -> int:
    """How many commands were answered by naming another node."""
    return int(ask(server, "INFO", "errorstats").get("errorstat_MOVED", {"count": 0})["count"])


def test_rows_that_move_to_another_node_are_followed(two: tuple[RedisServer, RedisServer, int]) -> None:
    source, target, slot = two
    with opened(f"{source.url}/1") as store, opened(f"{target.url}/1") as second:
        for each in (store, second):
            put(each, A, b"before")
        with ThreadPoolExecutor() as pool:
            start_moving(slot, source, target)
            under_way = pool.submit(put, store, B, b"under way")  # and the row is a new one
            time.sleep(0.2)
            move_keys(slot, source, target)
            time.sleep(0.2)
            end_moving(slot, source, target)
            assert under_way.result() > 2
        assert value(second, A) == b"before"
        assert value(second, B) == b"under way"
        before, position = n_moved(source), store.position()
        assert [put(store, A, b"%d" % n) for n in range(20)] == list(range(position + 1, position + 21))
        assert [record.position for record in second.log(position, 100)] == list(range(position + 1, position + 21))
        assert n_moved(source) == before, "the new node is asked at once"
        link = store.end_link()
        assert link is not None
        with closing(LogEnd()) as end:
            end.add(*link)
            assert end.ask() == position + 20


def test_fsync_waits_while_rows_move(tmp_path: Path, valkey_server: RedisServer) -> None:
    """WAITAOF goes by a write, and a node whose slot moves sends whoever writes a new key to the other node."""
    source, target, slot = two_nodes(tmp_path, TAG, valkey_server.program)
    try:
        with opened(f"{source.url}/1") as store, ThreadPoolExecutor() as pool:
            put(store, A, b"before")
            store.sync()
            start_moving(slot, source, target)
            under_way = pool.submit(store.sync)
            time.sleep(0.2)
            move_keys(slot, source, target)
            assert not under_way.done()
            end_moving(slot, source, target)
            under_way.result()
            assert value(store, A) == b"before"
    finally:
        source.kill()
        target.kill()


@pytest.mark.parametrize("gone", ["streak", "givers", "log", "position"])
def test_nothing_is_done_by_halves_while_rows_move(two: tuple[RedisServer, RedisServer, int], gone: str) -> None:
    source, target, slot = two
    with opened(f"{source.url}/1", io_timeout_s=1) as store:
        put(store, A, b"before")
        store.commit([], [Add(COUNT, 0, 1, unused=True)])
        count = value(store, COUNT)
        start_moving(slot, source, target)
        ask(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", f"{TAG}{gone}")
        with pytest.raises(StoreError):
            store.commit([], [Put(A, b"halves"), Add(COUNT, 0, 1, unused=True)])
        move_keys(slot, source, target)
        end_moving(slot, source, target)
    with opened(f"{target.url}/1") as store:
        assert value(store, A) == b"before"
        assert value(store, COUNT) == count
        assert store.position() == 2


def test_a_replica_that_takes_over_is_found(node: Callable[[], RedisServer]) -> None:
    first, second = node(), node()
    join(first, second)
    own(first, 0, N_SLOTS - 1)
    wait_until(lambda: is_up(second))
    ask(second, "CLUSTER", "REPLICATE", name_of(first))
    wait_until(lambda: ask(second, "INFO", "replication").get("master_link_status") == "up")
    wait_until(lambda: len(ask(first, "CLUSTER", "SLOTS")[0]) == 4)  # first, last, the node, its replica
    with opened(f"{first.url}/1") as store:
        put(store, A, b"before")
    with opened(f"{first.url}/1") as store:
        before = store.position()
        wait_until(lambda: ask(second, "DBSIZE") == ask(first, "DBSIZE"))
        first.kill()
        ask(second, "CLUSTER", "FAILOVER", "TAKEOVER")
        assert value(store, A) == b"before"
        put(store, A, b"after")
        assert store.position() > before + 2**25, "no position is used again that the lost server may have given out"
        assert value(store, A) == b"after"
