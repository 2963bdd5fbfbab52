"""The compiled front: mounts, and lets `ext.fuse_chan` call the VFS, whose face is the channel's handler as it is.

Requests do not pass through this file. It owns the descriptor of the mount and the order of start and end.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cairnfs.daemon.apart import Apart
from cairnfs.daemon.inherited import MAX_THREADS, Inherited
from cairnfs.daemon.mountpoint import Mounted, abort, clear_stale, find_mount, mount_fuse, unmount
from cairnfs.daemon.transport import Transport, choose, descriptor
from cairnfs.errors import MountError
from cairnfs.ext.arena import Arena
from cairnfs.ext.fuse_chan import Channel
from cairnfs.ext.log_end import LogEnd
from cairnfs.meta.stores.base import Store
from cairnfs.metrics import Distribution
from cairnfs.options import FuseOptions
from cairnfs.types import Inode, Lock, SetAttr, serving
from cairnfs.vfs import Vfs
from cairnfs.vfs.virtual import FIRST_INO

log = logging.getLogger(__name__)

KEPT_S = 86400.0  # what the kernel may keep when nothing else is asked for: changes are told of, so this is no staleness
LINK_PAUSE_S = 1.0  # after a connection that could not be had
MAX_BACKGROUND = 65535  # what the protocol can say


class ChannelFront:
    """One mount through the compiled channel."""

    def __init__(
        self,
        vfs: Vfs,
        mountpoint: Path,
        options: FuseOptions,
        arena: Arena | None = None,
        inherited: Inherited | None = None,
        done: Iterable[int] = (),
        fences: memoryview | None = None,
    ) -> None:
        """`inherited`: the mount is there already. `done`: requests left behind whose effects are. `fences`: see `make_front`."""
        self._vfs = vfs
        self._arena = arena
        self._inherited = inherited
        self._done = done
        self._mountpoint = mountpoint
        self._options = options
        self._lock = threading.Lock()
        self._stopping = False
        self._followed = True
        self._channel: Channel | None = None
        self._apart: Apart | None = None
        self._mounted: Mounted | None = None
        self._transport = descriptor("nothing is mounted yet")
        self._no_link_until_s = 0.0
        self._log_end: LogEnd | None = None if arena is None else LogEnd(fences)

    def run(self) -> None:
        """Mount, and serve until unmounted or stopped. MountError when it cannot be mounted; OSError when the device fails."""
        fd = mount_fuse(self._mountpoint, self._options) if self._inherited is None else self._inherited.fd
        try:
            channel = self._open(fd)
            with self._lock:
                self._mounted = find_mount(self._mountpoint)
                self._channel = channel
                channel.follows = self._followed
                stopping = self._stopping
            if self._inherited is not None:
                self._apart = Apart()
                self._apart.start()
            if not stopping:
                self._widen_readahead()
                channel.serve()
        finally:
            with self._lock:
                self._channel = None
            if self._inherited is None:
                os.close(fd)
            clear_stale(self._mountpoint)  # only if dead: by now somebody else's mount may be there

    def stop(self) -> None:
        """From any thread: detach the mount, answer the requests in work, fail the others, and make `run` return."""
        with self._lock:
            self._stopping = True
            channel, mounted = self._channel, self._mounted
        if channel is None:
            return
        if mounted is not None:
            self._detach(mounted)
            abort(mounted)
        channel.stop()

    def known(self, inos: list[Inode]) -> list[Inode]:
        """Of these inodes, those that the kernel may know: all, where a predecessor of this process has told it of some."""
        channel, inherited = self._channel, self._inherited
        is_first = inherited is None or not inherited.carried.generation
        return inos if channel is None or not is_first else channel.known(inos)

    def counts(self) -> dict[str, int]:
        """Requests served so far, by the kernel's name of the opcode."""
        channel = self._channel
        return {} if channel is None else channel.counts()

    def answers(self) -> dict[str, Distribution]:
        """Of these, requests that compiled code has answered from the arena, and how long they took."""
        channel = self._channel
        return {} if channel is None else {opcode: Distribution(*times) for opcode, times in channel.answers().items()}

    def answered_bytes(self) -> int:
        """Bytes of files in these answers."""
        channel = self._channel
        return 0 if channel is None else channel.answered_bytes

    def transport(self) -> Transport:
        """How requests come; known once the mount answers."""
        channel = self._channel
        if self._transport.reason is not None or channel is None or channel.over_uring:
            return self._transport
        error = channel.uring_error
        return descriptor(f"io_uring: {os.strerror(error)}" if error else "the kernel does not offer it")

    def tend(self, store: Store) -> None:
        """See `Front`. Compiled code asks by itself what was committed; while it has no connection, Python does."""
        if self._log_end is None or not self._log_end.wants_link or time.monotonic() < self._no_link_until_s:
            return
        link = store.end_link()
        if link is None:
            self._no_link_until_s = time.monotonic() + LINK_PAUSE_S
            return
        try:
            self._log_end.add(*link)
        except OSError as error:
            os.close(link.fd)
            log.debug("%s: a connection cannot be used: %s", self._mountpoint, error)

    def invalidate_all(self) -> None:
        """Make the kernel forget names, then attributes, then pages; only the last may wait, for reads in work."""
        with self._lock:
            channel = self._channel
        if channel is None:
            return
        try:
            self._wait_for(lambda: self._drop_all(channel))
        except OSError as error:
            log.warning("%s: the kernel did not take an invalidation: %s", self._mountpoint, error)

    def _drop_all(self, channel: Channel) -> None:
        if not channel.inc_epoch():
            log.warning("%s: this kernel cannot drop all names at once; they stay for their timeout", self._mountpoint)
        channel.inval_known(pages=False)
        channel.inval_known(pages=True)
        if self._inherited is not None:  # what predecessors of this process told the kernel is not in the channel's table
            for ino in self._vfs.held():
                channel.inval_inode(ino)

    def _wait_for(self, call: Callable[[], None]) -> None:
        """Run something that may wait in the kernel for requests in work."""
        if self._apart is None:
            call()
        else:
            self._apart.do(call)

    def trust(self, followed: bool) -> None:
        """Whether somebody tells of changes. While not, the kernel may keep what it is told for a second only."""
        with self._lock:
            self._followed = followed
            if self._channel is not None:
                self._channel.follows = followed

    def leaving(self, on: bool) -> None:
        """Whether the kernel is still to be told of something: opens are left to Python, which waits for that."""
        with self._lock:
            channel = self._channel
        if channel is not None:
            channel.leaving(on)

    def invalidate(self, inos: Iterable[Inode], dentries: Iterable[tuple[Inode, bytes]]) -> set[Inode]:
        """Make the kernel forget attributes and pages of inodes, and names. From any thread that serves no request; may
        wait for requests on the same directories. Returns those inodes that the kernel does not know.

        Names are dropped, not expired: the reply to a lookup that looks again at an expired name would make it valid, even
        if it was overtaken by this very change.
        """
        with self._lock:
            channel = self._channel
        unknown: set[Inode] = set()
        if channel is None:
            return unknown

        def drop() -> None:
            unknown.update(ino for ino in inos if not channel.inval_inode(ino))
            for parent, name in dentries:
                channel.inval_entry(parent, name)

        try:
            self._wait_for(drop)
        except OSError as error:
            log.warning("%s: the kernel did not take an invalidation: %s", self._mountpoint, error)
        return unknown

    def invalidate_attributes(self, inos: Iterable[Inode]) -> None:
        """Make the kernel ask for attributes again. Takes no lock of the kernel's, so requests may call it."""
        self._outdated(Channel.inval_attributes, inos)

    def invalidate_own(self, inos: Iterable[Inode]) -> None:
        """See `Front`."""
        self._outdated(Channel.inval_own, inos)

    def _outdated(self, tell: Callable[[Channel, list[int]], None], inos: Iterable[Inode]) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            tell(channel, list(inos))
        except OSError as error:
            log.warning("%s: the kernel did not take an invalidation: %s", self._mountpoint, error)

    def _open(self, fd: int) -> Channel:
        self._transport, n_queues = choose(self._options, self._inherited is not None)
        more: dict[str, Any] = {"arena": self._arena, "log_end": self._log_end}
        if self._inherited is None:
            more |= {"uring_queues": n_queues}
        else:
            slots, ring = self._inherited.slots, self._inherited.carried.journal.ring
            more |= {"slots": slots, "journal": ring, "serving": serving, "done": self._done}
        return _channel(fd, self._vfs, self._options, **more)

    def _widen_readahead(self) -> None:
        """Let the kernel read ahead in whole requests: only root may set more than the 128 KiB every device has."""
        if self._mounted is not None and os.geteuid() == 0:
            try:
                setting = Path("/sys/class/bdi") / self._mounted.device / "read_ahead_kb"
                setting.write_text(str(self._options.max_write_bytes >> 10))
            except OSError as error:
                log.debug("%s: readahead stays as it is: %s", self._mountpoint, error)

    def _detach(self, mounted: Mounted) -> None:
        """Take the mountpoint out of the way, whatever still uses the mount."""
        try:
            if mounted == find_mount(self._mountpoint):
                unmount(self._mountpoint, lazy=True)
        except MountError as error:
            log.warning("%s: %s", self._mountpoint, error)


