"""The FUSE channel: serves the requests of one mount on threads that read clones of /dev/fuse without the GIL.

A request is served to its end on the thread that read it. The handler has methods named and shaped like those of
`cairnfs.vfs.Vfs`; a method it does not have makes its requests fail with ENOSYS. `write_mapped`, if it has one, is called
instead of `write` for pages of a mapping, which belong at their offset even when the handle was opened with O_APPEND.
The `Caller` that methods get is `fuse_req.Caller`. An OSError they raise is answered by its errno; any other exception is
logged and answered EIO.
"""

from collections.abc import Callable, Iterable
from typing import Any, final

from cairnfs.ext.arena import Arena
from cairnfs.ext.fuse_notify import Notifier
from cairnfs.ext.fuse_slots import Slots
from cairnfs.ext.journal import Ring
from cairnfs.ext.log_end import LogEnd

@final
class Channel(Notifier):
    """One mount's connection to the kernel."""

    def __new__(
        cls,
        fd: int,
        handler: object,
        *,
        set_attr: Callable[..., Any],
        lock: Callable[..., Any],
        attr_timeout_s: float = 1.0,
        entry_timeout_s: float = 1.0,
        dir_entry_timeout_s: float = 1.0,
        negative_timeout_s: float = 0.0,
        min_threads: int = 2,
        max_threads: int = 64,
        max_write_bytes: int = 1 << 20,
        max_background: int = 50,
        linger_s: float = 10.0,
        needs_epoch: bool = False,
        no_open: bool = False,
        fleeting_from: int = 0xFFFFFFFFFFFFFFFF,
        debug: bool = False,
        arena: Arena | None = None,
        slots: Slots | None = None,
        uring_queues: int = 0,
        journal: Ring | None = None,
        log_end: LogEnd | None = None,
        serving: object | None = None,
        done: Iterable[int] = (),
    ) -> Channel:
        """`fd`: /dev/fuse as mount(2) got it, just mounted; it stays the caller's and must outlive `serve`.

        `set_attr` and `lock` make SetAttr and Lock of `cairnfs.types` from their fields in order. Timeouts: how long the
        kernel may keep attributes, names of files, names of directories, and the knowledge that there is no such name (0: not).
        Replies that the kernel takes without asking whether they are outdated (to SETATTR, CREATE, LINK and the like) give their
        attributes for a second at most. `needs_epoch`: so does everything, if the kernel cannot drop all names at once.
        `no_open` refuses OPEN, FLUSH and FSYNC, so that the kernel reads files without: `read` and `lseek` get minus the inode's
        number as their handle, pages are always kept, and locks are those of this kernel only. Of inodes from `fleeting_from`
        on nothing is kept.
        Beyond `min_threads`, a thread ends after `linger_s` without a request; `max_threads` does not count threads that wait for
        a lock. `debug` logs every request. What is in the `arena` is answered from there, without Python, unless `debug`.
        With `slots` requests in work are kept where a successor of this process finds them, and those that a predecessor has
        left are served first. While one is served its number is in `serving.request`, an attribute of the thread's own. Of
        the requests `done` the effects are there already.
        `log_end`: where a store that cannot be watched says how far its log goes; compiled code asks there, else Python does.
        `uring_queues`, one for each possible CPU: requests come through io_uring if that can be; not with `slots`.
        """

    def agree(self) -> bool:
        """Answer INIT, unless the slots say that it was. False when the mount is gone before. `serve` does it by itself.

        OSError with EPROTO, EPROTONOSUPPORT: the kernel cannot be agreed with.
        """

    def serve(self) -> None:
        """Serve until the mount is gone or `stop`; then every thread has ended. OSError when the device fails.

        May be called once. EPROTO, EPROTONOSUPPORT: the kernel cannot be agreed with.
        """

    def stop(self) -> None:
        """End `serve` after the requests in work; from any thread. The mount stays, without anybody to serve it."""

    def counts(self) -> dict[str, int]:
        """Requests read so far, by the kernel's name of the opcode; those that never came are left out.

        MALFORMED: messages that were too short for their header; UNKNOWN: opcodes that `fuse_table` does not have.
        """

    def answers(self) -> dict[str, tuple[tuple[int, ...], int]]:
        """Of these, requests that were answered without Python: how many took how long, and the sum of that in nanoseconds.

        From the end of the read that brought a request to the end of the write of its reply. 26 buckets: up to 1 us, 2 us, 4 us,
        ... 16.8 s, and what took longer.
        """

    @property
    def answered_bytes(self) -> int:
        """Bytes of files in these answers."""

    @property
    def n_threads(self) -> int:
        """Threads that serve or wait for requests."""

    @property
    def n_idle(self) -> int:
        """Of these, how many wait for one."""

    @property
    def minor(self) -> int:
        """Minor version of the protocol agreed on, 0 before."""

    @property
    def over_uring(self) -> bool:
        """Do requests come through io_uring? True from when `serve` has agreed on it with the kernel."""

    @property
    def uring_error(self) -> int:
        """The errno for which they do not although it was asked for, else 0."""

    @property
    def follows(self) -> bool:
        """Is somebody there who invalidates what changes? While not, the kernel may keep things for a second only."""

    @follows.setter
    def follows(self, value: bool) -> None: ...
    def leaving(self, on: bool) -> None:
        """Is the kernel still to forget something that others have changed? Then files are opened by the handler."""

    @property
    def n_known(self) -> int:
        """Inodes that the kernel may know, the root aside."""

    @property
    def features(self) -> int:
        """INIT flags agreed on, as in the kernel's header; bits 32 and up are flags2."""

    def inval_known(self, *, pages: bool) -> None:
        """Forget the attributes of every inode that the kernel may know, and with `pages` their pages, too.

        Without `pages` it takes no lock of the kernel's; with them it may wait for reads in work.
        """
