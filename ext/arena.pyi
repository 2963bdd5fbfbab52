"""The arena: what a mount knows, in shared memory that compiled code answers from. `arena.h` is the contract.

Thread-safe, and safe to use from several processes that map the same memory. Everything it keeps is a hint, which may be gone at
any time, except the marks of inodes and the handles that compiled code has given out.
"""

from collections.abc import Iterable
from typing import Any, TypeVar, final

from typing_extensions import Buffer

_Ino = TypeVar("_Ino", bound=int)

DIRTY: int
"""Mark: something written is not committed; attributes and content are not what is stored."""
BARRED: int
"""Mark: the last name is being removed; compiled code must not open the inode."""
ADOPTED: int
"""Mark: whoever set it is told of every close of a handle that compiled code has given out."""
MARK_BYTES: int
"""Length of what a watched store shows of its newest commit."""
VERSION: int
"""Of the layout in memory."""

@final
class Watch:
    """The first bytes of a file that others change, mapped read-only. No descriptor stays open."""

    def __new__(cls, path: bytes, n_bytes: int) -> Watch:
        """OSError when the file cannot be opened or mapped; EINVAL when it is shorter."""

    @property
    def n_bytes(self) -> int: ...
    def read(self, offset: int, n_bytes: int) -> bytes:
        """A copy of bytes; while others write, from different moments."""

