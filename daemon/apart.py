"""A thread that shares memory with the others, but not the table of descriptors.

Making the kernel drop names or pages may wait for requests in work, in a way that not even SIGKILL ends. A process that is killed
meanwhile is not gone until a successor has served those requests, and until then keeps the locks of every table of descriptors
that is still in use; among them SQLite's, which the successor needs. A thread with a table of its own holds up none of them.
"""

import ctypes
import logging
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

log = logging.getLogger(__name__)

CLONE_FILES = 0x400


class Apart(threading.Thread):
    """Runs what it is given, one after the other, until the process ends."""

    def __init__(self) -> None:
        super().__init__(name="apart", daemon=True)
        self._work: queue.SimpleQueue[tuple[Callable[[], None], Future[None]]] = queue.SimpleQueue()

    def do(self, call: Callable[[], None]) -> None:
        """Run `call` there and wait for its end; raises what it raises. From any thread but this one."""
        done: Future[None] = Future()
        self._work.put((call, done))
        done.result()

    def run(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_FILES):
            log.warning("descriptors stay shared: %s", os.strerror(ctypes.get_errno()))
        while True:
            call, done = self._work.get()
            try:
                call()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)
