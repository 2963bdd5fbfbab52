"""What only the Redis store must do: find its server, bear its absence, and never commit twice."""

import gc
import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Semaphore

import pytest
from conftest import ExpectedLogs

from cairnfs.errors import StoreError, UsageError
from cairnfs.meta.ids import INODE_BATCH, PACK_BATCH, Ids
from cairnfs.meta.stores import open_store, redis_store
from cairnfs.meta.stores.base import Add, ConditionFailed, Delete, Effect, Exists, LogTrimmed, Put, Unchanged
from cairnfs.meta.stores.redis_link import Address, parse_url
from cairnfs.meta.stores.redis_store import RedisStore
from cairnfs.types import Position
from cairnfs.volume import format_volume, new_format
from support.compiled import Node
from support.engine import Engine
from support.redis_server import RedisServer, free_port
from support.relay import Relay
from support.rows import A, B, put, value

COUNT = (b"count", b"")


@contextmanager
def opened(url: str, io_timeout_s: float = 20.0) -> Iterator[RedisStore]:
    store = open_store(url, io_timeout_s=io_timeout_s)
    assert isinstance(store, RedisStore)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def own_server(tmp_path: Path, shared_redis: RedisServer) -> Iterator[Callable[..., RedisServer]]:
    """Makes servers that only this test uses."""
    with ExitStack() as started:

        def make(*options: str, **more: object) -> RedisServer:
            server = RedisServer(tmp_path / f"redis{random.getrandbits(32)}", *options, **more)  # type: ignore[arg-type]
            started.callback(server.kill)
            return server

        yield make


@pytest.fixture
def short_folder() -> Iterator[str]:
    """For a socket: its path has at most 107 bytes, and those of tests' own folders may have more."""
    with TemporaryDirectory(prefix="redis-") as folder:
        yield folder


def counted(store: RedisStore) -> int:
    return int.from_bytes(value(store, COUNT) or b"", "big")


class Proxy(Relay):
    """Between store and server. `lose_reply`: the next commit is passed on, and its connection dies before the answer."""

    def __init__(self, port: int) -> None:
        self.lose_reply = threading.Event()
        self.n_lost = 0
        super().__init__(port)

    def serve(self, client: socket.socket, server: socket.socket) -> None:
        while data := client.recv(1 << 20):
            server.sendall(data)
            reply = server.recv(1 << 20)
            if self.lose_reply.is_set() and b"EVALSHA" in data:
                self.lose_reply.clear()
                self.n_lost += 1
                return
            client.sendall(reply)


def test_a_commit_whose_answer_is_lost_happens_once_and_is_told(redis_server: RedisServer) -> None:
    proxy = Proxy(redis_server.port)
    with opened(f"redis://127.0.0.1:{proxy.port}") as store:
        assert store.commit([], [Add(COUNT, 0, 1)]).added == [1]
        for n in range(2, 20):
            proxy.lose_reply.set()
            committed = store.commit([], [Add(COUNT, 0, 1), Put(A, b"x")])
            assert (committed.position, committed.added) == (n, [n])
            assert committed.rows[COUNT] == n.to_bytes(8, "big")
        assert proxy.n_lost == 18
        assert counted(store) == 19
    proxy.close()


