"""Opcodes about names, attributes and extended attributes: parse, call the handler, lay out the reply.

Each operation returns 0 with its reply laid out, or a positive errno; what the handler raises passes through.
The inode of every request is header.nodeid, which is the inode number.
"""

from libc.errno cimport EINVAL, ENOENT, ERANGE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from cairnfs.ext cimport fuse_wire as fw
from cairnfs.ext.fuse_req cimport Request, Rules, Span, attr_validity, fc_known, fc_take_array, fill_attr

cdef enum:
    ALL_STATX = 0xFFF  # STATX_BASIC_STATS | STATX_BTIME: everything cairnfs stores
    PERMISSIONS = 0o7777


cdef Operation name_operation(unsigned int opcode) noexcept:
    """The operation for an opcode, NULL when it is not one of this module's."""
    if opcode == fw.FW_LOOKUP:
        return op_lookup
    if opcode == fw.FW_FORGET:
        return op_forget
    if opcode == fw.FW_BATCH_FORGET:
        return op_batch_forget
    if opcode == fw.FW_GETATTR:
        return op_getattr
    if opcode == fw.FW_SETATTR:
        return op_setattr
    if opcode == fw.FW_STATX:
        return op_statx
    if opcode == fw.FW_READLINK:
        return op_readlink
    if opcode == fw.FW_SYMLINK:
        return op_symlink
    if opcode == fw.FW_MKNOD:
        return op_mknod
    if opcode == fw.FW_MKDIR:
        return op_mkdir
    if opcode == fw.FW_UNLINK:
        return op_unlink
    if opcode == fw.FW_RMDIR:
        return op_rmdir
    if opcode == fw.FW_RENAME:
        return op_rename
    if opcode == fw.FW_RENAME2:
        return op_rename2
    if opcode == fw.FW_LINK:
        return op_link
    if opcode == fw.FW_ACCESS:
        return op_access
    if opcode == fw.FW_SETXATTR:
        return op_setxattr
    if opcode == fw.FW_GETXATTR:
        return op_getxattr
    if opcode == fw.FW_LISTXATTR:
        return op_listxattr
    if opcode == fw.FW_REMOVEXATTR:
        return op_removexattr
    return NULL


# Names


cdef int op_lookup(Request r) except -1:
    cdef bytes name = r.name()
    try:
        attr = r.h.lookup(r.caller, r.header.nodeid, name)
    except OSError as error:
        if error.errno != ENOENT or not keeps_absent(r.rules):
            raise
        return answer_absent(r)
    return r.answer_entry(attr, True)


cdef bint keeps_absent(Rules rules) noexcept:
    """Whether the kernel may be told for a while that a name is absent. Not if nobody tells it when that changes."""
    return rules.chan.follows and (rules.negative.s or rules.negative.ns)


cdef int answer_absent(Request r) except -1:
    """Tell the kernel that it need not ask again for a while."""
    cdef fw.fw_entry_out *out = <fw.fw_entry_out *>r.answer(sizeof(fw.fw_entry_out))
    out.entry_valid = r.rules.negative.s
    out.entry_valid_nsec = r.rules.negative.ns
    return 0


cdef int op_forget(Request r) except -1:
    cdef const fw.fw_forget_in *in_ = <const fw.fw_forget_in *>r.take(sizeof(fw.fw_forget_in))
    r.h.forget(r.header.nodeid, in_.nlookup)
    return fc_known(r.lane.chan, r.header.nodeid, -<int64_t>in_.nlookup)


cdef int op_batch_forget(Request r) except -1:
    cdef const fw.fw_batch_forget_in *in_ = <const fw.fw_batch_forget_in *>r.take(sizeof(fw.fw_batch_forget_in))
    cdef const fw.fw_forget_one *ones = <const fw.fw_forget_one *>fc_take_array(&r.cursor, in_.count, sizeof(fw.fw_forget_one))
    cdef uint32_t i
    if ones == NULL:
        return EINVAL
    for i in range(in_.count):
        r.h.forget(ones[i].nodeid, ones[i].nlookup)
        fc_known(r.lane.chan, ones[i].nodeid, -<int64_t>ones[i].nlookup)
    return 0


