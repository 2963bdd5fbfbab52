"""The store contract: all a metadata store must do. Every store passes `tests/stores/test_contract.py`.

A store holds rows. A row has a partition (1 to 255 bytes) and a key (up to 65,535 bytes; keys order bytewise within a
partition), a value, and a version: the position of the commit that last changed it. Positions are 1, 2, 3, … in commit order.

A commit is a list of conditions and a list of effects, applied atomically or not at all, in one round trip.
`Add` and `Max` change a fixed 8-byte big-endian field inside a value, so that contended rows (a directory's entry count
and times, the volume's usage) need no read first. Conditions look at the state before the commit; effects apply in order,
several may touch one row. A field beyond the end of a value reads as 0; changing it fills the value with zeros up to it.

Every commit leaves one record in the change log: who made it and which rows it touched.
"""

from collections.abc import Callable, Sequence
from threading import Event
from typing import NamedTuple, Protocol

from cairnfs.ext.arena import Watch
from cairnfs.ext.page import Page
from cairnfs.types import Position, SessionId

Key = tuple[bytes, bytes]  # (partition, key)
DENTRY_PREFIX, XATTR_SUBPREFIX = b"d", b"x"  # of partitions and keys, as in engine.meta.records, which is above this layer
MARK_AT = 8  # where in the memory of `Store.watch` the mark is


class Row(NamedTuple):
    value: bytes
    version: Position


class Exists(NamedTuple):
    """The row must exist."""

    key: Key


class Absent(NamedTuple):
    """The row must not exist."""

    key: Key


class Unchanged(NamedTuple):
    """The row must exist with exactly this version."""

    key: Key
    version: Position


class NotSince(NamedTuple):
    """The row must not have been written by a commit after this position. One that is missing was not."""

    key: Key
    position: Position


class AtMost(NamedTuple):
    """The signed field at `offset` (0 when the row is missing) plus `n` must be <= `limit`."""

    key: Key
    offset: int
    n: int
    limit: int


class Put(NamedTuple):
    key: Key
    value: bytes


class Delete(NamedTuple):
    """Delete the row; deleting a missing row is not an error."""

    key: Key


class Add(NamedTuple):
    """Add `n` to the signed 64-bit big-endian field at `offset`.

    A missing row is created, zero-filled, `offset + 8` bytes long. The result must stay within 2**53 in magnitude (StoreError).
    `unused`: `n` numbers are given out, up to the new value. It is further on where the store may have lost that others were, so
    that none is given out twice.
    """

    key: Key
    offset: int
    n: int
    unused: bool = False


class Max(NamedTuple):
    """Set the 8-byte field at `offset` to the bytewise greater of itself and `value`.

    Bytewise order makes this one comparison in any store; encode signed times biased by 2**63. The row must exist
    (else the commit fails as if `Exists` were a condition).
    """

    key: Key
    offset: int
    value: bytes


Condition = Exists | Absent | Unchanged | NotSince | AtMost
Effect = Put | Delete | Add | Max


class ConditionFailed(Exception):
    """Nothing was applied. `key` is the row that did not hold, `row` its present state (None when missing)."""

    def __init__(self, key: Key, row: Row | None, condition: Condition | Effect) -> None:
        super().__init__(key, condition)
        self.key = key
        self.row = row
        self.condition = condition


class Committed(NamedTuple):
    """`added` has the new value of the field of each `Add`, in the order of the effects; `rows` the value that each row touched
    has now (None: deleted). `mark` is what `Store.mark` is right after this commit, None when not known.
    """

    position: Position
    added: list[int]
    rows: dict[Key, bytes | None]
    mark: bytes | None = None


class LogRecord(NamedTuple):
    """What one commit touched: the keys of its effects, without duplicates; `origin` is the store's session; `request` is that of
    `types.serving` when the commit changed names or extended attributes, else 0; `only_adds`: it has given names, and taken none.
    """

    position: Position
    origin: SessionId
    keys: list[Key]
    request: int = 0
    only_adds: bool = False


class Along(NamedTuple):
    """What `read_via` is to bring along of the partition: all rows if there are at most `whole`, else `limit` of those with
    key > `after`.
    """

    whole: int
    limit: int = 0
    after: bytes | None = None


NOTHING = Along(0)

NO_ROWS = Page(b"")

NO_SESSION = SessionId(0)
FORMER = "the volume of this session was destroyed"  # said of a commit by a session before the first that `wipe` was given


