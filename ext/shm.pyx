"""Shared memory that may be handed to another process. shm_impl.h is the contract."""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

import os

cdef extern from "<sys/mman.h>" nogil:
    int munmap(void *addr, size_t n_bytes)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef extern from "shm_impl.h" nogil:
    int shm_create(const char *name, size_t n_bytes, size_t n_reserved)
    int shm_map(int fd, size_t n_bytes, void **base)


@cython.final
cdef class SharedMemory:
    """A buffer that several processes share."""

    def __cinit__(self, str name not None, size_t n_bytes, int fd=-1, *, reserved=None):
        cdef bytes label = f"cairnfs-{name}".encode()
        cdef void *base = NULL
        cdef int own = fd
        cdef int error
        self.fd = -1
        if fd < 0:
            own = shm_create(PyBytes_AS_STRING(label), n_bytes, n_bytes if reserved is None else min(reserved, n_bytes))
            if own < 0:
                raise OSError(-own, f"no memory for {name}: {os.strerror(-own)}")
        error = shm_map(own, n_bytes, &base)
        if error:
            if fd < 0:
                close(own)
            raise OSError(-error, f"descriptor {own} cannot be used as {n_bytes} bytes of {name}: {os.strerror(-error)}")
        self.fd = own
        self.n_bytes = n_bytes
        self.base = <uint8_t *>base

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.n_bytes)
            close(self.fd)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.base, <Py_ssize_t>self.n_bytes, 0, flags)

    @property
    def view(self):
        return memoryview(self)
