"""Buffers of Python's objects, as one run of bytes in parts: what writev(2) and its like take."""

cimport cython
from cpython.buffer cimport Py_buffer, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdlib cimport calloc, free


@cython.final
cdef class Parts:
    """Held for as long as this is there."""

    def __cinit__(self, parts):
        cdef list held = list(parts)
        self.views = <Py_buffer *>calloc(len(held) + 1, sizeof(Py_buffer))
        self.parts = <iovec *>calloc(len(held) + 1, sizeof(iovec))
        if self.views == NULL or self.parts == NULL:
            raise MemoryError
        for part in held:
            PyObject_GetBuffer(part, &self.views[self.n], PyBUF_SIMPLE)
            self.parts[self.n].iov_base = self.views[self.n].buf
            self.parts[self.n].iov_len = self.views[self.n].len
            self.n += 1

    def __dealloc__(self):
        cdef size_t i
        for i in range(self.n):
            PyBuffer_Release(&self.views[i])
        free(self.views)
        free(self.parts)
