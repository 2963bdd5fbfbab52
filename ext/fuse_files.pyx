"""Opcodes about open files, open directories, locks and the volume: parse, call the handler, lay out the reply.

The handle the kernel knows is the handler's shifted left by one; bit 0 says that it was opened read-only, which lets
FLUSH be answered without Python (fuse_chan_impl.c).
A read-only handle of a file that has never had an fcntl lock gets FOPEN_NOFLUSH: closing it sends nothing but a RELEASE that
nobody waits for. README.md says what that means for locks taken later.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EINVAL
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from cairnfs.ext cimport fuse_wire as fw
from cairnfs.ext.fuse_req cimport (
    FC_COMPILED_FH,
    FC_MARK_LOCKED,
    FC_MARK_SUID,
    Request,
    fc_batch,
    fc_forget_attr,
    fc_is_marked,
    fc_mark,
)
from cairnfs.ext.page cimport Page

cdef enum:
    O_ACCMODE = 3
    O_TRUNC = 0o1000
    O_APPEND = 0o2000
    O_NONBLOCK = 0o4000
    F_UNLCK = 2
    MAX_DIR_REPLY = 128 << 10  # a longer reply would save no time, and every lane keeps room for one
    MAX_COPY = 0x7FFFF000  # what one copy_file_range may move, and a 32-bit reply can say
    STATFS_BLOCK = 4096
    MAX_NAME = 255
    OPENED_FILE = 1
    OPENED_DIR = 2
    DOTDOT_COOKIE = 2


cdef Operation file_operation(unsigned int opcode) noexcept:
    """The operation for an opcode, NULL when it is not one of this module's."""
    if opcode == fw.FW_OPEN:
        return op_open
    if opcode == fw.FW_CREATE:
        return op_create
    if opcode == fw.FW_READ:
        return op_read
    if opcode == fw.FW_WRITE:
        return op_write
    if opcode == fw.FW_FLUSH:
        return op_flush
    if opcode == fw.FW_RELEASE:
        return op_release
    if opcode == fw.FW_FSYNC:
        return op_fsync
    if opcode == fw.FW_FALLOCATE:
        return op_fallocate
    if opcode == fw.FW_LSEEK:
        return op_lseek
    if opcode == fw.FW_COPY_FILE_RANGE or opcode == fw.FW_COPY_FILE_RANGE_64:
        return op_copy_file_range
    if opcode == fw.FW_GETLK:
        return op_getlk
    if opcode == fw.FW_SETLK or opcode == fw.FW_SETLKW:
        return op_setlk
    if opcode == fw.FW_OPENDIR:
        return op_opendir
    if opcode == fw.FW_READDIR or opcode == fw.FW_READDIRPLUS:
        return op_readdir
    if opcode == fw.FW_RELEASEDIR:
        return op_releasedir
    if opcode == fw.FW_FSYNCDIR:
        return op_fsyncdir
    if opcode == fw.FW_STATFS:
        return op_statfs
    if opcode == fw.FW_SYNCFS:
        return op_syncfs
    return NULL


# Files


cdef int op_open(Request r) except -1:
    cdef const fw.fw_open_in *in_ = <const fw.fw_open_in *>r.take(sizeof(fw.fw_open_in))
    if not in_.flags & (O_ACCMODE | O_TRUNC) and r.lane.chan.wants_fence(r.lane.chan, r.header.nodeid):
        r.h.fence(r.caller, r.header.nodeid, True)
        r.caller.fenced = True
        if r.lane.chan.open_fenced(r.lane):
            return 0
        if r.lane.replied:  # nobody took the handle: it is to be released
            r.begin()
            return op_release(r)
    if in_.open_flags & fw.FW_OPEN_KILL_SUIDGID:
        opened = r.h.open(r.caller, r.header.nodeid, in_.flags, True)
        privileges_dropped(r)
    else:
        opened = r.h.open(r.caller, r.header.nodeid, in_.flags)
    return answer_opened(r, <fw.fw_open_out *>r.answer(sizeof(fw.fw_open_out)), r.header.nodeid, opened, in_.flags)


