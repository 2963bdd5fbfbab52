"""One FUSE request in work: where its bytes are, who asks, what serves it, how it is answered."""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from posix.uio cimport iovec

from cairnfs.ext.arena cimport ar_arena
from cairnfs.ext.fuse_slots cimport fc_times, fc_slot, fc_slots
from cairnfs.ext.journal cimport jn_journal
from cairnfs.ext.log_end cimport le_log_end
from cairnfs.ext.fuse_wire cimport fw_attr, fw_entry_out, fw_in_header


cdef extern from "fuse_cursor.h" nogil:
    struct fc_cursor:
        const uint8_t *at
        size_t left

    const void *fc_take(fc_cursor *cursor, size_t n)
    const void *fc_take_array(fc_cursor *cursor, size_t n, size_t size)
    const char *fc_take_name(fc_cursor *cursor, size_t *n_bytes)


cdef extern from "fuse_lane.h" nogil:
    enum:
        FC_MAX_BUFFERS
        FC_MAX_TOLD
        FC_UNWANTED
        FC_MARK_LOCKED
        FC_MARK_SUID

    struct fc_lane
    struct fu_lane
    struct fu_transport

    ctypedef struct Span "struct fc_span":
        uint64_t s
        uint32_t ns

    struct fc_batch:
        const uint8_t *bytes
        const uint32_t *places
        size_t n_rows
        uint64_t dir
        uint64_t parent
        uint64_t offset
        uint64_t cookie
        int plus
        int is_old
        size_t n_passed
        size_t n_given

    struct fc_chan:
        int dev_fd
        int is_device
        int min_lanes
        int max_lanes
        int linger_ms
        size_t read_bytes
        uint32_t minor
        uint64_t caps
        int no_open
        uint64_t served
        int error
        int n_idle
        int n_lanes
        int n_parked
        uint64_t n_malformed
        ar_arena *arena
        jn_journal *journal
        Span attr_valid
        Span entry_valid
        Span dir_entry_valid
        Span negative_valid
        uint64_t fleeting_from
        int follows
        int leaves
        uint64_t n_changes
        const fc_slots *slots
        fu_transport *uring
        le_log_end *log_end
        fc_times *answers
        int (*is_known)(fc_chan *chan, uint64_t ino) noexcept
        void (*let_go)(fc_chan *chan, uint64_t ino) noexcept nogil
        int (*tell_later)(fc_chan *chan, const uint64_t *inos, size_t n) noexcept
        int (*wants_fence)(fc_chan *chan, uint64_t ino) noexcept
        int (*open_fenced)(fc_lane *lane) noexcept
        int (*put_known)(fc_chan *chan, uint64_t ino, fw_entry_out *out) noexcept
        size_t (*put_page)(fc_chan *chan, fc_batch *batch, uint8_t *out, size_t room) noexcept
        fc_lane *lanes

    struct fc_lane:
        fc_chan *chan
        int fd
        int replied
        int resumed
        fc_slot *slot
        fu_lane *entry
        uint8_t *buf
        size_t n_bytes
        uint64_t reply_to

    int fc_write(int fd, uint64_t unique, int32_t code, iovec *iov, int n_iov)
    int fc_reply(fc_lane *lane, int error, iovec *iov, int n_iov)
    int fc_reply_error(fc_lane *lane, int error)
    int fc_is_interrupted(fc_lane *lane, uint64_t unique)
    void fc_mark(fc_chan *chan, uint64_t nodeid, int mark)
    int fc_is_marked(fc_chan *chan, uint64_t nodeid, int mark)
    int fc_forget_attr(fc_chan *chan, uint64_t nodeid)
    int fc_known(fc_chan *chan, uint64_t ino, int64_t n)
    uint64_t FC_COMPILED_FH


cdef class Caller:
    cdef readonly unsigned int uid
    cdef readonly unsigned int gid
    cdef readonly unsigned int pid
    cdef readonly unsigned int umask
    cdef readonly bint fenced
    cdef fc_lane *lane
    cdef uint64_t unique


cdef class Payload:
    cdef uint8_t *base
    cdef bint borrowed  # somebody else's memory
    cdef int n_views
    cdef size_t view_off
    cdef size_t view_bytes


cdef struct Validity:
    Span attr
    Span entry
    Span dir_entry


cdef class Rules:
    cdef fc_chan *chan
    cdef Validity kept
    cdef Validity brief
    cdef uint64_t fleeting_from
    cdef Validity none
    cdef Span negative  # 0: the kernel keeps no absent names
    cdef object make_set_attr
    cdef object make_lock


cdef class Handler:
    cdef object lookup
    cdef object forget
    cdef object getattr
    cdef object setattr
    cdef object readlink
    cdef object symlink
    cdef object mknod
    cdef object mkdir
    cdef object unlink
    cdef object rmdir
    cdef object rename
    cdef object link
    cdef object open
    cdef object fence
    cdef object gather
    cdef object create
    cdef object read
    cdef object write
    cdef object write_mapped
    cdef object flush
    cdef object release
    cdef object fsync
    cdef object opendir
    cdef object readdir
    cdef object read_pages
    cdef object releasedir
    cdef object fsyncdir
    cdef object statfs
    cdef object access
    cdef object getxattr
    cdef object setxattr
    cdef object listxattr
    cdef object removexattr
    cdef object getlk
    cdef object setlk
    cdef object fallocate
    cdef object lseek
    cdef object copy_file_range
    cdef object syncfs


cdef class Request:
    cdef fc_lane *lane
    cdef const fw_in_header *header
    cdef fc_cursor cursor
    cdef Caller caller
    cdef Payload payload
    cdef Rules rules
    cdef Handler h
    cdef uint8_t *out
    cdef size_t out_room
    cdef size_t out_bytes
    cdef unsigned int opcode
    cdef int opened
    cdef uint64_t opened_fh
    cdef bint leaks  # views of the request may be left
    cdef uint64_t n_changes  # of the channel's when it began

    cdef int begin(self) except -1
    cdef void end(self)
    cdef int renew(self) except -1
    cdef const void *take(self, size_t n) except NULL
    cdef bytes name(self)
    cdef memoryview data(self, size_t n)
    cdef void *answer(self, size_t n) except NULL
    cdef int answer_bytes(self, bytes value) except -1
    cdef int answer_attr(self, object attr, bint versioned) except -1
    cdef int answer_entry(self, object attr, bint versioned) except -1
    cdef int lay_entry(self, object attr, fw_entry_out *out, bint versioned) except -1
    cdef bint is_overtaken(self) noexcept
    cdef int send(self, int error) noexcept nogil
    cdef int send_buffers(self, list buffers, size_t limit) except -1


cdef int fill_attr(Rules rules, object attr, fw_attr *out) except -1
cdef const Span *attr_validity(Rules rules, bint versioned) noexcept
cdef int fill_entry(Rules rules, object attr, fw_entry_out *out, bint versioned) except -1
cdef void split_ns(int64_t ns, uint64_t *seconds, uint32_t *nanoseconds) noexcept nogil
cdef int errno_of(object failure) noexcept
