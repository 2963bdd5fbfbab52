"""What only the SQLite store promises: several processes, kill -9, bounded log and connections, nothing left open."""

import gc
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from cairnfs.errors import CorruptError, StoreError
from cairnfs.meta.stores import open_store, sqlite, sqlite_checkpoint, sqlite_file
from cairnfs.meta.stores.base import Add, Put
from cairnfs.meta.stores.fields import field
from cairnfs.meta.stores.sqlite import SqliteStore
from cairnfs.types import Position

COUNT_ALL = (b"count", b"all")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(path, str(path), create=True)
    yield opened
    opened.close()


def committer(path: Path, name: str, n_commits: int, *more: int) -> subprocess.Popen[bytes]:
    """Start a process that commits; its stdout has one line per acknowledged commit."""
    script = Path(__file__).with_name("committer.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [str(path), name, str(n_commits), *map(str, more)]
    return subprocess.Popen([sys.executable, str(script), *arguments], stdout=subprocess.PIPE, env=environment)


def counter(store: SqliteStore, name: bytes) -> int:
    row = store.read([(b"count", name)])[0]
    return 0 if row is None else field(row.value, 0)


def test_processes_lose_no_increment(path: Path) -> None:
    n_commits = 400
    processes = [committer(path, str(n), n_commits) for n in range(3)]
    for process in processes:
        acknowledged, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert len(acknowledged.splitlines()) == n_commits
    store = SqliteStore(path, str(path), create=False)
    assert counter(store, b"all") == 3 * n_commits
    assert store.position() == 3 * n_commits
    assert [record.position for record in store.log(Position(0), 10_000)] == list(range(1, 3 * n_commits + 1))
    assert [len(store.scan(b"row%d" % n, None, 10_000)) for n in range(3)] == [n_commits] * 3
    store.close()


@pytest.mark.parametrize("lock", ["IMMEDIATE", "EXCLUSIVE"])
def test_who_opens_a_file_that_another_is_just_making_waits(path: Path, lock: str) -> None:
    maker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    maker.execute(f"BEGIN {lock}")
    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(SqliteStore, path, str(path), create=True)
        time.sleep(0.2)
        assert not opened.done()
        maker.execute("ROLLBACK")
        opened.result(10).close()
    maker.close()


@pytest.mark.parametrize("checkpoint_pages", [2000, 20])
def test_every_acknowledged_commit_is_there_after_kill_9(path: Path, checkpoint_pages: int) -> None:
    rng = random.Random(checkpoint_pages)
    for round_no in range(4):
        name = str(round_no)
        process = committer(path, name, 1_000_000, checkpoint_pages)
        assert process.stdout is not None
        acknowledged = [process.stdout.readline() for _ in range(rng.randrange(1, 400))]
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.read().splitlines(keepends=True)
        process.stdout.close()
        process.wait(timeout=60)
        store = SqliteStore(path, str(path), create=False)
        n_committed = counter(store, name.encode())
        assert n_committed >= sum(line.endswith(b"\n") for line in acknowledged) > 0
        rows = [key for key, _ in store.scan(b"row" + name.encode(), None, 1_000_000)]
        assert rows == [n.to_bytes(8, "big") for n in range(n_committed)]
        assert counter(store, b"all") == store.position()
        store.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_process_killed_while_it_writes_blocks_nobody(path: Path, store: SqliteStore) -> None:
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN IMMEDIATE');"
        "c.execute('DELETE FROM log'); print('locked', flush=True); sys.stdin.read()"
    )
    store.commit([], [Add(COUNT_ALL, 0, 1)])
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    process.stdout.readline()
    threading.Timer(0.1, process.kill).start()
    assert store.commit([], [Add(COUNT_ALL, 0, 1)]).added == [2]
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert len(store.log(Position(0), 10)) == 2
    process.stdin.close()
    process.stdout.close()


def test_lock_held_beyond_the_time_limit_is_an_error(path: Path) -> None:
    store = SqliteStore(path, str(path), create=True, io_timeout_s=0.2)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        store.commit([], [Add(COUNT_ALL, 0, 1)])
    assert store.read([COUNT_ALL]) == [None]
    other.execute("COMMIT")
    other.close()
    assert store.commit([], [Add(COUNT_ALL, 0, 1)]).added == [1]
    store.close()


def test_close_leaves_one_file_and_no_descriptor_or_thread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_checkpoint, "PASSIVE_PAGES", 10)
    store = SqliteStore(path, str(path), create=True)
    for n in range(50):
        store.commit([], [Put((b"p", b"%d" % n), b"x" * 1000)])
    store.read([COUNT_ALL])
    store.close()
    gc.collect()
    assert os.listdir(path.parent) == [path.name]
    assert not [thread for thread in threading.enumerate() if thread.name == "cairnfs-checkpoint"]
    links = (os.path.join("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd"))
    assert not [link for link in links if os.path.islink(link) and str(path) in os.readlink(link)]


def test_closed_store_says_so(store: SqliteStore) -> None:
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.read([COUNT_ALL])
    with pytest.raises(StoreError, match="closed"):
        store.commit([], [Add(COUNT_ALL, 0, 1)])


