"""Workers that fetch: what the arena lacks comes from another process while the interpreter is busy, and never depends on it."""

import errno
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cairnfs.daemon.fetch_worker import FetchThread
from cairnfs.ext.arena import Arena
from cairnfs.ext.fuse_slots import MAX_FETCHERS, Slots
from cairnfs.types import StatFs
from cairnfs.vfs.fetching import Fetching
from cairnfs.volume import open_volume
from support.arenas import in_child
from support.compiled import Asking, Node
from support.engine import ROOT, TEST_OPTIONS, new_volume

REQUEST_BYTES = (1 << 20) + 4096
PATIENCE_MS = 20_000


class Busy:
    """A node, a kernel that asks it, and a process that fetches. While `busy`, a lane of the node is inside Python."""

    def __init__(self, folder: Path) -> None:
        url = new_volume(folder, "sqlite")
        arena = Arena(8 << 20)
        self.slots = Slots(8, REQUEST_BYTES)
        self.slots.n_fetchers = 1
        self._gate = os.pipe()
        self._pid = in_child(lambda: self._fetch(url, arena))  # first: SQLite's connections must not be forked
        self.node = Node(url, arena=arena)
        self.let_go = threading.Event()
        self.inside = threading.Event()
        statfs = self.node.vfs.statfs

        def waits(*args: Any) -> StatFs:
            self.inside.set()
            assert self.let_go.wait(20)
            return statfs(*args)

        vars(self.node.vfs)["statfs"] = waits
        self.peer = self.node.asks(self.slots)
        self.asking = Asking(self.peer)

    def _fetch(self, url: str, arena: Arena) -> None:
        os.close(self._gate[1])
        if os.read(self._gate[0], 1):
            with open_volume(url, TEST_OPTIONS, arena=arena) as volume:
                FetchThread(self.slots, 1, Fetching(volume.meta, volume.data, arena), "fetch").run()

    def start_fetching(self) -> None:
        os.write(self._gate[1], b"1")

    @contextmanager
    def busy(self) -> Iterator[None]:
        with self.peer:
            self.peer.init()
            unique = self.peer.send("STATFS")
            assert self.inside.wait(20)
            try:
                yield
            finally:
                self.let_go.set()
            assert self.peer.receive().unique == unique

    def close(self) -> None:
        self.node.engine.close()
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        for fd in self._gate:
            os.close(fd)

    def forget(self) -> None:
        """The arena knows nothing any more, but that nothing was committed since."""
        self.node.arena.drop_all()
        self.node.follower.catch_up()
        assert self.node.arena.fresh()


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Busy]:
    found = Busy(tmp_path)
    yield found
    found.close()


def test_misses_are_fetched_by_another_process_and_answered_by_compiled_code(serving: Busy) -> None:
    data = bytes(range(256)) * 40
    for i in range(50):
        serving.node.files.write(f"file{i}", data[i:])
    serving.start_fetching()
    with serving.busy():
        deadline = time.monotonic() + 60
        while not serving.slots.n_fetched:  # nobody says when the other process waits for jobs
            assert time.monotonic() < deadline
            serving.forget()
            for i in range(50):
                ino = serving.asking.lookup(b"file%d" % i)
                fh = serving.asking.open(ino)
                assert serving.asking.read(ino, fh) == data[i:]
                assert serving.asking.lookup(b"none%d" % i) == 0
                serving.asking.release(ino, fh)
        answered = serving.asking.answered
        assert answered["LOOKUP"] + answered["READ"] >= serving.slots.n_fetched
    serving.node.arena.check()


def take_while(serving: Busy, ask: "ThreadPoolExecutor", name: bytes) -> tuple[int, int, bytes | None, bool] | None:
    """A job that comes of a lookup that nobody has answered yet."""
    taking = ask.submit(serving.slots.take_job, 1, PATIENCE_MS)
    deadline_s = time.monotonic() + 20
    for i in itertools.count():
        asked = name + b"-%d" % i
        serving.peer.send("LOOKUP", asked + b"\0", ROOT)
        while serving.peer.is_silent(0.02):
            if taking.done():
                return taking.result()
        assert serving.peer.receive().error == errno.ENOENT  # nobody waited for jobs yet
        assert time.monotonic() < deadline_s
    return None


def test_who_waits_for_a_worker_that_has_died_serves_the_request_itself(serving: Busy) -> None:
    with ThreadPoolExecutor(1) as ask, serving.busy():
        job = take_while(serving, ask, b"absent")
        assert job is not None
        slot, parent, name, with_bytes = job
        assert (parent, with_bytes) == (ROOT, False)
        assert name is not None
        assert name.startswith(b"absent-")
        serving.slots.end_jobs_of(1)
        assert serving.peer.receive().error == errno.ENOENT
        serving.slots.end_job(1, slot)  # too late, and for nobody
        assert serving.asking.lookup(b"another") == 0
    assert serving.slots.n_fetched == 0


def test_patience_with_a_worker_has_an_end(serving: Busy) -> None:
    with ThreadPoolExecutor(1) as ask, serving.busy():
        assert take_while(serving, ask, b"absent") is not None
        assert serving.peer.receive().error == errno.ENOENT


def test_what_is_not_stored_is_never_fetched(serving: Busy) -> None:
    serving.node.files.write("file", b"old")
    serving.node.follower.catch_up()
    ino = serving.node.files.ino("file")
    serving.start_fetching()
    with serving.busy():
        fh = serving.asking.open(ino, os.O_RDWR)
        serving.asking.write(ino, fh, b"newer")
        for _ in range(20):
            assert serving.asking.read(ino, fh) == b"newer"
            assert serving.asking.nlink_and_size(ino) == (1, 5)
        assert serving.slots.n_fetched == 0
        serving.asking.release(ino, fh)


def test_a_torn_request_is_no_job(serving: Busy) -> None:
    with ThreadPoolExecutor(1) as ask, serving.busy():
        serving.peer.send("LOOKUP", b"x" * 300, ROOT)  # no NUL, and too long
        assert serving.peer.receive().error == errno.EINVAL
        assert ask.submit(serving.slots.take_job, 1, 10).result() is None


def test_virtual_names_stay_unknown(tmp_path: Path) -> None:
    arena = Arena(8 << 20)
    with open_volume(new_volume(tmp_path, "sqlite"), TEST_OPTIONS, arena=arena) as volume:
        fetching = Fetching(volume.meta, volume.data, arena)
        fetching.name(ROOT, b".stats")
        fetching.name(ROOT, b"absent")
        assert arena.name(ROOT, b".stats") is None
        assert arena.name(ROOT, b"absent") == 0


@pytest.mark.parametrize("worker", [0, MAX_FETCHERS + 1])
def test_workers_are_numbered(worker: int) -> None:
    slots = Slots(4, REQUEST_BYTES)
    for call in (lambda: slots.take_job(worker, 0), lambda: slots.end_job(worker, 0), lambda: slots.end_jobs_of(worker)):
        with pytest.raises(ValueError, match="worker"):
            call()
    with pytest.raises(ValueError, match="slot 4"):
        slots.end_job(1, 4)
    with pytest.raises(ValueError, match="workers"):
        slots.n_fetchers = MAX_FETCHERS + 1
