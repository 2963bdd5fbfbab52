"""Taking a mount over from the supervisor that has it (`handover` has the conversation): the newcomer's end.

Nothing that was handed over is used before it is checked: memory of another size, or that may be resized, is refused, since
reading beyond its end would kill this process.
"""

import logging
import os
import select
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from socket import SO_ACCEPTCONN, SOL_SOCKET, socket
from typing import Any, NamedTuple

from cairnfs.daemon.control import Control, fixed_settings
from cairnfs.daemon.handover import Conversation, close_all, connect, counts_layout, inherited_from, layout
from cairnfs.daemon.inherited import MAX_THREADS, N_PARKED, Inherited
from cairnfs.daemon.metrics_socket import listen_at, listens_at
from cairnfs.daemon.mount_options import MountRequest
from cairnfs.daemon.mountpoint import check_mountpoint, mounted_by
from cairnfs.daemon.running import Registration, RunningMount, find_running
from cairnfs.daemon.scout import Scout
from cairnfs.daemon.worker import half_dead
from cairnfs.errors import MountError
from cairnfs.version import VERSION

log = logging.getLogger(__name__)

ANSWER_S = 10.0  # for a supervisor to answer; it looks every tenth of a second
DEATH_S = 10.0  # for a killed worker to be gone
LOOK_S = 0.01
FUSE_DEVICE = os.makedev(10, 229)

# What users call the settings that stay what they are.
KEPT = {
    "allow_other": "allow_other",
    "mount_options": "mount options of the kernel",
    "max_background": "max-background",
    "cache_bytes": "cache-memory",
    "buffer_bytes": "buffer-size",
}


class Taken(NamedTuple):
    """A mount that was taken over, without a worker. `request`: as it can be had."""

    request: MountRequest
    inherited: Inherited
    registration: Registration
    control: Control
    counts: str  # layout of what was counted


def take_over(request: MountRequest) -> Taken | None:
    """Take over what is mounted at the mountpoint; None when nothing is, or it is not this user's.

    MountError when it cannot be had, and what kept the volume from being opened: the mount goes on as it was then.
    """
    running = _find(request)
    if running is None:
        return None
    _need_nothing_from(request.mountpoint)
    try:
        scout = Scout(request)  # forked before there is a connection, whose end says that everybody is gone
        try:
            return _converse(request, running, scout)
        except BaseException:
            scout.close()
            raise
    except (EOFError, ConnectionError):
        raise MountError(f"{request.mountpoint}: process {running.pid}, which served it, has ended: try again") from None
    finally:
        running.close()


def _converse(request: MountRequest, running: RunningMount, scout: Scout) -> Taken:
    conversation = _connect(request, running)
    try:
        taken = _take(request, running, scout, conversation)
        _end_workers(taken, running, scout, conversation)
    except BaseException:
        conversation.close()
        raise
    return taken


def _need_nothing_from(mountpoint: Path) -> None:
    """Whoever sees to it that the mount answers must not wait for it, nor keep it in use."""
    inside = os.path.realpath(mountpoint)
    sys.path[:] = [path for path in sys.path if not Path(path or ".").absolute().is_relative_to(inside)]
    if Path.cwd().is_relative_to(inside):
        os.chdir("/")


def refuse_to_take_over(request: MountRequest) -> None:
    """For mounts that cannot take over: MountError when the mountpoint is served already."""
    running = _find(request)
    if running is not None:
        running.close()
        raise MountError(
            f"{request.mountpoint} is in use, and --workers 0 and --front pyfuse3 cannot take it over: unmount it first"
        )


def _find(request: MountRequest) -> RunningMount | None:
    """What this user has mounted there. Another user's, root included, would leave objects that the owner has no access to."""
    if mounted_by(request.mountpoint) != os.geteuid():
        return None
    return find_running(request.mountpoint, os.geteuid())


def _connect(request: MountRequest, running: RunningMount) -> Conversation:
    try:
        conversation = connect(running.socket_path)
    except OSError:
        raise MountError(
            f"{request.mountpoint} is in use, and process {running.pid}, which serves it, cannot hand it over "
            "(--workers 0, --front pyfuse3, or it is ending): unmount it first"
        ) from None
    return conversation


def _hear(request: MountRequest, running: RunningMount, conversation: Conversation) -> tuple[dict[str, Any], list[int]]:
    heard = conversation.hear(ANSWER_S)
    if heard is None:
        raise MountError(f"{request.mountpoint} is in use, and process {running.pid}, which serves it, does not answer")
    return heard


