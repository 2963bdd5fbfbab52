# cython: embedsignature=True, embedsignature.format=clinic
"""Sending commands, and looking for their replies a while before sleeping. busy_poll_impl.h is the contract."""

cimport cython


cdef extern from "busy_poll_impl.h" nogil:
    enum:
        BP_VAIN

    struct bp_habit:
        int n_vain
    int bp_may_look(const bp_habit *habit)
    size_t bp_send(bp_habit *habit, int fd, const void *data, size_t n_bytes)


@cython.final
cdef class BusyPoll:
    """What is known of the replies of one server."""

    cdef bp_habit habit

    def send(self, int fd, const unsigned char[::1] data not None):
        cdef size_t n = data.shape[0], sent = 0
        if n:
            with nogil:
                sent = bp_send(&self.habit, fd, &data[0], n)
        return sent

    @property
    def is_vain(self):
        """Have the latest replies taken longer than is looked for them?"""
        return self.habit.n_vain >= BP_VAIN

    @property
    def may_look(self):
        """Were the CPUs free enough of late?"""
        return bp_may_look(&self.habit) != 0
