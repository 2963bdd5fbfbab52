"""The mounts that run on this host: one small file each, so that `cairnfs umount` can wait for the right process.

The file of a mount is locked (flock) by its process for as long as it lives: a file without a lock is left over from a
killed process and counts for nothing. It is named after the mountpoint, and has JSON: pid, mountpoint, url, version, and,
from a process that could not save everything, `failure`.
"""

import errno
import fcntl
import json
import os
import select
import socket
from hashlib import blake2b
from pathlib import Path
from typing import Any

from cairnfs.errors import CairnError, MountError


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


class Registration:
    """The note of this process that it serves a mountpoint. `close` takes it away."""

    def __init__(self, mountpoint: Path, details: dict[str, Any]) -> None:
        self._path = _file_of(mountpoint, os.geteuid())
        self._details = {"pid": os.getpid(), "mountpoint": str(mountpoint), **details}
        try:
            _make_running_dir()
            self._fd = _open_locked(self._path)
        except BlockingIOError:
            raise MountError(f"{mountpoint} is being mounted or unmounted by another cairnfs process") from None
        except CairnError:
            raise
        except OSError as error:
            raise CairnError(f"cannot note the mount in {self._path.parent}: {error.strerror}", error.errno) from error
        self._write()

    def fail(self, message: str) -> None:
        """Tell whoever waits for this process that it could not save everything."""
        self._details["failure"] = message
        self._write()

    def close(self) -> None:
        os.unlink(self._path)
        os.close(self._fd)

    def _write(self) -> None:
        os.truncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(self._details).encode(), 0)


class RunningMount:
    """Another process that serves a mountpoint; keeps hold of it, so that its end and its last words are not missed."""

    def __init__(self, file_fd: int, pidfd: int, pid: int, url: str) -> None:
        self._file_fd = file_fd
        self._pidfd = pidfd
        self.pid = pid
        self.url = url

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the process has ended; False when it has not within `timeout_s`."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))

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
        return _hold(fd)
    path.unlink(missing_ok=True)
    os.close(fd)
    return None


def _hold(fd: int) -> RunningMount | None:
    details = _read_details(fd)
    try:
        pid = int(details["pid"])
        return RunningMount(fd, os.pidfd_open(pid), pid, str(details.get("url", "")))
    except (OSError, ValueError, KeyError):
        os.close(fd)
        return None
