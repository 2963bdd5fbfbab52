"""Sending and taking a reply: what is sent, what is left to the caller, when looking is given up and taken up again."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnfs.ext.busy_poll import BusyPoll, packed

VAIN, SKIPS = 4, 64


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with closing(near), closing(far):
        yield near, far


def exchange(poll: BusyPoll, near: socket.socket, data: bytes, wait_ms: int = 0) -> tuple[int, bytes]:
    out = bytearray(100)
    n_sent, n_received = poll.exchange(near.fileno(), data, out, wait_ms)
    return n_sent, bytes(out[:n_received])


@pytest.mark.parametrize("late_s", [0, 0.002])
def test_a_reply_is_waited_for_and_taken(pair: tuple[socket.socket, socket.socket], late_s: float) -> None:
    near, far = pair
    near.setblocking(False)
    poll = BusyPoll()

    def answer() -> None:
        while (asked := far.recv(100)) != b"end":
            time.sleep(late_s)
            far.sendall(asked.upper())

    server = threading.Thread(target=answer)
    server.start()
    for i in range(100):
        asked = b"question %d" % i
        n_sent, taken = exchange(poll, near, asked, 10_000)
        assert (n_sent, taken) == (len(asked), asked.upper())
    near.send(b"end")
    server.join(10)
    assert not server.is_alive()


def test_a_reply_that_is_there_is_taken_as_far_as_there_is_room(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    far.sendall(bytes(range(150)))
    assert exchange(BusyPoll(), near, b"x") == (1, bytes(range(100)))
    assert near.recv(100) == bytes(range(100, 150))


def test_a_reply_that_does_not_come_is_left_to_the_caller(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    assert exchange(BusyPoll(), near, b"x", 50) == (1, b"")
    far.sendall(b"late")
    assert near.recv(100) == b"late"


def test_what_the_socket_does_not_take_is_left_to_the_caller(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    data = bytes(range(256)) * (1 << 14)  # 4 MiB: more than a socket has room for
    far.sendall(b"of another question")
    n_sent, taken = exchange(BusyPoll(), near, data)
    assert 0 < n_sent < len(data)
    assert taken == b""
    assert exchange(BusyPoll(), near, data) == (0, b"")  # full
    received = b""
    while len(received) < n_sent:
        received += far.recv(1 << 20)
    assert received == data[:n_sent]


def test_errors_are_left_to_the_caller(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    far.close()
    assert exchange(BusyPoll(), near, b"x") == (0, b"")  # and no SIGPIPE
    assert BusyPoll().exchange(-1, b"x", bytearray(1), 0) == (0, 0)
    assert exchange(BusyPoll(), near, b"") == (0, b"")
    with pytest.raises(BrokenPipeError):
        near.sendall(b"x")


def test_looking_in_vain_is_given_up_until_a_reply_is_there_in_time(pair: tuple[socket.socket, socket.socket]) -> None:
    """On a busy machine there are times at which nobody looks at all."""
    near, far = pair
    poll = BusyPoll()

    def sent_until(is_vain: bool) -> int:
        n_sent, until_s = 0, time.monotonic() + 60
        while poll.is_vain is not is_vain:
            assert time.monotonic() < until_s
            assert exchange(poll, near, b"x") == (1, b"")
            assert far.recv(1) == b"x"
            n_sent += 1
        return n_sent

    assert sent_until(is_vain=True) >= VAIN
    n_looked, until_s = 0, time.monotonic() + 60
    while poll.is_vain:
        assert time.monotonic() < until_s
        far.sendall(b"y")  # it is there before anybody looks
        assert exchange(poll, near, b"x", 10_000) == (1, b"y")
        assert far.recv(1) == b"x"
        n_looked += 1
    assert n_looked > SKIPS


def test_the_end_of_the_stream_is_something_to_read(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    poll = BusyPoll()
    far.shutdown(socket.SHUT_WR)
    for _ in range(VAIN + 1):
        assert exchange(poll, near, b"x") == (1, b"")
    assert not poll.is_vain
    assert near.recv(10) == b""


def test_nobody_looks_while_others_need_the_cpu(pair: tuple[socket.socket, socket.socket]) -> None:
    near, _ = pair
    before = os.sched_getaffinity(0)
    cpu = min(before)
    hog = f"import os\nos.sched_setaffinity(0, {{{cpu}}})\nprint(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", hog], stdout=subprocess.PIPE) as busy:
        assert busy.stdout is not None
        busy.stdout.readline()
        try:
            os.sched_setaffinity(0, {cpu})
            poll = BusyPoll()
            until_s = time.monotonic() + 60
            while poll.may_look and time.monotonic() < until_s:
                poll = BusyPoll()  # which has sent nothing in vain
                assert exchange(poll, near, b"x") == (1, b"")
            assert not poll.may_look
        finally:
            os.sched_setaffinity(0, before)
            busy.kill()
    until_s = time.monotonic() + 60
    while not poll.may_look and time.monotonic() < until_s:
        time.sleep(0.01)
    assert poll.may_look


WORDS = st.lists(st.binary(max_size=300) | st.text(max_size=20) | st.integers(-(2**63), 2**63 - 1), max_size=120)


@given(WORDS)
def test_commands_are_those_of_hiredis(words: list[str | bytes | int]) -> None:
    command = ("GET", *words)
    assert packed(command) == hiredis.pack_command(command)  # type: ignore[arg-type] # its types know of a single word


def test_words_of_other_types_and_numbers_that_are_too_great_are_refused() -> None:
    with pytest.raises(TypeError):
        packed(("GET", 1.5))  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        packed(("GET", 2**63))
