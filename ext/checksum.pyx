# cython: embedsignature=True, embedsignature.format=clinic
"""CRC32C over buffers: chooses a variant once, at import, and lends the C loops the bytes of any contiguous buffer.

CAIRN_KERNEL_CRC32C names a variant and is a demand: the import fails if it cannot run, because falling back quietly would
make a test or a benchmark measure another kernel.
"""

import os

from cpython.buffer cimport Py_buffer, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t


cdef extern from "checksum_impl.h" nogil:
    ctypedef uint32_t (*crc32c_fn)(uint32_t crc, const uint8_t *data, size_t n) noexcept nogil
    ctypedef enum crc32c_variant "enum crc32c_variant":
        CRC32C_SCALAR
        CRC32C_N_VARIANTS
    void crc32c_init() noexcept
    const char *crc32c_name(crc32c_variant variant) noexcept
    const char *crc32c_why_not(crc32c_variant variant) noexcept
    crc32c_fn crc32c_function(crc32c_variant variant) noexcept
    crc32c_variant crc32c_default() noexcept
    void crc32c_each_page(crc32c_fn function, const uint8_t *data, size_t n, size_t page_bytes, uint8_t *out) noexcept


# Below this the loop takes less time (under 10 us by hardware) than another thread's taking the GIL and giving it back.
cdef Py_ssize_t RELEASE_GIL_BYTES = 128 * 1024

cdef crc32c_fn chosen = NULL


cdef str _name(int variant):
    return crc32c_name(<crc32c_variant>variant).decode("ascii")


cdef crc32c_fn _find(str name) except NULL:
    cdef const char *why_not
    for variant in range(<int>CRC32C_N_VARIANTS):
        if _name(variant) == name:
            why_not = crc32c_why_not(<crc32c_variant>variant)
            if why_not != NULL:
                raise RuntimeError(f"CRC32C variant {name!r} cannot run here: {why_not.decode('ascii')}")
            return crc32c_function(<crc32c_variant>variant)
    raise ValueError(f"unknown CRC32C variant {name!r}: choose one of {', '.join(KERNELS)}")


cdef uint32_t _run(crc32c_fn function, object data, uint32_t crc) except? 0xFFFFFFFF:
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if view.len < RELEASE_GIL_BYTES:
            return function(crc, <const uint8_t *>view.buf, view.len)
        with nogil:
            crc = function(crc, <const uint8_t *>view.buf, view.len)
        return crc
    finally:
        PyBuffer_Release(&view)


def available():
    return [_name(variant) for variant in range(<int>CRC32C_N_VARIANTS) if crc32c_why_not(<crc32c_variant>variant) == NULL]


def crc32c(data, uint32_t crc=0):
    return _run(chosen, data, crc)


def crc32c_with(str name not None, data, uint32_t crc=0):
    return _run(_find(name), data, crc)


def crc32c_pages(data, Py_ssize_t page_bytes):
    cdef Py_buffer view
    cdef bytes out
    cdef uint8_t *crcs
    if page_bytes <= 0:
        raise ValueError(f"page_bytes must be positive, not {page_bytes}")
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        out = PyBytes_FromStringAndSize(NULL, 4 * (view.len // page_bytes + (view.len % page_bytes != 0)))
        crcs = <uint8_t *>PyBytes_AS_STRING(out)
        if view.len < RELEASE_GIL_BYTES:
            crc32c_each_page(chosen, <const uint8_t *>view.buf, view.len, page_bytes, crcs)
        else:
            with nogil:
                crc32c_each_page(chosen, <const uint8_t *>view.buf, view.len, page_bytes, crcs)
        return out
    finally:
        PyBuffer_Release(&view)


crc32c_init()
KERNELS = tuple([_name(variant) for variant in range(<int>CRC32C_N_VARIANTS)])
kernel = os.environ.get("CAIRN_KERNEL_CRC32C") or _name(crc32c_default())
chosen = _find(kernel)
