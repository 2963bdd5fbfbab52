"""Steps on rows as a script takes them: arrays of MessagePack."""

from collections.abc import Iterable, Mapping

_Key = tuple[bytes, bytes]

def gathered(
    conditions: Iterable[tuple[object, ...]], effects: Iterable[tuple[object, ...]], codes: Mapping[type, bytes], first_part: int
) -> tuple[list[_Key], list[bytes], bytes]:
    """Rows in the order in which steps first name them, their partitions likewise, and three arrays, one behind the other.

    The first has for each row the number of its partition, from `first_part` on, and its field; the other two have for each
    step the code of its type, the number of its row, from 1 on, and its other fields: bytes, bool, or int (64 bits). A step is
    a tuple that begins with the key of a row. KeyError for a type without a code, TypeError, OverflowError.
    """
