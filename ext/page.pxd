"""What page_impl.h declares, for the compiled modules that walk pages. The header has the meanings."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from cairnfs.ext.arena cimport ar_arena


cdef extern from "page_impl.h" nogil:
    struct pg_row:
        const uint8_t *key
        const uint8_t *value
        const uint8_t *named
        size_t n_key
        size_t n_value
        size_t n_named
        uint64_t version
        uint64_t named_version

    void pg_row_at(const uint8_t *at, pg_row *row)
    int pg_dentry(const pg_row *row, uint64_t *ino, uint8_t *type)
    int64_t pg_count(const uint8_t *bytes, size_t n_bytes)
    void pg_index(const uint8_t *bytes, size_t n_bytes, uint32_t *places)
    size_t pg_n_up_to(const uint8_t *bytes, const uint32_t *places, size_t n_rows, const uint8_t *key, size_t n_key)
    void pg_note(ar_arena *arena, uint64_t dir, const uint8_t *bytes, const uint32_t *places, size_t n_rows, uint64_t token)


cdef class Page:
    cdef bytes packed
    cdef const uint8_t *base
    cdef uint32_t *places  # of all rows of the string
    cdef uint32_t *first  # of the rows that the page has
    cdef size_t n_rows

    cdef int row(self, size_t i, pg_row *row) except -1
