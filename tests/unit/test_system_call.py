"""Which system call a thread waits in."""

import os
import threading
import time
from collections.abc import Iterator

import pytest

from cairnfs.vfs.system_call import UNKNOWN_CALL, parse, waiting_in

ARGUMENTS = b"0x3 0x7f1a57911e50 0x1 0x0 0x0 0x7f1a5814e6e8"
STACK = b"0x7f1a5742da30 0x7f1a57b162ec"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    both = os.pipe()
    yield both
    for fd in both:
        os.close(fd)


def test_a_call_has_one_mark_as_long_as_it_lasts_and_another_one_the_next_time(pipe: tuple[int, int]) -> None:
    marks = []
    for n_bytes in (1, 2):
        thread = threading.Thread(target=os.read, args=(pipe[0], n_bytes))
        thread.start()
        tid = thread.native_id or 0
        deadline = time.monotonic() + 10
        while (call := waiting_in(tid)) == UNKNOWN_CALL or call != waiting_in(tid):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(0.01)  # it has come to rest
        call = waiting_in(tid)
        assert not call.makes_name and call == waiting_in(tid)
        marks.append(call.mark)
        os.write(pipe[1], b"x" * n_bytes)
        thread.join()
    assert marks[0] != marks[1] and 0 not in marks


def test_threads_that_are_not_there_are_not_known() -> None:
    assert waiting_in(0) == waiting_in((1 << 22) + 1) == UNKNOWN_CALL


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64")
@pytest.mark.parametrize(
    ("number", "makes_name"),
    [(83, True), (258, True), (133, True), (259, True), (88, True), (266, True), (86, True), (265, True), (49, True)]
    + [(0, False), (2, False), (4, False), (82, False), (85, False), (87, False), (257, False), (437, False)],
)
def test_calls_that_make_names(number: int, makes_name: bool) -> None:
    call = parse(b"%d %s %s\n" % (number, ARGUMENTS, STACK))
    assert call.mark and call.makes_name == makes_name


@pytest.mark.parametrize(
    "line",
    [
        b"running\n",
        b"",
        b"-1 0x7f1a5742da30 0x7f1a57b162ec\n",
        b"0 0x1\n",
        b"426 %s %s\n" % (ARGUMENTS, STACK),  # io_uring_enter
        b"39 %s 0xff8e0f30 0xf7f0e549\n" % ARGUMENTS,  # of a 32-bit program
    ],
)
def test_what_does_not_tell_is_not_known(line: bytes) -> None:
    assert parse(line) == UNKNOWN_CALL
