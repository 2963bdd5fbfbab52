"""`wait-replicas` in a Redis Cluster: commits count when replicas of the node that has the volume's slot have them."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from cairnfs.meta.stores.base import Add
from cairnfs.meta.stores.redis_link import _passes
from support.redis_cluster import HASTY_MS, Shards, ask, end_moving, fail_over, is_master, move_keys, start_moving
from support.redis_load import LIMIT_S, QUIET_S, load, until
from support.redis_rows import COUNT, counted, opened
from support.redis_server import RedisServer
from support.stopping import stop_process


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, shared_redis: RedisServer) -> Iterator[Shards]:
    """Each test leaves it as it found it, but for who is master, and has a database of its own."""
    made = Shards(tmp_path_factory.mktemp("cluster"))
    yield made
    made.kill()


def goes_on(server: RedisServer) -> None:
    os.kill(server.pid, signal.SIGCONT)


def waits(server: RedisServer) -> bool:
    """Whether a client waits for replicas."""
    with server.client() as client:
        return any(each["cmd"] == "wait" for each in client.client_list())


def test_a_commit_is_not_answered_before_a_replica_has_it(cluster: Shards) -> None:
    """Whether it is sent for the first time, or asked for again on another connection. Any node's URL will do."""
    master, replicas = cluster.master(cluster.first), cluster.replicas(cluster.first)
    with opened(f"{replicas[0].url}/1?wait-replicas=1", LIMIT_S) as store, ThreadPoolExecutor(1) as pool:
        assert store.commit([], [Add(COUNT, 0, 1)]).added == [1]
        try:
            for replica in replicas:
                stop_process(replica.pid)
            waiting = pool.submit(store.commit, [], [Add(COUNT, 0, 1)])
            for _ in range(2):
                until(lambda: waits(master))
                ask(master, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                time.sleep(QUIET_S)
            assert counted(store) == 2 and not waiting.done()
            goes_on(replicas[1])
            assert waiting.result(LIMIT_S).added == [2]
        finally:
            for replica in replicas:
                goes_on(replica)
        assert counted(store) == 2


def test_a_commit_whose_master_steps_down_meanwhile_is_answered_by_the_next_one(cluster: Shards) -> None:
    """Redis then ends all waiting with an error."""
    master, (one, other) = cluster.master(cluster.first), cluster.replicas(cluster.first)
    with opened(f"{master.url}/2?wait-replicas=2", LIMIT_S) as store, ThreadPoolExecutor(1) as pool:
        assert store.commit([], [Add(COUNT, 0, 1)]).added == [1]
        try:
            stop_process(other.pid)
            waiting = pool.submit(store.commit, [], [Add(COUNT, 0, 1)])
            until(lambda: waits(master))
            fail_over(one)
            until(lambda: waits(one))
            assert counted(store) == 2 and not waiting.done()
        finally:
            goes_on(other)
        assert waiting.result(LIMIT_S).added == [2]
        assert counted(store) == 2
    cluster.settle()


def test_a_master_that_has_stepped_down_between_a_commit_and_the_wait_behind_it_is_asked_no_more(cluster: Shards) -> None:
    with pytest.raises(redis.ResponseError) as refused:
        ask(cluster.replicas(cluster.first)[0], "WAIT", 1, 10)
    assert _passes(refused.value)


@pytest.mark.parametrize(("db", "how"), [(3, "planned"), (4, "killed")])
def test_a_failover_loses_nothing_that_was_answered(db: int, how: str, cluster: Shards) -> None:
    before, replica = cluster.master(cluster.first), cluster.replicas(cluster.first)[0]
    with opened(f"{cluster.second[0].url}/{db}?wait-replicas=1", LIMIT_S) as store:
        with load(store) as running:
            running.goes_on()
            if how == "killed":
                cluster.suspect_after(HASTY_MS)
                before.kill()
                until(lambda: [each for each in cluster.first if each is not before and is_master(each)])
            else:
                fail_over(replica)
            running.goes_on()
        assert not running.lost()
    if how == "killed":
        before.start()
    cluster.settle()


def test_where_the_slot_moves_replicas_of_its_new_master_count(cluster: Shards) -> None:
    source, target = cluster.master(cluster.first), cluster.master(cluster.second)
    (replica,) = cluster.replicas(cluster.second)
    slot = int(ask(source, "CLUSTER", "KEYSLOT", "{cairnfs:5}"))
    with opened(f"{source.url}/5?wait-replicas=1", LIMIT_S) as store, ThreadPoolExecutor(1) as pool:
        with load(store) as running:
            running.goes_on()
            start_moving(slot, source, target)
            move_keys(slot, source, target)
            end_moving(slot, source, target)
            running.goes_on()
        assert not running.lost()
        n_before = counted(store)
        stop_process(replica.pid)
        try:
            waiting = pool.submit(store.commit, [], [Add(COUNT, 0, 1)])
            until(lambda: waits(target))
            time.sleep(QUIET_S)
            assert counted(store) == n_before + 1 and not waiting.done()
        finally:
            goes_on(replica)
        assert waiting.result(LIMIT_S).added == [n_before + 1]


def test_who_does_not_wait_is_told_that_failovers_lose_commits(cluster: Shards) -> None:
    with opened(f"{cluster.second[0].url}/6") as store:
        assert ["wait-replicas=1" in hazard.text for hazard in store.hazards()] == [True]
    with opened(f"{cluster.second[0].url}/6?wait-replicas=1") as store:
        assert store.hazards() == []
