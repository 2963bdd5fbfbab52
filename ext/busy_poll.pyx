# cython: embedsignature=True, embedsignature.format=clinic
"""Sending commands and taking their replies, looked for a while before sleeping. busy_poll_impl.h is the contract."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromFormat, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy


cdef extern from "busy_poll_impl.h" nogil:
    enum:
        BP_VAIN

    struct bp_habit:
        int n_vain
    int bp_may_look(const bp_habit *habit)
    struct bp_reply:
        void *out
        size_t room
        int wait_ms
        size_t n_bytes
    size_t bp_exchange(bp_habit *habit, int fd, const void *data, size_t n_bytes, bp_reply *reply)


@cython.final
cdef class BusyPoll:
    """What is known of the replies of one server."""

    cdef bp_habit habit

    def exchange(self, int fd, const unsigned char[::1] data not None, unsigned char[::1] out not None, int wait_ms):
        cdef bp_reply reply
        cdef size_t n = data.shape[0], sent = 0
        if not n or not out.shape[0]:
            return (0, 0)
        reply.out = &out[0]
        reply.room = out.shape[0]
        reply.wait_ms = wait_ms
        with nogil:
            sent = bp_exchange(&self.habit, fd, &data[0], n, &reply)
        return (sent, reply.n_bytes)

    @property
    def is_vain(self):
        """Have the latest replies taken longer than is looked for them?"""
        return self.habit.n_vain >= BP_VAIN

    @property
    def may_look(self):
        """Were the CPUs free enough of late?"""
        return bp_may_look(&self.habit) != 0


def packed(tuple words not None):
    """A command as the protocol has it: an array of bulk strings."""
    cdef list parts = []
    cdef Py_ssize_t n_bytes = 3 + n_digits(len(words))
    cdef bytes part, out
    cdef char *at
    for word in words:
        if type(word) is bytes:
            part = <bytes>word
        elif type(word) is int:
            part = PyBytes_FromFormat(b"%zd", <Py_ssize_t>word)
        else:
            part = (<str?>word).encode()
        parts.append(part)
        n_bytes += 5 + n_digits(PyBytes_GET_SIZE(part)) + PyBytes_GET_SIZE(part)
    out = PyBytes_FromStringAndSize(NULL, n_bytes)
    at = put_number(PyBytes_AS_STRING(out), c"*", len(parts))
    for part in parts:
        at = put_number(at, c"$", PyBytes_GET_SIZE(part))
        memcpy(at, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
        at += PyBytes_GET_SIZE(part)
        memcpy(at, b"\r\n", 2)
        at += 2
    return out


cdef Py_ssize_t n_digits(Py_ssize_t n) noexcept:
    cdef Py_ssize_t found = 1
    while n >= 10:
        n //= 10
        found += 1
    return found


cdef char *put_number(char *at, char mark, Py_ssize_t n) noexcept:
    """Mark, digits and the end of the line; returns where that ends."""
    cdef Py_ssize_t i, count = n_digits(n)
    at[0] = mark
    for i in range(count):
        at[count - i] = c"0" + <char>(n % 10)
        n //= 10
    memcpy(at + 1 + count, b"\r\n", 2)
    return at + 3 + count
