"""The mounts that run on this host: one small file each, so that `cairnfs umount` can wait for the right process.

The file of a mount is locked (flock) by its process for as long as it lives: a file without a lock is left over from a
killed process and counts for nothing. It is named after the mountpoint, and has JSON: pid, mountpoint, url, version, and,
from a process that could not save everything, `failure`. Beside it is the socket of a mount that can be taken over; the lock then
passes to the other process with the descriptor, so that there is none without.
"""

import errno
import fcntl
import json
import os
import select
import socket
import time
from hashlib import blake2b
from pathlib import Path
from typing import Any

from cairnfs.errors import CairnError, MountError

SOCKET = ".sock"
LOOK_AGAIN_S = 0.02  # at a note whose process has ended, while another one has it locked
ENDING_S = 2.0  # how long the end of a process may take


def running_dir(uid: int) -> Path:
    """Where the mounts of a user are noted: /run/cairnfs for root, ~/.cairnfs/run/HOST for others.

    Service users without a home have a folder in /tmp, which nobody else may own.
    """
    if uid == 0:
        return Path("/run/cairnfs")
    import pwd

    try:
        home = Path(pwd.getpwuid(uid).pw_dir)
    except KeyError:
        home = Path("/nonexistent")
    return home / ".cairnfs" / "run" / socket.gethostname() if home.is_dir() else Path(f"/tmp/cairnfs-{uid}")


def _make_running_dir() -> None:
    folder = running_dir(os.geteuid())
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.lstat().st_uid != os.geteuid():
        raise CairnError(f"{folder} belongs to another user: remove it", errno.EPERM)
    for path in folder.glob("*.json"):
        _remove_if_left_over(path)


def _remove_if_left_over(path: Path) -> None:
    try:
        fd = _open_locked(path)
    except OSError:
        return  # somebody has it locked, or has just removed it
    path.unlink()
    path.with_suffix(SOCKET).unlink(missing_ok=True)
    os.close(fd)


def _file_of(mountpoint: Path, uid: int) -> Path:
    digest = blake2b(os.fsencode(os.path.realpath(mountpoint)), digest_size=8).hexdigest()
    return running_dir(uid) / f"{digest}.json"


def _open_locked(path: Path) -> int:
    """Open and lock the file at `path`, made if missing. BlockingIOError when another process has the lock."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had the lock before may have unlinked the name between our open and our lock.
            if os.path.exists(path) and os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _lock_in_time(path: Path) -> int:
    """`_open_locked`, waiting a little for a process that is just ending. BlockingIOError.

    One that was killed has its lock until the kernel has let go of its last thread, at the latest when the mount is taken away.
    """
    until_s = time.monotonic() + ENDING_S
    while True:
        try:
            return _open_locked(path)
        except BlockingIOError:
            if time.monotonic() >= until_s:
                raise
        time.sleep(LOOK_AGAIN_S)


class Registration:
    """The note of this process that it serves a mountpoint. `close` takes it away."""

    def __init__(self, mountpoint: Path, details: dict[str, Any], fd: int | None = None) -> None:
        """`fd`: that of the locked note of a process which this one takes over from.

        MountError when another process has the note locked; CairnError when it cannot be written, or is not this mountpoint's.
        """
        self._path = _file_of(mountpoint, os.geteuid())
        self._details = {"pid": os.getpid(), "mountpoint": str(mountpoint), **details}
        self.given = False
        try:
            if fd is None:
                _make_running_dir()
                self.fd = _lock_in_time(self._path)
            elif os.path.samestat(os.fstat(fd), os.stat(self._path)):
                self.fd = fd
                return  # it goes on saying whose the mount was, until `renew`
            else:
                raise CairnError(f"{self._path} is another note than the one that was handed over")
        except BlockingIOError:
            raise MountError(f"{mountpoint} is being mounted or unmounted by another cairnfs process") from None
        except CairnError:
            raise
        except OSError as error:
            raise CairnError(f"cannot note the mount in {self._path.parent}: {error.strerror}", error.errno) from error
        self.renew()

    @property
    def socket_path(self) -> Path:
        """Where others can ask for the mount."""
        return self._path.with_suffix(SOCKET)

    def fail(self, message: str) -> None:
        """Tell whoever waits for this process that it could not save everything."""
        self._details["failure"] = message
        self.renew()

    def renew(self) -> None:
        """Say again what this process is. In one step, since others read the note at any time."""
        text = json.dumps(self._details).encode()
        os.pwrite(self.fd, text.ljust(os.fstat(self.fd).st_size), 0)

    def give(self) -> None:
        """Another process has the note now, and its lock."""
        self.given = True
        os.close(self.fd)

    def close(self) -> None:
        if self.given:
            return
        os.unlink(self._path)
        self.socket_path.unlink(missing_ok=True)
        os.close(self.fd)


class RunningMount:
    """Another process that serves a mountpoint; keeps hold of it, so that its end and its last words are not missed."""

    def __init__(self, path: Path, file_fd: int, pidfd: int, details: dict[str, Any]) -> None:
        self._file_fd = file_fd
        self._pidfd = pidfd
        self.socket_path = path.with_suffix(SOCKET)
        self.pid = int(details["pid"])
        self.url = str(details.get("url", ""))

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the process has ended, and those that have taken over from it; False when not within `timeout_s`."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = None if deadline_s is None else max(deadline_s - time.monotonic(), 0)
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            if not poll.poll(None if left_s is None else left_s * 1000):
                return False
            if not self._is_locked():
                return True
            if not self._go_on():
                if left_s is not None and left_s < LOOK_AGAIN_S:
                    return False
                time.sleep(LOOK_AGAIN_S)  # its worker stores the rest, or somebody is just taking over

    def _is_locked(self) -> bool:
        """Does a process have the note that is at its place?"""
        if os.fstat(self._file_fd).st_nlink == 0:
            return False
        try:
            fcntl.flock(self._file_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._file_fd, fcntl.LOCK_UN)
        return False

    def _go_on(self) -> bool:
        """Take hold of the process that the note names now, if that is another one."""
        pid = _read_details(self._file_fd).get("pid", self.pid)
        if pid == self.pid:
            return False
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return False
        os.close(self._pidfd)
        self._pidfd, self.pid = pidfd, pid
        return True

    def failure(self) -> str | None:
        """What the process could not save, as it said at its end."""
        message = _read_details(self._file_fd).get("failure")
        return None if message is None else str(message)

    def close(self) -> None:
        os.close(self._pidfd)
        os.close(self._file_fd)


def _read_details(fd: int) -> dict[str, Any]:
    try:
        details = json.loads(os.pread(fd, 65536, 0))
    except ValueError:
        return {}
    return details if isinstance(details, dict) else {}


def find_running(mountpoint: Path, uid: int) -> RunningMount | None:
    """The process of user `uid` that serves a mountpoint; None when there is none (left-over notes are removed)."""
    path = _file_of(mountpoint, uid)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _hold(path, fd)
    path.unlink(missing_ok=True)
    path.with_suffix(SOCKET).unlink(missing_ok=True)
    os.close(fd)
    return None


def _hold(path: Path, fd: int) -> RunningMount | None:
    details = _read_details(fd)
    try:
        return RunningMount(path, fd, os.pidfd_open(int(details["pid"])), details)
    except (OSError, ValueError, KeyError):
        os.close(fd)
        return None
