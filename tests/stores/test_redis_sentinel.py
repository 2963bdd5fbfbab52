"""A Redis server with a replica, and a Sentinel that says who is master: failovers, also in the midst of commits."""

import gc
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cairnfs.errors import StoreError
from cairnfs.meta.stores import open_store
from cairnfs.meta.stores.base import Add
from support.redis_load import LIMIT_S, QUIET_S, ROWS, Load, load, until
from support.redis_rows import COUNT, counted, opened, synced
from support.redis_server import RedisServer
from support.stopping import stop_process

DB = 2
ROWS_KEY = b"{cairnfs:%d}r" % DB + ROWS

Maker = Callable[..., RedisServer]


class Group:
    """Master, replica or several, Sentinel."""

    def __init__(
        self,
        make: Maker,
        folder: Path,
        *options: str,
        program: str | None = None,
        down_after_ms: int = 500,
        n_replicas: int = 1,
        wait_replicas: int = 0,
    ) -> None:
        """`down_after_ms`: how long the Sentinel waits for a master that does not answer."""
        more = {} if program is None else {"program": program}
        self.master = make(*options, **more)
        self.replicas = [make("--replicaof", "127.0.0.1", str(self.master.port), *options, **more) for _ in range(n_replicas)]
        self.replica = self.replicas[0]
        config = folder / "sentinel.conf"
        config.write_text(
            f"sentinel monitor chief 127.0.0.1 {self.master.port} 1\nsentinel down-after-milliseconds chief {down_after_ms}\n"
            "sentinel failover-timeout chief 3000\n"
        )
        self.sentinel = make(config=config, **more)
        self.url = f"redis://chief,127.0.0.1:{self.sentinel.port}/{DB}"
        if wait_replicas:
            self.url += f"?wait-replicas={wait_replicas}"

    def role(self, server: RedisServer) -> object:
        with server.client() as client:
            return client.info("replication")["role"]

    def knows_replicas(self) -> bool:
        """The Sentinel, which can have one take over."""
        with self.sentinel.client() as client:
            return [each["flags"] for each in client.sentinel_slaves("chief")] == ["slave"] * len(self.replicas)

    def is_ready_for(self, running: Load) -> None:
        """Return when the replica can take over from the master, and commits are made."""
        running.goes_on()
        for replica in self.replicas:
            synced(replica, DB)
        until(self.knows_replicas)


def replicated(master: RedisServer, running: Load) -> set[bytes]:
    """Commits that were acknowledged and that the replica has."""
    with master.client() as client:
        kept = set(running.acknowledged)
        client.incr("mark")
        assert client.wait(1, 20_000) == 1
    return kept


def cut_off_unanswered(master: RedisServer, running: Load) -> None:
    """Every client is cut off when its commit has been made and before it is told, and cannot come back. A server that is stopped
    with all commits in hand tells of them when it goes on, and the next ones come too late: then again.
    """
    with master.client() as client:
        n_clients = client.config_get("maxclients")["maxclients"]
        connection = client.connection_pool.get_connection()

        def ask(*words: str | int | bytes) -> object:
            connection.send_command(*words)
            return connection.read_response()

        ask("SELECT", DB)
        for _ in range(20):
            stop_process(master.pid)
            running.stands_still()
            # It comes after their commits, and before these are answered: answers are sent when all that has arrived is done.
            connection.send_command("CLIENT", "KILL", "TYPE", "normal")
            connection.send_command("CONFIG", "SET", "maxclients", "1")
            os.kill(master.pid, signal.SIGCONT)
            connection.read_response()
            connection.read_response()
            assert ask("WAIT", "1", "20000") == 1
            running.stands_still()
            if ask("HLEN", ROWS_KEY) > len(running.acknowledged):
                break
            ask("CONFIG", "SET", "maxclients", n_clients)
            running.goes_on()
        else:
            pytest.fail("all commits were told of each time")
        client.connection_pool.release(connection)


def test_commits_that_a_killed_master_has_made_and_not_told_are_not_made_again(own_server: Maker, tmp_path: Path) -> None:
    group = Group(own_server, tmp_path, down_after_ms=10_000)  # it is stopped, and refuses the Sentinel, before it is killed
    with opened(group.url, LIMIT_S) as store:
        with load(store) as running:
            group.is_ready_for(running)
            cut_off_unanswered(group.master, running)
            n_told = len(running.acknowledged)
            with group.replica.client() as client:
                client.select(DB)
                n_made = client.hlen(ROWS_KEY)
            group.master.kill()
            assert n_made > n_told
            running.goes_on()
            assert group.role(group.replica) == "master"
        assert not running.lost(), "the replica had them"


def test_commits_go_on_when_a_master_is_killed_among_them(own_server: Maker, tmp_path: Path) -> None:
    """A replica may lack the last that were acknowledged, and only these."""
    group = Group(own_server, tmp_path)
    with opened(group.url, LIMIT_S) as store:
        with load(store) as running:
            group.is_ready_for(running)
            kept = replicated(group.master, running)
            running.goes_on()
            group.master.kill()
            later = set(running.begun)
            running.goes_on()
        lost = running.lost()
        assert not lost & kept
        assert lost <= later, "the new master lost what it had acknowledged"


