"""A Redis server that refuses for a while, by its settings: what may be read is read, nothing is done by halves."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import redis

from cairnfs.errors import StoreError
from cairnfs.ext.log_end import LogEnd
from cairnfs.meta.ids import Ids
from cairnfs.meta.records import FORMER_KEY, session_key
from cairnfs.meta.sessions import Sessions
from cairnfs.meta.stores.base import Add, Delete, LogTrimmed, Put
from cairnfs.meta.stores.redis_store import INDEX_FROM
from cairnfs.meta.volume import BETWEEN_VOLUMES, wipe_volume
from cairnfs.types import Position, SessionId
from support.metavolume import MetaVolume
from support.proxy import Proxy
from support.redis_rows import COUNT, counted, opened, synced
from support.redis_server import RedisServer
from support.rows import A, B, put, value
from support.storing import wait

Maker = Callable[..., RedisServer]
FULL = ("on", ">mine", "resetkeys", "resetchannels", "~{cairnfs:*", "&{cairnfs:*", "+@all")
LARGE = [(b"large", b"%d" % n) for n in range(INDEX_FROM + 1)]


def config(server: RedisServer, name: str, setting: str) -> None:
    with server.client() as client:
        client.config_set(name, setting)


def test_with_full_memory_everything_can_be_read_and_deleted(own_server: Maker) -> None:
    server = own_server()
    with opened(server.url) as store, opened(server.url) as other:
        put(store, A, b"1")
        put(store, B, b"2")
        config(server, "maxmemory", "1")
        with pytest.raises(StoreError, match="raise its maxmemory"):
            store.commit([], [Put(B, b"3"), Add(COUNT, 0, 1)])
        assert (value(other, B), counted(other)) == (b"2", 0)
        newest = other.position()
        assert other.log(newest, 10, rings=True) == []  # though the bell cannot be set
        store.commit([], [Delete(A), Add(COUNT, 0, 1)])
        assert (value(other, A), counted(other)) == (None, 1)
        assert [record.position for record in other.log(newest, 10, rings=True)] == [newest + 1]
        config(server, "maxmemory", "0")
        assert put(store, B, b"3") == newest + 2


def test_hearts_beat_on_a_full_server(own_server: Maker) -> None:
    """Else mounts of other hosts are shown as dead after a minute, and `destroy` refuses no more."""
    server = own_server()
    with opened(server.url) as store, opened(server.url) as other:
        sessions = Sessions(MetaVolume(store=store).core, lambda session: None)
        key = session_key(sessions.open("/mnt", "1"))
        before = other.read([key])[0]
        config(server, "maxmemory", "1")
        sessions.heartbeat()
        after = other.read([key])[0]
        assert before is not None and after is not None and after.version > before.version
        sessions.close()
        assert other.read([key]) == [None]


def test_a_volume_on_a_full_server_can_be_destroyed(own_server: Maker) -> None:
    """Even if that makes no room, since the memory is others'. Its numbers are kept, and its sessions refused, as anywhere."""
    server = own_server()
    with opened(server.url) as store, opened(server.url) as former:
        first = Ids(MetaVolume(store=store).store).inode()
        former.origin = SessionId(1)
        newest = store.position()
        config(server, "maxmemory", "1")
        wipe_volume(store)
        with pytest.raises(LogTrimmed):
            store.log(newest, 10)
        config(server, "maxmemory", "0")
        with pytest.raises(StoreError, match="volume of this session was destroyed"):
            put(former, A, b"1")
        assert [name for name in store.partitions(b"", None, 10) if name != FORMER_KEY[0]] == []
        assert Ids(MetaVolume(store=store).store).inode() > first + BETWEEN_VOLUMES


