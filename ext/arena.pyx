"""The arena: what a mount knows, in shared memory that compiled code answers from. arena.h is the contract.

This file checks arguments and walks lists of rows; what is kept, for how long and under which lock is C.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

import os

cdef extern from "arena_impl.h" nogil:
    void ar_tear(ar_arena *arena, const pthread_mutex_t *lock)

cdef extern from "arena_watch.h" nogil:
    int ar_map_file(const char *path, size_t n_bytes, const uint8_t **out)
    void ar_unmap_file(const uint8_t *base, size_t n_bytes)

DIRTY = AR_DIRTY
BARRED = AR_BARRED
ADOPTED = AR_ADOPTED
MARK_BYTES = AR_MARK_BYTES
VERSION = AR_VERSION

cdef enum:
    INO_PART = 9  # bytes of the partition's name: a letter and a number
    DENTRY = 9  # bytes of a name's row: a number and a type
    N_LOCKS = 64


@cython.final
cdef class Watch:
    """The first bytes of a file that others change, mapped read-only. No descriptor stays open."""

    def __cinit__(self, bytes path not None, size_t n_bytes):
        cdef int error = ar_map_file(PyBytes_AS_STRING(path), n_bytes, &self.base)
        if error:
            raise OSError(-error, os.strerror(-error), path)
        self.n_bytes = n_bytes

    def __dealloc__(self):
        if self.base != NULL:
            ar_unmap_file(self.base, self.n_bytes)

    def read(self, size_t offset, size_t n_bytes):
        """A copy of bytes; while others write, from different moments."""
        if offset > self.n_bytes or n_bytes > self.n_bytes - offset:
            raise ValueError(f"{n_bytes} bytes at {offset} of {self.n_bytes}")
        return PyBytes_FromStringAndSize(<const char *>self.base + offset, <Py_ssize_t>n_bytes)


@cython.final
cdef class Arena:
    """Shared memory of one mount."""

    def __cinit__(self, uint64_t n_bytes, int fd=-1):
        cdef int error
        self.overflow = {}
        error = ar_create(&self.arena, n_bytes) if fd < 0 else ar_attach(&self.arena, fd, n_bytes)
        if error:
            raise OSError(-error, f"no arena of {n_bytes} bytes: {os.strerror(-error)}")

    def __dealloc__(self):
        ar_destroy(&self.arena)

    # Looking

    @property
    def n_bytes(self):
        return self.arena.h.total

    @property
    def fd(self):
        return self.arena.fd

    @property
    def max_slice_bytes(self):
        return self.arena.h.max_slice if self.arena.h.n_segments >= 2 else 0

    @property
    def newest(self):
        return self.arena.h.newest

    @property
    def counts(self):
        """Slices found, not found, segments emptied; bytes of slices; handles of compiled code."""
        cdef ar_header *h = self.arena.h
        return (h.hits, h.misses, h.evictions, h.slice_bytes, ar_n_open(&self.arena))

    @property
    def looked_up(self):
        return (self.arena.h.hits, self.arena.h.misses)

    @property
    def evicted(self):
        return (self.arena.h.evictions, self.arena.h.evicted_attrs, self.arena.h.evicted_names)

    @property
    def table_bytes(self):
        return self.arena.h.segments_offset

    @property
    def applied(self):
        return self.arena.h.applied

    def check(self):
        """ValueError when an invariant of arena.h is broken. Nobody may use the arena meanwhile."""
        cdef int broken = ar_check(&self.arena)
        if broken:
            raise ValueError(f"invariant {broken} does not hold")

    # Rows

    def token(self):
        """Taken before rows are fetched, given back with them."""
        return ar_token(&self.arena)

    def note(self, list keys not None, list rows not None, uint64_t token):
        """Keep rows of the store that are inode records or names; None is a row that does not exist."""
        cdef Py_ssize_t i
        for i in range(min(len(keys), len(rows))):
            part, key = keys[i]
            row = rows[i]
            if row is None:
                self.note_row(part, key, None, 0, token)
            else:
                self.note_row(part, key, row[0], row[1], token)

    def note_names(self, bytes part not None, list found not None, uint64_t token):
        """Keep what a scan of a partition found: (key, row) pairs."""
        for key, row in found:
            self.note_row(part, key, row[0], row[1], token)

    def committing(self, names=()):
        """A commit begins that makes `names`, those among these keys of rows; `committed` or `refused` ends it."""
        for part, name in names:
            self.add_name(part, name)
        ar_committing(&self.arena)

    def refused(self):
        """The commit that began has changed nothing."""
        ar_refused(&self.arena)

    def is_committing(self):
        """May a commit of this mount be in the store that is not known here yet?"""
        return load32(&self.arena.h.n_committing) != 0

    def committed(self, dict rows not None, uint64_t position, uint64_t token, bytes mark):
        """A commit of this mount at `position` has given rows these values; `token` was taken before it. `mark`: see `saw`."""
        cdef const uint8_t *shows = mark_of(mark)
        cdef uint64_t mine = token >> 48 << 48 | position
        cdef uint32_t generation = ar_whole_generation(&self.arena)
        for (part, key), value in rows.items():
            if value is not None:
                self.add_name(part, key)
        for (part, key), value in rows.items():
            self.note_commit(part, key, value, position, mine, generation)
        ar_advance(&self.arena, position)
        ar_applied(&self.arena, position, shows)

    def changed(self, list keys not None, uint64_t position):
        """Somebody else's commit at `position` has changed these rows."""
        for part, key in keys:
            self.drop_row(part, key, position)
        ar_advance(&self.arena, position)

    def heard(self, list positions not None):
        """Commits of others at these positions were told of to everybody here."""
        for position in positions:
            ar_heard(&self.arena, position)

    def forget(self, uint64_t ino):
        """Drop the attributes of an inode."""
        ar_attr_forget(&self.arena, ino)

    def drop_all(self):
        """Drop attributes and names of everything."""
        ar_drop_all(&self.arena)

    def restart(self, uint64_t position):
        """Forget everything, slices and listings too; `position` is the newest from now on, even if it is less than before."""
        ar_restart(&self.arena, position)

    cdef int note_row(self, bytes part, bytes key, bytes value, uint64_t version, uint64_t token) except -1:
        cdef const uint8_t *name = <const uint8_t *>PyBytes_AS_STRING(part)
        cdef ar_attr attr
        cdef uint64_t number, ino = 0
        if is_security(part, key):
            ar_security_put(&self.arena, AR_SECURITY_NEVER if value == b"\0" else AR_SECURITY_GIVEN, token)
        if PyBytes_GET_SIZE(part) != INO_PART:
            return 0
        number = u64(name + 1)
        if name[0] == c"d":
            if value is not None:
                if PyBytes_GET_SIZE(value) != DENTRY:
                    return 0
                ino = u64(<const uint8_t *>PyBytes_AS_STRING(value))
                if ino == 0:
                    return 0
            ar_name_put(&self.arena, number, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), ino, token)
        elif name[0] == c"i" and is_record(key) and value is not None:
            if ar_parse(number, version, <const uint8_t *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), &attr) == 0:
                ar_attr_put(&self.arena, &attr, token)
        return 0

    cdef int add_name(self, bytes part, bytes name) except -1:
        """Into the filter of whole directories, if it is the key of a name's row."""
        cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(part)
        if PyBytes_GET_SIZE(part) == INO_PART and at[0] == c"d":
            ar_whole_add(&self.arena, u64(at + 1), PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        return 0

    cdef int note_commit(self, bytes part, bytes key, bytes value, uint64_t position, uint64_t mine, uint32_t generation) except -1:
        cdef const uint8_t *name = <const uint8_t *>PyBytes_AS_STRING(part)
        cdef ar_attr attr
        cdef bint is_inode = PyBytes_GET_SIZE(part) == INO_PART and name[0] == c"i" and is_record(key) and value is not None
        if is_inode and ar_parse(u64(name + 1), position, <const uint8_t *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), &attr) == 0:
            ar_attr_commit(&self.arena, &attr, position, mine, generation)
            return 0
        self.drop_row(part, key, position)
        return self.note_row(part, key, value, position, mine) if name[0] == c"d" else 0

    cdef int drop_row(self, bytes part, bytes key, uint64_t position) except -1:
        cdef const uint8_t *name = <const uint8_t *>PyBytes_AS_STRING(part)
        if is_security(part, key):
            ar_security_put(&self.arena, AR_SECURITY_GIVEN, ar_token(&self.arena))
        if PyBytes_GET_SIZE(part) != INO_PART:
            return 0
        if name[0] == c"d":
            ar_name_drop(&self.arena, u64(name + 1), PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), position)
        elif name[0] == c"i" and is_record(key):
            ar_attr_drop(&self.arena, u64(name + 1), position)
        return 0

    # Looking things up, for tests and the parts that are not compiled

    @property
    def security(self):
        """Whether any inode of the volume was ever given an attribute in security.; None when that is not known."""
        cdef ar_security found = ar_security_find(&self.arena)
        return None if found == AR_SECURITY_UNKNOWN else found == AR_SECURITY_GIVEN

    def attr(self, uint64_t ino):
        """What is known of an inode: (version, mode, size, data version, flags, layout), None when nothing."""
        cdef ar_attr found
        if not ar_attr_find(&self.arena, ino, &found):
            return None
        return (found.version, found.mode, found.size, found.data_version, found.flags, found.layout)

    def unknown(self, list inos not None):
        """Of these inodes, those of which nothing is known, or that compiled code must leave alone."""
        cdef ar_attr found
        return [ino for ino in inos if ar_marks(&self.arena, ino) & AR_LEFT_ALONE or not ar_attr_find(&self.arena, ino, &found)]

    def piece(self, uint64_t ino):
        """Where all bytes of a small file are: (size, offset in the slice, pack, stored offset, stored length, plain length, CRC,
        codec); of an empty file the size is 0. None when that is not known, or not all there is to know.
        """
        cdef ar_attr found
        if ar_marks(&self.arena, ino) & AR_LEFT_ALONE or not ar_attr_find(&self.arena, ino, &found):
            return None
        if found.layout != AR_EMPTY and found.layout != AR_SLICE:
            return None
        return (
            found.size, found.off, found.pack, found.stored_off, found.stored_len, found.plain_len, found.crc, found.codec
        )

    def name(self, uint64_t parent, bytes name not None):
        """The inode of a name, 0 when there is no such name, None when nothing is known."""
        cdef uint64_t ino
        if not ar_name_find(&self.arena, parent, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), &ino):
            return None
        return ino

    # The fence

    def watch(self, Watch watch, size_t offset=0):
        """From now on `fresh` compares MARK_BYTES at `offset` of a file with what was seen; None: `lease` decides."""
        if watch is not None and (offset > watch.n_bytes or AR_MARK_BYTES > watch.n_bytes - offset):
            raise ValueError(f"the watched file has {watch.n_bytes} bytes")
        self.arena.watch = NULL
        if watch is not None:
            self.watching = watch
            self.arena.watch = watch.base + offset
        # Else the mapping stays: somebody may be looking at it.

    def fresh(self):
        """Is everything known that anybody has committed (watched store), or was until lately (leased)?"""
        return ar_fresh(&self.arena) != 0

    def answers(self):
        """May compiled code answer what it finds here: is it `fresh`, and not hushed?"""
        return load32(&self.arena.h.hush) == 0 and ar_fresh(&self.arena) != 0

    def fresh_for_open(self):
        """Is it fresh enough to open files without asking the store?"""
        return ar_fresh_for_open(&self.arena) != 0

    def careful(self, bint on, bint looks=False):
        """Whether `fresh_for_open` says no for the time being; with `looks`, LOOKUP is left to Python, too."""
        self.arena.h.is_careful = on | looks * AR_LOOKS

    def lease(self, double until_s, bint is_pushed):
        """Without a watch, everything is fresh until `until_s` (CLOCK_BOOTTIME); with `is_pushed` for opens as well."""
        self.arena.h.is_pushed = is_pushed
        self.arena.h.leased_until_ns = <int64_t>(until_s * 1e9)

    def saw(self, uint64_t position, bytes mark):
        """Everything up to `position` is known; the watched bytes were `mark` before that was found out, None: not known."""
        ar_advance(&self.arena, position)
        ar_saw(&self.arena, position, mark_of(mark))

    def usage_put(self, uint64_t position, uint64_t total_bytes, uint64_t used_bytes, uint64_t total_inodes, uint64_t used_inodes):
        """What the volume holds, read after `applied` was `position`; nothing happens if anybody has committed since."""
        cdef uint64_t[4] usage = [total_bytes, used_bytes, total_inodes, used_inodes]
        ar_usage_put(&self.arena, position, usage)

    def usage(self):
        """(total bytes, used bytes, total inodes, used inodes) at the position `applied`, None when that is not known."""
        cdef uint64_t[4] usage
        if not ar_usage_find(&self.arena, usage):
            return None
        return (usage[0], usage[1], usage[2], usage[3])

    def usage_drop(self):
        """The limits of the volume are others."""
        ar_usage_drop(&self.arena)

    # What the kernel's pages show

    def shown_opened(self, uint64_t ino, uint64_t version):
        return ar_shown_opened(&self.arena, ino, version) != 0

    def shown_dropped(self, uint64_t ino, uint64_t version):
        ar_shown_dropped(&self.arena, ino, version, <uint64_t>-1)

    def shown_newest(self, uint64_t ino):
        return ar_shown_newest(&self.arena, ino)

    def shown_older(self, uint64_t ino, uint64_t version):
        return ar_shown_older(&self.arena, ino, version) != 0

    def shown_committed(self, uint64_t ino, uint64_t version):
        ar_shown_committed(&self.arena, ino, version)

    def shown_drop(self, uint64_t ino):
        ar_shown_drop(&self.arena, ino)

    def shown_drop_all(self): ar_shown_drop_all(&self.arena)

    def shown_forget(self, uint64_t ino): ar_shown_forget(&self.arena, ino)

    def resume(self):
        """Every process that used the arena has died: marks go, handles stay, attributes and names are forgotten."""
        ar_resume(&self.arena)

    # Handles and marks

    def mark(self, uint64_t ino, uint32_t marks):
        """Keep compiled code away from an inode. Returns how many handles it has given out."""
        return self.marked(ino, marks, False)

    def bar(self, uint64_t ino):
        """Mark an inode BARRED, or ADOPTED when compiled code has handles of it. Returns how many."""
        return self.marked(ino, AR_BARRED, True)

    cdef object marked(self, uint64_t ino, uint32_t marks, bint bar):
        """Without room for a mark compiled code is silent until it is taken off again."""
        cdef int64_t n_open = self.try_mark(ino, marks, bar)
        if n_open >= 0:
            return n_open
        if not self.overflow:
            self.hush(True)
        n_open = self.try_mark(ino, marks, bar)  # what was opened before the silence is seen now
        if n_open < 0:
            self.overflow[ino] = self.overflow.get(ino, 0) | marks
            return 0
        if not self.overflow:
            self.hush(False)
        return n_open

    cdef int64_t try_mark(self, uint64_t ino, uint32_t marks, bint bar) noexcept:
        return ar_bar(&self.arena, ino) if bar else ar_mark(&self.arena, ino, marks)

    def unmark(self, uint64_t ino, uint32_t marks):
        ar_unmark(&self.arena, ino, marks)
        if ino in self.overflow:
            self.overflow[ino] &= ~marks
            if not self.overflow[ino]:
                del self.overflow[ino]
                if not self.overflow:
                    self.hush(False)

    def marks(self, uint64_t ino):
        return ar_marks(&self.arena, ino) | self.overflow.get(ino, 0)

    def open(self, uint64_t ino):
        """Count a handle as compiled code does, for tests; whether it was."""
        return ar_open(&self.arena, ino, always, NULL) != 0

    def close(self, uint64_t ino, bint adopted=True):
        """One handle of compiled code less. Handles left; -1 when there was none, or it is ADOPTED and `adopted` is not set."""
        return ar_close(&self.arena, ino, adopted)

    def handles(self):
        """Inodes that compiled code has open, and how many handles of each; while others open and close, about."""
        cdef uint64_t at = 0, ino = 0, n
        cdef dict found = {}
        while n := ar_next_open(&self.arena, &at, &ino):
            found[ino] = n
        return found

    def hush(self, bint on):
        """Make compiled code answer nothing, until it is said as often that it may."""
        add32(&self.arena.h.hush, 1 if on else -1)

    # Slices

    def slice_put(self, uint64_t pack, uint32_t stored_off, const uint8_t[::1] plain not None):
        """Keep the plain bytes of a slice; whether they are."""
        cdef size_t n = plain.shape[0]
        return n > 0 and ar_slice_put(&self.arena, pack, stored_off, &plain[0], n) != 0

    def slice_bytes(self, uint64_t pack, uint32_t stored_off):
        """How long a slice is that is here, 0 when it is not."""
        return ar_slice_bytes(&self.arena, pack, stored_off)

    def slice_get(self, uint64_t pack, uint32_t stored_off):
        """A copy of a slice, None when it is not here."""
        cdef uint32_t n = ar_slice_bytes(&self.arena, pack, stored_off)
        cdef bytes out
        if n == 0:
            return None
        out = PyBytes_FromStringAndSize(NULL, n)
        return out if ar_slice_copy(&self.arena, pack, stored_off, 0, n, PyBytes_AS_STRING(out)) else None

    def slice_drop(self, uint64_t pack, uint32_t stored_off):
        ar_slice_drop(&self.arena, pack, stored_off)

    # For tests of what a death leaves

    def hold_lock(self, int number):
        """Take lock `number` (-1: the log's, -2: the fence's, -3: the filter's) and keep it."""
        if not -3 <= number < N_LOCKS:
            raise ValueError(f"there is no lock {number}")
        ar_lock(&self.arena, self.lock_at(number))

    def tear(self, int number):
        """Take a lock, and leave what it guards half written."""
        self.hold_lock(number)
        ar_tear(&self.arena, self.lock_at(number))

    def give_lock(self, int number):
        ar_unlock(self.lock_at(number))

    cdef pthread_mutex_t *lock_at(self, int number) noexcept:
        if number == -1:
            return &self.arena.h.log_lock
        if number == -3:
            return &self.arena.h.filter_lock
        return &self.arena.h.seen_lock if number == -2 else &self.arena.h.locks[number]


