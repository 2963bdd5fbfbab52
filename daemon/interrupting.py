"""Ctrl-C while the main thread waits in compiled code that no signal ends, such as for a Ceph OSD that says nothing.

Python raises KeyboardInterrupt when that code returns, after half of the io-timeout perhaps, and what is then dropped may wait as
long again. So another thread, which the interpreter's own handler wakes, ends the process.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
GRACE_S = 1.0  # for the usual way


class Ending:
    """How the process ends. `left`: what is then left, in a line."""

    left = ""

    def now(self) -> None:
        if sys.stderr.isatty():
            print("\x1b[?25h", file=sys.stderr)  # the cursor, which a progress bar hides
        if self.left:
            print(f"cairnfs: {self.left}", file=sys.stderr)
        os._exit(INTERRUPTED)


@contextmanager
def ended_by_interrupt(nth: int = 1) -> Iterator[Ending]:
    """The `nth` SIGINT ends this process, after GRACE_S if it is the first, whatever the block is doing. So it must be one that
    may be killed at any moment, or, with `nth` 2, may be once somebody insists. Does nothing but on the main thread.
    """
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_wait, args=(reading, nth, ending), name="interrupts", daemon=True).start()
    try:
        yield ending
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)  # which ends the thread, unless it is about to end the process


def _wait(reading: int, nth: int, ending: Ending) -> None:
    left = nth
    while left and (number := os.read(reading, 1)):
        left -= number[0] == signal.SIGINT
    os.close(reading)
    if not left:
        time.sleep(GRACE_S if nth == 1 else 0)
        ending.now()
