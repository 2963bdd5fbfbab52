"""Slots: shared memory for the requests that a channel's lanes have in work. fuse_slot.h is the contract."""

cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t

from cairnfs.ext.fuse_wire cimport FW_LOOKUP, FW_READ, FW_SETLKW, fw_in_header
from cairnfs.ext.shm cimport SharedMemory

cdef extern from "fuse_slots_jobs.h" nogil:
    enum:
        FC_MAX_FETCHERS

    struct fc_jobs:
        uint32_t n_fetchers
        uint64_t n_fetched

    struct fc_wanted:
        uint32_t opcode
        uint64_t ino
        size_t n_name
        char *name

    fc_jobs *fc_jobs_of(const fc_slots *slots)
    int fc_take_job(const fc_slots *slots, uint32_t worker, uint32_t timeout_ms)
    int fc_read_job(const fc_slots *slots, int slot, fc_wanted *out)
    void fc_end_job(const fc_slots *slots, uint32_t worker, int slot)
    void fc_end_jobs_of(const fc_slots *slots, uint32_t worker)

MAX_FETCHERS = FC_MAX_FETCHERS


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
        self.memory = SharedMemory("slots", n_bytes, reserved=FC_SHARED_BYTES) if memory is None else memory
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

    def began(self):
        """A position in the change log after which is all that these requests have committed. None when Python has none."""
        # Who waits for a lock commits nothing that must not be committed twice, and may have begun long ago.
        waiting = [slot for slot, _, opcode in self.waiting() if opcode != FW_SETLKW]
        began = [fc_slot_at(&self.slots, slot).began for slot in waiting]
        return min([position - 1 for position in began if position], default=None)

    # Jobs: what is fetched for the process that serves, by workers with numbers from 1 on

    @property
    def n_fetchers(self):
        """The greatest number of a worker that may be given jobs."""
        return fc_jobs_of(&self.slots).n_fetchers

    @n_fetchers.setter
    def n_fetchers(self, uint32_t n):
        if n > FC_MAX_FETCHERS:
            raise ValueError(f"{n} workers")
        fc_jobs_of(&self.slots).n_fetchers = n

    @property
    def n_fetched(self):
        """Requests answered by compiled code after a job."""
        return fc_jobs_of(&self.slots).n_fetched

    def take_job(self, uint32_t worker, uint32_t timeout_ms):
        """(slot, inode, name or None, whether bytes are wanted) of a request to fetch something for, taken by `worker`. None
        after a while without. The inode is that of the directory if there is a name.
        """
        cdef fc_wanted wanted
        cdef int slot, is_whole
        self.check_worker(worker)
        with nogil:
            slot = fc_take_job(&self.slots, worker, timeout_ms)
        if slot < 0:
            return None
        is_whole = fc_read_job(&self.slots, slot, &wanted)
        if not is_whole:
            fc_end_job(&self.slots, worker, slot)
            return None
        name = wanted.name[: wanted.n_name] if wanted.opcode == FW_LOOKUP else None
        return slot, wanted.ino, name, wanted.opcode == FW_READ

    def end_job(self, uint32_t worker, int slot):
        """What was to be fetched is there, or cannot be had."""
        self.check_worker(worker)
        if not 0 <= slot < self.slots.n_slots:
            raise ValueError(f"slot {slot}")
        fc_end_job(&self.slots, worker, slot)

    def end_jobs_of(self, uint32_t worker):
        """A worker has died."""
        self.check_worker(worker)
        fc_end_jobs_of(&self.slots, worker)

    cdef int check_worker(self, uint32_t worker) except -1:
        if not 1 <= worker <= FC_MAX_FETCHERS:
            raise ValueError(f"worker {worker}")
        return 0
