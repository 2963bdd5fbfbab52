"""What only the Redis store must do: find its server, bear its absence, and never commit twice."""

import errno
import os
import random
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Semaphore

import pytest

from cairnfs.errors import StoreError, UsageError
from cairnfs.ext.log_end import LogEnd
from cairnfs.meta.stores import open_store, redis_store
from cairnfs.meta.stores.base import Add, Delete, Effect, Put
from cairnfs.meta.stores.redis_link import Address, parse_url
from cairnfs.meta.stores.redis_store import RedisStore
from cairnfs.types import Position
from support.certificates import self_signed
from support.redis_rows import COUNT, counted, opened
from support.redis_server import RedisServer, free_port
from support.relay import Relay
from support.rows import A, put, value


@pytest.fixture
def short_folder() -> Iterator[str]:
    """For a socket: its path has at most 107 bytes, and those of tests' own folders may have more."""
    with TemporaryDirectory(prefix="redis-") as folder:
        yield folder


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


def test_a_commit_that_arrives_after_its_client_went_on_is_refused(redis_server: RedisServer) -> None:
    with opened(redis_server.url) as store:
        put(store, A, b"1")
        put(store, A, b"2")
        slot = store._take_slot()
        slot[1] -= 2  # the number of the one before the last
        store._slots.append(slot)
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


def test_the_log_is_never_much_longer_than_what_is_kept(redis_server: RedisServer) -> None:
    n_kept = 80
    lengths = []
    address = parse_url("redis", f"127.0.0.1:{redis_server.port}")
    with closing(RedisStore(address, 20.0, n_kept)) as store, redis_server.client() as client:
        for _ in range(4 * n_kept):
            put(store, A, b"")
            lengths.append(client.llen(b"{cairnfs:0}log"))
    assert max(lengths) == n_kept + n_kept // 8
    assert min(lengths[n_kept:]) == n_kept


@pytest.mark.parametrize("record", [b"short", bytes(16) + b"\x09\x00\x01ab"])
def test_a_record_of_the_log_that_something_else_has_written_is_said_to_be_one(redis_server: RedisServer, record: bytes) -> None:
    with opened(redis_server.url) as store, redis_server.client() as client:
        put(store, A, b"")
        client.lset(b"{cairnfs:0}log", -1, record)
        with pytest.raises(StoreError, match="the change log in Redis is damaged"):
            store.log(Position(0), 10)


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
            end = LogEnd()
            end.add(*(store.end_link() or pytest.fail("no connection")))
            assert end.ask() == n + 1
            end.close()
    (tmp_path / "password").write_text("mine\n")
    with opened(f"redis://me@{where}?password-file={tmp_path}/password") as store:
        assert store._link.client.acl_whoami() == "me"
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
    cert, key = self_signed(tmp_path)
    port = free_port()
    tls = ["--tls-port", str(port), "--tls-cert-file", str(cert), "--tls-key-file", str(key)]
    own_server(*tls, "--tls-ca-cert-file", str(cert), "--tls-auth-clients", "no")
    with opened(f"rediss://127.0.0.1:{port}?tls-ca-cert-file={cert}") as store:
        assert put(store, A, b"") == 1
        assert store.end_link() is None, "compiled code cannot speak TLS"
    with opened(f"rediss://127.0.0.1:{port}?insecure-skip-verify=true") as store:
        assert put(store, A, b"") == 2
    with pytest.raises(StoreError, match="has not answered"):
        open_store(f"rediss://127.0.0.1:{port}", io_timeout_s=0.3)


