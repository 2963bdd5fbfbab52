# cython: embedsignature=True, embedsignature.format=clinic
"""Ceph pools through librados: argument checks, the buffers of Python's objects, the GIL. See rados_io_impl.h."""

import os

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.limits cimport INT_MAX
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

from cairnfs.ext.parts cimport Parts, iovec


cdef extern from "<time.h>" nogil:
    ctypedef long time_t


cdef extern from "rados_io_impl.h" nogil:
    struct rados_io:
        pass
    struct rados_io_list:
        pass
    struct rados_io_queue:
        pass
    ctypedef enum rados_io_step "enum rados_io_step":
        RADOS_IO_CREATE
        RADOS_IO_CONF
        RADOS_IO_SETTING
        RADOS_IO_CONNECT
        RADOS_IO_POOL
        RADOS_IO_N_STEPS
    struct rados_io_found:
        uint64_t n_bytes
        time_t mtime
    const char *rados_io_load() noexcept
    void rados_io_version(int *major, int *minor, int *extra) noexcept
    int rados_io_open(rados_io **made, const char *user, const char *conf, const char *pool, const char *ns,
                      const char **settings, size_t n_settings, rados_io_step *step) noexcept
    void rados_io_close(rados_io *io) noexcept
    int rados_io_ask_monitors(rados_io *io) noexcept
    int rados_io_put(rados_io *io, const char *name, const iovec *parts, size_t n_parts) noexcept
    int rados_io_get(rados_io *io, const char *name, uint64_t offset, void *data, size_t n_bytes) noexcept
    int rados_io_stat(rados_io *io, const char *name, rados_io_found *found) noexcept
    int rados_io_remove(rados_io *io, const char *name) noexcept
    rados_io_queue *rados_io_queue_open(rados_io *io, size_t depth) noexcept
    void rados_io_queue_close(rados_io_queue *queue) noexcept
    int rados_io_submit_get(rados_io_queue *queue, const char *name, uint64_t offset, void *data, size_t n_bytes) noexcept
    int rados_io_submit_put(rados_io_queue *queue, const char *name, const iovec *parts, size_t n_parts) noexcept
    int rados_io_submit_remove(rados_io_queue *queue, const char *name) noexcept
    int rados_io_submit_stat(rados_io_queue *queue, const char *name, rados_io_found *found) noexcept
    int rados_io_next(rados_io_queue *queue, int *result) noexcept
    int rados_io_list_open(rados_io *io, rados_io_list **made) noexcept
    int rados_io_list_next(rados_io_list *listing, const char *prefix, char *out, size_t n_out) noexcept
    void rados_io_list_close(rados_io_list *listing) noexcept


STEPS = ("user", "conf", "setting", "connect", "pool")
MAX_DEPTH = 1024
cdef enum:
    GET
    STAT
    CHANGE
cdef Py_ssize_t NAMES_BYTES = 64 * 1024


cdef object _failure(int code):
    return OSError(-code, os.strerror(-code))


cdef int _load() except -1:
    cdef const char *why_not = rados_io_load()
    if why_not != NULL:
        raise ImportError(why_not.decode("ascii"))
    return 0


cdef list _texts(strings):
    """As C takes them. ValueError for a text with a NUL in it."""
    encoded = [text.encode() for text in strings]
    if any(b"\0" in text for text in encoded):
        raise ValueError("a text for librados has a NUL in it")
    return encoded


def version():
    cdef int major = 0, minor = 0, extra = 0
    if rados_io_load() != NULL:
        return None
    rados_io_version(&major, &minor, &extra)
    return f"{major}.{minor}.{extra}"


cdef bytes _room(Py_ssize_t n_bytes):
    """Bytes to be read into, which nobody else may see before that is over."""
    if not 0 < n_bytes <= INT_MAX:
        raise ValueError(f"length must be between 1 and {INT_MAX}, not {n_bytes}")
    return PyBytes_FromStringAndSize(NULL, n_bytes)


@cython.final
cdef class Pool:
    cdef rados_io *io

    def __cinit__(self, str pool not None, str user not None, str conf, str namespace not None, dict settings not None):
        cdef rados_io_step step = RADOS_IO_CREATE
        cdef int code
        cdef list words = _texts([pool, user, conf or "", namespace])
        cdef list flat = _texts([word for pair in settings.items() for word in pair])
        cdef const char *c_pool = words[0]
        cdef const char *c_user = words[1]
        cdef const char *c_conf = NULL
        cdef const char *c_namespace = words[3]
        cdef size_t n_settings = len(settings)
        _load()
        if conf is not None:
            c_conf = words[2]
        cdef const char **c_settings = <const char **>calloc(2 * n_settings + 1, sizeof(char *))
        if c_settings == NULL:
            raise MemoryError
        try:
            for i, word in enumerate(flat):
                c_settings[i] = <const char *>word
            with nogil:
                code = rados_io_open(&self.io, c_user, c_conf, c_pool, c_namespace, c_settings, n_settings, &step)
        finally:
            free(c_settings)
        if code < 0:
            raise OSError(-code, STEPS[<int>step])

    def __dealloc__(self):
        if self.io != NULL:
            with nogil:
                rados_io_close(self.io)

    def ask_monitors(self):
        cdef int code
        with nogil:
            code = rados_io_ask_monitors(self.io)
        if code < 0:
            raise _failure(code)

    def put(self, str name not None, parts):
        cdef list name_text = _texts([name])
        cdef const char *c_name = name_text[0]
        cdef Parts held = Parts(parts)
        cdef int code
        with nogil:
            code = rados_io_put(self.io, c_name, held.parts, held.n)
        if code < 0:
            raise _failure(code)

    def get(self, str name not None, uint64_t offset, Py_ssize_t length):
        cdef list name_text = _texts([name])
        cdef const char *c_name = name_text[0]
        cdef bytes out = _room(length)
        cdef char *data = PyBytes_AS_STRING(out)
        cdef int n
        with nogil:
            n = rados_io_get(self.io, c_name, offset, data, length)
        if n < 0:
            raise _failure(n)
        return out if n == length else out[:n]

    def stat(self, str name not None):
        cdef list name_text = _texts([name])
        cdef const char *c_name = name_text[0]
        cdef rados_io_found found
        cdef int code
        with nogil:
            code = rados_io_stat(self.io, c_name, &found)
        if code < 0:
            raise _failure(code)
        return found.n_bytes, <long>found.mtime

    def remove(self, str name not None):
        cdef list name_text = _texts([name])
        cdef const char *c_name = name_text[0]
        cdef int code
        with nogil:
            code = rados_io_remove(self.io, c_name)
        if code < 0:
            raise _failure(code)

    def names(self, str prefix not None):
        return Names(self, prefix)

    def requests(self, int depth):
        return Requests(self, depth)