cdef int op_create(Request r) except -1:
    cdef const fw.fw_create_in *in_ = <const fw.fw_create_in *>r.take(sizeof(fw.fw_create_in))
    cdef uint8_t *out
    r.caller.umask = in_.umask
    attr, opened = r.h.create(r.caller, r.header.nodeid, r.name(), in_.mode, in_.flags)
    out = <uint8_t *>r.answer(sizeof(fw.fw_entry_out) + sizeof(fw.fw_open_out))
    r.lay_entry(attr, <fw.fw_entry_out *>out, False)
    return answer_opened(r, <fw.fw_open_out *>(out + sizeof(fw.fw_entry_out)), (<fw.fw_entry_out *>out).nodeid, opened, in_.flags)


cdef int answer_opened(Request r, fw.fw_open_out *out, uint64_t ino, object opened, uint32_t flags) except -1:
    cdef uint64_t fh = opened.fh
    cdef bint reads_only = flags & O_ACCMODE == 0
    out.fh = fh << 1 | reads_only
    out.open_flags = fw.FW_FOPEN_KEEP_CACHE if opened.keep_cache else 0
    if opened.direct_io:
        out.open_flags |= fw.FW_FOPEN_DIRECT_IO
    if reads_only and not fc_is_marked(r.lane.chan, ino, FC_MARK_LOCKED):
        out.open_flags |= fw.FW_FOPEN_NOFLUSH
    r.opened = OPENED_FILE
    r.opened_fh = fh
    return 0


cdef int abandon(Request r) except -1:
    """The kernel did not take the reply to an OPEN, so it will not send the RELEASE either."""
    if r.opened == OPENED_FILE:
        r.h.release(r.caller, r.opened_fh)
    elif r.opened == OPENED_DIR:
        r.h.releasedir(r.caller, r.opened_fh)
    r.opened = 0
    return 0


cdef object handle_of(Request r, uint64_t fh):
    """The handler's handle. For the inode itself, which the kernel need not open where OPEN is refused, minus its number; for one
    that compiled code has given out, its number below bit 64 and the inode's above.
    """
    if fh == 0:
        return -<object>r.header.nodeid
    if fh & FC_COMPILED_FH:
        return <object>r.header.nodeid << 64 | fh >> 1
    return fh >> 1


cdef int op_read(Request r) except -1:
    cdef const fw.fw_read_in *in_ = <const fw.fw_read_in *>r.take(sizeof(fw.fw_read_in))
    return r.send_buffers(r.h.read(r.caller, handle_of(r, in_.fh), in_.offset, in_.size), in_.size)


cdef int op_write(Request r) except -1:
    """WRITE_CACHE is a page written back from a mapping, through any handle of the file: also one with O_APPEND, which
    must not move it to the end.
    """
    cdef const fw.fw_write_in *in_ = <const fw.fw_write_in *>r.take(sizeof(fw.fw_write_in))
    cdef memoryview data = r.data(in_.size)
    cdef bint kills = in_.write_flags & fw.FW_WRITE_KILL_SUIDGID != 0
    cdef bint appends = in_.flags & O_APPEND != 0  # as the descriptor is now: fcntl(2) changes that, and nobody tells
    cdef int64_t n
    if in_.write_flags & fw.FW_WRITE_CACHE and kills:
        n = r.h.write_mapped(r.caller, in_.fh >> 1, in_.offset, data, True)
    elif in_.write_flags & fw.FW_WRITE_CACHE:
        n = r.h.write_mapped(r.caller, in_.fh >> 1, in_.offset, data)
    else:
        n = r.h.write(r.caller, in_.fh >> 1, in_.offset, data, kills, appends)
    if kills:
        privileges_dropped(r)
    if n < 0 or n > in_.size:
        raise ValueError(f"{n} bytes written where {in_.size} were given")
    (<fw.fw_write_out *>r.answer(sizeof(fw.fw_write_out))).size = <uint32_t>n
    return 0


