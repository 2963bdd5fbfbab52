"""Rows by key, the most recently used ones. The caller has a lock."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

_Key = tuple[bytes, bytes]

@final
class KeptRows:
    """At most `max_rows` of them, and none whose value has more than `max_value_bytes`."""

    def __new__(
        cls,
        subkeys: Mapping[bytes, bytes | None],
        make_row: Callable[[tuple[bytes, int]], tuple[bytes, int]],
        max_rows: int,
        max_value_bytes: int,
    ) -> KeptRows:
        """`subkeys`: which rows are kept, by the first byte of their partition: those with this key, None: any.
        `make_row`: what makes a row of its value and its version.
        """

    def __len__(self) -> int: ...
    def __contains__(self, key: _Key, /) -> bool: ...
    def may_keep(self, keys: Iterable[_Key]) -> list[_Key]:
        """Those of the keys whose rows are kept. The following goes by what this has said."""

    def known(self, keys: Iterable[_Key]) -> dict[_Key, Any]:
        """Those of the rows that are there; None for one that is known not to exist."""

    def put(self, key: _Key, row: tuple[bytes, int] | None) -> None:
        """Keep a row. The one that was put longest ago makes room for it."""

    def committed(self, keys: list[_Key], values: Mapping[_Key, bytes | None], position: int) -> None:
        """`put` rows that a commit has given these values, None for one that is gone, but for those that are newer here."""

    def drop(self, keys: Iterable[_Key]) -> None: ...
    def clear(self) -> None: ...
