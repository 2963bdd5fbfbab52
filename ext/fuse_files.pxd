"""Opcodes about open files, open directories and locks. Each returns 0 with its reply laid out, or a positive errno."""

from cairnfs.ext.fuse_names cimport Operation
from cairnfs.ext.fuse_req cimport Request

cdef Operation file_operation(unsigned int opcode) noexcept
cdef int abandon(Request r) except -1
