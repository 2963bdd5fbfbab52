"""The one exception tree. Everything that can reach a user carries an errno and a one-line message.

A message says what is wrong and, where the user can mend it, how. Fronts translate `errno` for the kernel; the command
line prints the message and exits with `exit_code`.
"""

import errno
import os


class CairnError(OSError):
    """Base of every error cairnfs raises on purpose: `errno` for the kernel, `exit_code` for the shell."""

    default_errno = errno.EIO
    exit_code = 1

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(self.default_errno if code is None else code, message)

    def __str__(self) -> str:
        return str(self.strerror)


class FsError(CairnError):
    """A file system operation that POSIX says must fail: ENOENT, EEXIST, ENOTEMPTY and so on."""

    def __init__(self, code: int, message: str | None = None) -> None:
        super().__init__(message or os.strerror(code), code)


class SessionLost(FsError):
    """This node's session was taken for dead and cleaned up after, or its locks on one file were: nothing was applied."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EIO, message)


class WayChanged(FsError):
    """Somebody has renamed or removed a directory or a symbolic link, and that is not known here yet: nothing was applied."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE)


class UsageError(CairnError):
    """The request itself is malformed (a bad URL, a bad size): exit code 2."""

    default_errno = errno.EINVAL
    exit_code = 2


class VolumeError(CairnError):
    """The volume cannot be used as asked: not formatted, newer format, name taken, wrong bucket."""

    default_errno = errno.EINVAL


class MountError(CairnError):
    """The mountpoint cannot be used: missing, busy, not permitted."""

    default_errno = errno.EBUSY


class StoreError(CairnError):
    """The metadata store failed or cannot be reached; nothing was applied, or it is unknown whether it was."""


class ObjectError(CairnError):
    """The object store failed or cannot be reached."""


class ObjectMissing(ObjectError):
    """The object store answered, and has no such object."""

    default_errno = errno.ENOENT


class CorruptError(CairnError):
    """Stored bytes or records do not prove their identity or checksum; the message names pack, slice and file.

    `is_told`: the log has it already.
    """

    is_told = False
