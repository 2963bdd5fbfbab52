# cython: embedsignature=True, embedsignature.format=clinic
"""The slicing kernel's Python face: checks arguments, lends buffers to the C loops, turns their codes into ValueError.

The GIL is kept: a layout of a thousand records takes about ten microseconds, less than handing the lock over.
"""

cimport cython
from cpython.buffer cimport Py_buffer, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.number cimport PyNumber_Index
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "slicer_impl.h" nogil:
    enum:
        SLICER_RECORD_BYTES
        SLICER_ITEM
    const uint64_t SLICER_MAX_CHUNK_BYTES
    const uint64_t UINT64_MAX
    const uint32_t UINT32_MAX, UINT8_MAX
    ctypedef struct slicer_record:
        uint64_t pack
        uint32_t pos, length, off, plain_len, stored_off, stored_len, crc
        uint8_t codec
    ctypedef struct slicer_cursor:
        size_t left_bytes
        size_t n_read
    ctypedef struct slicer_freed:
        uint64_t pack
        uint64_t n_bytes
    ctypedef struct slicer_extent:
        uint64_t pos, length, off
        int64_t index
    ctypedef struct slicer_extents:
        slicer_cursor layout
        uint64_t at, end
        int has_record
    const char *slicer_error(int code) noexcept
    int slicer_check_record(const slicer_record *record, uint64_t chunk_bytes) noexcept
    void slicer_encode(const slicer_record *record, uint8_t *out) noexcept
    void slicer_start(slicer_cursor *cursor, const uint8_t *data, size_t n_bytes, uint64_t chunk_bytes) noexcept
    int slicer_next(slicer_cursor *cursor, slicer_record *record) noexcept
    int slicer_check(slicer_cursor *cursor) noexcept
    int slicer_overlay(slicer_cursor *layout, uint64_t start, uint64_t end, const slicer_record *record,
                       uint8_t *out, size_t *n_out_bytes, slicer_freed *freed, size_t *n_freed) noexcept
    int slicer_covered(slicer_cursor *layout, uint64_t start, uint64_t end, uint64_t *n_bytes) noexcept
    int slicer_next_extent(slicer_extents *extents, slicer_extent *extent) noexcept
    int slicer_next_data(slicer_cursor *layout, uint64_t start, int64_t *position) noexcept
    int slicer_next_hole(slicer_cursor *layout, uint64_t start, int64_t *position) noexcept


RECORD_BYTES = SLICER_RECORD_BYTES

cdef enum:
    NO_VALUE = 0x7FFFFFFF  # returned when an exception is set, and as a value like any other


cdef uint64_t _within(object value, object most, str name) except? NO_VALUE:
    """An integer argument in 0..most; any other integer is a ValueError, whatever its size."""
    value = PyNumber_Index(value)
    if not 0 <= value <= most:
        raise ValueError(f"{name} must be within 0..{most}, not {value}")
    return value


@cython.final
@cython.internal
@cython.freelist(4)
cdef class _Layout:
    """Holds a caller's buffer while a cursor reads it; every instance ends with the call that made it."""

    cdef Py_buffer view
    cdef slicer_cursor cursor

    def __cinit__(self, data, uint64_t chunk_bytes):
        PyObject_GetBuffer(data, &self.view, PyBUF_SIMPLE)
        slicer_start(&self.cursor, <const uint8_t *>self.view.buf, self.view.len, chunk_bytes)

    def __dealloc__(self):
        PyBuffer_Release(&self.view)


cdef int _checked(int code, const slicer_cursor *cursor) except -1:
    """A code of the C loops as it is, unless it says that a layout is malformed."""
    if code < 0:
        raise ValueError(f"slice record {cursor.n_read} {slicer_error(code).decode('ascii')}")
    return code


cdef _Layout _open(object data):
    return _Layout(data, SLICER_MAX_CHUNK_BYTES)


cdef uint64_t _position(object value, str name) except? NO_VALUE:
    return _within(value, SLICER_MAX_CHUNK_BYTES, name)


cdef uint64_t _end(object end, uint64_t start) except? NO_VALUE:
    cdef uint64_t value = _position(end, "end")
    if value < start:
        raise ValueError(f"end {value} lies before start {start}")
    return value


cdef int _read_one(object data, slicer_record *record) except -1:
    """Read the one record that `data` must be."""
    cdef _Layout layout = _open(data)
    if layout.view.len != SLICER_RECORD_BYTES:
        raise ValueError(f"a slice record has {SLICER_RECORD_BYTES} bytes, not {layout.view.len}")
    return _checked(slicer_next(&layout.cursor, record), &layout.cursor)


