"""What a record of the change log says: the keys that a commit touches, the request that it belongs to, and what kind it is of.

Keys are as in `ext/log_keys`; partitions without a name, which come last, stand for the rest: a key of 8 bytes for the request,
one of 1 byte for the kind (1: of names it has only added some).
"""

from collections.abc import Sequence
from typing import NamedTuple

from cairnfs.ext.log_keys import first_bytes, joined, taken_apart
from cairnfs.meta.stores.base import DENTRY_PREFIX, XATTR_SUBPREFIX, Absent, Condition, Effect, Key, Put
from cairnfs.types import serving

_REQUEST, _KIND = 8, 1  # bytes
_ONLY_ADDS = (b"", b"\x01")


class Told(NamedTuple):
    """What a record says besides who made it where: as of `LogRecord`."""

    keys: list[Key]
    request: int
    only_adds: bool


def only_adds(conditions: Sequence[Condition], effects: Sequence[Effect]) -> bool:
    """Whether a commit gives names, and takes or replaces none."""
    has_names = False
    for effect in effects:
        if effect.key[0][:1] == DENTRY_PREFIX:
            if type(effect) is not Put or effect.key not in [c.key for c in conditions if type(c) is Absent]:
                return False
            has_names = True
    return has_names


def encode_record(keys: dict[Key, bytes | None], conditions: Sequence[Condition], effects: Sequence[Effect]) -> bytes:
    """What a commit touches, what kind it is of, and, if it must not be made twice, the request that it belongs to."""
    told = list(keys)
    changes_names = DENTRY_PREFIX in first_bytes(told)
    if changes_names and only_adds(conditions, effects):
        told.append(_ONLY_ADDS)
    request = serving.request
    if request and (changes_names or XATTR_SUBPREFIX in [key[:1] for _, key in told]):
        told.append((b"", request.to_bytes(_REQUEST, "big")))
    return joined(told)


def decode_record(encoded: bytes, begin: int = 0) -> Told:
    """What `encode_record` has said, from a byte on. ValueError when somebody else did."""
    keys = taken_apart(encoded, begin)
    request, only_adds = 0, False
    while keys and not keys[-1][0]:
        _, rest = keys.pop()
        if len(rest) == _REQUEST:
            request = int.from_bytes(rest, "big")
        elif len(rest) == _KIND:
            only_adds = rest == b"\x01"
    return Told(keys, request, only_adds)


def prefix_end(prefix: bytes) -> bytes | None:
    """The first byte string after all that start with `prefix`; None when there is no such string."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else None
