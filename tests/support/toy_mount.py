"""A real mount of a dictionary: the channel and the kernel, and nothing of the engine."""

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cairnfs.daemon.mountpoint import abort, find_mount, mount_fuse, unmount
from cairnfs.errors import MountError
from cairnfs.ext.fuse_chan import Channel
from cairnfs.options import FuseOptions
from cairnfs.types import Lock, SetAttr
from support.memory_handler import MemoryHandler
from support.mounts import URING
from support.uring import N_CPUS, switched

PATIENCE_S = 20.0

# fusermount3 is another program: while it is started the interpreter is locked, and its descriptors and working directory,
# which are in the mount, are let go of by requests that this very process should answer.
NEEDS_ROOT = pytest.mark.skipif(
    os.geteuid() != 0, reason="a process that serves a mount of its own must mount without fusermount3"
)


class ToyMount:
    """Mounted and served by a thread of this process between `__enter__` and `__exit__`."""

    def __init__(self, path: Path, options: FuseOptions | None = None, **channel: Any) -> None:
        self.path = path
        self.handler = MemoryHandler()
        self.options = options or FuseOptions()
        self._channel_options = {"uring_queues": N_CPUS, **channel} if URING else channel
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="toy-mount")

    def __enter__(self) -> "ToyMount":
        self.path.mkdir(exist_ok=True)
        if not URING:
            return self._begin()
        with switched(on=True):
            self._begin()
            eventually(lambda: self.channel.minor > 0)
            os.stat(self.path)
        self.handler.calls.clear()
        return self

    def _begin(self) -> "ToyMount":
        self.fd = mount_fuse(self.path, self.options)
        self.channel = Channel(self.fd, self.handler, set_attr=SetAttr, lock=Lock, **self._channel_options)
        self._thread.start()
        return self

    def _serve(self) -> None:
        try:
            self.channel.serve()
        except BaseException as error:
            self.failure = error

    def __exit__(self, *_: object) -> None:
        mounted = find_mount(self.path)
        if mounted is not None:
            try:
                unmount(self.path, lazy=True)
            except MountError:
                pass
            abort(mounted)
        self.join()
        os.close(self.fd)
        assert self.failure is None, self.failure

    def join(self) -> None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the channel does not end when the mount is gone"

    def run(self, script: str, *args: object, check: bool = True) -> str:
        """What a shell prints that runs `script` in the mount; $1 and on are `args`.

        Anything that may fault pages of the mount, or wait in it for long, belongs into another process: this one serves it.
        The shell changes into the mount itself, since between fork and exec this process waits with the interpreter locked.
        """
        done = subprocess.run(
            ["bash", "-euc", f'cd "$0"; {script}', str(self.path), *map(str, args)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout + done.stderr


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something is so."""
    never = threading.Event()
    for _ in range(2000):
        if holds():
            return
        never.wait(0.01)
    raise AssertionError("it never came true")
