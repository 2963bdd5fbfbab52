"""Shared memory, for the compiled modules that lay something out in it."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t


cdef class SharedMemory:
    cdef uint8_t *base
    cdef readonly int fd
    cdef readonly size_t n_bytes
