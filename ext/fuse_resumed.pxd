"""For fuse_chan."""

from cairnfs.ext.fuse_req cimport Request


cdef int serve_done(Request r) except -1
