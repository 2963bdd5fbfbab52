"""Objects as files: one call each, without the GIL. `file_io_impl.h` is the contract."""

from collections.abc import Iterable

from typing_extensions import Buffer

def put(folder: str, path: str, parts: Iterable[Buffer], sync: bool = True) -> bool:
    """Store the parts as a new file `path` in `folder`: whole or not at all, and synced if `sync`.

    False when nothing was done, because the file system has no unnamed files (O_TMPFILE). OSError: EEXIST when there is a `path`,
    ENOENT without the folder, ENOSPC, ... .
    """

def sync(folder: str) -> None:
    """Sync all of the file system that a folder is in: syncfs(2). OSError: EIO when that has failed, or earlier writing of which
    nobody has been told; ENOENT, ... .
    """

def spread(folder: str) -> bool:
    """Have the file system place the folders that are made in `folder` apart, each with what is in it: +T of chattr(1), for ext4.

    False where there is no such attribute, or the folder is another user's. OSError: ENOENT, ... .
    """

def get(path: str, offset: int, n_bytes: int) -> bytes:
    """Bytes of a file, fewer than `n_bytes` only at its end. OSError: ENOENT, EIO, ... ."""
