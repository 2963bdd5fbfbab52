"""Requests to a Redis server and their replies, without the GIL from the first byte sent to the last one received."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove

import os

cdef extern from "<sys/socket.h>" nogil:
    Py_ssize_t recv(int fd, void *buf, size_t n_bytes, int flags)

cdef extern from "resp_impl.h" nogil:
    enum:
        RS_MAX_DEPTH

    struct rs_scan:
        size_t at
        int64_t n_left

    int rs_scan_more "rs_scan"(rs_scan *scan, const uint8_t *buf, size_t n_bytes)
    int64_t rs_line(const uint8_t *buf, size_t *at, size_t *text_at, size_t *text_bytes)
    int rs_send(int fd, const uint8_t *request, size_t n_bytes, size_t *sent)

cdef enum:
    LINE_ROOM = 32  # of what announces an argument or their number, and of an argument that is a number
    FIRST_ROOM = 16 << 10


class ReplyError(Exception):
    """The server's reply is an error, and this is its text."""


def exchange(int fd, list arguments not None):
    """Send a command, return what the server replies."""
    cdef size_t n_bytes = 0
    cdef rs_scan scan
    cdef uint8_t *reply = NULL
    cdef uint8_t *request = packed(arguments, &n_bytes)
    try:
        send_all(fd, request, n_bytes)
    finally:
        free(request)
    try:
        receive(fd, &reply, &scan)
        n_bytes = 0
        return built(reply, &n_bytes, 0)
    finally:
        free(reply)


cdef uint8_t *packed(list arguments, size_t *n_bytes) except NULL:
    """A command as it is sent; to be freed."""
    cdef size_t room = LINE_ROOM
    cdef size_t at
    cdef uint8_t *out
    cdef char[LINE_ROOM] number
    cdef Py_ssize_t n
    for argument in arguments:
        room += 2 * LINE_ROOM + (PyBytes_GET_SIZE(argument) if type(argument) is bytes else 0)
    out = <uint8_t *>malloc(room)
    if out == NULL:
        raise MemoryError
    try:
        at = snprintf(<char *>out, LINE_ROOM, b"*%zd\r\n", len(arguments))
        for argument in arguments:
            if type(argument) is bytes:
                n = PyBytes_GET_SIZE(argument)
                at += snprintf(<char *>out + at, LINE_ROOM, b"$%zd\r\n", n)
                memcpy(out + at, PyBytes_AS_STRING(argument), n)
            elif isinstance(argument, int):
                n = snprintf(number, LINE_ROOM, b"%lld", <long long>argument)
                at += snprintf(<char *>out + at, LINE_ROOM, b"$%zd\r\n", n)
                memcpy(out + at, number, n)
            else:
                raise TypeError(f"{type(argument).__name__} where bytes or a number belong")
            at += n
            out[at] = 13
            out[at + 1] = 10
            at += 2
    except BaseException:
        free(out)
        raise
    n_bytes[0] = at
    return out


cdef int send_all(int fd, const uint8_t *request, size_t n_bytes) except -1:
    cdef size_t sent = 0
    cdef int result = -EINTR
    while result:
        with nogil:
            result = rs_send(fd, request, n_bytes, &sent)
        if result == -EINTR:
            PyErr_CheckSignals()
        elif result:
            raise failure(-result)
    return 0


cdef int receive(int fd, uint8_t **reply, rs_scan *scan) except -1:
    """All of a reply, which begins at `reply`, to be freed whatever happens. What the server pushes is left out."""
    cdef size_t room = FIRST_ROOM
    cdef size_t n_bytes = 0
    cdef uint8_t *wider
    cdef int error
    cdef int done = 0
    reply[0] = <uint8_t *>malloc(room)
    if reply[0] == NULL:
        raise MemoryError
    scan.at, scan.n_left = 0, 1
    while done == 0:
        with nogil:
            error = more(fd, reply[0], room, &n_bytes)
            done = 0 if error else next_reply(reply[0], &n_bytes, scan)
        if error == EINTR:
            PyErr_CheckSignals()
        elif error:
            raise failure(error) if error > 0 else ConnectionResetError("the server has closed the connection")
        elif done == 0 and n_bytes == room:
            room *= 2
            wider = <uint8_t *>realloc(reply[0], room)
            if wider == NULL:
                raise MemoryError
            reply[0] = wider
    if done < 0:
        raise ValueError(f"no reply of Redis begins with {bytes(reply[0][:min(n_bytes, <size_t>16)])!r}")
    if scan.at != n_bytes:
        raise ValueError("more than one reply of Redis to one command")
    return 0


cdef int more(int fd, uint8_t *buf, size_t room, size_t *n_bytes) noexcept nogil:
    """0 when there are more bytes than before, an errno, or -1 at the end."""
    cdef Py_ssize_t got = recv(fd, buf + n_bytes[0], room - n_bytes[0], 0)
    if got < 0:
        return errno
    n_bytes[0] += <size_t>got
    return 0 if got else -1


cdef int next_reply(uint8_t *buf, size_t *n_bytes, rs_scan *scan) noexcept nogil:
    """As rs_scan(), for what is no push."""
    cdef int done = rs_scan_more(scan, buf, n_bytes[0])
    while done == 1 and buf[0] == b">":
        n_bytes[0] -= scan.at
        memmove(buf, buf + scan.at, n_bytes[0])
        scan.at, scan.n_left = 0, 1
        done = rs_scan_more(scan, buf, n_bytes[0])
    return done


cdef object built(const uint8_t *buf, size_t *at, int depth):
    """The reply at `at`, all of which is here."""
    cdef size_t text_at = 0
    cdef size_t n_text = 0
    cdef uint8_t kind = buf[at[0]]
    cdef int64_t number = rs_line(buf, at, &text_at, &n_text)
    cdef bytes value
    cdef list found
    if kind == b"$" or kind == b"=":
        if number < 0:
            return None
        value = PyBytes_FromStringAndSize(<const char *>buf + at[0], number)
        at[0] += number + 2
        return value
    if kind == b":":
        return number
    if kind == b"_":
        return None
    if kind == b"-":
        raise ReplyError(buf[text_at : text_at + n_text].decode("utf-8", "replace"))
    if kind == b"*" or kind == b"~" or kind == b"%":
        if number < 0:
            return None
        if depth == RS_MAX_DEPTH:
            raise ValueError(f"a reply of Redis is nested more than {RS_MAX_DEPTH} deep")
        found = []
        for _ in range(2 * number if kind == b"%" else number):
            found.append(built(buf, at, depth + 1))
        return found
    if kind == b"#":
        return buf[text_at] == b"t"
    if kind == b",":
        return float(buf[text_at : text_at + n_text])
    return buf[text_at : text_at + n_text]


cdef object failure(int code):
    if code == EAGAIN:
        return TimeoutError("the server has not answered in time")
    return OSError(code, os.strerror(code))