def test_a_commit_that_arrives_after_its_client_went_on_is_refused(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(redis_server.url) as store:
        put(store, A, b"1")
        put(store, A, b"2")
        with store._slot() as slot:
            slot[1] -= 2  # the number of the one before the last
        with pytest.raises(StoreError, match="LATE"):
            put(store, A, b"1")
        assert value(store, A) == b"2"


def test_commits_go_on_when_the_server_is_killed_and_started_again(own_server: Callable[..., RedisServer]) -> None:
    server = own_server("--appendfsync", "always")  # "everysec" writes late, too, while it waits for the disk
    n_commits, n_threads = 400, 4
    with opened(server.url, 60) as store, ThreadPoolExecutor(n_threads) as pool:
        done = [pool.submit(store.commit, [], [Add(COUNT, 0, 1)]) for _ in range(n_commits)]
        for _ in range(3):
            server.kill()
            server.start()
        positions = sorted(each.result().position for each in done)
        gaps = [after for before, after in pairwise(positions) if after != before + 1]
        assert len(set(positions)) == n_commits and len(gaps) <= 3, gaps
        assert counted(store) == n_commits


def test_a_server_that_stays_away_is_an_error_in_time(own_server: Callable[..., RedisServer]) -> None:
    server = own_server()
    with opened(server.url, 0.5) as store:
        server.kill()
        with pytest.raises(StoreError, match=r"has not answered for 0\.5 s"):
            put(store, A, b"")
        with pytest.raises(StoreError, match="has not answered"):
            store.read([A])
    with pytest.raises(StoreError, match="has not answered"):
        open_store(server.url, io_timeout_s=0.1)


def test_scripts_that_the_server_has_forgotten_are_sent_again(redis_server: RedisServer) -> None:
    with opened(redis_server.url) as store, redis_server.client() as client:
        for n in range(3):
            assert put(store, A, b"%d" % n) == n + 1
            assert store.scan(b"p", None, 10)[0][0] == b"a"
            client.script_flush()


def test_partitions_are_in_order_with_and_without_an_index(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_store, "INDEX_FROM", 20)
    chance = random.Random(4)
    model: dict[bytes, bytes] = {}
    with opened(redis_server.url) as store, redis_server.client() as client:
        for _ in range(300):
            effects: list[Effect] = []
            for _ in range(chance.randrange(1, 8)):
                key = bytes([chance.randrange(256), chance.randrange(3)])
                if chance.random() < (0.9 if len(model) < 40 else 0.3):
                    effects.append(Put((b"part", key), key))
                    model[key] = key
                else:
                    key = chance.choice([*model, key])
                    effects.append(Delete((b"part", key)))
                    model.pop(key, None)
            store.commit([], effects)
            after = chance.choice([None, b"", bytes([chance.randrange(256)])])
            found = [key for key, _ in store.scan(b"part", after, 10)]
            assert found == sorted(key for key in model if after is None or key > after)[:10]
        assert client.exists(b"{cairnfs:0}xpart")
        assert client.zcard(b"{cairnfs:0}xpart") == client.hlen(b"{cairnfs:0}rpart") == len(model)
        store.commit([], [Delete((b"part", key)) for key in model])
        assert not client.exists(b"{cairnfs:0}xpart", b"{cairnfs:0}rpart")


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


@contextmanager
def listening(store: RedisStore) -> Iterator[Semaphore]:
    """Released at first, and whenever the bell rings."""
    rung, ended = Semaphore(0), threading.Event()
    thread = threading.Thread(target=store.listen, args=(rung.release, ended))
    thread.start()
    try:
        yield rung
    finally:
        ended.set()
        thread.join(10)


def test_whoever_has_read_the_log_to_its_end_is_called_at_the_next_commit(redis_server: RedisServer) -> None:
    with opened(redis_server.url) as store, opened(redis_server.url) as other, listening(store) as rung:
        assert rung.acquire(timeout=5)
        for _ in range(3):
            put(other, A, b"1")
            position = other.position()
            assert not rung.acquire(timeout=0.2), "nobody has asked for it"
            assert store.log(position, 10) == []
            put(other, A, b"2")
            assert not rung.acquire(timeout=0.2), "nor that it ring"
            assert len(store.log(position, 10, rings=True)) == 1
            put(other, A, b"3")
            assert not rung.acquire(timeout=0.2), "the log had something"
            assert store.log(other.position(), 10, rings=True) == []
            put(other, A, b"4")
            put(other, A, b"5")
            assert rung.acquire(timeout=5)
            assert not rung.acquire(timeout=0.2), "once for all"


def test_listening_goes_on_after_the_server_was_away(own_server: Callable[..., RedisServer]) -> None:
    server = own_server()
    with opened(server.url) as store, listening(store) as rung:
        assert rung.acquire(timeout=5)
        server.kill()
        server.start()
        assert rung.acquire(timeout=5)
        assert store.log(Position(0), 10, rings=True) == []
        put(store, A, b"1")
        assert rung.acquire(timeout=5)


def test_a_user_without_channels_commits_and_does_not_listen(own_server: Callable[..., RedisServer]) -> None:
    server = own_server()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "me", "on", ">mine", "~{cairnfs:*", "resetchannels", "+@all")
    with opened(f"redis://me:mine@127.0.0.1:{server.port}") as store:
        store.listen(lambda: None, threading.Event())  # and does not try for ever
        assert store.log(Position(0), 10, rings=True) == []
        assert put(store, A, b"1") == 1
        assert value(store, A) == b"1"


