"""What fuse_slot.h declares, for fuse_chan."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from cairnfs.ext.shm cimport SharedMemory


cdef extern from "fuse_slot.h" nogil:
    enum:
        FC_SLOT_PAGE
        FC_SHARED_BYTES
        FC_N_BUCKETS

    struct fc_slot:
        uint64_t answered
        uint64_t began

    struct fc_times:
        uint64_t *buckets
        uint64_t sum_ns

    struct fc_shared:
        uint32_t agreed
        uint32_t minor
        uint64_t caps
        uint64_t read_bytes

    struct fc_slots:
        uint8_t *base
        size_t slot_bytes
        int n_slots

    fc_shared *fc_shared_of(const fc_slots *slots)
    fc_slot *fc_slot_at(const fc_slots *slots, int i)
    uint8_t *fc_slot_request(fc_slot *slot)


cdef class Slots:
    cdef fc_slots slots
    cdef readonly SharedMemory memory
    cdef readonly size_t request_bytes

    cdef int check_worker(self, uint32_t worker) except -1
