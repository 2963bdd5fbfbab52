"""Nodes of a Redis Cluster, on loopback, and the moving of a slot from one to another."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.redis_server import REDIS_SERVER, RedisServer, free_port

N_SLOTS = 16384
PATIENCE_S = 20.0
PATIENT_MS, HASTY_MS = 15_000, 1000
FAILOVER_S = 6.0  # after 5 s a planned one is given up


def start_node(folder: Path, program: str | None = REDIS_SERVER) -> RedisServer:
    """A server that is a Cluster of its own, without slots."""
    options = {
        "cluster-enabled": "yes",
        "cluster-port": free_port(),
        "cluster-allow-replica-migration": "no",
        "repl-diskless-sync-delay": 0,
    }
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


def join(*servers: RedisServer) -> None:
    """Make one Cluster of several."""
    for i, server in enumerate(servers):
        for other in servers[:i]:
            bus_port = other.options[other.options.index("--cluster-port") + 1]
            ask(server, "CLUSTER", "MEET", "127.0.0.1", other.port, bus_port)
    wait_until(lambda: all(ask(server, "CLUSTER", "NODES").count(b" connected") == len(servers) for server in servers))


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


class Shards:
    """Masters `first`, with two replicas and all slots but two, `second`, with one replica, and a third: as many as it takes to
    agree that one is dead and another follows it.
    """

    def __init__(self, folder: Path) -> None:
        self.servers: list[RedisServer] = []
        try:
            self._start(folder)
        except BaseException:
            self.kill()
            raise

    def _start(self, folder: Path) -> None:
        for i in range(6):
            self.servers.append(start_node(folder / f"node{i}"))
        self.first, self.second = self.servers[:3], self.servers[3:5]  # each as it began: a master, its replicas
        masters = self.first[0], self.second[0], self.servers[5]
        own(masters[0], 0, N_SLOTS - 3)
        own(masters[1], N_SLOTS - 2, N_SLOTS - 2)
        own(masters[2], N_SLOTS - 1, N_SLOTS - 1)
        join(*self.servers)
        for master, *replicas in (self.first, self.second):
            for replica in replicas:
                ask(replica, "CLUSTER", "REPLICATE", name_of(master))
        self.settle()

    def settle(self) -> None:
        """Return when all nodes agree on who is who, and all replicas have what their masters have."""
        self.suspect_after(HASTY_MS)  # which is also how often they tell each other
        wait_until(lambda: all(is_up(server) for server in self.servers))
        wait_until(lambda: [roles(server) for server in self.servers] == [(3, 3)] * len(self.servers))
        wait_until(lambda: [len(self.replicas(group)) for group in (self.first, self.second)] == [2, 1])
        self.suspect_after(PATIENT_MS)

    def suspect_after(self, n_ms: int) -> None:
        """A node that does not answer for so long is given up."""
        for server in self.servers:
            ask(server, "CONFIG", "SET", "cluster-node-timeout", n_ms)

    def master(self, group: list[RedisServer]) -> RedisServer:
        """That of a group just now."""
        (found,) = [server for server in group if server.is_running and is_master(server)]
        return found

    def replicas(self, group: list[RedisServer]) -> list[RedisServer]:
        """Those that follow its master."""
        return [server for server in group if ask(server, "INFO", "replication").get("master_link_status") == "up"]

    def kill(self) -> None:
        for server in self.servers:
            server.kill()


def fail_over(replica: RedisServer) -> None:
    """Have a replica take its master's place, as planned. On a busy machine they may give it up, and are told again."""
    told_s = 0.0

    def is_over() -> bool:
        nonlocal told_s
        if time.monotonic() > told_s + FAILOVER_S and not is_master(replica):
            ask(replica, "CLUSTER", "FAILOVER")
            told_s = time.monotonic()
        return is_master(replica)

    wait_until(is_over)


def is_master(server: RedisServer) -> bool:
    return bool(ask(server, "INFO", "replication")["role"] == "master")


def roles(server: RedisServer) -> tuple[int, int]:
    """How many masters and replicas it sees in order."""
    flags = [line.split()[2].removeprefix(b"myself,") for line in ask(server, "CLUSTER", "NODES").splitlines()]
    return flags.count(b"master"), flags.count(b"slave")