def test_a_full_server_that_is_restarted_can_be_read(own_server: Maker) -> None:
    server = own_server()
    with opened(server.url) as store, opened(server.url) as other:
        put(store, A, b"1")
        assert value(other, A) == b"1"
        server.stop()
        server.options += ("--maxmemory", "1")
        server.start()
        assert value(store, A) == b"1"
        assert store.position() > 2**20, "beyond what the server before it may have given out"


def test_a_master_that_has_become_a_replica_is_left_by_whoever_only_reads(own_server: Maker) -> None:
    """Nobody ends its connections when it is told to be one (Sentinel does), and it may lag, or have lost the new master."""
    old, new = own_server("--repl-diskless-sync-delay", "0"), own_server()
    with Proxy(old.port) as address, opened(f"redis://127.0.0.1:{address.port}", 5) as store, old.client() as client:
        put(store, A, b"1")
        assert store.log(Position(1), 10, rings=True) == []  # the bell is set
        end = LogEnd()
        end.add(*(store.end_link() or pytest.fail("no connection")))
        assert end.ask() == 1
        client.execute_command("CLIENT", "PAUSE", 300, "ALL")
        with ThreadPoolExecutor(3) as pool:  # on a connection each
            assert list(pool.map(lambda _: value(store, A), range(3))) == [b"1"] * 3
        assert len(client.client_list()) == 3 + len((client, end))
        with new.client() as successor:
            successor.execute_command("REPLICAOF", "127.0.0.1", old.port)
            synced(new, 0)
            successor.execute_command("REPLICAOF", "NO", "ONE")
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        address.lead_to(new.port)
        with opened(new.url) as other:
            put(other, A, b"2")
            newest = other.position()
        assert end.ask() is None, "compiled code does not believe it"
        with pytest.raises(LogTrimmed):  # the new master has begun another log
            store.log(Position(1), 10)
        assert (store.position(), value(store, A)) == (newest, b"2")
        wait(lambda: len(client.client_list()) == 1, "connections to the former master are kept")
        end.close()


def test_a_password_that_is_changed_in_its_file_is_taken_up(own_server: Maker, tmp_path: Path) -> None:
    server = own_server()
    file = tmp_path / "password"
    file.write_text("first\n")
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "me", "on", ">first", "~{cairnfs:*", "+@all")
        with opened(f"redis://me@127.0.0.1:{server.port}?password-file={file}", 2) as store:
            put(store, A, b"1")
            client.execute_command("ACL", "SETUSER", "me", "<first", ">second")
            assert put(store, A, b"2") == 2, "a connection that is there goes on"
            client.execute_command("CLIENT", "KILL", "USER", "me")
            with pytest.raises(StoreError, match="refuses the login"):
                put(store, A, b"3")
            file.write_text("second\n")
            assert put(store, A, b"3") == 3
            for n, change in enumerate((partial(file.write_text, ""), file.unlink), 4):  # it is just being replaced
                change()
                client.execute_command("CLIENT", "KILL", "USER", "me")
                assert put(store, A, b"4") == n


def allow(client: redis.Redis, *rules: str) -> None:
    client.execute_command("ACL", "SETUSER", "me", *rules)


@pytest.mark.parametrize("program", ["redis", "valkey"])
def test_a_commit_for_which_a_right_is_missing_changes_nothing(
    own_server: Maker, program: str, request: pytest.FixtureRequest
) -> None:
    server = own_server(program=request.getfixturevalue(f"{program}_server").program)
    with server.client() as client:
        allow(client, *FULL)
        with opened(f"redis://me:mine@127.0.0.1:{server.port}", 2) as store, opened(server.url) as other:
            store.commit([], [Put(key, b"1") for key in LARGE])
            at = other.position()
            for kind in ("write", "hash", "list", "string", "sortedset", "keyspace", "scripting", "fast", "slow", "all"):
                allow(client, f"-@{kind}")
                with pytest.raises(StoreError, match=r"does not permit it .* give the user \+@all"):
                    store.commit([], [Put((b"large", b"new"), b"1"), Delete(LARGE[0]), Add(COUNT, 0, 1)])
                assert (other.position(), counted(other), value(other, LARGE[0])) == (at, 0, b"1")
                assert value(other, (b"large", b"new")) is None
                assert other.log(at, 10) == []
                allow(client, *FULL)
            assert store.commit([], [Delete(LARGE[0]), Add(COUNT, 0, 1)]).position == at + 1


