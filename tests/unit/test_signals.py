"""Waiting for a signal up to a time: which one came and from whom, and none when the process stood still meanwhile."""

import os
import signal
import time

from cairnfs.daemon.signals import next_signal
from support.arenas import ended, in_child

WAIT_S = 0.05
SIGNALS = {signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD}


def test_a_signal_and_its_sender_or_none_in_time() -> None:
    def waits() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        assert next_signal(SIGNALS, 0) is None
        assert next_signal(SIGNALS, WAIT_S) is None
        os.kill(os.getpid(), signal.SIGHUP)
        assert next_signal(SIGNALS, 20) == (signal.SIGHUP, os.getpid())
        assert next_signal(SIGNALS, -1) is None

    assert ended(in_child(waits)) == 0  # threads of this process have not blocked them


def test_a_process_that_was_stopped_for_longer_sees_no_signal_that_nobody_sent() -> None:
    """CPython's `sigtimedwait` returns one then."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        os.write(into, b"ready")
        while (came := next_signal(SIGNALS, WAIT_S)) is None:
            pass
        os._exit(came.number if came.sender == os.getppid() else 100)
    try:
        assert os.read(out, 5) == b"ready"
        for _ in range(5):
            time.sleep(WAIT_S)
            os.kill(pid, signal.SIGSTOP)
            time.sleep(4 * WAIT_S)
            os.kill(pid, signal.SIGCONT)
        time.sleep(4 * WAIT_S)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it has seen a signal"
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == signal.SIGTERM
    finally:
        os.close(out)
        os.close(into)
