"""What log_end_impl.h declares, for log_end and fuse_chan."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t


cdef extern from "log_end_impl.h" nogil:
    enum:
        LE_MAX_COMMAND
        LE_N_TIMES

    struct le_log_end:
        uint8_t *command
        size_t n_command
        int n_links
        int64_t *times

    int64_t le_ask(le_log_end *end)
    int le_add(le_log_end *end, int fd)
    int le_wants_link(const le_log_end *end)
    void le_close(le_log_end *end)


cdef class LogEnd:
    cdef le_log_end end
    cdef object times  # what counts lie in; keeps it alive
