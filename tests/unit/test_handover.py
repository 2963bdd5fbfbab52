"""What a supervisor and a newcomer say to each other, and what goes over: only what is as it is said to be."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cairnfs.daemon import control, running
from cairnfs.daemon.control import Control
from cairnfs.daemon.handover import (
    Conversation,
    close_all,
    connect,
    counts_layout,
    descriptors,
    inherited_from,
    layout,
    listen,
    sizes,
)
from cairnfs.daemon.inherited import LAYOUT, Inherited, make_inherited
from cairnfs.daemon.mount_options import MountRequest, make_request, sort_words
from cairnfs.daemon.running import Registration, find_running
from cairnfs.data import journal
from cairnfs.errors import CairnError, MountError
from cairnfs.ext.arena import VERSION as ARENA_VERSION
from cairnfs.ext.fuse_slots import Slots
from cairnfs.ext.journal import Ring
from cairnfs.metrics import Metrics
from cairnfs.vfs import carried, sent_back


@pytest.fixture
def request_(tmp_path: Path) -> MountRequest:
    words = sort_words(["cache-memory=2M", "buffer-size=2M", "threads=2"])
    return make_request("memory://x", tmp_path, {}, words, read_only=False, as_root=True)


@pytest.fixture
def inherited(request_: MountRequest) -> Iterator[Inherited]:
    fd = os.open("/dev/null", os.O_RDWR)
    made = make_inherited(request_, fd)
    yield made
    os.close(fd)
    made.outcomes.close()


@pytest.fixture
def registration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registration]:
    monkeypatch.setattr(running, "running_dir", lambda uid: tmp_path / "notes")
    made = Registration(tmp_path, {"url": "memory://x"})
    yield made
    made.close()


@pytest.fixture
def supervisor(request_: MountRequest, inherited: Inherited, registration: Registration) -> Iterator[Control]:
    made = Control(request_, inherited, registration, "uuid")
    yield made
    made.close()


@pytest.mark.parametrize("buffer_size", ["0", "1", "3", "300"])
def test_every_write_is_one_record_of_the_journal(tmp_path: Path, buffer_size: str) -> None:
    """An append of two that a worker noted in part before it was killed would count as made."""
    request = make_request("memory://x", tmp_path, {}, sort_words([f"buffer-size={buffer_size}"]), read_only=False, as_root=True)
    fd = os.open("/dev/null", os.O_RDWR)
    made = make_inherited(request, fd)
    assert made.carried.journal.longest_bytes >= request.fuse.max_write_bytes
    os.close(fd)
    made.outcomes.close()


def pair() -> tuple[Conversation, Conversation]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Conversation(one), Conversation(other)


def heard(conversation: Conversation) -> dict[str, object]:
    found = conversation.hear()
    assert found is not None and found[1] == []
    return found[0]


def test_a_change_of_what_is_where_in_shared_memory_needs_another_number() -> None:
    """If this fails, processes of before and after the change cannot use each other's memory: LAYOUT (or AR_VERSION) + 1."""
    sizes_of = [journal.RECORD_BYTES, carried._SLOT.size, carried._OWNERS.size]
    places = [Ring.region_bytes(0), carried.N_HANDLES, carried.N_CELLS]
    places += [carried.GENERATION_SHIFT, carried._FIRST_PULSE, sent_back.SENT_BACK_BYTES]
    slots = Slots(1, 8192).memory.n_bytes
    assert (LAYOUT, sizes_of, places, slots) == (7, [40, 56, 16], [581632, 65536, 8192, 40, 16, 48 << 15], 28672 + 4096 + 8192)
    assert layout() == [LAYOUT, ARENA_VERSION] and ARENA_VERSION == 5
    assert counts_layout() == counts_layout() and Metrics().n_cells <= carried.N_CELLS


