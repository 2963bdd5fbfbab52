"""Connections that are kept, given up when the server has closed them, and made anew."""

import os
from collections.abc import Callable
from contextlib import closing

from cairnfs.ext.log_end import LogEnd
from cairnfs.meta.stores import open_store
from cairnfs.meta.stores.redis_store import RedisStore
from support.redis_rows import opened
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


def test_a_child_asks_on_connections_of_its_own(redis_server: RedisServer) -> None:
    with closing(open_store(redis_server.url)) as store, redis_server.client() as client:
        assert put(store, A, b"1") == 1
        before = client.info("stats")["total_connections_received"]
        child = os.fork()
        if child == 0:
            os._exit(0 if store.position() == 1 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert client.info("stats")["total_connections_received"] - before == 1
        assert store.position() == 1
        assert client.info("stats")["total_connections_received"] - before == 1


def test_compiled_code_asks_on_connections_of_its_own(redis_server: RedisServer) -> None:
    end = LogEnd()
    url, elsewhere = f"{redis_server.url}/2", redis_server.url
    with opened(url) as store, opened(url) as other, opened(elsewhere) as separate:
        for _ in range(3):
            assert (link := store.end_link()) is not None
            end.add(*link)
        for i in range(1, 20):
            position = put(other if i % 2 else store, A, b"%d" % i)
            assert end.ask() == position == store.position()
            put(separate, A, b"x")
        assert end.n_links == 3
        end.close()


def test_connections_for_compiled_code_are_not_the_pools_any_more(redis_server: RedisServer) -> None:
    with opened(redis_server.url) as store:
        for _ in range(MORE_THAN_A_POOL_HAS + 1):
            link = store.end_link()
            assert link is not None
            os.close(link.fd)
        assert put(store, A, b"x")


def test_a_server_that_was_restarted_is_asked_after_it_was_greeted(own_server: Callable[..., RedisServer]) -> None:
    """Else it would tell a position from before: it may have lost the newest commits, whose positions are not used again."""
    server = own_server("--appendfsync", "always")  # else it may write late while it waits for the disk
    end = LogEnd()
    with opened(server.url) as store:
        before = put(store, A, b"x")
        assert (link := store.end_link()) is not None
        end.add(*link)
        assert end.ask() == before
        server.kill()
        server.start()
        assert end.ask() is None
        assert end.wants_link
        assert (link := store.end_link()) is not None
        end.add(*link)
        told = end.ask()
        assert told is not None
        assert told > before + 2**26
        assert told == store.position()
        server.kill()
        assert end.ask() is None
        assert store.end_link() is None
        server.start()
        end.close()
