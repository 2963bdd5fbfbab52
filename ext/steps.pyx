# cython: embedsignature=True, embedsignature.format=clinic
"""Steps on rows as a script takes them: arrays of MessagePack. Nothing is kept."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.tuple cimport PyTuple_Check, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

cdef enum:
    HEAD_BYTES = 5  # of an array: what it is, how many items it has
    FIRST_ROOM = 512


@cython.final
cdef class _Items:
    """An array that grows."""

    cdef unsigned char *data
    cdef size_t n_bytes, room
    cdef uint32_t n

    def __cinit__(self):
        self.reserve(HEAD_BYTES)
        self.n_bytes = HEAD_BYTES

    def __dealloc__(self):
        free(self.data)

    cdef int reserve(self, size_t more) except -1:
        cdef size_t room = self.room or FIRST_ROOM
        cdef void *data
        while room < self.n_bytes + more:
            room *= 2
        if room != self.room:
            data = realloc(self.data, room)
            if data == NULL:
                raise MemoryError
            self.data, self.room = <unsigned char *>data, room
        return 0

    cdef int head(self, unsigned char kind, uint64_t number, int width) except -1:
        """A byte, and a number of so many bytes."""
        cdef int i
        self.reserve(1 + width)
        self.data[self.n_bytes] = kind
        for i in range(width):
            self.data[self.n_bytes + 1 + i] = <unsigned char>(number >> (8 * (width - 1 - i)))
        self.n_bytes += 1 + width
        return 0

    cdef int add_number(self, int64_t number) except -1:
        self.n += 1
        if 0 <= number < 0x80:
            return self.head(<unsigned char>number, 0, 0)
        return self.head(0xD3, <uint64_t>number, 8)

    cdef int add_bytes(self, bytes item) except -1:
        cdef size_t length = len(item)  # which refuses None, too
        self.n += 1
        if length < 32:
            self.head(<unsigned char>(0xA0 | length), 0, 0)
        elif length < 1 << 8:
            self.head(0xD9, length, 1)
        elif length < 1 << 16:
            self.head(0xDA, length, 2)
        elif length < <size_t>1 << 32:
            self.head(0xDB, length, 4)
        else:
            raise OverflowError("a value of a row is too long")
        self.reserve(length)
        memcpy(self.data + self.n_bytes, PyBytes_AS_STRING(item), length)
        self.n_bytes += length
        return 0

    cdef int add(self, item) except -1:
        if type(item) is bytes:
            return self.add_bytes(<bytes>item)
        if type(item) is bool:
            self.n += 1
            return self.head(0xC3 if item else 0xC2, 0, 0)
        return self.add_number(item)

    cdef bytes packed(self):
        cdef size_t end = self.n_bytes
        self.n_bytes = 0
        self.head(0xDD, self.n, 4)
        self.n_bytes = end
        return PyBytes_FromStringAndSize(<char *>self.data, end)


def gathered(conditions not None, effects not None, dict codes not None, put, int64_t first_part):
    cdef _Items rows = _Items(), checked = _Items(), done = _Items()
    cdef dict numbers = {}, parts = {}, changed = {}
    for step in conditions:
        add_step(checked, step, codes, numbers)
    for step in effects:
        add_step(done, step, codes, numbers)
        changed[<object>PyTuple_GET_ITEM(step, 0)] = step[1] if type(step) is put else None
    for part, field in numbers:
        rows.add_number(parts.setdefault(part, len(parts) + first_part))
        rows.add_bytes(field)
    return list(numbers), list(parts), changed, rows.packed() + checked.packed() + done.packed()


cdef int add_step(_Items to, step, dict codes, dict numbers) except -1:
    cdef Py_ssize_t i
    if not PyTuple_Check(step) or not PyTuple_GET_SIZE(step):
        raise TypeError("a step is a tuple that begins with the key of a row")
    to.add_bytes(codes[type(step)])
    to.add_number(numbers.setdefault(<object>PyTuple_GET_ITEM(step, 0), len(numbers) + 1))
    for i in range(1, PyTuple_GET_SIZE(step)):
        to.add(<object>PyTuple_GET_ITEM(step, i))
    return 0
