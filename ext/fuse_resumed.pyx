"""Requests that a process had carried out when it died, before it could say so.

Their commit is in the change log under the request's number. What they changed is looked up for the reply; nothing is changed
again. Only changes of names and of extended attributes come here: all others may be carried out twice.
"""

from cairnfs.ext cimport fuse_wire as fw
from cairnfs.ext.fuse_files cimport answer_opened
from cairnfs.ext.fuse_req cimport Request

cdef enum:
    O_CREATION = 0o100 | 0o200 | 0o1000  # O_CREAT, O_EXCL, O_TRUNC


cdef int serve_done(Request r) except -1:
    """Lay out the reply. 0, or an errno when what was made is gone again."""
    if r.opcode == fw.FW_MKNOD:
        r.take(sizeof(fw.fw_mknod_in))
    elif r.opcode == fw.FW_MKDIR:
        r.take(sizeof(fw.fw_mkdir_in))
    elif r.opcode == fw.FW_LINK:
        r.take(sizeof(fw.fw_link_in))
    elif r.opcode == fw.FW_CREATE:
        return created(r)
    elif r.opcode != fw.FW_SYMLINK:
        return 0  # nothing but success to tell
    return r.answer_entry(r.h.lookup(r.caller, r.header.nodeid, r.name()), False)


cdef int created(Request r) except -1:
    cdef const fw.fw_create_in *in_ = <const fw.fw_create_in *>r.take(sizeof(fw.fw_create_in))
    cdef fw.fw_entry_out *out
    attr = r.h.lookup(r.caller, r.header.nodeid, r.name())
    r.caller.fenced = True  # what the kernel is to forget waits for the lock of the directory, which it holds for this request
    opened = r.h.open(r.caller, attr.ino, in_.flags & ~<unsigned int>O_CREATION)
    out = <fw.fw_entry_out *>r.answer(sizeof(fw.fw_entry_out) + sizeof(fw.fw_open_out))
    r.lay_entry(attr, out, False)
    return answer_opened(r, <fw.fw_open_out *>(out + 1), out.nodeid, opened, in_.flags)
