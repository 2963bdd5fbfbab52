"""Refusals of a Redis server that pass: calls wait as while it is away, the log says once how to end it, and nothing is lost."""

import errno
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from threading import Thread

import pytest
import redis

from cairnfs.errors import StoreError
from cairnfs.meta.stores.base import Add
from cairnfs.types import Position
from support.redis_disk import a_snapshot_fails, its_log_is_on_a_full_disk, rewrite_log
from support.redis_rows import COUNT, counted, opened
from support.redis_server import RedisServer
from support.rows import A, put, value
from support.storing import wait

Maker = Callable[..., RedisServer]
N_CALLS = 3
LOGGER = "cairnfs.meta.stores.redis_link"


@contextmanager
def a_script_runs(server: RedisServer, client: redis.Redis) -> Iterator[None]:
    client.config_set("busy-reply-threshold", 1)

    def run() -> None:
        with server.client() as other, pytest.raises(redis.ResponseError, match="SCRIPT KILL"):
            other.eval("while true do end", 0)

    thread = Thread(target=run)
    thread.start()
    wait(lambda: "BUSY" in _said_to(client), "the script does not begin")
    yield
    client.script_kill()
    thread.join()


def _said_to(client: redis.Redis) -> str:
    try:
        return str(client.ping())
    except redis.ResponseError as error:
        return str(error)


@contextmanager
def too_few_replicas(server: RedisServer, client: redis.Redis) -> Iterator[None]:
    client.config_set("min-replicas-to-write", 1)
    yield
    client.config_set("min-replicas-to-write", 0)


@contextmanager
def it_is_a_replica(server: RedisServer, client: redis.Redis) -> Iterator[None]:
    client.replicaof("127.0.0.1", "1")
    yield
    client.replicaof("NO", "ONE")


@contextmanager
def it_is_a_replica_that_answers_nothing(server: RedisServer, client: redis.Redis) -> Iterator[None]:
    client.config_set("replica-serve-stale-data", "no")
    with it_is_a_replica(server, client):
        yield


@contextmanager
def it_reads_its_data(server: RedisServer, client: redis.Redis) -> Iterator[None]:
    with client.pipeline() as pipeline:
        for n in range(600):
            pipeline.set(f"key{n}", b"x" * 1000)
        pipeline.execute()
    rewrite_log(client)  # as a snapshot, while whose reading it answers
    server.stop()
    server.options += ("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
    starting = Thread(target=server.start)
    starting.start()
    yield
    starting.join()


@pytest.mark.parametrize(
    ("refusing", "said", "is_read"),
    [
        (a_snapshot_fails, r"cannot write to its disk .*make room.*MISCONF", True),
        (its_log_is_on_a_full_disk, r"cannot write to its disk .*make room.*MISCONF", True),
        (a_script_runs, r"SCRIPT KILL ends.*BUSY", False),
        (too_few_replicas, r"min-replicas-to-write.*NOREPLICAS", True),
        (it_is_a_replica, r"it is a replica: promote it, or name its master", True),
        (it_is_a_replica_that_answers_nothing, r"it is a replica whose master is away", False),
        (it_reads_its_data, r"loading the dataset", False),
    ],
)
def test_calls_wait_until_it_is_over(
    own_server: Maker,
    caplog: pytest.LogCaptureFixture,
    refusing: Callable[[RedisServer, "redis.Redis"], AbstractContextManager[None]],
    said: str,
    is_read: bool,
) -> None:
    server = own_server()
    caplog.set_level("INFO", LOGGER)

    def lines() -> list[str]:
        return [record.getMessage() for record in caplog.records]

    with opened(server.url) as store, server.client() as client, ThreadPoolExecutor(N_CALLS) as pool:
        put(store, A, b"1")
        with refusing(server, client):
            waiting = [pool.submit(store.commit, [], [Add(COUNT, 0, 1)]) for _ in range(N_CALLS)]
            wait(lambda: re.search(said, "\n".join(lines())) is not None, f"it is not in the log: {said}")
            assert not any(each.done() for each in waiting)
            if is_read:
                assert value(store, A) == b"1"
        wait(lambda: all(each.done() for each in waiting), "calls wait for what is over")
        assert len({each.result().position for each in waiting}) == N_CALLS
        assert (counted(store), value(store, A)) == (N_CALLS, b"1")
    assert len(lines()) == len(set(lines())), "each reason once"


def test_what_does_not_pass_within_the_time_limit_is_said_with_how_to_mend_it(own_server: Maker) -> None:
    server = own_server()
    with opened(server.url, 0.5) as store, server.client() as client:
        put(store, A, b"1")
        with a_snapshot_fails(server, client):
            with pytest.raises(StoreError, match=r"has refused for 0\.5 s: it cannot write to its disk") as refused:
                put(store, A, b"2")
            assert refused.value.errno == errno.EIO
            assert (value(store, A), store.log(Position(1), 10, rings=True)) == (b"1", [])
        assert put(store, A, b"2") == 2
