"""The fronts a mount can choose from: what they have in common, and the import of the chosen one."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from cairnfs.daemon.inherited import Inherited
from cairnfs.daemon.transport import Transport
from cairnfs.errors import UsageError
from cairnfs.ext.arena import Arena
from cairnfs.meta.stores.base import Store
from cairnfs.metrics import Distribution
from cairnfs.options import FuseOptions
from cairnfs.types import Inode
from cairnfs.vfs import Vfs


class Front(Protocol):
    """Turns requests of the kernel into calls on the VFS. Made unmounted; `run` mounts and serves."""

    def run(self) -> None:
        """Serve until unmounted or stopped."""
        ...

    def stop(self) -> None:
        """From any thread: detach the mount and make `run` return; calls that still wait fail."""
        ...

    def leaving(self, on: bool) -> None:
        """Whether the kernel is still to be told of something that others have changed: who opens a file waits for that."""
        ...

    def invalidate(self, inos: Iterable[Inode], dentries: Iterable[tuple[Inode, bytes]]) -> set[Inode]:
        """Make the kernel forget what it keeps of inodes and names. Not from a thread that serves a request.
        Returns those inodes that it does not know.
        """
        ...

    def invalidate_attributes(self, inos: Iterable[Inode]) -> None:
        """Make the kernel ask for attributes again. Also from a thread that serves a request."""
        ...

    def invalidate_own(self, inos: Iterable[Inode]) -> None:
        """The same for what a commit of this process has changed: before the reply to the request that has made it."""
        ...

    def invalidate_all(self) -> None:
        """Make the kernel forget everything it keeps."""
        ...

    def trust(self, followed: bool) -> None:
        """Whether somebody tells of changes. While not, the kernel may keep what it is told for a second only."""
        ...

    def known(self, inos: list[Inode]) -> list[Inode]:
        """Of these inodes, those that the kernel may know."""
        ...

    def counts(self) -> Mapping[str, int]:
        """Requests served so far, by the kernel's name of the opcode; none when not serving."""
        ...

    def answers(self) -> Mapping[str, Distribution]:
        """Of these, requests that were answered without Python, and how long they took."""
        ...

    def answered_bytes(self) -> int:
        """Bytes of files in these answers."""
        ...

    def transport(self) -> Transport:
        """How requests reach this front."""
        ...

    def tend(self, store: Store) -> None:
        """Give compiled code the connections to the store that it can use. From time to time, while the store answers."""
        ...


def make_front(
    name: str,
    vfs: Vfs,
    mountpoint: Path,
    options: FuseOptions,
    arena: Arena | None = None,
    inherited: Inherited | None = None,
    done: Iterable[int] = (),
    fences: memoryview | None = None,
) -> Front:
    """The front called `name`, which may answer from `arena`, and count in `fences` how often it has asked the store what is new.

    UsageError when it needs a package that is not installed.
    """
    if name == "channel":
        from cairnfs.daemon.front_channel import Front as ChannelFront

        return ChannelFront(vfs, mountpoint, options, arena, inherited, done, fences)
    try:
        import pyfuse3  # noqa: F401
    except ImportError as error:
        raise UsageError(f"the front pyfuse3 cannot be used: {error}; install it, or use --front channel") from error
    from cairnfs.daemon.front_pyfuse3 import Front as Pyfuse3Front

    return Pyfuse3Front(vfs, mountpoint, options)
