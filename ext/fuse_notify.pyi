"""Notifications: what the kernel must forget, or is given, without having asked."""

from typing import TypeVar

from typing_extensions import Buffer, disjoint_base

_Ino = TypeVar("_Ino", bound=int)

@disjoint_base
class Notifier:
    """The half of a channel that speaks first."""

    def known(self, inos: list[_Ino]) -> list[_Ino]:
        """Of these inodes, those that the kernel may know."""

    def inval_inode(self, ino: int, offset: int = 0, length: int = 0) -> bool:
        """Forget attributes and the pages of a range: `length` 0 is to the end, a negative `offset` is no pages.

        This and the following: never from a thread that serves a request of the same inode or directory. False when the
        kernel does not know what is meant, or this kind of notification.
        """

    def inval_entry(self, parent: int, name: bytes, *, expire_only: bool = False) -> bool:
        """Forget a name. `expire_only`: just look it up again at its next use, which keeps what is open or mounted there."""

    def delete(self, parent: int, child: int, name: bytes) -> bool:
        """A name is gone: forget it, and tell who watches it (inotify)."""

    def store(self, ino: int, offset: int, data: Buffer) -> bool:
        """Put bytes into the page cache of an inode the kernel knows."""

    def inval_attributes(self, inos: list[int]) -> None:
        """Forget the attributes of inodes. Takes no lock of the kernel's: allowed while serving."""

    def inval_own(self, inos: list[int]) -> None:
        """The same for inodes that a commit of this process has changed: where the present thread serves a request that changes
        names, just before the reply to that.
        """

    def inc_epoch(self) -> bool:
        """Look up every name of the mount again at its next use. False on kernels before 6.16."""