cdef int op_readlink(Request r) except -1:
    return r.answer_bytes(r.h.readlink(r.caller, r.header.nodeid))


cdef int op_symlink(Request r) except -1:
    cdef bytes name = r.name()
    return r.answer_entry(r.h.symlink(r.caller, r.header.nodeid, name, r.name()), False)


cdef int op_mknod(Request r) except -1:
    cdef const fw.fw_mknod_in *in_ = <const fw.fw_mknod_in *>r.take(sizeof(fw.fw_mknod_in))
    r.caller.umask = in_.umask
    return r.answer_entry(r.h.mknod(r.caller, r.header.nodeid, r.name(), in_.mode, in_.rdev), False)


cdef int op_mkdir(Request r) except -1:
    cdef const fw.fw_mkdir_in *in_ = <const fw.fw_mkdir_in *>r.take(sizeof(fw.fw_mkdir_in))
    r.caller.umask = in_.umask
    return r.answer_entry(r.h.mkdir(r.caller, r.header.nodeid, r.name(), in_.mode), False)


cdef int op_unlink(Request r) except -1:
    r.h.unlink(r.caller, r.header.nodeid, r.name())
    return 0


cdef int op_rmdir(Request r) except -1:
    r.h.rmdir(r.caller, r.header.nodeid, r.name())
    return 0


cdef int op_rename(Request r) except -1:
    cdef const fw.fw_rename_in *in_ = <const fw.fw_rename_in *>r.take(sizeof(fw.fw_rename_in))
    return rename(r, in_.newdir, 0)


cdef int op_rename2(Request r) except -1:
    cdef const fw.fw_rename2_in *in_ = <const fw.fw_rename2_in *>r.take(sizeof(fw.fw_rename2_in))
    return rename(r, in_.newdir, in_.flags)


cdef int rename(Request r, uint64_t new_parent, uint32_t flags) except -1:
    cdef bytes name = r.name()
    r.h.rename(r.caller, r.header.nodeid, name, new_parent, r.name(), flags)
    return 0


cdef int op_link(Request r) except -1:
    cdef const fw.fw_link_in *in_ = <const fw.fw_link_in *>r.take(sizeof(fw.fw_link_in))
    return r.answer_entry(r.h.link(r.caller, in_.oldnodeid, r.header.nodeid, r.name()), False)


# Attributes


cdef int op_getattr(Request r) except -1:
    cdef const fw.fw_getattr_in *in_ = <const fw.fw_getattr_in *>r.take(sizeof(fw.fw_getattr_in))
    cdef object fh = in_.fh >> 1 if in_.getattr_flags & fw.FW_GETATTR_FH else None
    return r.answer_attr(r.h.getattr(r.caller, r.header.nodeid, fh), True)


cdef int op_statx(Request r) except -1:
    """GETATTR with the time of birth. The mask of what is wanted is not looked at: all of it is at hand."""
    cdef const fw.fw_statx_in *in_ = <const fw.fw_statx_in *>r.take(sizeof(fw.fw_statx_in))
    cdef object fh = in_.fh >> 1 if in_.getattr_flags & fw.FW_GETATTR_FH else None
    cdef object attr = r.h.getattr(r.caller, r.header.nodeid, fh)
    cdef fw.fw_statx_out *out = <fw.fw_statx_out *>r.answer(sizeof(fw.fw_statx_out))
    cdef const Span *valid = attr_validity(r.rules, True)
    cdef fw.fw_attr basic
    fill_attr(r.rules, attr, &basic)
    out.attr_valid = valid.s
    out.attr_valid_nsec = valid.ns
    out.mask = ALL_STATX
    out.blksize = basic.blksize
    out.nlink = basic.nlink
    out.uid = basic.uid
    out.gid = basic.gid
    out.mode = basic.mode
    out.ino = basic.ino
    out.size = basic.size
    out.blocks = basic.blocks
    fill_time(&out.atime, attr.atime_ns)
    fill_time(&out.btime, attr.btime_ns)
    fill_time(&out.ctime, attr.ctime_ns)
    fill_time(&out.mtime, attr.mtime_ns)
    out.rdev_major = basic.rdev >> 8 & 0xFFF
    out.rdev_minor = basic.rdev & 0xFF | basic.rdev >> 12 & 0xFFF00
    return 0