def test_volumes_in_databases_of_one_server_are_separate(redis_server: RedisServer) -> None:
    with opened(f"{redis_server.url}/1") as one, opened(f"{redis_server.url}/2") as two:
        put(one, A, b"1")
        put(two, A, b"2")
        one.wipe()
        assert value(one, A) is None
        assert value(two, A) == b"2"
        assert two.partitions(b"", None, 10) == [b"p"]


def test_a_login_is_needed_and_comes_from_url_environment_or_file(
    own_server: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, short_folder: str
) -> None:
    server = own_server("--unixsocket", f"{short_folder}/s", password="pass word")
    where = f"127.0.0.1:{server.port}"
    monkeypatch.delenv("META_PASSWORD", raising=False)
    with pytest.raises(StoreError, match="refuses the login"):
        open_store(f"redis://{where}", io_timeout_s=5)
    with pytest.raises(StoreError, match="refuses the login") as refused:
        open_store(f"redis://:secret@{where}", io_timeout_s=5)
    assert "secret" not in str(refused.value)
    (tmp_path / "password").write_text("pass word\n")
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "me", "on", ">mine", "~{cairnfs:*", "+@all")
    urls = [f"redis://:pass%20word@{where}", f"redis://{where}?password-file={tmp_path}/password", f"redis://me:mine@{where}/0"]
    for n, url in enumerate([*urls, f"unix://:pass%20word@{short_folder}/s?db=0"]):
        with opened(url) as store:
            assert put(store, A, b"") == n + 1
    monkeypatch.setenv("META_PASSWORD", "pass word")
    with opened(f"redis://{where}") as store:
        assert put(store, A, b"") == len(urls) + 2


def test_a_user_without_permission_is_told_what_is_needed(own_server: Callable[..., RedisServer]) -> None:
    server = own_server()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "me", "on", ">mine", "~other", "+@all")
    with opened(f"redis://me:mine@127.0.0.1:{server.port}") as store, pytest.raises(StoreError, match="does not permit"):
        put(store, A, b"")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is missing")
def test_tls(own_server: Callable[..., RedisServer], tmp_path: Path) -> None:
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        f"{tmp_path}/key",
        "-out",
        f"{tmp_path}/cert",
    ]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    port = free_port()
    tls = ["--tls-port", str(port), "--tls-cert-file", f"{tmp_path}/cert", "--tls-key-file", f"{tmp_path}/key"]
    own_server(*tls, "--tls-ca-cert-file", f"{tmp_path}/cert", "--tls-auth-clients", "no")
    with opened(f"rediss://127.0.0.1:{port}?tls-ca-cert-file={tmp_path}/cert") as store:
        assert put(store, A, b"") == 1
    with opened(f"rediss://127.0.0.1:{port}?insecure-skip-verify=true") as store:
        assert put(store, A, b"") == 2
    with pytest.raises(StoreError, match="has not answered"):
        open_store(f"rediss://127.0.0.1:{port}", io_timeout_s=0.3)


