"""The session of a mount in the metadata: registered at the start, kept alive, closed at the end.

A session whose heart stops is cleaned up by the other users of the volume: its locks are freed and the deleted files
that it held open are removed. So a mount that could not reach the store for long finds out here at the latest, and says so.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from cairnfs.clock import Clock, SleeplessClock
from cairnfs.meta.process import Process
from cairnfs.types import SessionId
from cairnfs.version import VERSION
from cairnfs.vfs.carried import Carried
from cairnfs.volume import Volume

log = logging.getLogger(__name__)

LOOK_S = 1.0  # so long after a suspended machine goes on, its heart beats: it may be in time


@contextmanager
def registered_session(volume: Volume, mountpoint: Path) -> Iterator[SessionId]:
    """Clean up after dead sessions, register one, keep it alive, and close it at the end of the block."""
    sessions = volume.meta.sessions
    sessions.clean_stale()
    session = sessions.open(str(mountpoint), VERSION, period_s=volume.options.heartbeat_s)
    heart = Heartbeat(volume)
    heart.start()
    try:
        yield session
    finally:
        heart.stop()
        sessions.close()


@contextmanager
def shared_session(volume: Volume, mountpoint: Path, carried: Carried, owner: Process) -> Iterator[SessionId]:
    """Like `registered_session`; a successor of this process goes on with it, for as long as the process `owner` lives."""
    sessions = volume.meta.sessions
    sessions.on_opened = partial(setattr, carried, "session")
    if not (carried.session and sessions.resume(SessionId(carried.session), owner, VERSION)):
        if carried.session != carried.closing:
            log.error("session %d was taken for dead: its locks and the deleted files it held open are gone", carried.session)
        sessions.clean_stale()
        sessions.open(str(mountpoint), VERSION, owner, volume.options.heartbeat_s)
    carried.closing = 0
    heart = Heartbeat(volume)
    heart.start()
    try:
        yield SessionId(carried.session)
    finally:
        heart.stop()
        carried.closing = carried.session  # who is killed from here on has a successor, and that one has lost nothing
        sessions.close()


class Heartbeat(threading.Thread):
    """Says every `options.heartbeat_s` that the session lives, and cleans up after sessions that do not.

    Changed limits of the volume are taken up on the same occasion.
    """

    def __init__(self, volume: Volume, clock: Clock | None = None) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._volume = volume
        self._clock = clock or SleeplessClock()
        self._ended = threading.Event()

    def run(self) -> None:
        while self._is_due():
            try:
                self._beat()
            except OSError as error:
                log.warning("no heartbeat: %s", error)

    def _is_due(self) -> bool:
        """Wait until it is; False at the end."""
        due_s = self._clock.monotonic_s() + self._volume.options.heartbeat_s
        while (left_s := due_s - self._clock.monotonic_s()) > 0:
            if self._ended.wait(min(left_s, LOOK_S)):
                return False
        return not self._ended.is_set()

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def _beat(self) -> None:
        self._volume.refresh_format()  # first: in a store whose volume was destroyed nothing may be written again
        self._volume.meta.sessions.heartbeat()
        for session in self._volume.meta.sessions.clean_stale():
            log.info("cleaned up after session %d of %s:%s, which is dead", session.id, session.host, session.mountpoint)
