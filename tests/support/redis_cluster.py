"""Nodes of a Redis Cluster, on loopback, and the moving of a slot from one to another."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.redis_server import REDIS_SERVER, RedisServer, free_port

N_SLOTS = 16384
PATIENCE_S = 20.0


def start_node(folder: Path, program: str | None = REDIS_SERVER) -> RedisServer:
    """A server that is a Cluster of its own, without slots."""
    options = {"cluster-enabled": "yes", "cluster-port": free_port(), "repl-diskless-sync-delay": 0}
    return RedisServer(folder, *(word for name, value in options.items() for word in (f"--{name}", str(value))), program=program)


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


def join(first: RedisServer, second: RedisServer) -> None:
    """Make one Cluster of two."""
    bus_port = first.options[first.options.index("--cluster-port") + 1]
    ask(second, "CLUSTER", "MEET", "127.0.0.1", first.port, bus_port)
    wait_until(lambda: all(ask(server, "CLUSTER", "NODES").count(b" connected") == 2 for server in (first, second)))


def own(server: RedisServer, first_slot: int, last_slot: int) -> None:
    ask(server, "CLUSTER", "ADDSLOTSRANGE", first_slot, last_slot)


def is_up(server: RedisServer) -> bool:
    return b"cluster_state:ok" in ask(server, "CLUSTER", "INFO")


def two_nodes(folder: Path, tag: str, program: str | None = REDIS_SERVER) -> tuple[RedisServer, RedisServer, int]:
    """The node that has the slot of a hash tag, the one that has the other half of the slots, and the slot."""
    one, other = start_node(folder / "one", program), start_node(folder / "other", program)
    join(one, other)
    own(one, 0, N_SLOTS // 2 - 1)
    own(other, N_SLOTS // 2, N_SLOTS - 1)
    wait_until(lambda: is_up(one) and is_up(other))
    slot = int(ask(one, "CLUSTER", "KEYSLOT", tag))
    return (one, other, slot) if slot < N_SLOTS // 2 else (other, one, slot)


def start_moving(slot: int, source: RedisServer, target: RedisServer) -> None:
    ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", name_of(source))
    ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", name_of(target))


def move_keys(slot: int, source: RedisServer, target: RedisServer) -> None:
    while keys := ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 10):
        ask(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)


def end_moving(slot: int, source: RedisServer, target: RedisServer) -> None:
    for server in (target, source):
        ask(server, "CLUSTER", "SETSLOT", slot, "NODE", name_of(target))