class Via(NamedTuple):
    """What `read_via` found, at one moment: no commit was after `position` then, but for some of the store's own session, and the
    partition had `n_rows` rows (0 for either: not known).
    """

    row: Row | None
    named: Row | None
    position: Position
    n_rows: int
    page: Page = NO_ROWS


class Scanned(NamedTuple):
    """What `scan_via` found, at one moment. `owner` is the row with what is common to the partition; `position`: see `Via`."""

    owner: Row | None
    page: Page
    position: Position = Position(0)


class Hazard(NamedTuple):
    """What may lose metadata, and how to mend it, in a line. Not `is_known`: nobody could look."""

    text: str
    is_known: bool = True


class LogTrimmed(Exception):
    """Records after the asked position are gone: whoever follows the log must drop everything it cached."""


class EndLink(NamedTuple):
    """A connection to the store for compiled code (`ext/log_end`): a socket, which is whoever asked's, and what to send on it."""

    fd: int
    command: bytes


class Store(Protocol):
    """One metadata store, safe to use from several threads; `origin` marks this user's commits in the log.

    Every method may raise StoreError (EIO) when the store fails or stays unreachable past its time limit.
    """

    origin: SessionId

    def read(self, keys: Sequence[Key]) -> list[Row | None]:
        """The rows, in the order asked, from one consistent snapshot, in one round trip."""
        ...

    def read_via(self, key: Key, prefix: bytes, subkey: bytes, along: Along = NOTHING) -> Via:
        """A row, and the one it names: of the partition that `prefix` and the first 8 bytes of its value are, with key `subkey`;
        and others of its partition, each with the one it names. In one round trip where round trips cost anything.
        """
        ...

    def scan_via(
        self, partition: bytes, after: bytes | None, limit: int, prefix: bytes, subkey: bytes, *, with_named: bool = True
    ) -> Scanned:
        """A page as `scan` gives it, with the rows that its rows name as for `read_via` unless `with_named` says otherwise; and
        the row that the rest of the partition's own name, after its first byte, leads to. In one round trip likewise.
        """
        ...

    def scan(self, partition: bytes, after: bytes | None, limit: int, *, prefix: bytes = b"") -> list[tuple[bytes, Row]]:
        """Up to `limit` rows of a partition whose key starts with `prefix`, in key order, with key > `after`."""
        ...

    def partitions(self, prefix: bytes, after: bytes | None, limit: int) -> list[bytes]:
        """Names of non-empty partitions starting with `prefix`, in order, > `after`. For checks, not for requests."""
        ...

    def commit(self, conditions: Sequence[Condition], effects: Sequence[Effect]) -> Committed:
        """Apply all effects if all conditions hold. Raises ConditionFailed for the first one that does not.

        Without effects it only checks: no position is used up, no log record is left, the newest position is returned.
        """
        ...

    def listen(self, rung: Callable[[], None], ended: Event) -> None:
        """Call `rung` when somebody has committed, where `log` has asked for that, until `ended`; returns at once where stores
        cannot tell. On a thread of its own.
        """
        ...

    def now_ns(self) -> int | None:
        """Nanoseconds since the epoch by a clock that all users of the store share; None: that of this machine."""
        ...

    def position(self) -> Position:
        """Position of the newest commit; 0 in an empty store."""
        ...

    def log(self, after: Position, limit: int, *, rings: bool = False) -> list[LogRecord]:
        """Up to `limit` records after a position, in order. With `rings`, if there are none, the next commit makes `listen` call.

        Raises LogTrimmed when some of them are gone, or when the position has not been reached (the store was replaced).
        """
        ...

    def watch(self) -> Watch | None:
        """Memory that shows at MARK_AT the bytes that `mark` returns, for as long as the store is open; None: there is none."""
        ...

    def mark(self) -> bytes | None:
        """Bytes that differ after every commit of anybody, taken from shared memory; None: not known (at the moment)."""
        ...

    def end_link(self) -> EndLink | None:
        """Another connection on which compiled code may ask for `position` by itself; None where that cannot be."""
        ...

    def sync(self) -> None:
        """Return when every commit acknowledged so far survives loss of power."""
        ...

    def wipe(self, first: SessionId = NO_SESSION) -> None:
        """Delete every row and the log (`format --force`, `destroy`). Positions go on, so that followers see a gap. From then on
        commits by sessions before `first`, which nobody has told, are refused: StoreError.
        """
        ...

    def hazards(self) -> list[Hazard]:
        """What about the store may lose metadata, and how to mend it."""
        ...

    def close(self) -> None: ...
