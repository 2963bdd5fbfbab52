"""The compiled front: mounts, and lets `ext.fuse_chan` call the VFS, whose face is the channel's handler as it is.

Requests do not pass through this file. It owns the descriptor of the mount and the order of start and end.
"""

import errno
import logging
import os
import threading
from collections.abc import Iterable
from pathlib import Path

from cairnfs.daemon.mountpoint import abort, find_mount, mount_fuse, unmount
from cairnfs.errors import MountError
from cairnfs.ext.fuse_chan import Channel
from cairnfs.options import FuseOptions
from cairnfs.types import Inode, Lock, SetAttr
from cairnfs.vfs import Vfs

log = logging.getLogger(__name__)


class ChannelFront:
    """One mount through the compiled channel."""

    def __init__(self, vfs: Vfs, mountpoint: Path, options: FuseOptions) -> None:
        self._vfs = vfs
        self._mountpoint = mountpoint
        self._options = options
        self._lock = threading.Lock()
        self._stopping = False
        self._channel: Channel | None = None

    def run(self) -> None:
        """Mount, and serve until unmounted or stopped. MountError when it cannot be mounted; OSError when the device fails."""
        fd = mount_fuse(self._mountpoint, self._options)
        try:
            channel = self._open(fd)
            with self._lock:
                self._channel = channel
                stopping = self._stopping
            if not stopping:
                channel.serve()
        finally:
            with self._lock:
                self._channel = None
            os.close(fd)
            self._detach()

    def stop(self) -> None:
        """From any thread: detach the mount, answer the requests in work, fail the others, and make `run` return."""
        with self._lock:
            self._stopping = True
            channel = self._channel
        if channel is None:
            return
        mounted = find_mount(self._mountpoint)
        self._detach()
        if mounted is not None:
            abort(mounted)
        channel.stop()

    def counts(self) -> dict[str, int]:
        """Requests served so far, by the kernel's name of the opcode."""
        channel = self._channel
        return {} if channel is None else channel.counts()

    def invalidate_all(self) -> None:
        """Make the kernel look up every name again. Attributes follow by their timeout, pages at the next open."""
        with self._lock:
            channel = self._channel
        if channel is not None and not channel.inc_epoch():
            log.warning("%s: this kernel cannot drop all names at once; they stay for their timeout", self._mountpoint)

    def invalidate(self, inos: Iterable[Inode], dentries: Iterable[tuple[Inode, bytes]]) -> None:
        """Make the kernel forget attributes and pages of inodes, and names. From any thread that serves no request; may
        wait for requests on the same directories.
        """
        with self._lock:
            channel = self._channel
        if channel is None:
            return
        try:
            for ino in inos:
                channel.inval_inode(ino)
            for parent, name in dentries:
                channel.inval_entry(parent, name, expire_only=True)
        except OSError as error:
            log.warning("%s: the kernel did not take an invalidation: %s", self._mountpoint, error)

    def invalidate_attributes(self, inos: Iterable[Inode]) -> None:
        """Make the kernel ask for attributes again. Takes no lock of the kernel's, so requests may call it."""
        with self._lock:
            channel = self._channel
        if channel is None:
            return
        try:
            for ino in inos:
                channel.inval_inode(ino, -1)
        except OSError as error:
            log.warning("%s: the kernel did not take an invalidation: %s", self._mountpoint, error)

    def _open(self, fd: int) -> Channel:
        options = self._options
        return Channel(
            fd,
            self._vfs,
            set_attr=SetAttr,
            lock=Lock,
            attr_timeout_s=options.attr_timeout_s,
            entry_timeout_s=options.entry_timeout_s,
            dir_entry_timeout_s=options.dir_entry_timeout_s,
            min_threads=min(options.min_threads, options.max_threads),
            max_threads=options.max_threads,
            max_write_bytes=options.max_write_bytes,
            max_background=options.max_background,
            debug=options.debug,
        )

    def _detach(self) -> None:
        """Take the mountpoint out of the way, whatever still uses the mount."""
        try:
            unmount(self._mountpoint, lazy=True)
        except MountError as error:
            if error.errno != errno.EINVAL:
                log.warning("%s: %s", self._mountpoint, error)


Front = ChannelFront