def _take(request: MountRequest, running: RunningMount, scout: Scout, conversation: Conversation) -> Taken:
    """Everything up to the point where something happens."""
    conversation.say({"version": VERSION, "layout": layout()})
    offer, received = _hear(request, running, conversation)
    names = [str(name) for name in offer.get("fds", ())]
    if len(names) != len(received):
        close_all(received)
        raise MountError(f"{request.mountpoint}: process {running.pid} does not hand over what it says")
    fds = dict(zip(names, received, strict=True))  # without those that have found their place
    try:
        _check(request, scout, offer)
        if os.fstat(fds["device"]).st_rdev != FUSE_DEVICE:
            raise ValueError("no descriptor of a mount")
        inherited = inherited_from(offer["sizes"], fds, request.workers)
        inherited.metrics, inherited.uuid = _metrics(request, fds), scout.uuid
        inherited.drops_names = bool(offer["fixed"].get("keeps_absent")) and not request.is_pushed
        listening = _listening(fds)
        settled = _settled(request, offer["fixed"], inherited)
        registration = _registration(request, fds)
        control = Control(settled, inherited, registration, scout.uuid, listening, (conversation, scout))
        return Taken(settled, inherited, registration, control, offer["sizes"]["counts"])
    except MountError:
        raise
    except (ValueError, KeyError, TypeError, OSError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise MountError(f"{request.mountpoint}: process {running.pid} hands over what cannot be used: {reason}") from error
    finally:
        close_all(fds.values())


def _check(request: MountRequest, scout: Scout, offer: dict[str, Any]) -> None:
    """MountError unless it is the same volume, as it is wanted, in memory that this program can use."""
    mountpoint = request.mountpoint
    if offer["uuid"] != scout.uuid:
        check_mountpoint(mountpoint)  # says who is there
        raise MountError(f"{mountpoint} was in use by another volume: try again")
    if offer["layout"] != layout():
        raise MountError(
            f"{mountpoint}: process {offer['pid']} runs version {offer['version']}, whose shared memory this program "
            f"({VERSION}) cannot use: unmount it first"
        )
    if offer["fixed"]["read_only"] != request.fuse.read_only:
        is_, wanted = ("read-only", "read-write") if offer["fixed"]["read_only"] else ("read-write", "read-only")
        raise MountError(f"{mountpoint} is in use, and mounted {is_}: unmount it first to mount it {wanted}")


def _listening(fds: dict[str, int]) -> socket:
    listening = socket(fileno=fds["listening"])
    del fds["listening"]
    if not listening.getsockopt(SOL_SOCKET, SO_ACCEPTCONN):
        raise ValueError("a socket that nobody can connect to")
    return listening


def _metrics(request: MountRequest, fds: dict[str, int]) -> socket | None:
    """The socket of the metrics: the one that the mount has if it is at the address that is wanted now, else a new one."""
    if request.metrics is None:
        return None
    if "metrics" in fds:
        listening = socket(fileno=fds["metrics"])
        del fds["metrics"]
        if listens_at(listening, request.metrics):
            return listening
        listening.close()
    return listen_at(request.metrics)


def _registration(request: MountRequest, fds: dict[str, int]) -> Registration:
    registration = Registration(request.mountpoint, {"url": request.url, "version": VERSION}, fds["note"])
    del fds["note"]
    return registration


def _settled(request: MountRequest, fixed: dict[str, Any], inherited: Inherited) -> MountRequest:
    """The request with everything that cannot be changed as it is; says what differs from what was asked for."""
    asked = fixed_settings(request)
    n_threads = inherited.slots.n_slots - N_PARKED
    differ = [shown for name, shown in KEPT.items() if fixed[name] != asked[name]]
    if min(request.fuse.max_threads, MAX_THREADS) > n_threads:
        differ.append("threads")
    for shown in differ:
        log.warning("%s: %s stays what it is until it is unmounted", request.mountpoint, shown)
    fuse = replace(
        request.fuse,
        allow_other=bool(fixed["allow_other"]),
        mount_options=tuple(fixed["mount_options"]),
        max_write_bytes=int(fixed["max_write_bytes"]),
        max_background=int(fixed["max_background"]),
        max_threads=min(request.fuse.max_threads, n_threads),
        min_threads=min(request.fuse.min_threads, n_threads),
    )
    engine = replace(request.engine, cache_bytes=int(fixed["cache_bytes"]), buffer_bytes=int(fixed["buffer_bytes"]))
    return replace(request, fuse=fuse, engine=engine)


def _end_workers(taken: Taken, running: RunningMount, scout: Scout, conversation: Conversation) -> None:
    """The point of no return, in small steps; whatever fails, the other process is told to go on."""
    if signal.sigpending() & {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}:
        raise KeyboardInterrupt
    conversation.say({"ready": True})
    said, pidfds = _hear(taken.request, running, conversation)
    carried, request = taken.inherited.carried, taken.request
    try:
        for pid, pidfd in zip(said["workers"], pidfds, strict=True):
            _end(pid, pidfd)
        for number in range(1, taken.inherited.slots.n_fetchers + 1):
            taken.inherited.slots.end_jobs_of(number)
        scout.adopt(carried.session, taken.inherited.supervisor)
        if taken.counts != counts_layout():
            carried.forget_counts()
        carried.generation += 1
        taken.registration.renew()
    except BaseException as error:
        try:
            conversation.say({"no": str(error)})
        except OSError:
            log.critical("%s: process %d has ended, and so does this one", request.mountpoint, running.pid)
        raise
    finally:
        close_all(pidfds)
    log.info("%s: taken over from process %d", request.mountpoint, running.pid)


def _end(pid: int, pidfd: int) -> None:
    """Kill a worker, and wait until none of its threads does anything. OSError when that is not possible."""
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    deadline_s = time.monotonic() + DEATH_S
    while not poll.poll(LOOK_S * 1000) and not half_dead(pid):
        if time.monotonic() > deadline_s:
            raise MountError(f"worker {pid} does not die")
