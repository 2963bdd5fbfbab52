"""Unmounting from outside: ask the kernel, then wait for the process that served the mount.

umount(8) returns when the kernel has let go; what was written is safe only when the mount's process has ended well. So
this takes hold of that process first, and reports what it could not save.
"""

import errno
import os
from pathlib import Path

from cairnfs.daemon.mountpoint import mounted_by, unmount
from cairnfs.daemon.output import note
from cairnfs.daemon.running import RunningMount, find_running
from cairnfs.errors import CairnError, MountError

QUIET_S = 3.0  # a wait longer than this is explained


def unmount_and_wait(mountpoint: Path, *, lazy: bool, force: bool) -> None:
    """Unmount and, unless `lazy`, wait for the process. Raises MountError, and CairnError when data was lost."""
    owner = mounted_by(mountpoint)
    running = find_running(mountpoint, os.geteuid() if owner is None else owner)
    if owner is None and running is None:
        raise MountError(f"{mountpoint} is not a cairnfs mount")
    try:
        if owner is not None:
            _unmount(mountpoint, lazy=lazy, force=force)
        if running is not None and not lazy:
            _wait(mountpoint, running)
    finally:
        if running is not None:
            running.close()


def _unmount(mountpoint: Path, *, lazy: bool, force: bool) -> None:
    try:
        unmount(mountpoint, lazy=lazy, force=force)
    except MountError as error:
        # The process itself detaches a mount whose connection was aborted, or that a signal ends: it may be faster.
        if error.errno != errno.EINVAL:
            raise


def _wait(mountpoint: Path, running: RunningMount) -> None:
    if not running.wait(QUIET_S):
        note(f"waiting for process {running.pid} to store what was written to {mountpoint}")
        running.wait()
    failure = running.failure()
    if failure is not None:
        raise CairnError(f"{mountpoint} is unmounted, but not everything could be stored: {failure}")
