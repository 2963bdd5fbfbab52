"""The relay through which Redis answers later: what is said passes unchanged, and no answer is there before its time."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from conftest import missing

from cairnfs.bench.relay import relayed, round_trip_ms
from cairnfs.bench.servers import REDIS_SERVER, redis_server
from support.answers import until

DELAY_MS = 30.0  # longer than a busy machine takes for a PING, as a rule; what is asserted holds anyway
MIB = 1 << 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    if REDIS_SERVER is None:
        missing("redis-server")
    with redis_server(tmp_path / "redis", appendonly=False) as url:
        yield url


def test_answers_come_later_whole_and_in_order(server: str) -> None:
    big = os.urandom(3 * MIB)
    with relayed(server, DELAY_MS) as later:
        assert round_trip_ms(later) >= DELAY_MS
        with redis.Redis.from_url(later) as one, redis.Redis.from_url(later) as other, one.pipeline() as many:
            one.set("big", big)
            assert other.get("big") == big
            for i in range(1000):
                many.rpush("list", i)
            assert many.execute() == list(range(1, 1001))


def test_each_side_is_told_when_the_other_ends(server: str) -> None:
    with relayed(server, DELAY_MS) as later, redis.Redis.from_url(server) as direct:
        with socket.create_connection(("127.0.0.1", int(later.rpartition(":")[2])), 20) as client:
            client.sendall(b"CLIENT ID\r\nPING\r\n")
            answers = client.makefile("rb")
            number = int(answers.readline()[1:])
            assert answers.readline() == b"+PONG\r\n"
            assert direct.client_kill_filter(_id=str(number)) == 1
            assert answers.read() == b""
        with socket.create_connection(("127.0.0.1", int(later.rpartition(":")[2])), 20) as client:
            client.sendall(b"BLPOP none 0\r\n")
            until(lambda: "blpop" in commands_of(direct), "the server has not heard of the client", 30)
        until(lambda: "blpop" not in commands_of(direct), "the server has not heard that the client ended", 30)


def commands_of(server: "redis.Redis") -> list[str]:
    """What its clients have asked for last."""
    return [client["cmd"] for client in server.client_list()]


def test_who_comes_when_the_server_is_gone_is_sent_away(tmp_path: Path, server: str) -> None:
    with redis_server(tmp_path / "other", appendonly=False) as url, relayed(url, DELAY_MS) as later:
        with redis.Redis.from_url(url) as direct:
            direct.shutdown(nosave=True)
        with pytest.raises(redis.ConnectionError):
            round_trip_ms(later)