def test_settings_that_lose_metadata_are_named(own_server: Callable[..., RedisServer]) -> None:
    with opened(own_server().url) as store:
        assert store.hazards() == []
    with opened(own_server("--appendonly", "no", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru").url) as store:
        nothing, eviction = store.hazards()
        assert "keeps nothing on disk" in nothing.text
        assert "noeviction" in eviction.text
        assert nothing.is_known and eviction.is_known


def test_settings_that_are_not_shown_are_not_known(own_server: Callable[..., RedisServer]) -> None:
    renamed = own_server("--rename-command", "CONFIG", "")
    refused = own_server("--appendonly", "no")
    with refused.client() as client:
        client.execute_command("ACL", "SETUSER", "someone", "on", "nopass", "~*", "&*", "+@all", "-config")
    for url in (renamed.url, f"redis://someone:x@127.0.0.1:{refused.port}"):
        with opened(url) as store:
            (unseen,) = store.hazards()
            assert not unseen.is_known and "CONFIG" in unseen.text


def test_fsync_waits_for_the_log_of_the_connection_that_has_just_written(valkey_server: RedisServer) -> None:
    """WAITAOF goes by the last write of its own connection: on one that has written nothing it would return at once."""
    said: list[tuple[str, str]] = []
    with opened(valkey_server.url) as store, valkey_server.client() as client, client.monitor() as monitor:
        for n in range(3):
            put(store, A, b"%d" % n)
            store.sync()
        put(store, A, b"all is said")
        for command in monitor.listen():
            if "all is said" in command["command"]:
                break
            said.append((command["command"].split()[0], command["client_port"]))
    names = [name for name, _ in said]
    waits = [n for n, name in enumerate(names) if name == "WAITAOF"]
    assert len(waits) == 3
    assert all(said[n - 1] == ("SET", said[n][1]) for n in waits)


def test_a_server_is_asked_once_whether_it_syncs(own_server: Callable[..., RedisServer], valkey_server: RedisServer) -> None:
    server = own_server("--appendfsync", "always", program=valkey_server.program)
    with opened(server.url) as store, server.client() as client:
        client.config_resetstat()
        for n in range(3):
            put(store, A, b"%d" % n)
            store.sync()
        done = client.info("commandstats")
    assert (done["cmdstat_waitaof"]["calls"], done["cmdstat_config|get"]["calls"]) == (3, 1)


def test_fsync_of_a_server_that_stops_syncing(own_server: Callable[..., RedisServer], valkey_server: RedisServer) -> None:
    server = own_server(program=valkey_server.program)
    with opened(server.url, io_timeout_s=2) as store, server.client() as client:
        put(store, A, b"a")
        store.sync()
        client.config_set("appendfsync", "no")
        put(store, A, b"b")
        store.sync()
        client.config_set("appendfsync", "always")
        put(store, A, b"c")
        store.sync()


@pytest.mark.parametrize("options", [("--appendonly", "no"), ("--appendfsync", "no")])
def test_fsync_where_the_server_syncs_nothing(
    own_server: Callable[..., RedisServer], valkey_server: RedisServer, options: tuple[str, str]
) -> None:
    with opened(own_server(*options, program=valkey_server.program).url, io_timeout_s=1) as store:
        put(store, A, b"a")
        store.sync()  # there is nothing to wait for,
        assert len(store.hazards()) == 1  # which is said


def test_fsync_fails_when_the_log_is_not_synced_in_time(
    own_server: Callable[..., RedisServer], valkey_server: RedisServer
) -> None:
    server = own_server("--appendfsync", "no", "--rename-command", "CONFIG", "", program=valkey_server.program)
    with opened(server.url, io_timeout_s=1) as store:
        put(store, A, b"a")
        with pytest.raises(StoreError, match="not synced"):  # its settings cannot be seen
            store.sync()


def test_a_full_server_is_said_to_be_full(own_server: Callable[..., RedisServer]) -> None:
    with opened(own_server("--maxmemory", "8mb").url) as store, pytest.raises(StoreError, match="raise its maxmemory") as full:
        for n in range(100):
            put(store, (b"p", b"%d" % n), os.urandom(100_000))
    assert full.value.errno == errno.ENOSPC


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
        ("redis://m,a/1?wait-replicas=2", Address(1, [("a", 26379)], "m", wait_replicas=2)),
    ],
)
def test_urls(url: str, expected: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("META_PASSWORD", raising=False)
    scheme, _, rest = url.partition("://")
    assert parse_url(scheme, rest) == expected


@pytest.mark.parametrize(
    "url",
    ["redis://", "redis://host:x", "redis://host/db", "unix://sock", "redis://h?colour=red", "redis://h?password-file=/none"]
    + ["redis://h?wait-replicas=-1", "redis://h?wait-replicas=", "redis://h?wait-replicas=1000", "redis://h?wait-replicas=²"]
    + ["redis://h/²", "redis://h:²", f"redis://h/{'1' * 5000}", "redis://[::1/1", "redis://::1/1", "redis://h]:1"]
    + [f"rediss://h?{option}=/none" for option in ("tls-ca-cert-file", "tls-cert-file", "tls-key-file")],
)
def test_urls_that_are_wrong(url: str) -> None:
    scheme, _, rest = url.partition("://")
    with pytest.raises(UsageError):
        parse_url(scheme, rest)


def test_a_password_in_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("50%25\n")
    assert parse_url("redis", f"host?password-file={tmp_path}/password").login == {"password": "50%25"}


@pytest.mark.parametrize("url", ["host:6379", "rediss:host", "redis+tls://host"])
def test_whoever_gets_a_url_wrong_is_told_every_scheme(url: str) -> None:
    with pytest.raises(UsageError, match=r"redis://.*, rediss://.*, unix://"):
        open_store(url)
