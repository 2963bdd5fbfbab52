"""Locks through the Vfs: waiting, waking, interrupts, and what closing gives back."""

import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairnfs.errors import CairnError
from cairnfs.types import Caller, Lock
from support.engine import ME, Engine, new_volume

END = (1 << 63) - 1


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(new_volume(tmp_path, "sqlite")) as engine:
        engine.files.write("f", b"data")
        yield engine


def lock(kind: int, owner: int, start: int = 0, end: int = END, *, flock: bool = False) -> Lock:
    return Lock(kind, start, end, pid=owner + 1000, owner=owner, flock=flock)


def take(engine: Engine, fh: int, wanted: Lock, *, wait: bool = False, caller: Caller = ME) -> None:
    engine.vfs.setlk(caller, engine.files.ino("f"), fh, wanted, wait)


def taken(engine: Engine, fh: int, wanted: Lock) -> bool:
    try:
        take(engine, fh, wanted)
    except CairnError as error:
        assert error.errno == errno.EAGAIN
        return False
    return True


@pytest.mark.parametrize("flock", [False, True])
def test_a_lock_excludes_others_until_it_is_given_back(engine: Engine, flock: bool) -> None:
    with engine.files.opened("f") as a, engine.files.opened("f") as b:
        take(engine, a, lock(fcntl.F_WRLCK, 1, flock=flock))
        assert not taken(engine, b, lock(fcntl.F_RDLCK, 2, flock=flock))
        holder = engine.vfs.getlk(ME, engine.files.ino("f"), b, lock(fcntl.F_RDLCK, 2, flock=flock))
        assert holder is not None and (holder.type, holder.pid) == (fcntl.F_WRLCK, 1001)
        take(engine, a, lock(fcntl.F_UNLCK, 1, flock=flock))
        assert taken(engine, b, lock(fcntl.F_WRLCK, 2, flock=flock))


def test_a_waiter_gets_the_lock_when_it_is_given_back(engine: Engine) -> None:
    got: list[float] = []
    with engine.files.opened("f") as a, engine.files.opened("f") as b:
        take(engine, a, lock(fcntl.F_WRLCK, 1))

        def wait() -> None:
            take(engine, b, lock(fcntl.F_WRLCK, 2), wait=True)
            got.append(time.monotonic())

        waiter = threading.Thread(target=wait)
        waiter.start()
        time.sleep(0.1)
        assert not got
        take(engine, a, lock(fcntl.F_UNLCK, 1))
        waiter.join(10)
        assert got


def test_every_waiter_gets_its_turn(engine: Engine) -> None:
    counter = [0]

    def work(owner: int) -> None:
        with engine.files.opened("f") as fh:
            for _ in range(5):
                take(engine, fh, lock(fcntl.F_WRLCK, owner), wait=True)
                seen = counter[0]
                time.sleep(0.001)
                counter[0] = seen + 1
                take(engine, fh, lock(fcntl.F_UNLCK, owner))

    threads = [threading.Thread(target=work, args=(owner,)) for owner in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert counter == [20]
    assert not engine.vfs._locking._releases._waiting


def test_a_signal_ends_the_wait(engine: Engine) -> None:
    signalled = threading.Event()
    with engine.files.opened("f") as a, engine.files.opened("f") as b:
        take(engine, a, lock(fcntl.F_WRLCK, 1))
        threading.Timer(0.05, signalled.set).start()
        with pytest.raises(CairnError) as error:
            take(engine, b, lock(fcntl.F_WRLCK, 2), wait=True, caller=Caller(interrupted=signalled.is_set))
        assert error.value.errno == errno.EINTR


def test_closing_any_handle_frees_the_locks_of_its_owner(engine: Engine) -> None:
    with engine.files.opened("f") as a, engine.files.opened("f") as other:
        take(engine, a, lock(fcntl.F_WRLCK, 1))
        engine.vfs.flush(ME, other, lock_owner=2)
        assert not taken(engine, other, lock(fcntl.F_WRLCK, 3))
        engine.vfs.flush(ME, other, lock_owner=1)
        assert taken(engine, other, lock(fcntl.F_WRLCK, 3))


def test_releasing_a_handle_frees_what_was_locked_through_it(engine: Engine) -> None:
    with engine.files.opened("f") as b:
        a = engine.files.open("f")
        take(engine, a, lock(fcntl.F_WRLCK, 1, flock=True))
        take(engine, a, lock(fcntl.F_WRLCK, 1))
        engine.vfs.release(ME, a)
        assert taken(engine, b, lock(fcntl.F_WRLCK, 2, flock=True))
        assert taken(engine, b, lock(fcntl.F_WRLCK, 2))
    assert engine.meta.locks.getlk(engine.files.ino("f"), lock(fcntl.F_WRLCK, 9)) is None


def test_locks_reach_across_processes_and_bring_fresh_content(tmp_path: Path) -> None:
    url = new_volume(tmp_path, "sqlite")
    with Engine(url) as one, Engine(url) as two:
        one.files.write("f", b"old")
        with one.files.opened("f") as a, two.files.opened("f", os.O_RDONLY) as b:
            assert two.files.pread(b, 0, 10) == b"old"
            take(one, a, lock(fcntl.F_WRLCK, 1))
            assert not taken(two, b, lock(fcntl.F_RDLCK, 1))
            one.files.pwrite(a, 0, b"newer")
            waiter = threading.Thread(target=take, args=(two, b, lock(fcntl.F_RDLCK, 1)), kwargs={"wait": True})
            waiter.start()
            take(one, a, lock(fcntl.F_UNLCK, 1))
            waiter.join(10)
            assert not waiter.is_alive()
            assert two.files.pread(b, 0, 10) == b"newer"


def test_unlocking_stores_what_was_written_under_the_lock(engine: Engine) -> None:
    with engine.files.opened("f") as fh:
        take(engine, fh, lock(fcntl.F_WRLCK, 1))
        engine.files.pwrite(fh, 0, b"DATA!")
        assert engine.meta.names.get(engine.files.ino("f")).size == 4
        take(engine, fh, lock(fcntl.F_UNLCK, 1))
        assert engine.meta.names.get(engine.files.ino("f")).size == 5
