"""Buffers of Python's objects, as one run of bytes in parts."""

from cpython.buffer cimport Py_buffer
from libc.stddef cimport size_t


cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len


cdef class Parts:
    cdef iovec *parts
    cdef Py_buffer *views
    cdef size_t n
