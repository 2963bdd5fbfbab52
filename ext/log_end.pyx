"""Asking a Redis server where the change log ends, without Python. log_end_impl.h is the contract."""

cimport cython
from libc.stdint cimport int64_t
from libc.string cimport memcpy

import os


@cython.final
cdef class LogEnd:
    """Connections on which compiled code asks by itself."""

    def __cinit__(self, int64_t[::1] times=None):
        if times is not None:
            if times.shape[0] != LE_N_TIMES:
                raise ValueError(f"{times.shape[0]} counts, not {LE_N_TIMES}")
            self.times = times
            self.end.times = &times[0]

    def __dealloc__(self):
        le_close(&self.end)

    def add(self, int fd, const unsigned char[::1] command not None):
        """Take a connection over, on which `command` is to be sent: the same one for all."""
        cdef size_t n = command.shape[0]
        cdef int error
        if not 0 < n <= LE_MAX_COMMAND:
            raise ValueError(f"a command of {n} bytes")
        if self.end.n_command == 0:
            memcpy(self.end.command, &command[0], n)
            self.end.n_command = n
        elif bytes(command) != self.end.command[:self.end.n_command]:
            raise ValueError("another command than before")
        os.set_blocking(fd, True)
        error = le_add(&self.end, fd)
        if error:
            raise OSError(-error, os.strerror(-error))

    @property
    def wants_link(self):
        """Would another connection have been used?"""
        return le_wants_link(&self.end) != 0

    @property
    def n_links(self):
        """Connections, in use and not."""
        return self.end.n_links

    def ask(self):
        """The position that the server tells after the call began; None: Python has to ask."""
        cdef int64_t position
        with nogil:
            position = le_ask(&self.end)
        return None if position < 0 else position

    def close(self):
        """Close the connections that nobody uses."""
        le_close(&self.end)