@cython.final
@cython.no_gc_clear  # the queue writes into what is kept until it is closed
cdef class Requests:
    cdef Pool pool
    cdef rados_io_queue *queue
    cdef list kept  # by slot: tag, kind, what is read into
    cdef readonly int depth
    cdef readonly int n_under_way

    def __cinit__(self, Pool pool not None, int depth):
        if not 1 <= depth <= MAX_DEPTH:
            raise ValueError(f"depth must be between 1 and {MAX_DEPTH}, not {depth}")
        self.pool = pool
        self.depth = depth
        self.kept = [None] * depth
        self.queue = rados_io_queue_open(pool.io, depth)
        if self.queue == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.queue != NULL:
            with nogil:
                rados_io_queue_close(self.queue)

    def get(self, tag, str name not None, uint64_t offset, Py_ssize_t length):
        cdef list name_text = _texts([name])
        cdef const char *c_name = name_text[0]
        cdef bytes out = _room(length)
        cdef char *data = PyBytes_AS_STRING(out)
        cdef int slot
        self._check_room()
        with nogil:
            slot = rados_io_submit_get(self.queue, c_name, offset, data, length)
        self._keep(slot, tag, GET, out)

    def put(self, tag, str name not None, parts):
        cdef list name_text = _texts([name])
        cdef const char *c_name = name_text[0]
        cdef Parts held = Parts(parts)
        cdef int slot
        self._check_room()
        with nogil:
            slot = rados_io_submit_put(self.queue, c_name, held.parts, held.n)
        self._keep(slot, tag, CHANGE, None)

    def remove(self, tag, str name not None):
        cdef list name_text = _texts([name])
        cdef const char *c_name = name_text[0]
        cdef int slot
        self._check_room()
        with nogil:
            slot = rados_io_submit_remove(self.queue, c_name)
        self._keep(slot, tag, CHANGE, None)

    def stat(self, tag, str name not None):
        cdef list name_text = _texts([name])
        cdef const char *c_name = name_text[0]
        cdef bytes out = _room(sizeof(rados_io_found))
        cdef rados_io_found *found = <rados_io_found *>PyBytes_AS_STRING(out)
        cdef int slot
        self._check_room()
        with nogil:
            slot = rados_io_submit_stat(self.queue, c_name, found)
        self._keep(slot, tag, STAT, out)

    def next(self):
        cdef int slot, result = 0
        cdef bytes out
        cdef rados_io_found *found
        if self.n_under_way == 0:
            raise ValueError("no request is under way")
        with nogil:
            slot = rados_io_next(self.queue, &result)
        self.n_under_way -= 1
        tag, kind, out = self.kept[slot]
        self.kept[slot] = None
        if result < 0:
            return tag, _failure(result)
        if kind == GET:
            return tag, out if result == len(out) else out[:result]
        if kind == STAT:
            found = <rados_io_found *>PyBytes_AS_STRING(out)
            return tag, (found.n_bytes, <long>found.mtime)
        return tag, None

    cdef int _check_room(self) except -1:
        if self.n_under_way == self.depth:
            raise ValueError(f"{self.depth} requests are under way")
        return 0

    cdef int _keep(self, int slot, tag, int kind, bytes out) except -1:
        if slot < 0:
            raise _failure(slot)
        self.kept[slot] = (tag, kind, out)
        self.n_under_way += 1
        return 0


@cython.final
cdef class Names:
    cdef Pool pool
    cdef rados_io_list *listing
    cdef bytes prefix

    def __cinit__(self, Pool pool not None, str prefix not None):
        cdef int code
        self.pool = pool
        self.prefix = _texts([prefix])[0]
        with nogil:
            code = rados_io_list_open(pool.io, &self.listing)
        if code < 0:
            raise _failure(code)

    def __dealloc__(self):
        if self.listing != NULL:
            rados_io_list_close(self.listing)

    def __iter__(self):
        return self

    def __next__(self):
        cdef const char *prefix = self.prefix
        cdef bytes out = PyBytes_FromStringAndSize(NULL, NAMES_BYTES)
        cdef char *data = PyBytes_AS_STRING(out)
        cdef int n
        with nogil:
            n = rados_io_list_next(self.listing, prefix, data, NAMES_BYTES)
        if n < 0:
            raise _failure(n)
        if n == 0:
            raise StopIteration
        return out[: n - 1].split(b"\0")