def test_cluster(own_server: Callable[..., RedisServer]) -> None:
    server = own_server("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with server.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
            pass
    with opened(f"{server.url}/1") as store, opened(f"{server.url}/2") as other:
        store.commit([Exists(COUNT)] * 0, [Add(COUNT, 0, 5), Put(A, b"a"), Put(B, b"b")])
        put(other, A, b"other")
        assert value(store, A) == b"a"
        assert [row.value if row else None for row in store.read([A, COUNT])] == [b"a", (5).to_bytes(8, "big")]
        assert store.partitions(b"", None, 10) == [b"count", b"p"]
        assert [record.position for record in store.log(Position(0), 10)] == [1]
        store.wipe()
        assert store.partitions(b"", None, 10) == []
        assert value(other, A) == b"other"


def test_settings_that_lose_metadata_are_named(own_server: Callable[..., RedisServer]) -> None:
    with opened(own_server().url) as store:
        assert store.hazards() == []
    with opened(own_server("--appendonly", "no", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru").url) as store:
        nothing, eviction = store.hazards()
        assert "keeps nothing on disk" in nothing
        assert "noeviction" in eviction


def test_a_full_server_is_said_to_be_full(own_server: Callable[..., RedisServer]) -> None:
    with opened(own_server("--maxmemory", "8mb").url) as store, pytest.raises(StoreError, match="raise its maxmemory"):
        for n in range(100):
            put(store, (b"p", b"%d" % n), os.urandom(100_000))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://host", Address(0, [("host", 6379)])),
        ("redis://host:1/7", Address(7, [("host", 1)])),
        ("redis://[::1]:5/1", Address(1, [("::1", 5)])),
        ("redis://[::1]", Address(0, [("::1", 6379)])),
        ("redis://user:p%40ss@host/2", Address(2, [("host", 6379)], login={"username": "user", "password": "p@ss"})),
        ("redis://:p@one,a,b:7/3", Address(3, [("a", 26379), ("b", 7)], "one", login={"password": "p"})),
        ("unix:///run/r.sock?db=4", Address(4, path="/run/r.sock")),
        ("rediss://host", Address(0, [("host", 6379)], tls={"ssl": True})),
    ],
)
def test_urls(url: str, expected: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("META_PASSWORD", raising=False)
    scheme, _, rest = url.partition("://")
    assert parse_url(scheme, rest) == expected


@pytest.mark.parametrize(
    "url",
    ["redis://", "redis://host:x", "redis://host/db", "unix://sock", "redis://h?colour=red", "redis://h?password-file=/none"],
)
def test_urls_that_are_wrong(url: str) -> None:
    scheme, _, rest = url.partition("://")
    with pytest.raises(UsageError):
        parse_url(scheme, rest)


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


def synced(replica: RedisServer, db: int) -> None:
    with replica.client() as client:
        client.select(db)
        while client.info("replication")["master_link_status"] != "up" or not client.dbsize():
            time.sleep(0.01)


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
        self.numbers |= {("session", ids.session()) for _ in range(n_batches)}
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
        redis_server.kill()
        redis_server.start()
        assert store.position() > before + 1000
        with pytest.raises(LogTrimmed):
            store.log(Position(before + 1), 10)
        after = store.commit([Unchanged(A, Position(before + 1))], [Put(A, b"3")]).position
    with opened(f"{redis_server.url}/1") as store:
        assert store.position() == after


def test_numbers_follow_each_other_on_one_server(redis_server: RedisServer, tmp_path: Path) -> None:
    format_volume(f"{redis_server.url}/1", new_format("numbers", bucket=str(tmp_path / "bucket")))
    with opened(f"{redis_server.url}/1") as store, opened(f"{redis_server.url}/1") as other:
        assert [Ids(each).inode() for each in (store, other, store)] == [2, 2 + INODE_BATCH, 2 + 2 * INODE_BATCH]
        assert [Ids(each).session() for each in (store, other)] == [1, 2]
        assert [Ids(each).pack() for each in (store, other)] == [1, 1 + PACK_BATCH]


def test_connections_to_sentinels_end_with_the_store(own_server: Callable[..., RedisServer], tmp_path: Path) -> None:
    master = own_server()
    config = tmp_path / "sentinel.conf"
    config.write_text(f"sentinel monitor chief 127.0.0.1 {master.port} 1\n")
    sentinel = own_server(config=config)
    before = len(os.listdir("/proc/self/fd"))
    gc.disable()  # which may close what has been forgotten
    try:
        for database in (0, 2):
            with opened(f"redis://chief,127.0.0.1:{sentinel.port}/{database}") as store:
                store.commit([], [Add(COUNT, 0, 1)])
            assert len(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()


def test_sentinel_leads_to_whoever_is_master(own_server: Callable[..., RedisServer], tmp_path: Path) -> None:
    master = own_server()
    replica = own_server("--replicaof", "127.0.0.1", str(master.port))
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"sentinel monitor chief 127.0.0.1 {master.port} 1\nsentinel down-after-milliseconds chief 500\n"
        "sentinel failover-timeout chief 3000\n"
    )
    sentinel = own_server(config=config)
    with opened(f"redis://chief,127.0.0.1:{sentinel.port}/2", 60) as store, ThreadPoolExecutor(2) as pool:
        assert store.commit([], [Add(COUNT, 0, 1)]).added == [1]
        synced(replica, 2)
        master.kill()
        done = [pool.submit(store.commit, [], [Add(COUNT, 0, 1)]) for _ in range(20)]
        assert sorted(each.result().added[0] for each in done) == list(range(2, 22))
        assert counted(store) == 21
        with replica.client() as client:
            assert client.info("replication")["role"] == "master"