def pack_record(pos, length, off, plain_len, pack, stored_off, stored_len, crc, codec):
    cdef slicer_record record
    cdef uint8_t[SLICER_RECORD_BYTES] out
    cdef int code
    record.pos = _within(pos, UINT32_MAX, "pos")
    record.length = _within(length, UINT32_MAX, "length")
    record.off = _within(off, UINT32_MAX, "off")
    record.plain_len = _within(plain_len, UINT32_MAX, "plain_len")
    record.pack = _within(pack, UINT64_MAX, "pack")
    record.stored_off = _within(stored_off, UINT32_MAX, "stored_off")
    record.stored_len = _within(stored_len, UINT32_MAX, "stored_len")
    record.crc = _within(crc, UINT32_MAX, "crc")
    record.codec = _within(codec, UINT8_MAX, "codec")
    code = slicer_check_record(&record, SLICER_MAX_CHUNK_BYTES)
    if code < 0:
        raise ValueError(f"the slice record {slicer_error(code).decode('ascii')}")
    slicer_encode(&record, out)
    return PyBytes_FromStringAndSize(<const char *>out, SLICER_RECORD_BYTES)


def unpack(layout):
    cdef _Layout opened = _open(layout)
    cdef slicer_record r
    cdef list records = []
    while _checked(slicer_next(&opened.cursor, &r), &opened.cursor) == SLICER_ITEM:
        records.append((r.pos, r.length, r.off, r.plain_len, r.pack, r.stored_off, r.stored_len, r.crc, r.codec))
    return records


def check(layout, chunk_bytes):
    cdef _Layout opened = _Layout(layout, _position(chunk_bytes, "chunk_bytes"))
    _checked(slicer_check(&opened.cursor), &opened.cursor)


def overlay(layout, pos, length, record):
    cdef uint64_t start = _position(pos, "pos")
    cdef uint64_t end = start + _position(length, "length")
    cdef slicer_record new
    cdef _Layout opened = _open(layout)
    if end > SLICER_MAX_CHUNK_BYTES:
        raise ValueError(f"pos + length must not exceed {SLICER_MAX_CHUNK_BYTES}, not be {end}")
    if record is None:
        return _overlay(opened, start, end, NULL)
    _read_one(record, &new)
    if new.pos != start or new.length != end - start:
        raise ValueError(f"the record covers {new.length} bytes at {new.pos}, not {end - start} at {start}")
    return _overlay(opened, start, end, &new)


cdef tuple _overlay(_Layout layout, uint64_t start, uint64_t end, const slicer_record *record):
    cdef size_t n_records = layout.cursor.left_bytes // SLICER_RECORD_BYTES
    cdef size_t n_out_bytes = 0, n_freed = 0, i
    cdef slicer_freed *freed = <slicer_freed *>PyMem_Malloc((n_records + 1) * sizeof(slicer_freed))
    cdef uint8_t *out = <uint8_t *>PyMem_Malloc((n_records + 2) * SLICER_RECORD_BYTES)
    try:
        if freed == NULL or out == NULL:
            raise MemoryError()
        _checked(slicer_overlay(&layout.cursor, start, end, record, out, &n_out_bytes, freed, &n_freed), &layout.cursor)
        return (
            PyBytes_FromStringAndSize(<const char *>out, n_out_bytes),
            [(freed[i].pack, freed[i].n_bytes) for i in range(n_freed)],
        )
    finally:
        PyMem_Free(out)
        PyMem_Free(freed)


def covered(layout, start, end):
    cdef _Layout opened = _open(layout)
    cdef uint64_t first = _position(start, "start"), n_bytes = 0
    _checked(slicer_covered(&opened.cursor, first, _end(end, first), &n_bytes), &opened.cursor)
    return n_bytes


def extents(layout, start, end):
    cdef _Layout opened = _open(layout)
    cdef slicer_extents walk
    cdef slicer_extent found
    cdef list runs = []
    walk.layout = opened.cursor
    walk.at = _position(start, "start")
    walk.end = _end(end, walk.at)
    walk.has_record = 0
    while _checked(slicer_next_extent(&walk, &found), &walk.layout) == SLICER_ITEM:
        runs.append((found.pos, found.length, found.off, found.index))
    return runs


def next_data(layout, start):
    cdef _Layout opened = _open(layout)
    cdef int64_t position = -1
    _checked(slicer_next_data(&opened.cursor, _position(start, "start"), &position), &opened.cursor)
    return position


def next_hole(layout, start):
    cdef _Layout opened = _open(layout)
    cdef int64_t position = 0
    _checked(slicer_next_hole(&opened.cursor, _position(start, "start"), &position), &opened.cursor)
    return position