def test_messages_keep_their_bounds_and_carry_descriptors() -> None:
    one, other = pair()
    reading, writing = os.pipe()
    assert other.hear() is None
    one.say({"a": 1}, [writing])
    one.say({"b": 2})
    found = other.hear()
    assert found is not None and found[0] == {"a": 1}
    assert not os.get_inheritable(found[1][0])
    os.write(found[1][0], b"through")
    assert os.read(reading, 10) == b"through"
    close_all([*found[1], reading, writing])
    assert heard(other) == {"b": 2}
    assert other.peer == (os.getpid(), os.geteuid())
    assert not other.is_over()
    one.close()
    assert other.is_over()
    with pytest.raises(EOFError):
        other.hear()
    other.close()


@pytest.mark.parametrize("data", [b"nonsense", b"[1]", b"\xff", b"{" * 70_000])
def test_what_is_no_message_is_an_error(data: bytes) -> None:
    one, other = pair()
    one._connection.send(data)
    with pytest.raises(ValueError):
        other.hear()
    one.close()
    other.close()


def test_after_a_refusal_the_other_end_cannot_say_anything_and_knows_why() -> None:
    one, other = pair()
    other.say({"in": "time"})
    one.refuse()
    with pytest.raises(OSError):
        other.say({"too": "late"})
    assert not other.is_over()
    assert heard(one) == {"in": "time"}
    one.close()
    assert other.is_over()
    other.close()


def test_everything_goes_over(inherited: Inherited) -> None:
    inherited.carried.generation = 7
    assert inherited.carried.journal.add(3, 0, b"data")  # type: ignore[arg-type]
    inherited.carried.handles.add(5, 3, os.O_RDWR)  # type: ignore[arg-type]
    inherited.carried.cells[0][0] = 11
    fds = {name: os.dup(fd) for name, fd in descriptors(inherited).items()}
    got = inherited_from(json.loads(json.dumps(sizes(inherited))), fds, 3)
    assert fds == {}
    assert got.carried.generation == 7 and got.carried.cells[0][0] == 11 and len(got.carried.cells) == 3
    assert [written.data for written in got.carried.journal.resume()] == [b"data"]
    assert [held.fh for held in got.carried.handles.resume()] == [5]
    assert got.carried.arena.n_bytes == inherited.carried.arena.n_bytes
    assert (got.slots.n_slots, got.slots.request_bytes) == (inherited.slots.n_slots, inherited.slots.request_bytes)
    got.carried.forget_counts()
    assert inherited.carried.cells[0][0] == 0
    os.close(got.fd)
    got.outcomes.close()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda told: told.update(arena=told["arena"] - 4096),
        lambda told: told.update(n_slots=told["n_slots"] + 1),
        lambda told: told.update(request_bytes="many"),
        lambda told: told.update(journal_ring=told["journal_ring"] * 2),
        lambda told: told["memories"].update(page=8192),
        lambda told: told["memories"].pop("handles"),
        lambda told: told["memories"].update(other=4096),
        lambda told: told.pop("arena"),
    ],
    ids=["arena", "slots", "no number", "journal", "page", "a missing one", "an unknown one", "no size"],
)
def test_what_does_not_fit_is_refused(inherited: Inherited, spoil: Callable[[dict[str, object]], object]) -> None:
    told = sizes(inherited)
    spoil(told)
    fds = {name: os.dup(fd) for name, fd in descriptors(inherited).items()}
    with pytest.raises((OSError, ValueError, KeyError, TypeError)):
        inherited_from(told, fds, 1)
    close_all(fds.values())


def test_a_supervisor_hands_nothing_to_another_layout_and_forgets_who_talks_nonsense(
    supervisor: Control, registration: Registration
) -> None:
    assert not supervisor.poll(list)
    for said in (b"nonsense", b'{"layout": [0, 0]}', b""):
        newcomer = connect(registration.socket_path)
        if said:
            newcomer._connection.send(said)
        else:
            newcomer.close()
        assert not supervisor.poll(list)
        if said.startswith(b"{"):
            answer = heard(newcomer)
            assert answer["layout"] == layout() and "fds" not in answer
        newcomer.close()
        assert not supervisor.poll(list)
        assert supervisor._newcomer is None


