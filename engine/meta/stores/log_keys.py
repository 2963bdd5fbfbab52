"""What a record of the change log says: the keys that a commit touches, the request that it belongs to, and what kind it is of.

Each key is u8 length of the partition, u16 length of the key (big-endian), partition, key; partitions without a name stand for
the rest: a key of 8 bytes for the request, one of 1 byte for the kind (1: of names it has only added some).
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from cairnfs.meta.stores.base import DENTRY_PREFIX, XATTR_SUBPREFIX, Absent, Condition, Effect, Key, Put
from cairnfs.types import serving

_KEY_LENGTHS = struct.Struct(">BH")
_REQUEST, _KIND = 8, 1  # bytes
_ONLY_ADDS = _KEY_LENGTHS.pack(0, _KIND) + b"\x01"


class Told(NamedTuple):
    """What a record says besides who made it where: as of `LogRecord`."""

    keys: list[Key]
    request: int
    only_adds: bool


def only_adds(conditions: Sequence[Condition], effects: Sequence[Effect]) -> bool:
    """Whether a commit gives names, and takes or replaces none."""
    absent = [condition.key for condition in conditions if type(condition) is Absent]
    has_names = False
    for effect in effects:
        if effect.key[0][:1] == DENTRY_PREFIX:
            if type(effect) is not Put or effect.key not in absent:
                return False
            has_names = True
    return has_names


def encode_record(keys: dict[Key, bytes | None], conditions: Sequence[Condition], effects: Sequence[Effect]) -> bytes:
    """What a commit touches, what kind it is of, and, if it must not be made twice, the request that it belongs to."""
    told = [_KEY_LENGTHS.pack(len(part), len(key)) + part + key for part, key in keys]
    if only_adds(conditions, effects):
        told.append(_ONLY_ADDS)
    request = serving.request
    if request and any(part[:1] == DENTRY_PREFIX or key[:1] == XATTR_SUBPREFIX for part, key in keys):
        told.append(_KEY_LENGTHS.pack(0, _REQUEST) + request.to_bytes(_REQUEST, "big"))
    return b"".join(told)


def decode_record(encoded: bytes) -> Told:
    """What `encode_record` has said."""
    keys: list[Key] = []
    request, only_adds = 0, False
    at = 0
    while at < len(encoded):
        part_length, key_length = _KEY_LENGTHS.unpack_from(encoded, at)
        at += _KEY_LENGTHS.size
        key = encoded[at + part_length : at + part_length + key_length]
        if part_length:
            keys.append((encoded[at : at + part_length], key))
        elif key_length == _REQUEST:
            request = int.from_bytes(key, "big")
        elif key_length == _KIND:
            only_adds = key == b"\x01"
        at += part_length + key_length
    return Told(keys, request, only_adds)


def prefix_end(prefix: bytes) -> bytes | None:
    """The first byte string after all that start with `prefix`; None when there is no such string."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else None