cdef void privileges_dropped(Request r) noexcept nogil:
    """The kernel does not expect that writing changes the mode: it would run a set-user-id file from attributes it keeps.
    It says "drop privileges" with every write of an ordinary user, so only files that had any are looked at again.
    """
    if fc_is_marked(r.lane.chan, r.header.nodeid, FC_MARK_SUID):
        fc_forget_attr(r.lane.chan, r.header.nodeid)


cdef int op_flush(Request r) except -1:
    cdef const fw.fw_flush_in *in_ = <const fw.fw_flush_in *>r.take(sizeof(fw.fw_flush_in))
    r.h.flush(r.caller, handle_of(r, in_.fh), in_.lock_owner)
    return 0


cdef int op_release(Request r) except -1:
    cdef const fw.fw_release_in *in_ = <const fw.fw_release_in *>r.take(sizeof(fw.fw_release_in))
    r.h.release(r.caller, handle_of(r, in_.fh))
    return 0


cdef int op_fsync(Request r) except -1:
    cdef const fw.fw_fsync_in *in_ = <const fw.fw_fsync_in *>r.take(sizeof(fw.fw_fsync_in))
    r.h.fsync(r.caller, handle_of(r, in_.fh), in_.fsync_flags & fw.FW_FSYNC_DATA != 0)
    return 0


cdef int op_fallocate(Request r) except -1:
    cdef const fw.fw_fallocate_in *in_ = <const fw.fw_fallocate_in *>r.take(sizeof(fw.fw_fallocate_in))
    r.h.fallocate(r.caller, in_.fh >> 1, in_.mode, in_.offset, in_.length)
    return 0


cdef int op_lseek(Request r) except -1:
    cdef const fw.fw_lseek_in *in_ = <const fw.fw_lseek_in *>r.take(sizeof(fw.fw_lseek_in))
    cdef uint64_t offset = r.h.lseek(r.caller, handle_of(r, in_.fh), in_.offset, in_.whence)
    (<fw.fw_lseek_out *>r.answer(sizeof(fw.fw_lseek_out))).offset = offset
    return 0


cdef int op_copy_file_range(Request r) except -1:
    cdef const fw.fw_copy_file_range_in *in_ = <const fw.fw_copy_file_range_in *>r.take(sizeof(fw.fw_copy_file_range_in))
    cdef uint64_t length = min(in_.len, <uint64_t>MAX_COPY)
    cdef uint64_t n
    if in_.flags:
        return EINVAL
    n = r.h.copy_file_range(r.caller, handle_of(r, in_.fh_in), in_.off_in, in_.fh_out >> 1, in_.off_out, length)
    if n > length:
        raise ValueError(f"{n} bytes copied where {length} were asked")
    if r.header.opcode == fw.FW_COPY_FILE_RANGE_64:
        (<fw.fw_copy_file_range_out *>r.answer(sizeof(fw.fw_copy_file_range_out))).bytes_copied = n
    else:
        (<fw.fw_write_out *>r.answer(sizeof(fw.fw_write_out))).size = <uint32_t>n
    return 0


# Locks


cdef object lock_of(Request r, const fw.fw_lk_in *in_):
    cdef bint flock = in_.lk_flags & fw.FW_LK_FLOCK != 0
    return r.rules.make_lock(in_.type, in_.start, in_.end, in_.pid, in_.owner, flock)


cdef int op_getlk(Request r) except -1:
    cdef const fw.fw_lk_in *in_ = <const fw.fw_lk_in *>r.take(sizeof(fw.fw_lk_in))
    cdef object found = r.h.getlk(r.caller, r.header.nodeid, in_.fh >> 1, lock_of(r, in_))
    cdef fw.fw_lk_out *out = <fw.fw_lk_out *>r.answer(sizeof(fw.fw_lk_out))
    if found is None:
        out.type = F_UNLCK
        return 0
    out.type = found.type
    out.start = found.start
    out.end = found.end
    out.pid = found.pid
    return 0