def _channel(fd: int, handler: object, options: FuseOptions, **more: Any) -> Channel:
    entry_timeout_s = KEPT_S if options.entry_timeout_s is None else options.entry_timeout_s
    return Channel(
        fd,
        handler,
        set_attr=SetAttr,
        lock=Lock,
        attr_timeout_s=KEPT_S if options.attr_timeout_s is None else options.attr_timeout_s,
        entry_timeout_s=entry_timeout_s,
        dir_entry_timeout_s=KEPT_S if options.dir_entry_timeout_s is None else options.dir_entry_timeout_s,
        negative_timeout_s=entry_timeout_s if options.keeps_absent else 0,
        no_open=options.read_only,
        fleeting_from=FIRST_INO,
        needs_epoch=options.entry_timeout_s is None or options.dir_entry_timeout_s is None,
        min_threads=min(options.min_threads, options.max_threads, MAX_THREADS),
        max_threads=min(options.max_threads, MAX_THREADS),
        max_write_bytes=options.max_write_bytes,
        max_background=min(options.max_background, MAX_BACKGROUND),
        debug=options.debug,
        **more,
    )


def agree(inherited: Inherited, options: FuseOptions) -> bool:
    """Agree with the kernel on features, for every channel that will serve the mount. False when the mount is gone already.

    OSError when there is nothing to agree on. For the process that mounts: no request is served.
    """
    return _channel(inherited.fd, object(), options, slots=inherited.slots).agree()


def drop_names(inherited: Inherited, options: FuseOptions) -> None:
    """Make the kernel forget all names, also that some are absent. While no request is served."""
    channel = _channel(inherited.fd, object(), options, slots=inherited.slots)
    if channel.agree():
        channel.inc_epoch()


Front = ChannelFront
