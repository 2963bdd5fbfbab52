"""A Redis server that cannot write to its disk for the length of a block, and takes no writes meanwhile (MISCONF)."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import redis

from support.redis_server import RedisServer
from support.storing import wait


def rewrite_log(client: redis.Redis) -> None:
    client.bgrewriteaof()
    wait(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0, "it rewrites its log for ever")


@contextmanager
def a_snapshot_fails(server: RedisServer, client: redis.Redis) -> Iterator[None]:
    client.config_set("save", "3600 1000")  # else it does not mind
    in_the_way = server.folder / "dump.rdb"
    in_the_way.mkdir()

    def snapshot(outcome: str) -> None:
        client.bgsave()
        wait(lambda: client.info("persistence")["rdb_bgsave_in_progress"] == 0, "it takes snapshots for ever")
        assert client.info("persistence")["rdb_last_bgsave_status"] == outcome

    snapshot("err")
    yield
    in_the_way.rmdir()
    snapshot("ok")


@contextmanager
def its_log_is_on_a_full_disk(server: RedisServer, client: redis.Redis) -> Iterator[None]:
    (server.folder / "appendonlydir" / "appendonly.aof.2.incr.aof").symlink_to("/dev/full")
    rewrite_log(client)
    with suppress(redis.ResponseError):  # others may have written
        client.set("what", "it cannot write")
    wait(lambda: client.info("persistence")["aof_last_write_status"] == "err", "it could write its log")
    yield
    client.config_set("appendonly", "no")