@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_a_planned_failover_among_commits(kind: str, own_server: Maker, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Redis's Sentinel promotes the replica first, and the master then refuses (`min-replicas-to-write`): what it took at that
    moment is lost. Valkey's can have the master wait for the replica, and then nothing is.
    """
    program = request.getfixturevalue("valkey_server").program if kind == "valkey" else None
    group = Group(own_server, tmp_path, "--min-replicas-to-write", "1", program=program)
    with opened(group.url, LIMIT_S) as store:
        with load(store) as running:
            group.is_ready_for(running)
            kept = replicated(group.master, running)
            running.goes_on()
            with group.sentinel.client() as client:
                coordinated = ["COORDINATED"] if kind == "valkey" else []
                client.execute_command("SENTINEL", "FAILOVER", "chief", *coordinated)
            until(lambda: group.role(group.replica) == "master" and group.role(group.master) == "slave")
            later = set(running.begun)
            running.goes_on()
        lost = running.lost()
        assert not lost & kept
        assert lost <= later
        assert not lost or kind == "redis"


@pytest.mark.parametrize("how", ["killed", "planned"])
def test_nothing_is_lost_where_a_replica_is_waited_for(how: str, own_server: Maker, tmp_path: Path) -> None:
    group = Group(own_server, tmp_path, "--appendonly", "yes", n_replicas=2, wait_replicas=1)
    with opened(group.url, LIMIT_S) as store:
        with load(store) as running:
            group.is_ready_for(running)
            if how == "killed":
                group.master.kill()
            else:
                with group.sentinel.client() as client:
                    client.execute_command("SENTINEL", "FAILOVER", "chief")
            until(lambda: "master" in [group.role(replica) for replica in group.replicas])
            running.goes_on()
        assert not running.lost()
        assert store.hazards() == []
    with opened(group.url.partition("?")[0]) as store:
        assert ["wait-replicas=1" in hazard.text for hazard in store.hazards()] == [True]


@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_a_commit_is_not_answered_before_its_replica_has_it(kind: str, own_server: Maker, request: pytest.FixtureRequest) -> None:
    """Whether it is sent for the first time, or asked for again on another connection, which has written nothing before."""
    more = {"program": request.getfixturevalue("valkey_server").program} if kind == "valkey" else {}
    master = own_server(**more)
    replica = own_server("--replicaof", "127.0.0.1", str(master.port), **more)
    with opened(f"{master.url}/{DB}?wait-replicas=1", LIMIT_S) as store, ThreadPoolExecutor(1) as pool, master.client() as client:
        assert store.commit([], [Add(COUNT, 0, 1)]).added == [1]
        client.select(DB)
        stop_process(replica.pid)
        try:
            waiting = pool.submit(store.commit, [], [Add(COUNT, 0, 1)])
            for _ in range(3):
                until(lambda: [each for each in client.client_list() if each["cmd"] == "wait"])
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                time.sleep(QUIET_S)
            assert counted(store) == 2 and not waiting.done()
        finally:
            os.kill(replica.pid, signal.SIGCONT)
        assert waiting.result(LIMIT_S).added == [2]
        assert counted(store) == 2


def test_too_few_replicas_are_an_error(own_server: Maker) -> None:
    master = own_server()
    with opened(f"{master.url}/{DB}?wait-replicas=2", 1) as store:
        with pytest.raises(StoreError, match=r"has not answered for 1 s: 0 of 2 replicas \(wait-replicas\) had a commit"):
            store.commit([], [Add(COUNT, 0, 1)])
        assert counted(store) == 1, "it was made, and nobody may rely on it"


def test_connections_to_sentinels_end_with_the_store(own_server: Maker, tmp_path: Path) -> None:
    group = Group(own_server, tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    gc.disable()  # which may close what has been forgotten
    try:
        for database in (0, 2):
            with opened(f"{group.url.removesuffix(str(DB))}{database}") as store:
                store.commit([], [Add(COUNT, 0, 1)])
            assert len(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()


def test_server_and_sentinel_have_passwords_of_their_own(
    own_server: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    master = own_server(password="one")
    config = tmp_path / "sentinel.conf"
    config.write_text(f"sentinel monitor chief 127.0.0.1 {master.port} 1\nsentinel auth-pass chief one\nrequirepass another\n")
    sentinel = own_server(config=config, password="another")
    url = f"redis://:one@chief,127.0.0.1:{sentinel.port}/{DB}"
    monkeypatch.delenv("SENTINEL_PASSWORD", raising=False)
    with pytest.raises(StoreError, match="has not answered"):
        open_store(url, io_timeout_s=0.3)
    monkeypatch.setenv("SENTINEL_PASSWORD", "another")
    with opened(url) as store:
        assert store.commit([], [Add(COUNT, 0, 1)]).added == [1]


def test_sentinel_leads_to_whoever_is_master(own_server: Maker, tmp_path: Path) -> None:
    group = Group(own_server, tmp_path)
    with opened(group.url, LIMIT_S) as store, ThreadPoolExecutor(2) as pool:
        assert store.commit([], [Add(COUNT, 0, 1)]).added == [1]
        synced(group.replica, DB)
        group.master.kill()
        done = [pool.submit(store.commit, [], [Add(COUNT, 0, 1)]) for _ in range(20)]
        assert sorted(each.result().added[0] for each in done) == list(range(2, 22))
        assert counted(store) == 21
        assert group.role(group.replica) == "master"
