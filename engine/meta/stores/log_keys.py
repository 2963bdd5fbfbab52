"""What a record of the change log says: the keys that a commit touches, and the request that it belongs to.

Each key is u8 length of the partition, u16 length of the key (big-endian), partition, key; a partition without a name stands for
the request.
"""

import struct

from cairnfs.meta.stores.base import DENTRY_PREFIX, XATTR_SUBPREFIX, Key
from cairnfs.types import serving

_KEY_LENGTHS = struct.Struct(">BH")


def encode_keys(keys: dict[Key, bytes | None]) -> bytes:
    """What a commit touches."""
    return b"".join([_KEY_LENGTHS.pack(len(part), len(key)) + part + key for part, key in keys])


def encode_request(keys: dict[Key, bytes | None]) -> bytes:
    """The request that a commit belongs to, as a key of a partition without a name; nothing unless it must not be made twice."""
    request = serving.request
    if not request or not any(part[:1] == DENTRY_PREFIX or key[:1] == XATTR_SUBPREFIX for part, key in keys):
        return b""
    return _KEY_LENGTHS.pack(0, 8) + request.to_bytes(8, "big")


def decode_keys(encoded: bytes) -> tuple[list[Key], int]:
    """The keys, and the request."""
    keys: list[Key] = []
    request = 0
    at = 0
    while at < len(encoded):
        part_length, key_length = _KEY_LENGTHS.unpack_from(encoded, at)
        at += _KEY_LENGTHS.size
        key = encoded[at + part_length : at + part_length + key_length]
        if part_length:
            keys.append((encoded[at : at + part_length], key))
        else:
            request = int.from_bytes(key, "big")
        at += part_length + key_length
    return keys, request


def prefix_end(prefix: bytes) -> bytes | None:
    """The first byte string after all that start with `prefix`; None when there is no such string."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else None
