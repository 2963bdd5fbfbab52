"""Redis Cluster: one node has all rows of a volume, whichever it is just now."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from cairnfs.errors import StoreError
from cairnfs.ext.log_end import LogEnd
from cairnfs.meta.stores.base import Add, Exists, Put
from cairnfs.types import Position
from support.redis_rows import COUNT, opened
from support.redis_server import RedisServer, free_port
from support.rows import A, B, put, value

N_SLOTS = 16384
TAG = "{cairnfs:1}"
PATIENCE_S = 20.0

Node = Callable[..., RedisServer]


@pytest.fixture
def node(own_server: Callable[..., RedisServer]) -> Iterator[Node]:
    def make() -> RedisServer:
        options = {"cluster-enabled": "yes", "cluster-port": free_port(), "repl-diskless-sync-delay": 0}
        return own_server(*(word for name, value in options.items() for word in (f"--{name}", str(value))))

    yield make


def ask(server: RedisServer, *words: str | int | bytes) -> Any:
    with server.client() as client:
        return client.execute_command(*words)


def wait_until(ready: Callable[[], bool]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < until_s
        time.sleep(0.05)


def name_of(server: RedisServer) -> str:
    return str(ask(server, "CLUSTER", "MYID").decode())


def bus_port(server: RedisServer) -> str:
    return server.options[server.options.index("--cluster-port") + 1]


def join(*servers: RedisServer) -> None:
    for server in servers[1:]:
        ask(server, "CLUSTER", "MEET", "127.0.0.1", servers[0].port, bus_port(servers[0]))
    wait_until(lambda: all(ask(server, "CLUSTER", "NODES").count(b" connected") == len(servers) for server in servers))


def is_up(server: RedisServer) -> bool:
    return b"cluster_state:ok" in ask(server, "CLUSTER", "INFO")


def start_moving(slot: int, source: RedisServer, target: RedisServer) -> None:
    ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", name_of(source))
    ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", name_of(target))


def move_keys(slot: int, source: RedisServer, target: RedisServer) -> None:
    keys = ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 1000)
    ask(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)


def end_moving(slot: int, source: RedisServer, target: RedisServer) -> None:
    for server in (target, source):
        ask(server, "CLUSTER", "SETSLOT", slot, "NODE", name_of(target))


def test_one_node(node: Node) -> None:
    server = node()
    ask(server, "CLUSTER", "ADDSLOTSRANGE", 0, N_SLOTS - 1)
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


@pytest.fixture
def two(node: Node) -> tuple[RedisServer, RedisServer, int]:
    """The node with the slot of the volume, another one, and the slot."""
    one, other = node(), node()
    join(one, other)
    ask(one, "CLUSTER", "ADDSLOTSRANGE", 0, N_SLOTS // 2 - 1)
    ask(other, "CLUSTER", "ADDSLOTSRANGE", N_SLOTS // 2, N_SLOTS - 1)
    wait_until(lambda: is_up(one) and is_up(other))
    slot = int(ask(one, "CLUSTER", "KEYSLOT", TAG))
    return (one, other, slot) if slot < N_SLOTS // 2 else (other, one, slot)


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


def test_a_replica_that_takes_over_is_found(node: Node) -> None:
    first, second = node(), node()
    join(first, second)
    ask(first, "CLUSTER", "ADDSLOTSRANGE", 0, N_SLOTS - 1)
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