@pytest.mark.parametrize("command", ["ltrim", "hdel", "zadd", "expire", "hkeys", "zrangebylex", "get"])
def test_a_user_who_lacks_a_command_is_refused_before_anything_is_written(own_server: Maker, command: str) -> None:
    server = own_server()
    with server.client() as client:
        allow(client, *FULL, f"-{command}")
        url = f"redis://me:mine@127.0.0.1:{server.port}"
        with opened(url, 2) as store, pytest.raises(StoreError, match=f"(?i)does not permit it .*'{command}'"):
            put(store, A, b"1")
        assert client.dbsize() == 0
        allow(client, "+@all", "-@admin", "-@dangerous", "+info", "+config|get")  # as README.md has it
        with opened(url, 2) as store:
            assert put(store, A, b"1") == 1


def test_a_server_that_lacks_a_command_is_refused_before_anything_is_written(own_server: Maker) -> None:
    server = own_server("--rename-command", "EXPIRE", "")
    with opened(server.url) as store, server.client() as client:
        with pytest.raises(StoreError, match="lacks the command 'EXPIRE'"):
            put(store, A, b"1")
        assert client.dbsize() == 0


def test_too_many_clients_are_said_once_and_waited_for(own_server: Maker, caplog: pytest.LogCaptureFixture) -> None:
    server = own_server()
    caplog.set_level("INFO", "cairnfs.meta.stores.redis_link")
    with opened(server.url) as store, server.client() as client, ThreadPoolExecutor(4) as pool:
        put(store, A, b"1")
        client.config_set("maxclients", 1)
        client.execute_command("CLIENT", "KILL", "TYPE", "normal")
        waiting = [pool.submit(store.commit, [], [Add(COUNT, 0, 1)]) for _ in range(8)]
        deadline = time.monotonic() + 20
        while client.info("stats")["rejected_connections"] < 12:  # each of four has been refused again
            assert time.monotonic() < deadline
        client.config_set("maxclients", 100)
        assert sorted(each.result().position for each in waiting) == list(range(2, 10))
    said = [record.getMessage() for record in caplog.records]
    assert any("max number of clients reached" in line for line in said)
    assert len(said) == len(set(said)), "each reason once"


def test_who_waits_for_numbers_behind_others_does_not_wait_for_the_store_as_often(own_server: Maker) -> None:
    n_threads, asked, go_on = 6, [], threading.Event()
    server = own_server()
    with opened(server.url, 0.3) as store, ThreadPoolExecutor(n_threads) as pool:
        ids = Ids(MetaVolume(store=store).store)
        commit = store.commit

        def slow_commit(*steps: object) -> object:
            asked.append(steps)
            go_on.wait(20)
            return commit(*steps)

        store.commit = slow_commit  # type: ignore[method-assign,assignment]
        server.kill()
        taking = [pool.submit(ids.pack) for _ in range(n_threads)]
        time.sleep(0.3)  # all wait for their turn
        go_on.set()
        assert all(isinstance(each.exception(20), StoreError) for each in taking)
        assert len(asked) == 2, "for the first one, and for all that came meanwhile"
        server.start()
        assert ids.pack() > 0


def test_numbers_of_a_volume_that_is_gone(redis_server: RedisServer) -> None:
    with opened(redis_server.url) as store, redis_server.client() as client:
        ids = Ids(MetaVolume(store=store).store)
        assert ids.inode() > 1
        client.flushall()
        with pytest.raises(StoreError, match="no volume any more"):
            ids.pack()
        assert client.dbsize() == 0
