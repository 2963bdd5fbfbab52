"""Rows for an arena, files to watch, and forked children that may die, for the tests of the arena."""

import os
import signal
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from cairnfs.ext.arena import MARK_BYTES, Arena, Watch
from cairnfs.ext.slicer import pack_record
from cairnfs.meta.records import dentry_key, dentry_value, encode_attr, inode_key
from cairnfs.meta.stores.base import Key, Row
from cairnfs.types import Attr, Inode, Position

MIB = 1 << 20
FILE = 0o100644
WATCHED_BYTES = 96
MARK_AT = 8

AttrRow = tuple[Key, Row]


def inode_row(ino: int, version: int, size: int = 0, tail: bytes = b"", mode: int = FILE) -> AttrRow:
    """An inode record as the store has it; its data version is its version."""
    attr = Attr(Inode(ino), mode, 0, 0, 1, size, data_version=version, tail=tail)
    return inode_key(ino), Row(encode_attr(attr), Position(version))


def name_row(parent: int, name: bytes, ino: int, version: int) -> AttrRow:
    """A name as the store has it."""
    return dentry_key(parent, name), Row(dentry_value(ino, FILE), Position(version))


def piece(size: int, pos: int = 0, off: int = 0, plain_len: int = 4096, pack: int = 9) -> bytes:
    """One record of a layout."""
    return pack_record(pos, size, off, plain_len, pack, 512, 300, 0xABCD, 1)


def note(arena: Arena, *rows: AttrRow, token: int | None = None) -> None:
    """Keep rows that were fetched just now, or after `token` was taken."""
    arena.note([key for key, _ in rows], [row for _, row in rows], arena.token() if token is None else token)


def commit(arena: Arena, *rows: AttrRow, mark: bytes | None = None) -> None:
    """What a commit of this mount tells: rows of one version."""
    arena.committing()
    position = rows[0][1].version
    arena.committed({key: row.value for key, row in rows}, position, arena.token(), mark)


def version_of(arena: Arena, ino: int) -> int | None:
    found = arena.attr(ino)
    return None if found is None else found[0]


def mark_of(position: int) -> bytes:
    """What the file shows while `position` is the newest commit."""
    return position.to_bytes(8, "little") * (MARK_BYTES // 8)


class Shown:
    """A file that shows a mark, as a store does, and the mapping of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_bytes(bytes(WATCHED_BYTES))
        self.watch = Watch(os.fsencode(path), WATCHED_BYTES)

    def show(self, mark: bytes) -> None:
        with self._path.open("r+b") as file:
            file.seek(MARK_AT)
            file.write(mark)


class Watched:
    """An arena and the file that shows it the store's newest commit; the store is a list of commits, this mount's and others'."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._shown = Shown(Path(self._folder.name) / "shown")
        self.arena = Arena(MIB)
        self.arena.watch(self._shown.watch, MARK_AT)
        self.log: list[tuple[bool, list[Key]]] = []  # whose, and which rows it has changed

    @property
    def position(self) -> int:
        return len(self.log)

    def add(self, own: bool, keys: list[Key]) -> None:
        """A commit is made."""
        self.log.append((own, keys))
        self._shown.show(mark_of(self.position))

    def close(self) -> None:
        self.arena.check()
        self.arena.watch(None)
        self._folder.cleanup()


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked process; its number. The child ends with 0, or with 1 and a traceback if `work` raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: the watchdog of pytest is one
        pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def ended(pid: int) -> int:
    """Wait for a child; its exit status, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_after(work: Callable[[], object]) -> None:
    """Run `work` in a child that dies by SIGKILL right after it."""
    pid = in_child(lambda: (work(), os.kill(os.getpid(), signal.SIGKILL)))
    assert ended(pid) == -signal.SIGKILL
