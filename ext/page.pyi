"""Pages of rows of a metadata store, as servers send them (page_impl.h)."""

from collections.abc import Iterable, Iterator
from typing import final

from cairnfs.ext.arena import Arena

@final
class Page:
    """Rows of one partition in order of their keys, each with the row that it names. Immutable."""

    def __new__(cls, packed: bytes, after: bytes | None = None, limit: int = 0xFFFFFFFF) -> Page:
        """`packed` is the string of page_impl.h. Of its rows, `limit` at most, those with a key greater than `after`.

        ValueError when it is damaged.
        """

    @staticmethod
    def of(rows: Iterable[tuple[bytes, int, bytes, int, bytes | None]]) -> Page:
        """The page of rows (key, version, value, version and value of the row that it names; None: there is none)."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[tuple[bytes, tuple[bytes, int], tuple[bytes, int] | None]]:
        """(key, row, named row); a row is value and version."""

    def rows(self, begin: int = 0, end: int = 0xFFFFFFFF) -> list[tuple[bytes, tuple[bytes, int], tuple[bytes, int] | None]]:
        """The same of rows `begin` up to `end`."""

    def names(self, begin: int = 0, end: int = 0xFFFFFFFF) -> list[bytes]:
        """Keys of rows `begin` up to `end`."""

    @property
    def last(self) -> bytes | None:
        """The greatest key, None when there is no row."""

    def n_up_to(self, key: bytes) -> int:
        """How many rows have this key or one before it."""

    def unknown(self, arena: Arena) -> list[int]:
        """Rows of a directory's names: the inodes of which the arena knows nothing."""

    def note(self, arena: Arena, ino: int, token: int) -> None:
        """Keep the names of the directory `ino` and the inode records that they name, fetched after `token` was taken."""