cdef void fill_time(fw.fw_time *out, int64_t ns) noexcept:
    out.sec = ns // 1_000_000_000
    out.nsec = <uint32_t>(ns % 1_000_000_000)


cdef int op_setattr(Request r) except -1:
    cdef const fw.fw_setattr_in *in_ = <const fw.fw_setattr_in *>r.take(sizeof(fw.fw_setattr_in))
    cdef uint32_t valid = in_.valid
    cdef object change = r.rules.make_set_attr(
        in_.mode & PERMISSIONS if valid & fw.FW_SET_MODE else None,
        in_.uid if valid & fw.FW_SET_UID else None,
        in_.gid if valid & fw.FW_SET_GID else None,
        in_.size if valid & fw.FW_SET_SIZE else None,
        time_of(valid & fw.FW_SET_ATIME, valid & fw.FW_SET_ATIME_NOW, in_.atime, in_.atimensec),
        time_of(valid & fw.FW_SET_MTIME, valid & fw.FW_SET_MTIME_NOW, in_.mtime, in_.mtimensec),
        time_of(valid & fw.FW_SET_CTIME, 0, in_.ctime, in_.ctimensec),
        valid & fw.FW_SET_KILL_SUIDGID != 0,
    )
    cdef object fh = in_.fh >> 1 if valid & fw.FW_SET_FH else None
    return r.answer_attr(r.h.setattr(r.caller, r.header.nodeid, change, fh), False)


cdef object time_of(uint32_t given, uint32_t now, uint64_t seconds, uint32_t nanoseconds):
    """A time in ns, or None when it is not to be set. Seconds beyond the year 2262 are set to the last that fits."""
    cdef timespec t
    cdef int64_t whole = <int64_t>seconds
    cdef int64_t limit = 9_223_372_035
    if now:
        clock_gettime(CLOCK_REALTIME, &t)
        return t.tv_sec * 1_000_000_000 + t.tv_nsec
    if not given:
        return None
    whole = max(-limit, min(whole, limit))
    return whole * 1_000_000_000 + min(nanoseconds, <uint32_t>999_999_999)


cdef int op_access(Request r) except -1:
    cdef const fw.fw_access_in *in_ = <const fw.fw_access_in *>r.take(sizeof(fw.fw_access_in))
    r.h.access(r.caller, r.header.nodeid, in_.mask)
    return 0


# Extended attributes


cdef int op_setxattr(Request r) except -1:
    cdef bint extended = r.lane.chan.caps & fw.FW_CAP_SETXATTR_EXT != 0
    cdef const fw.fw_setxattr_in *in_ = <const fw.fw_setxattr_in *>r.take(sizeof(fw.fw_setxattr_in) if extended else 8)
    cdef bint kill_sgid = extended and in_.setxattr_flags & fw.FW_SETXATTR_KILL_SGID != 0
    cdef bytes name = r.name()
    cdef bytes value = bytes(r.data(in_.size))
    r.h.setxattr(r.caller, r.header.nodeid, name, value, in_.flags, kill_sgid)
    return 0


cdef int op_getxattr(Request r) except -1:
    cdef const fw.fw_getxattr_in *in_ = <const fw.fw_getxattr_in *>r.take(sizeof(fw.fw_getxattr_in))
    return answer_sized(r, r.h.getxattr(r.caller, r.header.nodeid, r.name()), in_.size)


cdef int op_listxattr(Request r) except -1:
    cdef const fw.fw_getxattr_in *in_ = <const fw.fw_getxattr_in *>r.take(sizeof(fw.fw_getxattr_in))
    names = r.h.listxattr(r.caller, r.header.nodeid)
    return answer_sized(r, b"".join([name + b"\0" for name in names]), in_.size)


cdef int answer_sized(Request r, bytes value, size_t room) except -1:
    """The value, or its length when asked with no room."""
    cdef size_t n = len(value)
    if room == 0:
        (<fw.fw_getxattr_out *>r.answer(sizeof(fw.fw_getxattr_out))).size = <uint32_t>n
        return 0
    if n > room:
        return ERANGE
    return r.answer_bytes(value)


cdef int op_removexattr(Request r) except -1:
    r.h.removexattr(r.caller, r.header.nodeid, r.name())
    return 0