cdef int op_setlk(Request r) except -1:
    cdef const fw.fw_lk_in *in_ = <const fw.fw_lk_in *>r.take(sizeof(fw.fw_lk_in))
    if not in_.lk_flags & fw.FW_LK_FLOCK and in_.type != F_UNLCK:
        fc_mark(r.lane.chan, r.header.nodeid, FC_MARK_LOCKED)
    r.h.setlk(r.caller, r.header.nodeid, handle_of(r, in_.fh), lock_of(r, in_), r.header.opcode == fw.FW_SETLKW)
    return 0


# Directories


cdef int op_opendir(Request r) except -1:
    """opendir(3) of glibc says O_NONBLOCK, so it tells who is going to list a directory from who opens it for its descriptor only."""
    cdef const fw.fw_open_in *in_ = <const fw.fw_open_in *>r.take(sizeof(fw.fw_open_in))
    cdef fw.fw_open_out *out
    cdef uint64_t fh
    if r.lane.chan.wants_fence(r.lane.chan, r.header.nodeid):
        r.h.fence(r.caller, r.header.nodeid)
        r.caller.fenced = True
    elif in_.flags & O_NONBLOCK and r.lane.chan.follows and r.h.gather is not None:
        r.caller.fenced = r.h.gather(r.caller, r.header.nodeid)
    if r.caller.fenced and r.lane.chan.open_fenced(r.lane):
        return 0
    fh = r.h.opendir(r.caller, r.header.nodeid).fh
    out = <fw.fw_open_out *>r.answer(sizeof(fw.fw_open_out))
    out.fh = fh << 1
    r.opened = OPENED_DIR
    r.opened_fh = fh
    return 0


@cython.final
cdef class DirReply:
    """The reply to a READDIR in the making, for whoever has pages of rows."""

    cdef Request r
    cdef size_t room
    cdef uint64_t offset
    cdef size_t n_bytes

    def put(self, Page page not None, size_t begin, uint64_t ino, uint64_t parent, uint64_t cookie, bint is_old):
        """Lay out rows of the directory `ino` from `begin` on: see fc_put_page(). The first one's cookie is `cookie`.

        Returns how many rows are done with, how many of them (the last ones) were given, and bytes of the reply so far.
        """
        cdef fc_batch batch
        cdef Request r = self.r
        if r is None:
            raise ValueError("the request is over")
        if begin > page.n_rows:
            raise ValueError(f"row {begin} of {page.n_rows}")
        memset(&batch, 0, sizeof(batch))
        batch.bytes = page.base
        batch.places = page.first + begin
        batch.n_rows = page.n_rows - begin
        batch.dir = ino
        batch.parent = parent
        batch.offset = DOTDOT_COOKIE if self.n_bytes else self.offset
        batch.cookie = cookie
        batch.plus = r.opcode == fw.FW_READDIRPLUS
        batch.is_old = is_old
        self.n_bytes += r.lane.chan.put_page(r.lane.chan, &batch, r.out + self.n_bytes, self.room - self.n_bytes)
        r.out_bytes = self.n_bytes
        return batch.n_passed, batch.n_given, self.n_bytes


cdef bint read_pages(Request r, object fh, const fw.fw_read_in *in_, size_t room) except -1:
    """Have the handler give pages of rows, which take no object for each entry. False: it does not, nothing is laid out."""
    cdef DirReply reply
    if r.h.read_pages is None or r.lane.chan.arena == NULL or not r.lane.chan.follows or room == 0:
        return False
    reply = DirReply.__new__(DirReply)
    reply.r = r
    reply.room = room
    reply.offset = in_.offset
    r.answer(room)
    r.out_bytes = 0
    try:
        if r.h.read_pages(r.caller, fh, in_.offset, r.opcode == fw.FW_READDIRPLUS, reply.put):
            return True
    finally:
        reply.r = None
    r.out_bytes = 0
    return False


