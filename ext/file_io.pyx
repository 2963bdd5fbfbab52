# cython: embedsignature=True, embedsignature.format=clinic
"""Objects as files, without the GIL: argument checks and the buffers of Python's objects. See file_io_impl.h."""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport INT64_MAX, uint64_t

from cairnfs.ext.parts cimport Parts, iovec


cdef extern from "file_io_impl.h" nogil:
    enum:
        FILE_IO_NO_UNNAMED
    int file_io_put(const char *folder, const char *path, iovec *parts, size_t n_parts, int sync)
    int file_io_sync(const char *folder)
    int file_io_spread(const char *folder)
    Py_ssize_t file_io_get(const char *path, uint64_t offset, void *data, size_t n_bytes)


cdef extern from "Python.h":
    bytes PyUnicode_EncodeFSDefault(object text)


cdef object _failure(int code, bytes path):
    return OSError(-code, os.strerror(-code), os.fsdecode(path))


cdef bytes _path(str path):
    cdef bytes encoded = PyUnicode_EncodeFSDefault(path)
    if b"\0" in encoded:
        raise ValueError("a path has a NUL in it")
    return encoded


def put(str folder not None, str path not None, parts, bint sync=True):
    cdef bytes c_folder = _path(folder), c_path = _path(path)
    cdef const char *folder_at = PyBytes_AS_STRING(c_folder)
    cdef const char *path_at = PyBytes_AS_STRING(c_path)
    cdef Parts held = Parts(parts)
    cdef int code
    with nogil:
        code = file_io_put(folder_at, path_at, held.parts, held.n, sync)
    if code < 0:
        raise _failure(code, c_path)
    return code != FILE_IO_NO_UNNAMED


def sync(str folder not None):
    cdef bytes c_folder = _path(folder)
    cdef const char *folder_at = PyBytes_AS_STRING(c_folder)
    cdef int code
    with nogil:
        code = file_io_sync(folder_at)
    if code < 0:
        raise _failure(code, c_folder)


def spread(str folder not None):
    cdef bytes c_folder = _path(folder)
    cdef const char *folder_at = PyBytes_AS_STRING(c_folder)
    cdef int code
    with nogil:
        code = file_io_spread(folder_at)
    if code < 0:
        raise _failure(code, c_folder)
    return code != 0


def get(str path not None, uint64_t offset, Py_ssize_t n_bytes):
    cdef bytes c_path = _path(path)
    cdef const char *path_at = PyBytes_AS_STRING(c_path)
    cdef Py_ssize_t n
    if n_bytes < 0 or offset > <uint64_t>(INT64_MAX - n_bytes):
        raise ValueError(f"{n_bytes} bytes at {offset}")
    cdef bytes out = PyBytes_FromStringAndSize(NULL, n_bytes)
    cdef char *data = PyBytes_AS_STRING(out)
    with nogil:
        n = file_io_get(path_at, offset, data, <size_t>n_bytes)
    if n < 0:
        raise _failure(<int>n, c_path)
    return out if n == n_bytes else out[:n]
