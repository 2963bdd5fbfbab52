"""Sessions: registered, seen, kept alive, and cleaned up after when their process is gone."""

import errno
import json
import os
import subprocess
from dataclasses import replace

import pytest
from conftest import ExpectedLogs

from cairnfs.errors import CorruptError, FsError, SessionLost, StoreError
from cairnfs.meta import Meta, records
from cairnfs.meta.process import Process, process_of, this_process
from cairnfs.meta.sessions import DEFAULT_PERIOD_S, MISSED_BEATS, SessionInfo, is_dead
from cairnfs.meta.stores.base import Delete, Put
from cairnfs.meta.stores.memory import MemoryStore
from cairnfs.meta.volume import VolumeFormat, create_volume
from cairnfs.types import Caller, Inode, Lock, PackId, SessionId

ROOT = Inode(1)
S = 10**9
REGULAR = 0o100644
STALE_S = MISSED_BEATS * DEFAULT_PERIOD_S
WRITE_LOCK = 1


class ManualClock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0

    def now_ns(self) -> int:
        return int(self.now_s * S)

    def monotonic_s(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def volume(clock: ManualClock) -> str:
    name = f"sessions-{id(clock)}"
    store = MemoryStore(name)
    create_volume(store, VolumeFormat("testing"), clock.now_ns(), force=True)
    return name


@pytest.fixture
def meta(volume: str, clock: ManualClock) -> Meta:
    return Meta(MemoryStore(volume), clock)


@pytest.fixture
def other(volume: str, clock: ManualClock) -> Meta:
    return Meta(MemoryStore(volume), clock)


def elsewhere(**changes: object) -> Process:
    """A process this machine cannot see."""
    return replace(Process("far", "boot-far", "pid:[1]", 77, 1000), **changes)  # type: ignore[arg-type]


def run_as(meta: Meta, process: Process, monkeypatch: pytest.MonkeyPatch) -> SessionId:
    """Open a session that seems to be another process's."""
    with monkeypatch.context() as patch:
        patch.setattr("cairnfs.meta.sessions.this_process", lambda: process)
        return meta.sessions.open("/mnt", "0")


def test_session_is_listed_with_all_that_is_known_of_it(meta: Meta, clock: ManualClock) -> None:
    session = meta.sessions.open("/mnt/a b", "1.2.3")
    clock.sleep(5)
    meta.sessions.heartbeat()
    assert meta.sessions.list() == [
        SessionInfo(session, this_process(), "/mnt/a b", "1.2.3", 1_700_000_000, 1_700_000_005, first_pack=PackId(1)),
    ]
    assert meta.sessions.list()[0].pid == os.getpid()
    assert meta.core.session == session


def test_what_a_session_says_of_itself_stays_through_heartbeats_and_successors(meta: Meta, other: Meta) -> None:
    session = meta.sessions.open("/mnt", "0")
    assert meta.sessions.list()[0].serving == {}
    meta.sessions.describe({"workers": 4, "transport_reason": None})
    meta.sessions.heartbeat()
    assert other.sessions.resume(session)
    assert meta.sessions.list()[0].serving == {"workers": 4, "transport_reason": None}
    position = meta.store.position()
    other.sessions.describe({"workers": 4, "transport_reason": None})
    assert meta.store.position() == position, "nothing to change"
    meta.sessions._clean(session)
    other.sessions.describe({"workers": 2})
    assert meta.sessions.list() == [], "a session that was taken for dead is back before it learns of it"
    with pytest.raises(StoreError, match="taken for dead"):
        other.sessions.heartbeat()
    assert meta.sessions.list()[0].serving == {"workers": 2}


def test_session_of_an_earlier_version_says_nothing_of_itself(meta: Meta) -> None:
    key = records.session_key(meta.sessions.open("/mnt", "0"))
    row = meta.store.read([key])[0]
    assert row is not None
    earlier = {name: value for name, value in json.loads(row.value).items() if name != "serving"}
    meta.store.commit([], [Put(key, json.dumps(earlier).encode())])
    assert meta.sessions.list()[0].serving == {}


def test_commits_of_a_session_carry_its_id(meta: Meta) -> None:
    session = meta.sessions.open("/mnt", "0")
    before = meta.store.position()
    meta.names.create(Caller(), ROOT, b"f", REGULAR)
    assert {record.origin for record in meta.store.log(before, 10)} == {session}


def test_sessions_are_listed_in_order_however_many(meta: Meta) -> None:
    row = meta.store.read([records.session_key(meta.sessions.open("/mnt", "0"))])[0]
    assert row is not None
    meta.store.commit([], [Put(records.session_key(n), row.value) for n in range(1000, 1700)])
    assert [session.id for session in meta.sessions.list()] == [1, *range(1000, 1700)]


def test_closed_session_is_gone_with_its_locks_and_nameless_files(meta: Meta, other: Meta) -> None:
    meta.sessions.open("/mnt", "0")
    kept, opened = (meta.names.create(Caller(), ROOT, name, REGULAR).ino for name in (b"kept", b"opened"))
    meta.locks.setlk(kept, Lock(WRITE_LOCK, 0, 9, 1, 1))
    meta.names.unlink(ROOT, b"opened", lambda ino: True)
    meta.sessions.close()
    assert meta.sessions.list() == []
    assert other.locks.getlk(kept, Lock(WRITE_LOCK, 0, 9, 2, 2)) is None
    with pytest.raises(FsError):
        other.names.get(opened)
    assert other.attrs.statfs().used_inodes == 2
    assert meta.store.partitions(records.SUSTAINED_PREFIX, None, 10) == []
    meta.sessions.close()


def test_live_sessions_and_ones_own_are_left_alone(meta: Meta, other: Meta, clock: ManualClock) -> None:
    meta.sessions.open("/a", "0")
    other.sessions.open("/b", "0")
    meta.sessions.clean_stale()
    clock.sleep(100 * STALE_S)
    assert meta.sessions.clean_stale() == []
    assert len(meta.sessions.list()) == 2


def test_session_of_an_ended_process_is_cleaned_up_at_once(
    meta: Meta, other: Meta, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.Popen(["true"])
    process = replace(this_process(), pid=ended.pid, pid_start=1)
    ended.wait()
    session = run_as(other, process, monkeypatch)
    ino = other.names.create(Caller(), ROOT, b"f", REGULAR).ino
    other.locks.setlk(ino, Lock(WRITE_LOCK, 0, 9, 1, 1))
    opened = other.names.create(Caller(), ROOT, b"opened", REGULAR).ino
    other.names.unlink(ROOT, b"opened", lambda ino: True)
    assert [dead.id for dead in meta.sessions.clean_stale()] == [session]
    assert meta.sessions.list() == []
    meta.locks.setlk(ino, Lock(WRITE_LOCK, 0, 9, 1, 1))
    with pytest.raises(FsError):
        meta.names.get(opened)


def test_session_goes_on_under_the_name_of_another_process(
    meta: Meta, other: Meta, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = replace(this_process(), pid_start=1)
    session = run_as(other, ended, monkeypatch)
    ino = other.names.create(Caller(), ROOT, b"f", REGULAR).ino
    other.locks.setlk(ino, Lock(WRITE_LOCK, 0, 9, 1, 1))
    successor = replace(this_process(), pid=os.getppid(), pid_start=process_of(os.getppid()).pid_start)
    position = other.store.position()
    assert other.sessions.resume(session, ended, "0")
    assert other.store.position() == position, "nothing to change"
    assert other.sessions.resume(session, successor, "1")
    (found,) = meta.sessions.list()
    assert (found.id, found.process, found.version, found.mountpoint) == (session, successor, "1", "/mnt")
    assert meta.sessions.clean_stale() == []
    other.sessions.heartbeat()
    assert meta.sessions.list()[0].process == successor
    meta.sessions._clean(session)
    assert not other.sessions.resume(session, successor, "2")
    assert meta.sessions.list() == []


def test_session_that_passes_on_lives_as_long_as_either_process(
    meta: Meta, other: Meta, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, alive = replace(this_process(), pid_start=1), process_of(os.getppid())
    for before, after, stays in ((alive, ended, True), (ended, alive, True), (ended, ended, False)):
        session = run_as(other, before, monkeypatch)
        meta.sessions.expect(session, after)
        (found,) = meta.sessions.list()
        assert (found.process, found.successor, is_dead(found, clock.now_ns())) == (before, after, not stays)
        assert [dead.id for dead in meta.sessions.clean_stale()] == [session][stays:]
        if stays:
            assert other.sessions.resume(session, after)
            (found,) = meta.sessions.list()
            assert (found.process, found.successor) == (after, None)
            other.sessions.close()
    meta.sessions.expect(SessionId(99), alive)
    assert meta.sessions.list() == [], "there was none to pass on"


def test_file_that_got_a_name_again_survives_the_cleaning(meta: Meta, other: Meta, monkeypatch: pytest.MonkeyPatch) -> None:
    session = run_as(other, elsewhere(), monkeypatch)
    ino = other.names.create(Caller(), ROOT, b"f", REGULAR).ino
    other.store.commit([], [Put(records.sustained_key(session, ino), b"")])
    other.sessions.close()
    assert meta.names.lookup(ROOT, b"f").ino == ino


def test_session_elsewhere_lives_as_long_as_its_heart_beats(
    meta: Meta, other: Meta, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = run_as(other, elsewhere(), monkeypatch)
    for _ in range(5):
        assert watch(meta, clock, STALE_S) == []
        other.sessions.heartbeat()
    assert watch(meta, clock) == [session]


@pytest.mark.parametrize("away_s", [2 * STALE_S, 1000 * STALE_S])
def test_who_was_away_does_not_take_others_for_dead_that_were_away_as_well(
    meta: Meta, other: Meta, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, away_s: float
) -> None:
    """The store was, say: whoever reaches it first has seen no heartbeat of the others for long."""
    meta.sessions.open("/here", "0")
    session = run_as(other, elsewhere(), monkeypatch)
    assert watch(meta, clock, STALE_S - 1) == []
    clock.sleep(away_s)
    assert watch(meta, clock, STALE_S) == []
    other.sessions.heartbeat()
    assert watch(meta, clock) == [session]


def test_who_looks_late_finds_the_dead_all_the_same(
    meta: Meta, other: Meta, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = run_as(other, elsewhere(), monkeypatch)
    found = []
    for _ in range(4):
        found += meta.sessions.clean_stale()
        clock.sleep(DEFAULT_PERIOD_S + STALE_S / 2)
    assert [dead.id for dead in found] == [session]


def test_session_cleaned_up_while_it_lived_learns_it_and_is_registered_again(
    meta: Meta, other: Meta, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = run_as(other, elsewhere(), monkeypatch)
    assert watch(meta, clock) == [session]
    with pytest.raises(StoreError, match="taken for dead"):
        other.sessions.heartbeat()
    (known,) = meta.sessions.list()
    assert known.id == other.core.session != session
    other.sessions.heartbeat()


def watch(meta: Meta, clock: ManualClock, seconds: float = STALE_S + 1) -> list[SessionId]:
    """Look after the others again and again, for so long; whom that finds dead."""
    found = [dead.id for dead in meta.sessions.clean_stale()]
    while seconds > 0:
        clock.sleep(step := min(seconds, DEFAULT_PERIOD_S))
        seconds -= step
        found += [dead.id for dead in meta.sessions.clean_stale()]
    return found


def lose(meta: Meta, clock: ManualClock) -> None:
    """Every session but that of `meta`, if it has one, is taken for dead."""
    assert watch(meta, clock)


def test_what_ends_with_a_session_is_never_left_under_one_that_is_gone(
    meta: Meta,
    other: Meta,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    expected_logs: ExpectedLogs,
) -> None:
    expected_logs.add("taken for dead")
    ino = meta.names.create(Caller(), ROOT, b"f", REGULAR).ino
    told: list[SessionId] = []
    other.sessions.on_lost = lambda: told.append(other.core.session)
    first = run_as(other, elsewhere(), monkeypatch)
    lose(meta, clock)
    other.locks.setlk(ino, Lock(WRITE_LOCK, 0, 9, 1, 1))
    second = other.core.session
    assert told == [first]
    assert [lock.session for lock in other.locks.held(ino)] == [second]
    lose(meta, clock)
    other.names.unlink(ROOT, b"f", lambda ino: True)
    third = other.core.session
    assert told == [first, second]
    assert other.sessions.sustained() == [ino]
    assert [known.id for known in meta.sessions.list()] == [third]
    said = [record.message.split()[1] for record in caplog.records if "taken for dead" in record.message]
    assert said == [str(first), str(second)], "no heartbeat is there to say it"
    lose(meta, clock)
    assert meta.store.partitions(records.SUSTAINED_PREFIX, None, 10) == meta.store.partitions(b"k", None, 10) == []


def test_content_written_under_a_lock_that_is_gone_is_not_committed(
    meta: Meta, other: Meta, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("taken for dead")
    ino = meta.names.create(Caller(), ROOT, b"f", REGULAR).ino
    run_as(other, elsewhere(), monkeypatch)
    other.core.is_fenced = lambda ino: True
    other.locks.setlk(ino, Lock(WRITE_LOCK, 0, 9, 1, 1))
    other.layout.truncate(ino, 10)
    lose(meta, clock)
    with pytest.raises(SessionLost, match="given up") as raised:
        other.layout.truncate(ino, 20)
    assert raised.value.errno == errno.EIO
    assert meta.names.get(ino).size == 10
    other.locks.setlk(ino, Lock(WRITE_LOCK, 0, 9, 1, 1))
    other.layout.truncate(ino, 30)


def test_a_heartbeat_at_the_last_moment_saves_a_session(
    meta: Meta, other: Meta, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = run_as(other, elsewhere(), monkeypatch)
    assert watch(meta, clock, STALE_S) == []
    clock.sleep(1)
    bury = meta.sessions._bury
    monkeypatch.setattr(meta.sessions, "_bury", lambda *found: (other.sessions.heartbeat(), bury(*found))[1])
    assert meta.sessions.clean_stale() == []
    assert [known.id for known in meta.sessions.list()] == [session]


@pytest.mark.parametrize("hours", [-1, 1])
def test_clocks_of_hosts_may_differ(
    meta: Meta, volume: str, clock: ManualClock, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = ManualClock()
    there.sleep(3600 * hours)
    other = Meta(MemoryStore(volume), there)
    session = run_as(other, elsewhere(), monkeypatch)
    for _ in range(20):
        assert meta.sessions.clean_stale() == []
        clock.sleep(10)
        there.sleep(10)
        other.sessions.heartbeat()
    assert watch(meta, clock) == [session]


class SetClock:
    """The store's, which is set; the monotonic one of its users goes on."""

    def __init__(self, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0
        monkeypatch.setattr(MemoryStore, "now_ns", lambda store: clock.now_ns() + self.ahead_s * S)


def namesake() -> Process:
    """Of another machine with the name of this one, or of this one before it was started again."""
    return replace(this_process(), boot_id="another")


@pytest.mark.parametrize("hours", [-1000, 1000])
def test_a_machine_with_our_name_lives_when_the_clock_of_the_store_is_set(
    meta: Meta, other: Meta, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    shared = SetClock(clock, monkeypatch)
    session = run_as(other, namesake(), monkeypatch)
    assert watch(meta, clock, DEFAULT_PERIOD_S) == []
    shared.ahead_s += 3600 * hours
    for _ in range(5):
        assert watch(meta, clock, DEFAULT_PERIOD_S) == []
        other.sessions.heartbeat()
    assert watch(meta, clock) == [session]


def test_a_machine_that_was_started_again_is_missed_sooner(
    meta: Meta, other: Meta, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = SetClock(clock, monkeypatch)
    session = run_as(other, namesake(), monkeypatch)
    shared.ahead_s += 10**9
    assert watch(meta, clock, 2 * DEFAULT_PERIOD_S) == []
    assert watch(meta, clock, 1) == [session]


@pytest.mark.parametrize("hours", [-1, 1])
@pytest.mark.parametrize("beats", [False, True])
def test_who_uses_a_volume_is_asked_for_a_heartbeat_when_the_clock_of_the_store_was_set(
    meta: Meta,
    other: Meta,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    expected_logs: ExpectedLogs,
    hours: int,
    beats: bool,
) -> None:
    shared = SetClock(clock, monkeypatch)
    session = run_as(other, elsewhere(), monkeypatch)
    assert [known.id for known in meta.sessions.active()] == [session]
    expected_logs.add("waiting up to 24 s for a heartbeat")
    shared.ahead_s += 3600 * hours
    began_s, sleep = clock.now_s, clock.sleep

    def slept(seconds: float) -> None:
        sleep(seconds)
        if beats and clock.now_s - began_s > DEFAULT_PERIOD_S - 1:
            other.sessions.heartbeat()

    monkeypatch.setattr(clock, "sleep", slept)
    assert [known.id for known in meta.sessions.active()] == [session] * beats
    assert (clock.now_s - began_s < DEFAULT_PERIOD_S) == beats
    assert [known.id for known in meta.sessions.list()] == [session], "nobody has watched it for long enough"


def test_a_session_that_beats_often_is_missed_sooner(
    meta: Meta, other: Meta, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cairnfs.meta.sessions.this_process", elsewhere)
    session = other.sessions.open("/mnt", "0", period_s=2)
    meta.sessions.clean_stale()
    clock.sleep(9)
    assert meta.sessions.clean_stale() == []
    clock.sleep(2)
    assert [dead.id for dead in meta.sessions.clean_stale()] == [session]


def test_cleaning_that_was_cut_short_before_it_ended_is_finished_by_the_next(
    meta: Meta, other: Meta, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = run_as(other, elsewhere(), monkeypatch)
    ino = other.names.create(Caller(), ROOT, b"f", REGULAR).ino
    other.locks.setlk(ino, Lock(WRITE_LOCK, 0, 9, 1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(meta.sessions, "_clean", lambda session: None)
        lose(meta, clock)
    (buried,) = meta.sessions.list()
    assert (buried.id, buried.is_buried) == (session, True)
    assert is_dead(buried, clock.now_ns())
    (cleaned,) = meta.sessions.clean_stale()
    assert cleaned.id == session
    assert meta.sessions.list() == []
    meta.locks.setlk(ino, Lock(WRITE_LOCK, 0, 9, 1, 1))


def test_cleaning_that_was_cut_short_is_finished_by_the_next(
    meta: Meta, other: Meta, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = run_as(other, elsewhere(), monkeypatch)
    ino = other.names.create(Caller(), ROOT, b"opened", REGULAR).ino
    other.names.unlink(ROOT, b"opened", lambda ino: True)
    meta.store.commit([], [Delete(records.inode_key(ino))])
    assert watch(meta, clock) == [session]
    assert meta.store.partitions(records.SUSTAINED_PREFIX, None, 10) == []


@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b'{"host": 1}'])
def test_damaged_session_is_an_error_that_names_it(meta: Meta, value: bytes) -> None:
    meta.store.commit([], [Put(records.session_key(9), value)])
    with pytest.raises(CorruptError, match="session 9") as raised:
        meta.sessions.list()
    assert raised.value.errno == errno.EIO