cdef int op_readdir(Request r) except -1:
    """As many entries as fit; none at all means the end."""
    cdef const fw.fw_read_in *in_ = <const fw.fw_read_in *>r.take(sizeof(fw.fw_read_in))
    cdef bint plus = r.header.opcode == fw.FW_READDIRPLUS
    cdef size_t room = min(in_.size, <uint32_t>MAX_DIR_REPLY)
    cdef uint8_t *out = NULL
    cdef size_t n_bytes = 0
    cdef size_t added
    if read_pages(r, handle_of(r, in_.fh), in_, room):
        return 0
    for entry in r.h.readdir(r.caller, handle_of(r, in_.fh), in_.offset, plus):
        if out == NULL:
            out = <uint8_t *>r.answer(room)
        added = put_entry(r, out + n_bytes, room - n_bytes, entry, plus)
        if added == 0:
            if n_bytes == 0:
                return EINVAL
            break
        n_bytes += added
    r.out_bytes = n_bytes
    return 0


cdef size_t put_entry(Request r, uint8_t *out, size_t room, object entry, bint plus) except? 0:
    """Lay one entry into zeroed room. Its length, or 0 when it does not fit.

    Attributes that compiled code may answer with are not asked of the entry, which may not have made them yet.
    In READDIRPLUS an entry with nodeid 0 brings a name only. "." and ".." must be such: the kernel does not count them as
    looked up.
    """
    cdef bytes name = entry.name
    cdef Py_ssize_t n_name = PyBytes_GET_SIZE(name)
    cdef size_t n_entry = sizeof(fw.fw_entry_out) if plus else 0
    cdef size_t n = n_entry + ((sizeof(fw.fw_dirent) + n_name + 7) & ~<size_t>7)
    cdef fw.fw_dirent *dirent = <fw.fw_dirent *>(out + n_entry)
    if n > room:
        return 0
    if plus and entry.has_attr and name != b"." and name != b"..":
        if not r.lane.chan.put_known(r.lane.chan, entry.ino, <fw.fw_entry_out *>out):
            attr = entry.attr
            if attr is not None:
                r.lay_entry(attr, <fw.fw_entry_out *>out, True)
    dirent.ino = entry.ino
    dirent.off = entry.cookie
    dirent.namelen = <uint32_t>n_name
    dirent.type = <uint32_t>entry.type >> 12
    memcpy(<uint8_t *>dirent + sizeof(fw.fw_dirent), PyBytes_AS_STRING(name), n_name)
    return n


cdef int op_releasedir(Request r) except -1:
    cdef const fw.fw_release_in *in_ = <const fw.fw_release_in *>r.take(sizeof(fw.fw_release_in))
    r.h.releasedir(r.caller, handle_of(r, in_.fh))
    return 0


cdef int op_fsyncdir(Request r) except -1:
    cdef const fw.fw_fsync_in *in_ = <const fw.fw_fsync_in *>r.take(sizeof(fw.fw_fsync_in))
    r.h.fsyncdir(r.caller, handle_of(r, in_.fh), in_.fsync_flags & fw.FW_FSYNC_DATA != 0)
    return 0


# The volume


cdef int op_statfs(Request r) except -1:
    cdef object totals = r.h.statfs(r.caller)
    cdef uint64_t total = totals.total_bytes // STATFS_BLOCK
    cdef uint64_t used = (totals.used_bytes + STATFS_BLOCK - 1) // STATFS_BLOCK
    cdef uint64_t inodes = totals.total_inodes
    cdef uint64_t used_inodes = totals.used_inodes
    cdef fw.fw_statfs_out *out = <fw.fw_statfs_out *>r.answer(sizeof(fw.fw_statfs_out))
    out.blocks = total
    out.bfree = out.bavail = total - min(used, total)
    out.files = inodes
    out.ffree = inodes - min(used_inodes, inodes)
    out.bsize = out.frsize = STATFS_BLOCK
    out.namelen = MAX_NAME
    return 0


cdef int op_syncfs(Request r) except -1:
    r.h.syncfs(r.caller)
    return 0
