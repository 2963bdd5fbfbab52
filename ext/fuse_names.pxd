"""Opcodes about names, attributes and extended attributes. Each returns 0 with its reply laid out, or a positive errno."""

from cairnfs.ext.fuse_req cimport Request

ctypedef int (*Operation)(Request r) except -1

cdef Operation name_operation(unsigned int opcode) noexcept