cdef extern from *:
    """
    static void add32(void *at, int n) { __atomic_fetch_add((uint32_t *)at, (uint32_t)n, __ATOMIC_SEQ_CST); }
    static uint32_t load32(void *at) { return __atomic_load_n((uint32_t *)at, __ATOMIC_SEQ_CST); }
    """
    uint32_t load32(void *at) noexcept nogil
    void add32(void *at, int n) noexcept nogil


cdef int always(void *context) noexcept nogil:
    return 1


cdef uint64_t u64(const uint8_t *at) noexcept:
    cdef uint64_t value = 0
    cdef int i
    for i in range(8):
        value = value << 8 | at[i]
    return value


cdef bint is_security(bytes part, bytes key):
    """The row that says whether there were ever attributes in security.: 0 is that there were none."""
    return PyBytes_GET_SIZE(part) == 1 and part == b"v" and key == b"security"


cdef bint is_record(bytes key):
    return PyBytes_GET_SIZE(key) == 1 and PyBytes_AS_STRING(key)[0] == c"a"


cdef const uint8_t *mark_of(bytes mark) except? NULL:
    if mark is None:
        return NULL
    if PyBytes_GET_SIZE(mark) != AR_MARK_BYTES:
        raise ValueError(f"a mark of {PyBytes_GET_SIZE(mark)} bytes")
    return <const uint8_t *>PyBytes_AS_STRING(mark)
