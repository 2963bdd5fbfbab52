"""The supervisor's end of a takeover: it listens beside its note, and gives the mount to who may have it (`handover`)."""

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cairnfs.daemon.handover import Conversation, close_all, descriptors, layout, listen, sizes
from cairnfs.daemon.inherited import Inherited
from cairnfs.daemon.mount_options import MountRequest
from cairnfs.daemon.running import Registration
from cairnfs.daemon.scout import Scout
from cairnfs.version import VERSION

log = logging.getLogger(__name__)

SILENCE_S = 30.0  # whoever connects and then says nothing for so long is forgotten; it opens the volume meanwhile
LOOK_S = 0.1
PF_EXITING = 4  # among the flags in /proc/PID/stat
CLAIM_S = 30.0  # from naming the workers to `mine`, while nobody serves: then the newcomer is killed


def fixed_settings(request: MountRequest) -> dict[str, Any]:
    """What was agreed with the kernel, or is the size of shared memory: nobody can change it while the mount lasts. And
    `keeps_absent`, whether the kernel may know of names that they are absent: it can be made to forget them.
    """
    fuse, engine = request.fuse, request.engine
    return {
        "read_only": fuse.read_only,
        "keeps_absent": request.is_pushed,
        "allow_other": fuse.allow_other,
        "mount_options": list(fuse.mount_options),
        "max_write_bytes": fuse.max_write_bytes,
        "max_background": fuse.max_background,
        "cache_bytes": engine.cache_bytes,
        "buffer_bytes": engine.buffer_bytes,
    }


