"""Steps on rows as a script takes them: arrays of MessagePack."""

from collections.abc import Iterable, Mapping

_Key = tuple[bytes, bytes]

def gathered(
    conditions: Iterable[tuple[object, ...]],
    effects: Iterable[tuple[object, ...]],
    codes: Mapping[type, bytes],
    put: type,
    first_part: int,
) -> tuple[list[_Key], list[bytes], dict[_Key, bytes | None], bytes]:
    """Rows in the order in which steps first name them, their partitions likewise, the rows of the effects with the value that
    the last step gives to each if it is a `put`, whose second field that is (else None), and three arrays, one behind the other.

    The first has for each row the number of its partition, from `first_part` on, and its field; the other two have for each
    step the code of its type, the number of its row, from 1 on, and its other fields: bytes, bool, or int (64 bits). A step is
    a tuple that begins with the key of a row. KeyError for a type without a code, TypeError, OverflowError.
    """
