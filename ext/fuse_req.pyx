"""One FUSE request in work: who asks (Caller), where its bytes are (Payload), what serves it (Handler), how it is answered.

A Request belongs to one lane and is used again for every message the lane reads. The opcode modules (fuse_names,
fuse_files) parse it with `take`, `name` and `data`, which raise OSError(EINVAL) when the message is too short, call a bound
method of the handler, and lay the reply in the room that `answer` gives them. It is written after the GIL is released.
Attributes come as any object with the fields of `cairnfs.types.Attr`.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EINVAL, EIO
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset
from posix.stdlib cimport posix_memalign
from posix.uio cimport iovec

from cairnfs.ext.fuse_wire cimport FW_MAX_ERRNO, fw_attr_out

import os

cdef double BRIEF_S = 1.0  # what may be outdated for so long, JuiceFS's default for everything

cdef enum:
    PAGE = 4096
    # st_blksize. Kernels derive the block size of the page cache from it, where one page is always safe.
    BLOCK_BYTES = 4096
    DIR_BLOCK_BYTES = 64 << 10  # by how much readdir(3) of glibc reads a directory: some 400 entries with attributes, not 200
    DIR_BYTES = 4096  # what a directory shows as its size
    S_IFMT = 0o170000
    S_IFDIR = 0o040000
    S_ISUID = 0o4000
    S_ISGID = 0o2000
    FIRST_ROOM = 4096
    MAX_ROOM = 128 << 10  # the largest reply that is laid out here: a piece of a directory


@cython.final
@cython.freelist(64)
cdef class Caller:
    """Who makes a request; the fields of `cairnfs.types.Caller`."""

    def interrupted(self):
        """Has the calling process been signalled since it made this request? False once the request is over."""
        return self.lane != NULL and fc_is_interrupted(self.lane, self.unique) != 0


@cython.final
cdef class Payload:
    """The buffer a lane reads into. A view of it that outlives its request keeps it alive; the lane then takes another."""

    def __cinit__(self, size_t n_bytes):
        """With no bytes, the memory is lent by whoever sets `base`."""
        self.borrowed = n_bytes == 0
        if n_bytes and posix_memalign(<void **>&self.base, PAGE, n_bytes):
            raise MemoryError

    def __dealloc__(self):
        if not self.borrowed:
            free(self.base)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.base + self.view_off, <Py_ssize_t>self.view_bytes, 1, flags)
        self.n_views += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.n_views -= 1


@cython.final
cdef class Rules:
    """How long the kernel may keep what it is told, and what makes the handler's argument values.

    Times are in seconds. `make_set_attr` and `make_lock` take the fields of SetAttr and Lock of `cairnfs.types` in order.
    While the channel does not follow, nobody would tell the kernel of changes, and it may keep what it is told for BRIEF_S only.
    """

    def __cinit__(
        self,
        double attr_timeout_s,
        double entry_timeout_s,
        double dir_entry_timeout_s,
        double negative_timeout_s,
        object make_set_attr,
        object make_lock,
    ):
        set_validity(&self.kept, attr_timeout_s, entry_timeout_s, dir_entry_timeout_s)
        set_validity(&self.brief, min(attr_timeout_s, BRIEF_S), min(entry_timeout_s, BRIEF_S), min(dir_entry_timeout_s, BRIEF_S))
        split_s(negative_timeout_s, &self.negative)
        self.make_set_attr = make_set_attr
        self.make_lock = make_lock


@cython.final
cdef class Handler:
    """The methods of a handler, bound once. One it does not have is None, and its opcodes are answered ENOSYS."""

    def __cinit__(self, object handler):
        self.lookup = getattr(handler, "lookup", None)
        self.forget = getattr(handler, "forget", None)
        self.getattr = getattr(handler, "getattr", None)
        self.setattr = getattr(handler, "setattr", None)
        self.readlink = getattr(handler, "readlink", None)
        self.symlink = getattr(handler, "symlink", None)
        self.mknod = getattr(handler, "mknod", None)
        self.mkdir = getattr(handler, "mkdir", None)
        self.unlink = getattr(handler, "unlink", None)
        self.rmdir = getattr(handler, "rmdir", None)
        self.rename = getattr(handler, "rename", None)
        self.link = getattr(handler, "link", None)
        self.open = getattr(handler, "open", None)
        self.fence = getattr(handler, "fence", None)
        self.create = getattr(handler, "create", None)
        self.read = getattr(handler, "read", None)
        self.write = getattr(handler, "write", None)
        self.write_mapped = getattr(handler, "write_mapped", self.write)
        self.flush = getattr(handler, "flush", None)
        self.release = getattr(handler, "release", None)
        self.fsync = getattr(handler, "fsync", None)
        self.gather = getattr(handler, "gather", None)
        self.opendir = getattr(handler, "opendir", None)
        self.readdir = getattr(handler, "readdir", None)
        self.read_pages = getattr(handler, "read_pages", None)
        self.releasedir = getattr(handler, "releasedir", None)
        self.fsyncdir = getattr(handler, "fsyncdir", None)
        self.statfs = getattr(handler, "statfs", None)
        self.access = getattr(handler, "access", None)
        self.getxattr = getattr(handler, "getxattr", None)
        self.setxattr = getattr(handler, "setxattr", None)
        self.listxattr = getattr(handler, "listxattr", None)
        self.removexattr = getattr(handler, "removexattr", None)
        self.getlk = getattr(handler, "getlk", None)
        self.setlk = getattr(handler, "setlk", None)
        self.fallocate = getattr(handler, "fallocate", None)
        self.lseek = getattr(handler, "lseek", None)
        self.copy_file_range = getattr(handler, "copy_file_range", None)
        self.syncfs = getattr(handler, "syncfs", None)


@cython.final
cdef class Request:
    """The request a lane has in work."""

    def __cinit__(self, Rules rules, Handler handler):
        self.rules = rules
        self.h = handler

    def __dealloc__(self):
        free(self.out)

    # Parsing

    cdef int begin(self) except -1:
        """Look at the message in the lane's buffer; its header has been checked."""
        cdef const fw_in_header *header = <const fw_in_header *>self.lane.buf
        cdef Caller caller
        self.header = header
        self.cursor.at = self.lane.buf + sizeof(fw_in_header)
        self.cursor.left = self.lane.n_bytes - sizeof(fw_in_header) - header.total_extlen * 8
        self.opcode = header.opcode
        self.out_bytes = 0
        self.opened = 0
        self.n_changes = self.lane.chan.n_changes
        caller = Caller.__new__(Caller)
        caller.uid = header.uid
        caller.gid = header.gid
        caller.pid = header.pid
        caller.lane = self.lane
        caller.unique = header.unique
        self.caller = caller
        return 0

    cdef void end(self):
        """The handler has returned: from here on the caller tells nothing."""
        if self.caller is not None:
            self.caller.lane = NULL
            self.caller = None
        self.leaks = self.payload.n_views > 0

    cdef int renew(self) except -1:
        """The request is over, and views of it are not: they keep the buffer, and the lane gets another one."""
        if self.payload.n_views:
            self.lane.slot = NULL
            self.payload = Payload(self.lane.chan.read_bytes)
            self.lane.buf = self.payload.base
        self.leaks = False
        return 0

    cdef const void *take(self, size_t n) except NULL:
        """The next n bytes of the message."""
        cdef const void *taken = fc_take(&self.cursor, n)
        if taken == NULL:
            raise too_short()
        return taken

    cdef bytes name(self):
        """The next name of the message."""
        cdef size_t n_bytes = 0
        cdef const char *name = fc_take_name(&self.cursor, &n_bytes)
        if name == NULL:
            raise too_short()
        return PyBytes_FromStringAndSize(name, <Py_ssize_t>n_bytes)

    cdef memoryview data(self, size_t n):
        """The next n bytes as a read-only view."""
        cdef const uint8_t *taken = <const uint8_t *>self.take(n) if n else self.cursor.at
        self.payload.view_off = taken - self.payload.base
        self.payload.view_bytes = n
        return memoryview(self.payload)

    # Answering

    cdef void *answer(self, size_t n) except NULL:
        """Room for a reply of n bytes, zeroed. The last call of a request counts."""
        cdef uint8_t *room
        if n > self.out_room:
            if n > MAX_ROOM:
                raise ValueError(f"a reply of {n} bytes")
            room = <uint8_t *>realloc(self.out, max(n, <size_t>FIRST_ROOM))
            if room == NULL:
                raise MemoryError
            self.out = room
            self.out_room = max(n, <size_t>FIRST_ROOM)
        memset(self.out, 0, n)
        self.out_bytes = n
        return self.out

    cdef int answer_bytes(self, bytes value) except -1:
        cdef Py_ssize_t n = PyBytes_GET_SIZE(value)
        if n:
            memcpy(self.answer(n), PyBytes_AS_STRING(value), n)
        return 0

    cdef int answer_attr(self, object attr, bint versioned) except -1:
        cdef fw_attr_out *out = <fw_attr_out *>self.answer(sizeof(fw_attr_out))
        cdef const Span *valid = attr_validity(self.rules, versioned)
        if versioned or not self.is_overtaken():
            out.attr_valid = valid.s
            out.attr_valid_nsec = valid.ns
        return fill_attr(self.rules, attr, &out.attr)

    cdef int answer_entry(self, object attr, bint versioned) except -1:
        return self.lay_entry(attr, <fw_entry_out *>self.answer(sizeof(fw_entry_out)), versioned)

    cdef int lay_entry(self, object attr, fw_entry_out *out, bint versioned) except -1:
        """A name's inode, `versioned` as attr_validity() says. The kernel may not know it, and then cannot tell that the reply
        was overtaken, nor be told: attributes that may have been are to be asked for again.
        """
        fill_entry(self.rules, attr, out, versioned)
        if self.is_overtaken():
            out.attr_valid = out.attr_valid_nsec = 0
        return 0

    cdef bint is_overtaken(self) noexcept:
        """Has the kernel been told of others' changes since the request began?"""
        return self.n_changes != self.lane.chan.n_changes

    cdef int send(self, int error) noexcept nogil:
        """Write the reply: what was laid out when `error` is 0, else the errno alone. As fc_reply()."""
        cdef iovec[2] iov
        if error or self.out_bytes == 0:
            return fc_reply(self.lane, error, iov, 1)
        iov[1].iov_base = self.out
        iov[1].iov_len = self.out_bytes
        return fc_reply(self.lane, 0, iov, 2)

    cdef int send_buffers(self, list buffers, size_t limit) except -1:
        """Write the bytes of `buffers`, `limit` at most, as the reply, without joining them."""
        cdef iovec[FC_MAX_BUFFERS + 1] iov
        cdef Py_buffer[FC_MAX_BUFFERS] views
        cdef int n_views = 0
        cdef int result
        cdef size_t n_bytes = 0
        cdef object buffer
        if len(buffers) > FC_MAX_BUFFERS:
            buffers = [b"".join(buffers)]
        try:
            for buffer in buffers:
                PyObject_GetBuffer(buffer, &views[n_views], PyBUF_SIMPLE)
                iov[n_views + 1].iov_base = views[n_views].buf
                iov[n_views + 1].iov_len = views[n_views].len
                n_bytes += views[n_views].len
                n_views += 1
            if n_bytes > limit:
                raise ValueError(f"{n_bytes} bytes where {limit} were asked")
            with nogil:
                result = fc_reply(self.lane, 0, iov, n_views + 1)
        finally:
            while n_views:
                n_views -= 1
                PyBuffer_Release(&views[n_views])
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return 0


