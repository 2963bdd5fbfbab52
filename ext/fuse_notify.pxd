"""The base class of Channel, for fuse_chan."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t
from posix.uio cimport iovec

from cairnfs.ext.fuse_req cimport fc_chan


cdef class Notifier:
    cdef fc_chan *chan
    cdef object ending  # guards `over` against stop() and notifications from other threads
    cdef bint over  # serve() has ended: descriptors may be closed, and their numbers be somebody else's

    cdef bint notify(self, int code, iovec *iov, int n_iov) except -1
    cdef int notify_fd(self) except -2
    cdef int notify_each(self, const uint64_t *inos, size_t n, int64_t offset) except -1
