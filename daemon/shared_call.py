"""One call that serves everybody who was waiting when it began."""

import threading
from collections.abc import Callable


class SharedCall:
    """Calling it returns after a run of `call` that began after the caller came; whoever waits meanwhile shares the next run.

    A run that fails raises what it raised, for all who shared it.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._changed = threading.Condition()
        self._running = False
        self._n_begun = 0
        self._n_ended = 0
        self._error: BaseException | None = None  # of the run that ended last

    def __call__(self) -> None:
        with self._changed:
            wanted = self._n_begun + 1
            self._changed.wait_for(lambda: self._n_ended >= wanted or not self._running)
            if self._n_ended >= wanted:
                if self._error is not None:
                    raise self._error
                return
            self._running = True
            self._n_begun += 1
        error: BaseException | None = None
        try:
            self._call()
        except BaseException as raised:
            error = raised
            raise
        finally:
            with self._changed:
                self._running = False
                self._n_ended = self._n_begun
                self._error = error
                self._changed.notify_all()