cdef object too_short():
    return OSError(EINVAL, "request is too short")


cdef void split_ns(int64_t ns, uint64_t *seconds, uint32_t *nanoseconds) noexcept nogil:
    """Seconds rounded down, and the rest, so that times before 1970 have a rest from 0 up as well."""
    seconds[0] = <uint64_t>(ns // 1_000_000_000)
    nanoseconds[0] = <uint32_t>(ns % 1_000_000_000)


cdef int split_s(double seconds, Span *out) except -1:
    """Thirty years and more are the same to the kernel."""
    if not seconds >= 0:
        raise ValueError(f"{seconds} s is not a time the kernel may keep something")
    split_ns(<int64_t>(min(seconds, 1e9) * 1e9), &out.s, &out.ns)
    return 0


cdef int set_validity(Validity *out, double attr_s, double entry_s, double dir_entry_s) except -1:
    split_s(attr_s, &out.attr)
    split_s(entry_s, &out.entry)
    return split_s(dir_entry_s, &out.dir_entry)


cdef const Span *attr_validity(Rules rules, bint versioned) noexcept:
    """How long attributes may be kept. The kernel drops a reply to LOOKUP, GETATTR and READDIRPLUS (`versioned`) that was
    overtaken by an invalidation; others it takes as they come, so a change in between would be seen no sooner than they end.
    """
    return &rules.kept.attr if versioned and rules.chan.follows else &rules.brief.attr


cdef int fill_attr(Rules rules, object attr, fw_attr *out) except -1:
    cdef uint32_t mode = attr.mode
    cdef int64_t alloc_bytes = attr.alloc_bytes
    out.ino = attr.ino
    out.size = DIR_BYTES if mode & S_IFMT == S_IFDIR else attr.size
    out.blocks = (alloc_bytes + 511) // 512
    split_ns(attr.atime_ns, &out.atime, &out.atimensec)
    split_ns(attr.mtime_ns, &out.mtime, &out.mtimensec)
    split_ns(attr.ctime_ns, &out.ctime, &out.ctimensec)
    out.mode = mode
    out.nlink = attr.nlink
    out.uid = attr.uid
    out.gid = attr.gid
    out.rdev = attr.rdev
    out.blksize = DIR_BLOCK_BYTES if mode & S_IFMT == S_IFDIR else BLOCK_BYTES
    if mode & (S_ISUID | S_ISGID):
        fc_mark(rules.chan, out.ino, FC_MARK_SUID)
    return 0


cdef int fill_entry(Rules rules, object attr, fw_entry_out *out, bint versioned) except -1:
    """A name's inode. Numbers are never used twice, so every inode is of generation 1.

    The name may be kept whatever brought it: its directory is locked in the kernel until the reply is taken, and so it is for
    whoever invalidates the name.
    """
    fill_attr(rules, attr, &out.attr)
    cdef const Validity *valid = &rules.kept if rules.chan.follows else &rules.brief
    if out.attr.ino >= rules.fleeting_from:
        valid = &rules.none
    cdef const Span *entry = &valid.dir_entry if out.attr.mode & S_IFMT == S_IFDIR else &valid.entry
    cdef const Span *attr_valid = attr_validity(rules, versioned)
    out.nodeid = out.attr.ino
    out.generation = 1
    out.entry_valid = entry.s
    out.entry_valid_nsec = entry.ns
    out.attr_valid = attr_valid.s
    out.attr_valid_nsec = attr_valid.ns
    if fc_known(rules.chan, out.nodeid, 1) < 0:
        raise MemoryError
    return 0


cdef int errno_of(object failure) noexcept:
    """What the kernel is told. An OSError without a number, or with one the kernel refuses, is EIO."""
    try:
        code = failure.errno
        return code if 0 < code <= FW_MAX_ERRNO else EIO
    except BaseException:
        return EIO
