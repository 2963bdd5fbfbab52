"""Redis servers that have lost commits: replicas that take over, restarts."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ExpectedLogs

from cairnfs.errors import StoreError
from cairnfs.meta.ids import INODE_BATCH, PACK_BATCH, Ids
from cairnfs.meta.stores.base import ConditionFailed, LogTrimmed, Put, Unchanged
from cairnfs.types import Position, SessionId
from cairnfs.volume import format_volume, new_format
from support.compiled import Node
from support.engine import Engine
from support.redis_rows import opened, synced
from support.redis_server import RedisServer
from support.rows import A, B, put


def test_a_server_that_has_lost_commits_counts_as_a_gap(redis_server: RedisServer) -> None:
    with opened(redis_server.url) as store, opened(redis_server.url) as other, redis_server.client() as client:
        put(store, A, b"1")
        put(store, A, b"2")
        assert len(store.log(Position(0), 10)) == 2
        client.rpop(b"{cairnfs:0}log")  # what failing over to a replica that lacks the newest commit does
        client.decr(b"{cairnfs:0}position")
        put(other, B, b"3")
        assert other.position() == 2
        with pytest.raises(LogTrimmed):
            store.log(Position(2), 10)
        assert [record.keys for record in store.log(Position(1), 10)] == [[B]]


def test_a_node_forgets_what_its_server_has_lost(redis_server: RedisServer, tmp_path: Path, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("the change log no longer reaches back")
    url = f"{redis_server.url}/6"
    format_volume(url, new_format("failed-over", bucket=str(tmp_path / "bucket")))
    node, other = Node(url), Engine(url)
    node.warm("file", b"old")
    with redis_server.client() as client:
        client.select(6)
        kept = {key: client.dump(key) for key in client.keys("*")}
        for n in range(5):
            node.warm("file", b"lost %d" % n)
        newest = node.arena.newest
        client.flushdb()  # what failing over to a replica that lacks the newest commits does
        for key, value_then in kept.items():
            client.restore(key, 0, value_then)
    node.follower.catch_up()
    assert node.arena.newest < newest
    assert node.files.read("file") == b"old"
    other.files.write("file", b"new")
    node.follower.catch_up()
    assert node.files.read("file") == b"new"
    assert node.arena.attr(node.files.ino("file")) is not None
    node.arena.check()
    other.close()
    node.engine.close()


def promote(replica: RedisServer) -> None:
    with replica.client() as client:
        client.replicaof("no", "one")


def follow(server: RedisServer, master: RedisServer) -> None:
    with server.client() as client:
        client.replicaof("127.0.0.1", str(master.port))
        while client.info("replication")["master_link_status"] != "up":
            time.sleep(0.01)


class Taken:
    """Numbers that a node has taken: whole batches of inodes and packs, and sessions."""

    def __init__(self) -> None:
        self.n = 0
        self.numbers: set[tuple[str, int]] = set()

    def take(self, ids: Ids, n_batches: int) -> None:
        self.n += n_batches * (INODE_BATCH + PACK_BATCH + 1)
        self.numbers |= {("inode", ids.inode()) for _ in range(n_batches * INODE_BATCH)}
        self.numbers |= {("pack", ids.pack()) for _ in range(n_batches * PACK_BATCH)}
        self.numbers |= {("session", ids.session()[0]) for _ in range(n_batches)}
        assert len(self.numbers) == self.n, "numbers have been given out twice"


def test_numbers_of_commits_that_a_failover_lost_are_not_given_out_again(
    own_server: Callable[..., RedisServer], tmp_path: Path
) -> None:
    first, second = own_server(), own_server()
    follow(second, first)
    format_volume(f"{first.url}/1", new_format("failing-over", bucket=str(tmp_path / "bucket")))
    synced(second, 1)
    taken = Taken()
    with opened(f"{first.url}/1") as before, opened(f"{second.url}/1") as after:
        old, new = Ids(before), Ids(after)
        promote(second)  # while the first one is cut off, and goes on
        taken.take(old, 3)
        taken.take(new, 1)
        taken.take(new, 3)
        follow(first, second)  # it comes back, without what it alone knew
        synced(first, 1)
        promote(first)  # and is master again, without having been started anew
        taken.take(new, 2)  # of the other, which is cut off by now
        taken.take(Ids(before), 2)
        first.kill()
        first.start()
        taken.take(Ids(before), 2)
        taken.take(old, 1)


def test_positions_of_commits_that_a_failover_lost_are_not_used_again(
    own_server: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """Else a row of one of these would look unchanged to whoever has read it, and a node that stood there up to date."""
    first, second = own_server(), own_server()
    follow(second, first)
    format_volume(f"{first.url}/1", new_format("failing-over", bucket=str(tmp_path / "bucket")))
    with opened(f"{first.url}/1") as before, opened(f"{second.url}/1") as after:
        before.commit([], [Put(A, b"known to both")])
        synced(second, 1)
        after.read([A])  # on a connection to a replica, which it leaves at its promotion
        promote(second)
        lost = [before.commit([], [Put(B, b"lost")]).position for _ in range(5)]
    with opened(f"{second.url}/1") as after:
        kept = [after.commit([], [Put(B, b"kept")]).position for _ in range(5)]
        assert kept == list(range(kept[0], kept[0] + 5)) and kept[0] > lost[-1]
        with pytest.raises(ConditionFailed):
            after.commit([Unchanged(B, lost[-1])], [Put(B, b"of something else")])
        for position in (lost[0] - 1, lost[-1], kept[0] - 2):
            with pytest.raises(LogTrimmed):
                after.log(position, 10)
        assert [record.position for record in after.log(kept[0], 10)] == kept[1:]


def test_positions_go_on_behind_a_gap_when_a_server_was_restarted(redis_server: RedisServer, tmp_path: Path) -> None:
    """It may have lost what it had not written to its disk."""
    format_volume(f"{redis_server.url}/1", new_format("restarted", bucket=str(tmp_path / "bucket")))
    with opened(f"{redis_server.url}/1") as store:
        before = store.commit([], [Put(A, b"1")]).position
        with opened(f"{redis_server.url}/1") as other:
            assert other.commit([], [Put(A, b"2")]).position == before + 1
        redis_server.stop()  # one that is killed may lose all of this: it writes late while it waits for the disk
        redis_server.start()
        assert store.position() > before + 1000
        with pytest.raises(LogTrimmed):
            store.log(Position(before + 1), 10)
        after = store.commit([Unchanged(A, Position(before + 1))], [Put(A, b"3")]).position
    with opened(f"{redis_server.url}/1") as store:
        assert store.position() == after


def test_a_restarted_server_goes_on_refusing_sessions_of_a_wiped_volume(redis_server: RedisServer) -> None:
    with opened(f"{redis_server.url}/1") as former, opened(f"{redis_server.url}/1") as tool:
        former.origin = SessionId(8)
        put(former, A, b"1")
        put(tool, A, b"1")  # so that no connection is made, and greeted, after the wipe
        tool.wipe(SessionId(9))
        put(tool, A, b"2")
        before = tool.position()
        redis_server.stop()
        redis_server.start()
        with pytest.raises(StoreError, match="volume of this session was destroyed"):
            put(former, A, b"3")
        assert tool.position() > before + 1000, "the server has not noticed that it was restarted"
        former.origin = SessionId(9)
        put(former, A, b"4")


def test_numbers_follow_each_other_on_one_server(redis_server: RedisServer, tmp_path: Path) -> None:
    format_volume(f"{redis_server.url}/1", new_format("numbers", bucket=str(tmp_path / "bucket")))
    with opened(f"{redis_server.url}/1") as store, opened(f"{redis_server.url}/1") as other:
        assert [Ids(each).inode() for each in (store, other, store)] == [2, 2 + INODE_BATCH, 2 + 2 * INODE_BATCH]
        assert [Ids(each).session()[0] for each in (store, other)] == [1, 2]
        assert [Ids(each).pack() for each in (store, other)] == [1, 1 + PACK_BATCH]
