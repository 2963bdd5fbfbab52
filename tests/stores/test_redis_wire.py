"""Connections that are kept, given up when the server has closed them, and made anew."""

from contextlib import closing

from cairnfs.meta.stores import open_store
from cairnfs.meta.stores.redis_store import RedisStore
from support.redis_server import RedisServer
from support.rows import A, put

MORE_THAN_A_POOL_HAS = 120  # redis-py's pools refuse to make more than 100 connections


def test_a_connection_that_the_server_has_closed_is_replaced_and_counts_no_more(redis_server: RedisServer) -> None:
    with closing(open_store(redis_server.url)) as store, redis_server.client() as client:
        assert isinstance(store, RedisStore)
        for i in range(1, MORE_THAN_A_POOL_HAS + 1):
            assert put(store, A, b"%d" % i) == i
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def test_one_connection_serves_one_call_after_the_other(redis_server: RedisServer) -> None:
    with closing(open_store(redis_server.url)) as store, redis_server.client() as client:
        before = client.info("stats")["total_connections_received"]
        for i in range(1, 21):
            assert put(store, A, b"%d" % i) == i
        assert client.info("stats")["total_connections_received"] - before <= 1