@final
class Arena:
    """Shared memory of one mount."""

    def __new__(cls, n_bytes: int, fd: int = -1) -> Arena:
        """About `n_bytes`, 1 MiB at least; or with `fd` the one of exactly that size that another process has made.

        The descriptor is then this object's to close.

        OSError: ENOSPC or ENOMEM without memory, EINVAL for a bad size; and, while `fd` stays the caller's, for what is no arena
        of this version.
        """

    @property
    def n_bytes(self) -> int: ...
    @property
    def fd(self) -> int:
        """Its descriptor, which goes with the object."""

    @property
    def max_slice_bytes(self) -> int:
        """The longest slice that is kept; 0 when there is no room for any."""

    @property
    def newest(self) -> int:
        """The greatest position that was told of."""

    @property
    def counts(self) -> tuple[int, int, int, int, int]:
        """Slices found, not found, segments emptied; bytes of slices; handles of compiled code."""

    @property
    def looked_up(self) -> tuple[int, int]:
        """Slices found, and not found. Unlike `counts`, this and what follows is read at once, however large the arena."""

    @property
    def evicted(self) -> tuple[int, int, int]:
        """What gave way to others: segments with all their slices, attributes, names."""

    @property
    def table_bytes(self) -> int:
        """Of `n_bytes`, those that no slices can have."""

    @property
    def applied(self) -> int:
        """Every commit up to this position is known, as far as commits in a row have told."""

    def resume(self) -> None:
        """Every process that used the arena has died: marks go, handles stay, attributes and names are forgotten."""

    def check(self) -> None:
        """ValueError when an invariant of arena.h is broken. Nobody may use the arena meanwhile."""

    def token(self) -> int:
        """Taken before rows are fetched, given back with them."""

    def note(self, keys: list[tuple[bytes, bytes]], rows: list[Any], token: int) -> None:
        """Keep rows of the store that are inode records or names; None is a row that does not exist."""

    def note_names(self, part: bytes, found: list[Any], token: int) -> None:
        """Keep what a scan of a partition found: (key, row) pairs."""

    def committing(self, names: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """A commit begins that makes `names` (keys of rows); `committed` or `refused` ends it."""

    def refused(self) -> None:
        """The commit that began has changed nothing."""

    def is_committing(self) -> bool:
        """May a commit of this mount be in the store that is not known here yet?"""

    def committed(self, rows: dict[tuple[bytes, bytes], bytes | None], position: int, token: int, mark: bytes | None) -> None:
        """A commit of this mount at `position` has given rows these values; `token` was taken before it. `mark`: see `saw`."""

    def changed(self, keys: list[tuple[bytes, bytes]], position: int) -> None:
        """Somebody else's commit at `position` has changed these rows."""

    def heard(self, positions: list[int]) -> None:
        """Commits of others at these positions were told of to everybody here. One's own between them may be under way."""

    def forget(self, ino: int) -> None:
        """Drop the attributes of an inode."""

    def drop_all(self) -> None:
        """Drop attributes and names of everything."""

    def restart(self, position: int) -> None:
        """Forget everything, slices and listings too; `position` is the newest from now on, even if it is less than before."""

    @property
    def security(self) -> bool | None:
        """Whether any inode of the volume was ever given an attribute in security.; None when that is not known."""

    def attr(self, ino: int) -> tuple[int, int, int, int, int, int] | None:
        """What is known of an inode: (version, mode, size, data version, flags, layout), None when nothing."""

    def unknown(self, inos: list[_Ino]) -> list[_Ino]:
        """Of these inodes, those of which nothing is known, or that compiled code must leave alone."""

    def piece(self, ino: int) -> tuple[int, int, int, int, int, int, int, int] | None:
        """Where all bytes of a small file are: (size, offset in the slice, pack, stored offset, stored length, plain length, CRC,
        codec); of an empty file the size is 0. None when that is not known, or not all there is to know.
        """

    def name(self, parent: int, name: bytes) -> int | None:
        """The inode of a name, 0 when there is no such name (also where every name of the directory is known), None when nothing
        is known.
        """

    def watch(self, watch: Watch | None, offset: int = 0) -> None:
        """From now on `fresh` compares MARK_BYTES at `offset` of a file with what was seen; None: `lease` decides."""

    def fresh(self) -> bool:
        """Is everything known that anybody has committed (watched store), or was until lately (leased)?"""

    def answers(self) -> bool:
        """May compiled code answer what it finds here: is it `fresh`, and not hushed?"""

    def fresh_for_open(self) -> bool:
        """Is it fresh enough to open files without asking the store?"""

    def careful(self, on: bool, looks: bool = False) -> None:
        """Whether `fresh_for_open` says no for the time being; with `looks`, LOOKUP is left to Python, too."""

    def lease(self, until_s: float, is_pushed: bool) -> None:
        """Without a watch, everything is fresh until `until_s` (CLOCK_BOOTTIME); with `is_pushed` for opens as well."""

    def saw(self, position: int, mark: bytes | None) -> None:
        """Everything up to `position` is known; the watched bytes were `mark` before that was found out, None: not known."""

    def usage_put(self, position: int, total_bytes: int, used_bytes: int, total_inodes: int, used_inodes: int) -> None:
        """What the volume holds, read after `applied` was `position`; nothing happens if anybody has committed since."""

    def usage(self) -> tuple[int, int, int, int] | None:
        """(total bytes, used bytes, total inodes, used inodes) at the position `applied`, None when that is not known."""

    def usage_drop(self) -> None:
        """The limits of the volume are others."""

    def shown_opened(self, ino: int, version: int) -> bool: ...
    def shown_dropped(self, ino: int, version: int) -> None: ...
    def shown_newest(self, ino: int) -> int: ...
    def shown_older(self, ino: int, version: int) -> bool: ...
    def shown_committed(self, ino: int, version: int) -> None: ...
    def shown_drop(self, ino: int) -> None: ...
    def shown_drop_all(self) -> None: ...
    def shown_forget(self, ino: int) -> None: ...
    def mark(self, ino: int, marks: int) -> int:
        """Keep compiled code away from an inode. Returns how many handles it has given out."""

    def bar(self, ino: int) -> int:
        """Mark an inode BARRED, or ADOPTED when compiled code has handles of it. Returns how many."""

    def unmark(self, ino: int, marks: int) -> None: ...
    def marks(self, ino: int) -> int: ...
    def open(self, ino: int) -> bool:
        """Count a handle as compiled code does, for tests; whether it was."""

    def close(self, ino: int, adopted: bool = True) -> int:
        """One handle of compiled code less. Handles left; -1 when there was none, or it is ADOPTED and `adopted` is not set."""

    def handles(self) -> dict[int, int]:
        """Inodes that compiled code has open, and how many handles of each; while others open and close, about."""

    def hush(self, on: bool) -> None:
        """Make compiled code answer nothing, until it is said as often that it may."""

    def slice_put(self, pack: int, stored_off: int, plain: Buffer) -> bool:
        """Keep the plain bytes of a slice; whether they are."""

    def slice_bytes(self, pack: int, stored_off: int) -> int:
        """How long a slice is that is here, 0 when it is not."""

    def slice_get(self, pack: int, stored_off: int) -> bytes | None:
        """A copy of a slice, None when it is not here."""

    def slice_drop(self, pack: int, stored_off: int) -> None: ...
    def hold_lock(self, number: int) -> None:
        """Take lock `number` (-1: the log's, -2: the fence's, -3: the filter's) and keep it."""

    def tear(self, number: int) -> None:
        """For tests: take a lock, and leave what it guards half written, as a process does that dies at the worst moment."""

    def give_lock(self, number: int) -> None: ...
