"""Slots: shared memory for the requests that a channel's lanes have in work. fuse_slot.h is the contract."""

cimport cython
from libc.stddef cimport size_t

from cairnfs.ext.fuse_wire cimport fw_in_header
from cairnfs.ext.shm cimport SharedMemory


@cython.final
cdef class Slots:
    """Room for `n_slots` requests of up to `request_bytes`."""

    def __cinit__(self, int n_slots, size_t request_bytes, SharedMemory memory=None):
        cdef size_t n_bytes
        if not 1 <= n_slots <= 1024 or not 8192 <= request_bytes <= 2 << 20:
            raise ValueError(f"{n_slots} slots of {request_bytes} bytes")
        self.slots.slot_bytes = FC_SLOT_PAGE + (request_bytes + 4095) // 4096 * 4096
        self.slots.n_slots = n_slots
        self.request_bytes = request_bytes
        n_bytes = FC_SHARED_BYTES + <size_t>n_slots * self.slots.slot_bytes
        self.memory = SharedMemory("slots", n_bytes) if memory is None else memory
        if self.memory.n_bytes != n_bytes:
            raise ValueError(f"{n_slots} slots of {request_bytes} bytes in {self.memory.n_bytes} bytes")
        self.slots.base = self.memory.base

    @property
    def n_slots(self):
        return self.slots.n_slots

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
