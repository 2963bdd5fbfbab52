# cython: embedsignature=True, embedsignature.format=clinic
"""Keys of rows, one behind the other: u8 length of the partition, u16 length of the key (big-endian), partition, key."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

cdef enum:
    HEAD_BYTES = 3
    MAX_PART_BYTES = 0xFF
    MAX_KEY_BYTES = 0xFFFF


def joined(keys not None):
    cdef bytes part, key, out
    cdef Py_ssize_t n_bytes = 0, n_part, n_key
    cdef char *at
    cdef list found = list(keys)
    for part, key in found:
        n_part, n_key = len(part), len(key)  # which refuses None, too
        if n_part > MAX_PART_BYTES or n_key > MAX_KEY_BYTES:
            raise OverflowError(f"a key of {n_part} and {n_key} bytes")
        n_bytes += HEAD_BYTES + n_part + n_key
    out = PyBytes_FromStringAndSize(NULL, n_bytes)
    at = PyBytes_AS_STRING(out)
    for part, key in found:
        n_part, n_key = PyBytes_GET_SIZE(part), PyBytes_GET_SIZE(key)
        at[0], at[1], at[2] = <char>n_part, <char>(n_key >> 8), <char>n_key
        memcpy(at + HEAD_BYTES, PyBytes_AS_STRING(part), n_part)
        memcpy(at + HEAD_BYTES + n_part, PyBytes_AS_STRING(key), n_key)
        at += HEAD_BYTES + n_part + n_key
    return out


def first_bytes(keys not None):
    cdef bytes part
    cdef list found = list(keys)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, len(found))
    cdef char *at = PyBytes_AS_STRING(out)
    for part, _ in found:
        at[0] = PyBytes_AS_STRING(part)[0]  # 0 for an empty one: where its bytes end
        at += 1
    return out


def taken_apart(bytes joined not None, Py_ssize_t begin=0):
    cdef const unsigned char *data = <const unsigned char *>PyBytes_AS_STRING(joined)
    cdef Py_ssize_t at = begin, end = PyBytes_GET_SIZE(joined), n_part, n_key
    cdef list found = []
    cdef bytes part
    if begin < 0:
        raise ValueError("keys begin before the first byte")
    while at < end:
        if end - at < HEAD_BYTES:
            raise ValueError("keys end within a length")
        n_part, n_key = data[at], data[at + 1] << 8 | data[at + 2]
        at += HEAD_BYTES
        if end - at < n_part + n_key:
            raise ValueError(f"keys end within one of {n_part} and {n_key} bytes")
        part = PyBytes_FromStringAndSize(<const char *>data + at, n_part)
        found.append((part, PyBytes_FromStringAndSize(<const char *>data + at + n_part, n_key)))
        at += n_part + n_key
    return found
