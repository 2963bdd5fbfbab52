"""What arena.h declares, for the compiled modules that use an arena. The header has the meanings."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass


cdef extern from "arena.h" nogil:
    enum:
        AR_VERSION
        AR_MARK_BYTES
        AR_LOOKS
        AR_DIRTY
        AR_BARRED
        AR_ADOPTED
        AR_LEFT_ALONE
        AR_OTHER
        AR_EMPTY
        AR_SLICE

    enum ar_security:
        AR_SECURITY_UNKNOWN
        AR_SECURITY_NEVER
        AR_SECURITY_GIVEN

    struct ar_attr:
        uint64_t ino
        uint64_t version
        uint64_t size
        uint64_t data_version
        uint64_t pack
        uint32_t stored_off
        uint32_t stored_len
        uint32_t plain_len
        uint32_t off
        uint32_t crc
        uint8_t codec
        uint16_t mode
        uint8_t flags
        uint8_t layout
        uint16_t whole

    struct ar_header:
        uint64_t total
        uint64_t segment_bytes
        uint32_t n_segments
        uint32_t max_slice
        uint64_t newest
        uint64_t applied
        int64_t leased_until_ns
        uint32_t is_pushed
        uint32_t is_careful
        uint32_t epoch
        uint32_t hush
        uint32_t n_committing
        uint64_t slice_bytes
        uint64_t hits
        uint64_t misses
        uint64_t evictions
        uint32_t evicted_attrs
        uint32_t evicted_names
        uint64_t segments_offset
        pthread_mutex_t *locks
        pthread_mutex_t log_lock
        pthread_mutex_t seen_lock
        pthread_mutex_t filter_lock

    struct ar_arena:
        ar_header *h
        int fd
        const uint8_t *watch

    int ar_create(ar_arena *arena, uint64_t total)
    int ar_attach(ar_arena *arena, int fd, uint64_t total)
    void ar_destroy(ar_arena *arena)
    int ar_check(ar_arena *arena)
    void ar_lock(ar_arena *arena, pthread_mutex_t *lock)
    void ar_unlock(pthread_mutex_t *lock)

    void ar_restart(ar_arena *arena, uint64_t position)
    int ar_fresh(const ar_arena *arena)
    int ar_fresh_for_open(const ar_arena *arena)
    void ar_committing(ar_arena *arena)
    void ar_refused(ar_arena *arena)
    void ar_saw(ar_arena *arena, uint64_t position, const uint8_t *mark)
    void ar_applied(ar_arena *arena, uint64_t position, const uint8_t *mark)
    void ar_heard(ar_arena *arena, uint64_t position)
    void ar_usage_put(ar_arena *arena, uint64_t position, const uint64_t *usage)
    int ar_usage_find(const ar_arena *arena, uint64_t *usage)
    void ar_usage_drop(ar_arena *arena)

    uint64_t AR_TOKEN(uint32_t epoch, uint64_t position)
    uint64_t ar_token(const ar_arena *arena)
    int ar_parse(uint64_t ino, uint64_t version, const uint8_t *record, size_t n_bytes, ar_attr *out)
    int ar_attr_find(const ar_arena *arena, uint64_t ino, ar_attr *out)
    int ar_attr_put(ar_arena *arena, const ar_attr *attr, uint64_t token)
    void ar_attr_commit(ar_arena *arena, const ar_attr *attr, uint64_t position, uint64_t token, uint32_t generation)
    uint32_t ar_whole_generation(const ar_arena *arena)
    void ar_whole_add(ar_arena *arena, uint64_t parent, const void *name, size_t n_bytes)
    void ar_attr_drop(ar_arena *arena, uint64_t ino, uint64_t position)
    void ar_attr_forget(ar_arena *arena, uint64_t ino)
    void ar_security_put(ar_arena *arena, ar_security security, uint64_t token)
    ar_security ar_security_find(const ar_arena *arena)
    int ar_name_find(const ar_arena *arena, uint64_t parent, const void *name, size_t n_bytes, uint64_t *ino)
    int ar_name_put(ar_arena *arena, uint64_t parent, const void *name, size_t n_bytes, uint64_t ino, uint64_t token)
    void ar_name_drop(ar_arena *arena, uint64_t parent, const void *name, size_t n_bytes, uint64_t position)
    void ar_drop_all(ar_arena *arena)
    void ar_advance(ar_arena *arena, uint64_t position)

    int ar_shown_opened(ar_arena *arena, uint64_t ino, uint64_t version)
    void ar_shown_dropped(ar_arena *arena, uint64_t ino, uint64_t version, uint64_t mask)
    int64_t ar_shown_newest(const ar_arena *arena, uint64_t ino)
    int ar_shown_older(const ar_arena *arena, uint64_t ino, uint64_t version)
    void ar_shown_committed(ar_arena *arena, uint64_t ino, uint64_t version)
    void ar_shown_drop(ar_arena *arena, uint64_t ino)
    void ar_shown_drop_all(ar_arena *arena)
    void ar_shown_forget(ar_arena *arena, uint64_t ino)

    int ar_open(ar_arena *arena, uint64_t ino, int (*admit)(void *context) noexcept nogil, void *context)
    int64_t ar_close(ar_arena *arena, uint64_t ino, int adopted)
    int64_t ar_mark(ar_arena *arena, uint64_t ino, uint32_t marks)
    int64_t ar_bar(ar_arena *arena, uint64_t ino)
    void ar_unmark(ar_arena *arena, uint64_t ino, uint32_t marks)
    uint32_t ar_marks(const ar_arena *arena, uint64_t ino)
    uint64_t ar_n_open(const ar_arena *arena)
    void ar_resume(ar_arena *arena)
    uint64_t ar_next_open(const ar_arena *arena, uint64_t *at, uint64_t *ino)

    int ar_slice_copy(ar_arena *arena, uint64_t pack, uint32_t stored_off, uint64_t off, size_t length, void *out)
    uint32_t ar_slice_bytes(const ar_arena *arena, uint64_t pack, uint32_t stored_off)
    int ar_slice_put(ar_arena *arena, uint64_t pack, uint32_t stored_off, const void *plain, size_t n_bytes)
    void ar_slice_drop(ar_arena *arena, uint64_t pack, uint32_t stored_off)


cdef class Watch:
    cdef const uint8_t *base
    cdef readonly size_t n_bytes


cdef class Arena:
    cdef ar_arena arena
    cdef Watch watching
    cdef dict overflow

    cdef int note_row(self, bytes part, bytes key, bytes value, uint64_t version, uint64_t token) except -1
    cdef int add_name(self, bytes part, bytes name) except -1
    cdef int note_commit(self, bytes part, bytes key, bytes value, uint64_t position, uint64_t mine, uint32_t generation) except -1
    cdef int drop_row(self, bytes part, bytes key, uint64_t position) except -1
    cdef object marked(self, uint64_t ino, uint32_t marks, bint bar)
    cdef int64_t try_mark(self, uint64_t ino, uint32_t marks, bint bar) noexcept
    cdef pthread_mutex_t *lock_at(self, int number) noexcept
