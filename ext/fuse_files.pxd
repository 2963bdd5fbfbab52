"""Opcodes about open files, open directories and locks. Each returns 0 with its reply laid out, or a positive errno."""

from libc.stdint cimport uint32_t, uint64_t

from cairnfs.ext cimport fuse_wire as fw
from cairnfs.ext.fuse_names cimport Operation
from cairnfs.ext.fuse_req cimport Request

cdef Operation file_operation(unsigned int opcode) noexcept
cdef int abandon(Request r) except -1
cdef int answer_opened(Request r, fw.fw_open_out *out, uint64_t ino, object opened, uint32_t flags) except -1