def test_many_threads_share_a_few_connections(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[sqlite3.Connection] = []
    connect = sqlite_file.connect

    def counting(path: Path, timeout_s: float, *, cache_kib: int) -> sqlite3.Connection:
        opened.append(connect(path, timeout_s, cache_kib=cache_kib))
        return opened[-1]

    monkeypatch.setattr(sqlite_file, "connect", counting)
    store.commit([], [Add(COUNT_ALL, 0, 1)])
    start = threading.Barrier(40)

    def work() -> None:
        start.wait()
        for _ in range(20):
            store.scan(b"count", None, 10)

    threads = [threading.Thread(target=work) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(opened) <= sqlite.MAX_READERS


def test_reads_of_any_number_of_keys_take_few_statements(path: Path, store: SqliteStore) -> None:
    prepared: set[str] = set()

    class Recording(sqlite3.Connection):
        def execute(self, sql: str, *arguments: object) -> sqlite3.Cursor:  # type: ignore[override]
            prepared.add(sql)
            return super().execute(sql, *arguments)

    store.commit([], [Put((b"rows", b"%d" % n), b"%d" % n) for n in range(0, sqlite.KEYS_PER_STATEMENT, 2)])
    connection = sqlite3.connect(path, factory=Recording)
    for n_keys in range(sqlite.KEYS_PER_STATEMENT + 1):
        found = sqlite._fetch(connection, [(b"rows", b"%d" % n) for n in range(n_keys)])
        assert [row and row.value for row in found] == [None if n % 2 else b"%d" % n for n in range(n_keys)]
    connection.close()
    assert len(prepared) <= 15  # each costs every connection up to 21 KB for good


def test_log_begins_again_and_again_under_constant_writing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_checkpoint, "PASSIVE_PAGES", 100)
    monkeypatch.setattr(sqlite_checkpoint, "RESTART_PAGES", 200)
    store = SqliteStore(path, str(path), create=True)
    beginnings = set()
    for n in range(100_000):
        store.commit([], [Put((b"p", b"%d" % (n % 1000)), b"x" * 3000)])
        beginnings.add(log_beginning(path))
        if len(beginnings) == 4:
            break
    assert len(beginnings) == 4
    store.close()


def test_checkpoints_begin_one_at_a_time_and_only_while_something_is_left_to_move(path: Path) -> None:
    store = SqliteStore(path, str(path), create=True)
    checkpointer, index = store._checkpointer, store._index
    assert index is not None
    store.commit([], [Add(COUNT_ALL, 0, 1)])
    assert not index.is_moved()
    with checkpointer._turn() as is_ours:
        assert is_ours
        with checkpointer._turn() as is_another:  # of another thread
            assert not is_another
        other = SqliteStore(path, str(path), create=False)
        with other._checkpointer._turn() as is_another:  # of another process
            assert not is_another
    with other._checkpointer._turn() as is_ours:
        assert is_ours
        assert other._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[0] == 0
    other.close()
    assert index.is_moved()
    with checkpointer._turn() as is_ours:
        assert not is_ours
    store.commit([], [Add(COUNT_ALL, 0, 1)])  # which begins the log anew
    assert not index.is_moved()
    with checkpointer._turn() as is_ours:
        assert is_ours
    store.close()


def log_beginning(path: Path) -> bytes:
    """The checkpoint sequence number in the header of SQLite's log: another one after every restart."""
    with open(f"{path}-wal", "rb") as log:
        return log.read(32)[12:16]


def test_commits_interrupted_by_checkpoints_and_readers_stay_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_checkpoint, "PASSIVE_PAGES", 5)
    monkeypatch.setattr(sqlite_checkpoint, "RESTART_PAGES", 10)
    store = SqliteStore(path, str(path), create=True)
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            both = store.read([COUNT_ALL, (b"count", b"same")])
            assert len({row and row.value for row in both}) == 1

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(1, 500):
        assert store.commit([], [Add(COUNT_ALL, 0, 1), Add((b"count", b"same"), 0, 1)]).added == [n, n]
    stop.set()
    reader.join()
    store.close()


def test_a_record_of_the_log_that_something_else_has_written_is_said_to_be_one(path: Path, store: SqliteStore) -> None:
    store.commit([], [Put(COUNT_ALL, b"")])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE log SET keys = x'09000161'")
    with pytest.raises(CorruptError, match="keys end within"):
        store.log(Position(0), 10)


def test_path_may_hold_characters_that_mean_something_in_urls(tmp_path: Path) -> None:
    path = tmp_path / "a b?c#d%20é.db"
    store = open_store(f"sqlite3://{path}", create=True)
    store.commit([], [Add(COUNT_ALL, 0, 1)])
    store.close()
    assert os.listdir(tmp_path) == [path.name]


def test_a_path_may_begin_with_two_slashes(tmp_path: Path) -> None:
    """As in the URLs of others, sqlite:////var/..."""
    path = tmp_path / "m.db"
    open_store(f"sqlite3:///{path}", create=True).close()
    assert path.exists()


def test_relative_path_stays_the_same_file_when_the_folder_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite3://m.db", create=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.commit([], [Add(COUNT_ALL, 0, 1)])
    assert store.read([COUNT_ALL]) != [None]
    store.sync()
    store.close()
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "m.db"]
