"""Slots: shared memory for the requests that a channel's lanes have in work. fuse_slot.h is the contract."""

cimport cython
from libc.errno cimport errno
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from cairnfs.ext.fuse_wire cimport fw_in_header

import os

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_READ
        PROT_WRITE
        MAP_SHARED
        MAP_ANONYMOUS
        MAP_NORESERVE
    void *MAP_FAILED
    void *mmap(void *addr, size_t n_bytes, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t n_bytes)


@cython.final
cdef class Slots:
    """Room for `n_slots` requests of up to `request_bytes`, shared by every process forked from now on."""

    def __cinit__(self, int n_slots, size_t request_bytes):
        if not 1 <= n_slots <= 1024 or not 8192 <= request_bytes <= 2 << 20:
            raise ValueError(f"{n_slots} slots of {request_bytes} bytes")
        self.slots.slot_bytes = FC_SLOT_PAGE + (request_bytes + 4095) // 4096 * 4096
        self.slots.n_slots = n_slots
        cdef void *base = mmap(
            NULL, self.n_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
        )
        if base == MAP_FAILED:
            raise OSError(errno, os.strerror(errno))
        self.slots.base = <uint8_t *>base

    def __dealloc__(self):
        if self.slots.base != NULL:
            munmap(self.slots.base, self.n_bytes())

    cdef size_t n_bytes(self) noexcept:
        return FC_SHARED_BYTES + <size_t>self.slots.n_slots * self.slots.slot_bytes

    @property
    def agreed(self):
        """Has INIT been answered?"""
        return fc_shared_of(&self.slots).agreed != 0

    def waiting(self):
        """(slot, unique, opcode) of the requests that were read and have no reply yet."""
        cdef int i
        cdef const fw_in_header *header
        found = []
        for i in range(self.slots.n_slots):
            header = <const fw_in_header *>fc_slot_request(fc_slot_at(&self.slots, i))
            if header.len and fc_slot_at(&self.slots, i).answered != header.unique:
                found.append((i, header.unique, header.opcode))
        return found
