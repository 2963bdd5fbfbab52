"""The table's C face for other kernels; call it with the GIL."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t


cdef extern from "ino_map_impl.h" nogil:
    struct im_slot:
        uint64_t ino
        uint64_t value

    struct im_map:
        im_slot *slots
        size_t n_slots
        size_t n
        size_t limit


cdef class InoMap:
    cdef im_map map

    cdef int count(self, uint64_t ino, int64_t n) except -1
    cdef size_t copy_inos(self, uint64_t *out) noexcept