def test_a_supervisor_forgets_who_is_silent(
    supervisor: Control, registration: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = connect(registration.socket_path)
    assert not supervisor.poll(list)
    assert supervisor._newcomer is not None
    monkeypatch.setattr(control, "SILENCE_S", 0.0)
    assert not supervisor.poll(list)
    assert supervisor._newcomer is None and silent.is_over()
    silent.close()


def test_another_user_is_not_listened_to(
    supervisor: Control, registration: Registration, caplog: pytest.LogCaptureFixture, expected_logs: object
) -> None:
    expected_logs.add("must not take over")  # type: ignore[attr-defined]
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    fd = os.open(registration.socket_path, os.O_PATH)
    os.chmod(registration.socket_path, 0o666)
    script = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); "
        f"s.connect('/proc/self/fd/{fd}'); print('on', flush=True); print(len(s.recv(100)), flush=True)"
    )
    args = [sys.executable, "-c", script]
    with subprocess.Popen(args, stdout=subprocess.PIPE, text=True, pass_fds=[fd]) as other:
        assert other.stdout is not None and other.stdout.readline() == "on\n"
        assert not supervisor.poll(list)
        assert other.stdout.readline() == "0\n"
    os.close(fd)
    assert "must not take over" in caplog.text


def test_signals_that_come_meanwhile_are_passed_on(supervisor: Control) -> None:
    with subprocess.Popen(["sleep", "60"]) as newcomer:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)  # other threads, such as an S3 client's, do not block it
        supervisor._pass_on_signals(newcomer.pid)
        assert newcomer.wait(30) == -signal.SIGTERM
        assert signal.sigtimedwait({signal.SIGTERM}, 0) is not None
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_the_socket_is_its_owners_and_has_a_path_of_any_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("long" * 40)
    monkeypatch.setattr(running, "running_dir", lambda uid: folder)
    registration = Registration(tmp_path, {})
    listening = listen(registration)
    assert registration.socket_path.stat().st_mode & 0o777 == 0o600
    connect(registration.socket_path).close()
    listening.close()
    with pytest.raises(ConnectionRefusedError):
        connect(registration.socket_path)
    registration.close()
    assert list(folder.iterdir()) == []


def test_a_note_passes_on_without_a_moment_in_which_nobody_has_it(registration: Registration, tmp_path: Path) -> None:
    """Whoever waits for the end of the first process then waits for that of the second."""
    found = find_running(tmp_path, os.geteuid())
    assert found is not None
    script = (
        "import os, sys; from pathlib import Path; from cairnfs.daemon import running\n"
        f"running.running_dir = lambda uid: Path({str(registration.socket_path.parent)!r})\n"
        "found = running.Registration(Path(sys.argv[1]), {'url': 'longer than before: ' + 'x' * 50}, int(sys.argv[2]))\n"
        "found.renew(); print('on', flush=True)\n"
        "if sys.stdin.readline(): found.fail('lost it')\n"
        "found.close()"
    )

    def process() -> "subprocess.Popen[str]":
        args = [sys.executable, "-c", script, str(tmp_path), str(registration.fd)]
        made = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[registration.fd])
        assert made.stdout is not None and made.stdout.readline() == "on\n"
        return made

    first = process()
    other = find_running(tmp_path, os.geteuid())
    assert other is not None and other.pid == first.pid
    second = process()
    registration.give()
    first.kill()
    first.communicate()
    assert not other.wait(0.1) and other.pid == second.pid
    second.communicate("\n")
    assert other.wait(30) and other.failure() == "lost it"
    other.close()
    found.close()


def test_another_note_than_that_of_the_mountpoint_is_refused(registration: Registration, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fd = os.open(tmp_path / "file", os.O_RDWR)
    with pytest.raises(CairnError, match="another note"):
        Registration(tmp_path, {}, fd)
    os.close(fd)


def test_a_process_that_is_just_ending_is_waited_for(registration: Registration, tmp_path: Path) -> None:
    """One that was killed has its lock until the last of its threads is gone."""
    with pytest.raises(MountError, match="being mounted or unmounted by another"):
        Registration(tmp_path, {})
    end = threading.Timer(0.5, lambda: fcntl.flock(registration.fd, fcntl.LOCK_UN))
    end.start()
    try:
        other = Registration(tmp_path, {})
    finally:
        end.join()
    os.close(other.fd)
