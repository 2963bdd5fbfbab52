"""The FUSE channel: serves the requests of one mount on threads that read clones of /dev/fuse without the GIL.

Lanes, waiting, interrupts and the opcodes that need no Python are C (fuse_chan_impl.c); what an opcode means is in
fuse_names and fuse_files; this file agrees with the kernel on features, starts and ends threads, and turns exceptions into errno. Notifications
are fuse_notify's. README.md has the states of a lane and the concurrency notes.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, EIO, ENODEV, ENOENT, ENOLCK, ENOTCONN
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from posix.uio cimport iovec

from cairnfs.ext cimport fuse_uring as fu
from cairnfs.ext cimport fuse_wire as fw
from cairnfs.ext.arena cimport Arena
from cairnfs.ext.fuse_files cimport abandon
from cairnfs.ext.fuse_notify cimport Notifier
from cairnfs.ext.fuse_req cimport FC_UNWANTED, Handler, Payload, Request, Rules, Span, errno_of, fc_chan, fc_lane, fc_write
from cairnfs.ext.fuse_resumed cimport serve_done
from cairnfs.ext.fuse_slots cimport FC_N_BUCKETS, Slots, fc_shared, fc_shared_of, fc_slot_request, fc_times
from cairnfs.ext.fuse_table cimport operations, served_by
from cairnfs.ext.journal cimport Ring
from cairnfs.ext.log_end cimport LogEnd

import logging
import os
import threading

from cairnfs.ext import fuse_table

cdef extern from "fuse_chan_impl.h" nogil:
    enum:
        FC_REQUEST

    struct fc_limits:
        uint32_t max_write
        uint16_t max_background

    int fc_chan_init(fc_chan *chan, int dev_fd)
    void fc_chan_free(fc_chan *chan)
    void fc_chan_stop(fc_chan *chan)
    int fc_chan_over(fc_chan *chan)
    int fc_wait_wanted(fc_chan *chan, int timeout_ms)
    int fc_wants_lane(fc_chan *chan)
    fc_lane *fc_lane_open(fc_chan *chan, int *error)
    void fc_lane_close(fc_lane *lane)
    int fc_next(fc_lane *lane)
    int fc_resume(fc_lane *lane)
    int fc_n_left(const fc_chan *chan)
    void fc_done(fc_lane *lane)
    int fc_park(fc_lane *lane)
    void fc_unpark(fc_lane *lane)
    Py_ssize_t fc_read_one(fc_chan *chan, void *buf, size_t n_bytes, int timeout_ms)
    int fc_negotiate(fc_chan *chan, const uint8_t *message, size_t n_bytes, const fc_limits *limits, fw.fw_init_out *out)
    uint64_t fc_count(fc_chan *chan, int opcode)
    uint64_t fc_answered_bytes(fc_chan *chan)
    size_t fc_n_known(fc_chan *chan)
    size_t fc_copy_known(fc_chan *chan, uint64_t *out, size_t room)

log = logging.getLogger("cairnfs.fuse")

cdef enum:
    EPOCH_MINOR = 44  # of the protocol: the first that can drop all names at once
    NO_QUEUE = -1
    CHECK_MS = 1000  # how often the serving thread looks for signals and dead threads when nothing wakes it
    REPLIED = -1


@cython.final
cdef class Channel(Notifier):
    """One mount's connection to the kernel."""

    cdef Rules rules
    cdef Handler handler
    cdef fc_limits limits
    cdef list threads
    cdef bint used
    cdef bint needs_epoch
    cdef bint debug
    cdef unsigned int uring_queues
    cdef int uring_errno
    cdef Arena arena  # keeps it alive
    cdef Slots slots  # likewise
    cdef Ring journal  # likewise
    cdef LogEnd log_end  # likewise
    cdef object serving
    cdef set done

    def __cinit__(
        self,
        int fd,
        object handler,
        *,
        object set_attr,
        object lock,
        double attr_timeout_s=1.0,
        double entry_timeout_s=1.0,
        double dir_entry_timeout_s=1.0,
        double negative_timeout_s=0.0,
        int min_threads=2,
        int max_threads=64,
        unsigned int max_write_bytes=1 << 20,
        unsigned short max_background=50,
        double linger_s=10.0,
        bint needs_epoch=False,
        bint no_open=False,
        uint64_t fleeting_from=0xFFFFFFFFFFFFFFFF,
        bint debug=False,
        Arena arena=None,
        Slots slots=None,
        unsigned int uring_queues=0,
        Ring journal=None,
        LogEnd log_end=None,
        object serving=None,
        done=(),
    ):
        if not 1 <= min_threads <= max_threads <= 256:
            raise ValueError(f"threads: {min_threads} to {max_threads} is not within 1 to 256")
        if not 4096 <= max_write_bytes <= 1 << 20 or max_write_bytes % 4096:
            raise ValueError(f"max_write_bytes: {max_write_bytes} is not a multiple of 4096 up to 1 MiB")
        if not 0.001 <= linger_s <= 86400:
            raise ValueError(f"linger_s: {linger_s} is not within 1 ms and a day")
        self.rules = Rules(attr_timeout_s, entry_timeout_s, dir_entry_timeout_s, negative_timeout_s, set_attr, lock)
        self.handler = Handler(handler)
        self.limits.max_write = max_write_bytes
        self.limits.max_background = max_background
        self.threads = []
        self.ending = threading.Lock()
        self.needs_epoch = needs_epoch
        self.rules.fleeting_from = fleeting_from
        self.debug = debug
        self.uring_queues = uring_queues
        self.chan = <fc_chan *>calloc(1, sizeof(fc_chan))
        if self.chan == NULL:
            raise MemoryError
        if slots is not None:
            self.slots = slots
            self.chan.slots = &slots.slots
            if max_threads > slots.slots.n_slots:
                raise ValueError(f"{max_threads} threads with {slots.slots.n_slots} slots")
        self.serving = serving
        self.done = set(done)
        cdef int error = fc_chan_init(self.chan, fd)
        if error:
            raise OSError(-error, os.strerror(-error))
        self.rules.chan = self.chan
        self.chan.no_open = no_open
        self.chan.min_lanes = min_threads
        self.chan.max_lanes = max_threads
        self.chan.linger_ms = <int>(linger_s * 1000)
        self.chan.served = served_by(handler)
        self.chan.follows = 1
        self.chan.fleeting_from = fleeting_from
        self.chan.attr_valid = self.rules.kept.attr
        self.chan.entry_valid = self.rules.kept.entry
        self.chan.dir_entry_valid = self.rules.kept.dir_entry
        self.chan.negative_valid = self.rules.negative
        if arena is not None and not debug:
            self.arena = arena
            self.chan.arena = &arena.arena
            if journal is not None:
                self.journal = journal
                self.chan.journal = &journal.journal
            if log_end is not None:
                self.log_end = log_end
                self.chan.log_end = &log_end.end

    def __dealloc__(self):
        if self.chan != NULL:
            fc_chan_free(self.chan)
            free(self.chan.uring)
            free(self.chan)

    # Serving

    def serve(self):
        """Serve until the mount is gone or `stop`; then every thread has ended. OSError when the device fails.

        May be called once. EPROTO, EPROTONOSUPPORT: the kernel cannot be agreed with.
        """
        if self.used:
            raise ValueError("a channel serves once")
        self.used = True
        try:
            if self.agree():
                self.keep_lanes()
        finally:
            fc_chan_stop(self.chan)
            for thread in self.threads:
                thread.join()
            self.threads.clear()
            with self.ending:
                self.over = True
                fc_chan_free(self.chan)
        if self.chan.error:
            raise OSError(self.chan.error, os.strerror(self.chan.error))

    def stop(self):
        """End `serve` after the requests in work; from any thread. The mount stays, without anybody to serve it."""
        with self.ending:
            if not self.over:
                fc_chan_stop(self.chan)

    def agree(self):
        """Answer INIT, unless the slots say that it was. False when the mount is gone before. `serve` does it by itself.

        OSError with EPROTO, EPROTONOSUPPORT: the kernel cannot be agreed with.
        """
        cdef fc_shared *shared = NULL if self.slots is None else fc_shared_of(&self.slots.slots)
        if shared != NULL and shared.agreed:
            self.chan.minor = shared.minor
            self.chan.caps = shared.caps
            self.chan.read_bytes = shared.read_bytes
        elif not self.negotiate():
            return False
        if self.chan.minor < EPOCH_MINOR:
            self.rules.negative = self.chan.negative_valid = Span(0, 0)
        if self.needs_epoch and self.chan.minor < EPOCH_MINOR:
            self.rules.kept = self.rules.brief
            self.chan.attr_valid = self.rules.kept.attr
            self.chan.entry_valid = self.rules.kept.entry
            self.chan.dir_entry_valid = self.rules.kept.dir_entry
        if shared != NULL:
            shared.minor = self.chan.minor
            shared.caps = self.chan.caps
            shared.read_bytes = self.chan.read_bytes
            shared.agreed = 1
        log.debug("protocol 7.%d, features %#x, reads of %d bytes", self.chan.minor, self.chan.caps, self.chan.read_bytes)
        return True

    cdef bint negotiate(self) except -1:
        cdef Payload message = Payload(fw.FW_MIN_READ_BYTES)
        cdef fw.fw_init_out out
        cdef iovec[2] iov
        cdef Py_ssize_t n
        cdef int agreed = 0
        if self.uring_queues and self.slots is None:
            self.uring_errno = -fu.fu_prepare(self.chan, self.uring_queues)
        while not agreed:
            with nogil:
                n = fc_read_one(self.chan, message.base, fw.FW_MIN_READ_BYTES, CHECK_MS)
            PyErr_CheckSignals()
            if n == 0 or n == -ENODEV:
                return False
            if n == -EAGAIN or n == -EINTR or n == -ENOENT:
                continue
            if n < 0:
                raise OSError(-n, f"cannot read from the kernel: {os.strerror(-n)}")
            agreed = fc_negotiate(self.chan, message.base, n, &self.limits, &out)
            if agreed < 0:
                raise OSError(-agreed, f"cannot agree with the kernel: {os.strerror(-agreed)}")
            iov[1].iov_base = &out
            iov[1].iov_len = sizeof(out)
            n = fc_write(self.chan.dev_fd, (<const uint64_t *>message.base)[1], 0, iov, 2)
            if n < 0:
                raise OSError(-n, f"cannot answer the kernel: {os.strerror(-n)}")
        return True

    cdef int start_queues(self) except -1:
        """Give every queue its first lanes; where that is not possible the kernel goes on with the descriptor."""
        cdef int settled = -1
        cdef unsigned int i
        for i in range(self.uring_queues * fu.FU_FIRST_LANES):
            self.add_lane(i % self.uring_queues)
        while settled < 0:
            settled = fu.fu_settle(self.chan)
            if settled < 0:
                with nogil:
                    fc_wait_wanted(self.chan, CHECK_MS)
                PyErr_CheckSignals()
        return 0

    cdef int keep_lanes(self) except -1:
        """Open lanes as they are wanted until the channel is over."""
        cdef int n_left = fc_n_left(self.chan)
        cdef int queue
        while self.chan.n_lanes < n_left and not fc_chan_over(self.chan) and self.add_lane():
            pass  # over: lanes end as fast as they are opened, and nobody waits for what is left
        if self.chan.caps & fw.FW_CAP_OVER_IO_URING:
            self.start_queues()
        while not fc_chan_over(self.chan):
            while fc_wants_lane(self.chan):
                if not self.add_lane():
                    break
            while (queue := fu.fu_wants_lane(self.chan)) != NO_QUEUE:
                if not self.add_lane(queue):
                    break
            with nogil:
                if not fc_wait_wanted(self.chan, CHECK_MS):
                    fu.fu_retry(self.chan)
            PyErr_CheckSignals()
            self.threads = [thread for thread in self.threads if thread.is_alive()]
        return 0

    cdef bint add_lane(self, int queue=NO_QUEUE) except -1:
        cdef int error = 0
        cdef fc_lane *lane = fc_lane_open(self.chan, &error) if queue == NO_QUEUE else fu.fu_lane_open(self.chan, queue, &error)
        if lane == NULL:
            if not self.threads and queue == NO_QUEUE:
                raise OSError(error, f"cannot serve /dev/fuse: {os.strerror(error)}")
            log.warning("cannot start another thread: %s", os.strerror(error))
            return False
        slot = <int>(lane - self.chan.lanes)
        thread = threading.Thread(target=self._work, args=(slot,), name=f"fuse-{slot}", daemon=True)
        try:
            thread.start()
        except RuntimeError as failure:
            fc_lane_close(lane)
            log.warning("cannot start another thread: %s", failure)
            return False
        self.threads.append(thread)
        return True

    def _work(self, int slot):
        """The life of a lane's thread."""
        cdef fc_lane *lane = &self.chan.lanes[slot]
        cdef Request r
        cdef int error, result
        try:
            r = Request(self.rules, self.handler)
            r.lane = lane
            r.payload = Payload(0 if lane.slot != NULL else self.chan.read_bytes)
            if lane.slot != NULL:
                r.payload.base = fc_slot_request(lane.slot)
            lane.buf = r.payload.base
            if lane.entry != NULL:
                with nogil:
                    result = fu.fu_lane_start(lane)
                if result:
                    if fu.fu_runs(self.chan) and not fc_chan_over(self.chan) and -result != ENOTCONN:  # that is an unmount
                        log.warning("cannot start another thread: %s", os.strerror(-result))
                    return
            with nogil:
                while fc_resume(lane) == FC_REQUEST or fc_next(lane) == FC_REQUEST:
                    with gil:
                        error = self.serve_one(r)
                    if error != REPLIED:
                        result = r.send(error)
                        if result:
                            with gil:
                                self.not_taken(r, result)
                    fc_done(lane)
                    if r.leaks:
                        with gil:
                            r.renew()  # MemoryError: the lane ends, and another one begins
        finally:
            fc_lane_close(lane)

    cdef int serve_one(self, Request r) noexcept:
        """Serve a request to the point where its reply can be written. The errno to reply, 0, or REPLIED."""
        cdef int error = EIO
        try:
            r.begin()
            if self.serving is not None:
                self.serving.request = r.header.unique
            if r.lane.resumed and r.header.unique in self.done:
                error = serve_done(r)
            else:
                error = self.wait_for_lock(r) if r.opcode == fw.FW_SETLKW else operations()[r.opcode](r)
        except OSError as failure:
            error = errno_of(failure)
        except BaseException:
            log.exception("%s of inode %d failed", name_of(r.opcode), r.header.nodeid)
        if self.debug:
            self.log_request(r, error)
        r.end()
        return REPLIED if r.lane.replied else error

    cdef int log_request(self, Request r, int error) except -1:
        result = os.strerror(error) if error else "ok"
        log.debug("%s of inode %d for uid %d, pid %d: %s", name_of(r.opcode), r.header.nodeid, r.header.uid, r.header.pid, result)
        return 0

    cdef int wait_for_lock(self, Request r) except -1:
        """Whoever waits for a lock must not keep a thread from those who could free it."""
        cdef int error
        if not fc_park(r.lane):
            return ENOLCK
        try:
            return operations()[<int>fw.FW_SETLKW](r)
        finally:
            fc_unpark(r.lane)

    cdef int not_taken(self, Request r, int result) noexcept:
        """The kernel refused a reply, or nobody waits for it: undo what it would have handed over."""
        try:
            if result != FC_UNWANTED:
                log.error("the kernel refused the reply to %s: %s", name_of(r.opcode), os.strerror(-result))
            if r.opened:
                r.begin()
                abandon(r)
                r.end()
        except BaseException:
            log.exception("cannot take back the reply to %s", name_of(r.opcode))
        return 0

    # Looking

    def counts(self):
        """Requests read so far, by the kernel's name of the opcode; those that never came are left out."""
        cdef dict found = {}
        cdef uint64_t n
        for opcode in range(fw.FW_N_OPCODES):
            n = fc_count(self.chan, opcode)
            if n:
                name = name_of(opcode)
                found[name] = found.get(name, 0) + n
        if self.chan.n_malformed:
            found["MALFORMED"] = self.chan.n_malformed
        return found

    def answers(self):
        """Of these, requests that were answered without Python: how many took how long, and the sum of that in nanoseconds."""
        cdef dict found = {}
        cdef fc_times *times
        for opcode in range(fw.FW_N_OPCODES):
            times = &self.chan.answers[opcode]
            buckets = tuple([times.buckets[i] for i in range(FC_N_BUCKETS)])
            if any(buckets):
                found[name_of(opcode)] = (buckets, times.sum_ns)
        return found

    @property
    def answered_bytes(self):
        """Bytes of files in these answers."""
        return fc_answered_bytes(self.chan)

    @property
    def n_threads(self):
        """Threads that serve or wait for requests."""
        return self.chan.n_lanes + fu.fu_n_lanes(self.chan)

    @property
    def n_idle(self):
        """Of these, how many wait for one."""
        return self.chan.n_idle

    @property
    def minor(self):
        """Minor version of the protocol agreed on, 0 before."""
        return self.chan.minor

    @property
    def over_uring(self):
        """Do requests come through io_uring?"""
        return (self.chan.caps & fw.FW_CAP_OVER_IO_URING) != 0 and fu.fu_runs(self.chan) != 0

    @property
    def uring_error(self):
        """The errno for which they do not although it was asked for, else 0."""
        return self.uring_errno or (0 if self.chan.uring == NULL else fu.fu_error(self.chan))

    @property
    def follows(self):
        """Is somebody there who invalidates what changes? While not, the kernel may keep things for a second only."""
        return self.chan.follows != 0

    @follows.setter
    def follows(self, bint value): self.chan.follows = value

    def leaving(self, bint on): self.chan.n_changes, self.chan.leaves = self.chan.n_changes + on, on

    @property
    def n_known(self):
        """Inodes that the kernel may know, the root aside."""
        return fc_n_known(self.chan)

    @property
    def features(self):
        """INIT flags agreed on, as in the kernel's header; bits 32 and up are flags2."""
        return self.chan.caps

    # Notifying: the rest is in Notifier.

    def inval_known(self, *, bint pages):
        """Forget the attributes of every inode that the kernel may know, and with `pages` their pages, too."""
        cdef size_t n, room = fc_n_known(self.chan)
        cdef uint64_t *inos = NULL
        try:
            while True:
                free(inos)
                inos = <uint64_t *>malloc((room + 1) * sizeof(uint64_t))
                if inos == NULL:
                    raise MemoryError
                n = fc_copy_known(self.chan, inos + 1, room)
                if n <= room:
                    break
                room = n + n // 8  # more have become known in between
            inos[0] = fw.FW_ROOT_ID
            self.notify_each(inos, 1 + n, 0 if pages else -1)
        finally:
            free(inos)


cdef str name_of(unsigned int opcode):
    """The kernel's name of an opcode."""
    return fuse_table.OPCODES[opcode][0] if opcode in fuse_table.OPCODES else "UNKNOWN"