class Control:
    """The control socket of a mount. For one thread."""

    def __init__(
        self,
        request: MountRequest,
        inherited: Inherited,
        registration: Registration,
        uuid: str,
        listening: socket.socket | None = None,
        taking: tuple[Conversation, Scout] | None = None,
    ) -> None:
        """`listening`: that of the process which the mount was taken over from; `taking`: what is over once a worker has it."""
        self._request = request
        self._inherited = inherited
        self._registration = registration
        self._uuid = uuid
        self._listening = listen(registration) if listening is None else listening
        self._taking = taking
        self._leaving: Scout | None = None
        self._newcomer: Conversation | None = None
        self._refused: list[Conversation] = []  # a worker of theirs may still ask whether this process is gone
        self._heard_s = 0.0
        inherited.first.append(self._in_worker)

    def poll(self, workers: Callable[[], Sequence[int]]) -> bool:
        """Attend to who asks for the mount; True when it was given away. For a mount that answers.

        A process that says no or dies with the mount in its hands leaves the workers dead: the caller starts others.
        """
        self._taken()
        if self._leaving is not None and self._leaving.is_gone():
            self._leaving = None
        for refused in [each for each in self._refused if each.is_over()]:
            self._refused.remove(refused)
            refused.close()
        if self._newcomer is None and not self._accept():
            return False
        newcomer = self._newcomer
        if newcomer is None:
            return False
        try:
            heard = newcomer.hear()
            if heard is not None:
                self._heard_s = time.monotonic()
                said, fds = heard
                close_all(fds)
                if said.get("ready") is True:
                    return self._give(newcomer, workers())
                self._offer(newcomer, said)
                return False
            if time.monotonic() - self._heard_s < SILENCE_S:
                return False
        except (EOFError, OSError, ValueError):
            pass
        self._forget()
        return False

    def close(self) -> None:
        """For the end of the mount, or of this process's part in it."""
        self._forget()
        while self._refused:
            self._refused.pop().close()
        self._taken()
        self._listening.close()

    def _accept(self) -> bool:
        try:
            self._newcomer = Conversation(self._listening.accept()[0])
        except OSError:
            return False
        self._heard_s = time.monotonic()
        peer = self._newcomer.peer
        if peer.uid != os.geteuid():
            log.warning("%s: process %d of user %d must not take over", self._request.mountpoint, peer.pid, peer.uid)
            self._forget()
            return False
        return True

    def _taken(self) -> None:
        """The mount is served: now a process that had something of it open can end."""
        if self._taking is not None:
            conversation, self._leaving = self._taking
            self._taking = None
            conversation.close()
            self._leaving.let_go()

    def _forget(self) -> None:
        if self._newcomer is not None:
            self._newcomer.close()
            self._newcomer = None

    def _offer(self, newcomer: Conversation, said: dict[str, Any]) -> None:
        offer = {"version": VERSION, "layout": layout(), "pid": os.getpid(), "uuid": self._uuid}
        if said.get("layout") != layout():
            newcomer.say(offer)
            return
        fds = {
            "note": self._registration.fd,
            "listening": self._listening.fileno(),
            **descriptors(self._inherited),
        }
        fixed = fixed_settings(self._request)
        newcomer.say({**offer, "fixed": fixed, "sizes": sizes(self._inherited), "fds": list(fds)}, fds.values())

    def _give(self, newcomer: Conversation, workers: Sequence[int]) -> bool:
        """Name the workers, and wait for the outcome."""
        mountpoint = self._request.mountpoint
        pidfds = [os.pidfd_open(pid) for pid in workers]
        try:
            newcomer.say({"workers": list(workers)}, pidfds)
        finally:
            close_all(pidfds)
        outcome = self._outcome(newcomer)
        if "mine" in outcome:
            log.info("%s: taken over by process %d", mountpoint, newcomer.peer.pid)
            self._registration.give()
            self._pass_on_signals(newcomer.peer.pid)
            return True
        reason = outcome.get("no", "it has ended")
        log.warning("%s: process %d has not taken over: %s: going on", mountpoint, newcomer.peer.pid, reason)
        for pid in workers:
            os.kill(pid, signal.SIGKILL)  # none was reaped meanwhile
        self._registration.renew()
        self._newcomer = None
        self._refused.append(newcomer)
        return False

    def _outcome(self, newcomer: Conversation) -> dict[str, Any]:
        """What the newcomer says at last; nothing when it is gone."""
        killed_s = time.monotonic() + CLAIM_S
        while True:
            try:
                heard = newcomer.hear(LOOK_S)
                if heard is None and _is_ending(newcomer.peer.pid):  # perhaps not to its end: it may have files of the mount open
                    newcomer.refuse()
                    heard = newcomer.hear() or ({}, [])
            except (EOFError, OSError, ValueError):
                return {}
            if heard is not None:
                close_all(heard[1])
                return heard[0]
            if time.monotonic() > killed_s:
                killed_s = time.monotonic() + CLAIM_S
                log.error("%s: process %d takes over, and says nothing: killed", self._request.mountpoint, newcomer.peer.pid)
                try:
                    os.kill(newcomer.peer.pid, signal.SIGKILL)
                except OSError as error:
                    log.error("process %d cannot be killed: %s", newcomer.peer.pid, error.strerror)

    def _pass_on_signals(self, pid: int) -> None:
        """Whoever asked this process to end meanwhile means the mount."""
        for number in signal.sigpending() & {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}:
            os.kill(pid, number)

    def _in_worker(self) -> None:
        """What a worker does first: it says that the mount is its supervisor's now, and lets go of what is not its own."""
        if self._taking is not None and not self._claim(self._taking[0]):
            os._exit(1)
        self.close()

    def _claim(self, conversation: Conversation) -> bool:
        """Say `mine`. False when the process that has the mount goes on; when it was killed, nobody else has it."""
        if os.getppid() != self._inherited.supervisor.pid:
            return conversation.is_over()
        try:
            conversation.say({"mine": True})
        except OSError:
            return conversation.is_over()
        return True


def _is_ending(pid: int) -> bool:
    try:
        flags = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[6])
    except OSError:
        return True
    return bool(flags & PF_EXITING)
