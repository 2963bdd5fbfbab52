"""Locks through the Vfs: waiting, waking, interrupts, and what closing gives back."""

import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ExpectedLogs

from cairnfs.errors import CairnError
from cairnfs.types import Caller, Lock
from cairnfs.vfs.locks import RELEASE_COMES_S
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


def test_a_flock_goes_with_its_own_handle(engine: Engine) -> None:
    """The kernel uses an owner's number again while the RELEASE of the one before is on its way."""
    first, second = engine.files.open("f"), engine.files.open("f")
    wanted = lock(fcntl.F_WRLCK, 1, flock=True)
    take(engine, first, wanted)
    waiter = threading.Thread(target=take, args=(engine, second, wanted), kwargs={"wait": True})
    waiter.start()
    time.sleep(0.05)
    assert waiter.is_alive()
    engine.vfs.release(ME, first)
    waiter.join(10)
    with engine.files.opened("f") as third:
        assert not taken(engine, third, wanted)
        engine.files.pwrite(second, 0, b"under the lock")
        engine.vfs.flush(ME, second)
        engine.vfs.release(ME, second)
        assert taken(engine, third, wanted)


@pytest.mark.parametrize("flushed", [True, False])
def test_a_late_release_leaves_what_its_process_has_locked_since(engine: Engine, flushed: bool) -> None:
    first, second = engine.files.open("f"), engine.files.open("f")
    take(engine, first, lock(fcntl.F_WRLCK, 1))
    if flushed:  # else its close is silent
        engine.vfs.flush(ME, first, lock_owner=1)
    take(engine, second, lock(fcntl.F_WRLCK, 1))
    engine.vfs.release(ME, first)
    with engine.files.opened("f") as third:
        assert not taken(engine, third, lock(fcntl.F_WRLCK, 2))
        engine.files.pwrite(second, 0, b"under the lock")
        engine.vfs.flush(ME, second, lock_owner=1)
        assert taken(engine, third, lock(fcntl.F_WRLCK, 2))
    engine.vfs.release(ME, second)


def test_who_does_not_wait_for_a_flock_waits_for_a_release_that_is_on_its_way(engine: Engine) -> None:
    first = engine.files.open("f")
    wanted = lock(fcntl.F_WRLCK, 1, flock=True)
    take(engine, first, wanted)
    with engine.files.opened("f") as second:
        assert not taken(engine, second, wanted)
        late = threading.Timer(RELEASE_COMES_S / 4, engine.vfs.release, (ME, first))
        late.start()
        while not taken(engine, second, wanted):  # the machine may be busy
            assert late.is_alive()
        late.join()


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


def lose_session(engine: Engine) -> None:
    """As if this node had been cut off for long: another one has cleaned up, and this one finds out."""
    with Engine(engine.url) as other:
        other.meta.sessions._clean(engine.meta.core.session)
    with pytest.raises(CairnError, match="taken for dead"):
        engine.meta.sessions.heartbeat()


def fails(call: object, *args: object, **more: object) -> bool:
    try:
        call(*args, **more)  # type: ignore[operator]
    except CairnError as error:
        assert error.errno == errno.EIO
        return True
    return False


@pytest.mark.parametrize("flock", [False, True])
def test_a_lock_that_was_lost_is_not_relied_on(engine: Engine, expected_logs: ExpectedLogs, flock: bool) -> None:
    expected_logs.add("its locks were given up")
    with engine.files.opened("f") as fh, engine.files.opened("f") as bystander:
        take(engine, fh, lock(fcntl.F_WRLCK, 1, flock=flock))
        engine.files.pwrite(fh, 0, b"lost")
        lose_session(engine)
        assert fails(engine.vfs.write, ME, fh, 0, b"more")
        assert fails(take, engine, fh, lock(fcntl.F_WRLCK, 1, flock=flock))
        assert fails(engine.vfs.flush, ME, fh), "what was written is lost, and that is said"
        assert engine.files.pread(fh, 0, 10) == b"data"
        engine.files.pwrite(bystander, 0, b"by")
        assert fails(engine.vfs.flush, ME, bystander), "the node has no lock on it any more"
        assert fails(engine.vfs.flush, ME, fh), "everybody is told what was lost"
        take(engine, fh, lock(fcntl.F_UNLCK, 1, flock=flock))
        take(engine, fh, lock(fcntl.F_WRLCK, 1, flock=flock))
        engine.files.pwrite(fh, 0, b"good")
    assert engine.files.read("f") == b"good"


def test_locks_that_were_given_back_are_not_missed(engine: Engine) -> None:
    with engine.files.opened("f") as fh:
        take(engine, fh, lock(fcntl.F_WRLCK, 1, 0, 9))
        take(engine, fh, lock(fcntl.F_WRLCK, 1, 5, 20))
        take(engine, fh, lock(fcntl.F_UNLCK, 1, 0, 100))
        take(engine, fh, lock(fcntl.F_WRLCK, 1, flock=True))
        take(engine, fh, lock(fcntl.F_UNLCK, 1, flock=True))
        engine.files.pwrite(fh, 0, b"late")
        lose_session(engine)
        engine.files.pwrite(fh, 4, b"r")
    assert engine.files.read("f") == b"later"


def test_waiting_for_a_lock_asks_again_only_when_the_change_log_tells(engine: Engine) -> None:
    engine.vfs.follow(lambda position: None, lambda inos: None)
    with Engine(engine.url) as other, other.files.opened("f") as there, engine.files.opened("f") as here:
        take(other, there, lock(fcntl.F_WRLCK, 1))
        calls: list[int] = []
        setlk = engine.meta.locks.setlk
        engine.meta.locks.setlk = lambda *args: (calls.append(1), setlk(*args))[1]  # type: ignore[method-assign,assignment]
        waiter = threading.Thread(target=take, args=(engine, here, lock(fcntl.F_WRLCK, 1)), kwargs={"wait": True})
        waiter.start()
        time.sleep(0.5)
        assert len(calls) == 2
        take(other, there, lock(fcntl.F_UNLCK, 1))
        engine.vfs.released([engine.files.ino("f")])
        waiter.join(2)
        assert not waiter.is_alive()
        assert len(calls) == 3
