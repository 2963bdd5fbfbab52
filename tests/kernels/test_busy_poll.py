"""Sending and looking for a reply: what is sent, what is left to the caller, when looking is given up and taken up again."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from cairnfs.ext.busy_poll import BusyPoll

VAIN, SKIPS = 4, 64


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with closing(near), closing(far):
        yield near, far


def test_a_reply_is_waited_for_and_not_read(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    near.setblocking(False)
    poll = BusyPoll()

    def answer() -> None:
        while (asked := far.recv(100)) != b"end":
            far.sendall(asked.upper())

    server = threading.Thread(target=answer)
    server.start()
    for i in range(200):
        asked = b"question %d" % i
        assert poll.send(near.fileno(), asked) == len(asked)
        near.settimeout(10)
        assert near.recv(100) == asked.upper()
        near.setblocking(False)
    far_end = near.send(b"end")
    server.join(10)
    assert far_end == 3 and not server.is_alive()


def test_what_the_socket_does_not_take_is_left_to_the_caller(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    data = bytes(range(256)) * (1 << 14)  # 4 MiB: more than a socket has room for
    n_sent = BusyPoll().send(near.fileno(), data)
    assert 0 < n_sent < len(data)
    assert BusyPoll().send(near.fileno(), data) == 0  # full
    received = b""
    while len(received) < n_sent:
        received += far.recv(1 << 20)
    assert received == data[:n_sent]


def test_errors_are_left_to_the_caller(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    far.close()
    assert BusyPoll().send(near.fileno(), b"x") == 0  # and no SIGPIPE
    assert BusyPoll().send(-1, b"x") == 0
    assert BusyPoll().send(near.fileno(), b"") == 0
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
            assert poll.send(near.fileno(), b"x") == 1
            assert far.recv(1) == b"x"
            n_sent += 1
        return n_sent

    assert sent_until(is_vain=True) >= VAIN
    far.sendall(b"y")  # it is there before anybody looks
    assert sent_until(is_vain=False) > SKIPS
    assert near.recv(10) == b"y"


def test_the_end_of_the_stream_is_something_to_read(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    poll = BusyPoll()
    far.shutdown(socket.SHUT_WR)
    for _ in range(VAIN + 1):
        assert poll.send(near.fileno(), b"x") == 1
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
                assert poll.send(near.fileno(), b"x") == 1
            assert not poll.may_look
        finally:
            os.sched_setaffinity(0, before)
            busy.kill()
    until_s = time.monotonic() + 60
    while not poll.may_look and time.monotonic() < until_s:
        time.sleep(0.01)
    assert poll.may_look
