"""What ino_map_impl.h declares."""

from libc.stddef cimport size_t
from libc.stdint cimport uint64_t


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
