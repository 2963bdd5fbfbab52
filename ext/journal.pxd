"""What journal_impl.h declares, for journal and fuse_chan."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "journal_impl.h" nogil:
    enum:
        JN_PLACES
        JN_RING_AT

    struct jn_record:
        uint32_t state
        uint32_t n_bytes
        uint64_t ino
        uint64_t offset
        uint64_t request
        int64_t when_ns

    struct jn_grant:
        uint64_t ino
        uint64_t fh
        uint64_t left_bytes
        uint64_t max_end
        uint32_t n_held
        uint32_t plain
        uint32_t marked
        uint32_t n_places
        uint64_t *places

    struct jn_header:
        uint64_t ring_bytes
        uint64_t head
        uint64_t tail

    struct jn_journal:
        jn_header *h
        uint8_t *ring

    int jn_attach(jn_journal *journal, void *base, uint64_t ring_bytes)
    int jn_lock_ring(jn_journal *journal, int wait)
    void jn_unlock_ring(jn_journal *journal)
    int64_t jn_reserve(jn_journal *journal, uint64_t ino, uint64_t offset, size_t n_bytes, uint64_t request, int64_t when_ns)
    void jn_fill(jn_journal *journal, uint64_t place, const void *data)
    void jn_kill(jn_journal *journal, uint64_t place)
    void jn_move_tail(jn_journal *journal)
    jn_record *jn_next(const jn_journal *journal, uint64_t *place)
    jn_record *jn_at(const jn_journal *journal, uint64_t place)
    int jn_appended(const jn_journal *journal, uint64_t request)
    void jn_resume(jn_journal *journal)
    jn_grant *jn_enter(jn_journal *journal, uint64_t ino, int wait, int *busy)
    jn_grant *jn_enter_new(jn_journal *journal, uint64_t ino)
    void jn_leave(jn_grant *grant)
    int jn_add_granted(jn_journal *journal, jn_grant *grant, uint64_t offset, const void *data, size_t n_bytes, int64_t when_ns)
    int jn_check(const jn_journal *journal)
    uint32_t jn_pending(const jn_journal *journal, uint64_t ino)


cdef class Ring:
    cdef jn_journal journal
    cdef object memory  # what the journal lies in; keeps it alive

    cdef int lock(self) except -1
    cdef jn_grant *enter(self, uint64_t ino)
    cdef list taken(self, uint64_t ino, bint ends)
    cdef tuple record(self, uint64_t place)
