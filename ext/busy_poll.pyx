# cython: embedsignature=True, embedsignature.format=clinic
"""Sending commands and taking their replies, looked for a while before sleeping. busy_poll_impl.h is the contract."""

cimport cython


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
