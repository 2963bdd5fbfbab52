"""The function for each opcode, and which opcodes a handler serves."""

from libc.stdint cimport uint64_t

from cairnfs.ext.fuse_names cimport Operation

cdef Operation *operations() noexcept
cdef uint64_t served_by(object handler) except? 0
