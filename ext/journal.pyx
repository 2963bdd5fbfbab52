"""The journal: a ring of writes that are not committed, and grants for compiled code to add to it. journal_impl.h is the contract.

The GIL is given up only to wait for a lock: giving it up for a copy would cost more than the copy.
"""

cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

UNTIMED_NS = -1


@cython.final
cdef class Ring:
    """A journal in memory that is somebody else's."""

    def __cinit__(self, memory not None, uint64_t ring_bytes):
        cdef uint8_t[::1] view = memory
        if ring_bytes % 8 or <size_t>view.shape[0] < JN_RING_AT + ring_bytes or ring_bytes < 64:
            raise ValueError(f"a ring of {ring_bytes} bytes in {view.shape[0]}")
        self.memory = memoryview(memory)
        if jn_attach(&self.journal, &view[0], ring_bytes) < 0:
            raise ValueError("this memory is no journal, or of another size")

    @staticmethod
    def region_bytes(uint64_t ring_bytes):
        """Bytes of memory for a ring of so many."""
        return JN_RING_AT + ring_bytes

    def check(self):
        """ValueError when an invariant of journal_impl.h is broken. Nobody may use the journal meanwhile."""
        cdef int broken = jn_check(&self.journal)
        if broken:
            raise ValueError(f"invariant {broken} does not hold")

    @property
    def used_bytes(self):
        """From the oldest record that is needed to the newest."""
        cdef uint64_t tail = self.journal.h.tail
        cdef uint64_t head = self.journal.h.head
        return head - tail if head > tail else 0  # an empty ring begins at its beginning again

    # Records

    def add(self, uint64_t ino, uint64_t offset, const uint8_t[::1] data not None, uint64_t request, int64_t when_ns):
        """Note a write: its place, or -1 when there is no room."""
        cdef size_t n_bytes = data.shape[0]
        cdef int64_t place = -1
        if n_bytes < self.journal.h.ring_bytes:
            self.lock()
            place = jn_reserve(&self.journal, ino, offset, n_bytes, request, when_ns)
            jn_unlock_ring(&self.journal)
        if place >= 0:
            jn_fill(&self.journal, place, &data[0] if n_bytes else NULL)
        return place

    def free(self, list places not None):
        """Records that are needed no longer."""
        cdef uint64_t place
        self.lock()
        for place in places:
            jn_kill(&self.journal, place)
        jn_move_tail(&self.journal)
        jn_unlock_ring(&self.journal)

    def untime(self, list places not None):
        """Writes whose inode's modification time is set explicitly: when they were made does not count any more."""
        cdef uint64_t place
        for place in places:
            jn_at(&self.journal, place).when_ns = UNTIMED_NS

    def oldest(self):
        """The inode of the oldest record, 0 when there is none."""
        cdef uint64_t place
        cdef uint64_t ino
        cdef const jn_record *found
        self.lock()
        place = self.journal.h.tail
        found = jn_next(&self.journal, &place)
        ino = 0 if found == NULL else found.ino
        jn_unlock_ring(&self.journal)
        return ino

    def appended(self, uint64_t request):
        """Whether an append of this request is, or was, in the ring."""
        return jn_appended(&self.journal, request) != 0

    def resume(self):
        """Every process that used it has died: what counts, in order: (inode, (place, offset, bytes, ns)). Grants are over."""
        cdef uint64_t place
        cdef const jn_record *record
        cdef list found = []
        jn_resume(&self.journal)
        place = self.journal.h.tail
        while (record := jn_next(&self.journal, &place)) != NULL:
            found.append((record.ino, self.record(place)))
            place += sizeof(jn_record) + (record.n_bytes + 7) // 8 * 8
        return found

    cdef tuple record(self, uint64_t place):
        cdef const jn_record *record = jn_at(&self.journal, place)
        cdef size_t at = JN_RING_AT + place % self.journal.h.ring_bytes + sizeof(jn_record)
        return (place, record.offset, self.memory[at : at + record.n_bytes], record.when_ns)

    # Grants

    def grant(self, uint64_t ino, uint64_t fh, uint64_t left_bytes, uint64_t max_end, bint plain):
        """Let compiled code take writes through a handle, so many bytes from now on, none at or beyond `max_end`; those that
        would take privileges away only if `plain` says that there are none. Whether there was room for another grant.
        """
        cdef jn_grant *grant = self.enter(ino)
        if grant == NULL:
            grant = jn_enter_new(&self.journal, ino)
        if grant == NULL:
            return False
        grant.fh = fh
        grant.left_bytes = left_bytes
        grant.max_end = max_end
        grant.plain = plain
        jn_leave(grant)
        return True

    def unplain(self, uint64_t ino):
        """The inode may have got privileges."""
        cdef jn_grant *grant = self.enter(ino)
        if grant != NULL:
            grant.plain = 0
            jn_leave(grant)

    def hold(self, uint64_t ino):
        """Leave writes to Python until `let`. Returns how many records nobody has taken."""
        cdef jn_grant *grant = self.enter(ino)
        if grant == NULL:
            return 0
        grant.n_held += 1
        n_pending = grant.n_places
        jn_leave(grant)
        return n_pending

    def let(self, uint64_t ino, bint unmarked=False):
        """The end of one `hold`; `unmarked`: the inode is not DIRTY any more."""
        cdef jn_grant *grant = self.enter(ino)
        if grant != NULL:
            grant.n_held -= grant.n_held > 0
            if unmarked:
                grant.marked = 0
            jn_leave(grant)

    def pending(self, uint64_t ino):
        """How many records of the inode nobody has taken."""
        return jn_pending(&self.journal, ino)

    def take(self, uint64_t ino):
        """The records that nobody has taken yet, in order: (place, offset, bytes, ns). They live until they are freed."""
        return self.taken(ino, False)

    def end_idle(self, uint64_t ino):
        """The grant is over if nobody need take anything; whether it is."""
        cdef jn_grant *grant = self.enter(ino)
        cdef bint idle
        if grant == NULL:
            return True
        idle = grant.n_places == 0
        if idle:
            grant.ino = 0
        jn_leave(grant)
        return idle

    def end(self, uint64_t ino):
        """The grant is over; returns what `take` would."""
        return self.taken(ino, True)

    cdef list taken(self, uint64_t ino, bint ends):
        cdef uint64_t[JN_PLACES] places
        cdef uint32_t n_places
        cdef jn_grant *grant = self.enter(ino)
        if grant == NULL:
            return []
        n_places = grant.n_places
        memcpy(places, grant.places, n_places * sizeof(uint64_t))
        grant.n_places = 0
        if ends:
            grant.ino = 0
        jn_leave(grant)
        return [self.record(places[i]) for i in range(n_places)]

    # For tests of what a death leaves

    def tear(self, uint64_t ino, size_t n_bytes):
        """Take the ring's lock, reserve a record, and leave it at that."""
        self.lock()
        return jn_reserve(&self.journal, ino, 0, n_bytes, 0, 0)

    def add_unnoted(self, uint64_t ino, const uint8_t[::1] data not None, uint64_t request):
        """An append that counts, before its request is noted apart."""
        cdef int64_t place = self.add(ino, 0, data, 0, 0)
        jn_at(&self.journal, place).request = request
        return place

    def add_granted(self, uint64_t ino, uint64_t offset, const uint8_t[::1] data not None):
        """What compiled code does for a write of an inode that has a grant; whether there was room."""
        cdef jn_grant *grant = self.enter(ino)
        if grant == NULL:
            return False
        kept = jn_add_granted(&self.journal, grant, offset, &data[0], data.shape[0], 0)
        jn_leave(grant)
        return bool(kept)

    def hold_grant(self, uint64_t ino):
        """Take the lock of a grant, and keep it."""
        self.enter(ino)

    # Locks

    cdef int lock(self) except -1:
        if not jn_lock_ring(&self.journal, 0):
            with nogil:
                jn_lock_ring(&self.journal, 1)
        return 0

    cdef jn_grant *enter(self, uint64_t ino):
        cdef int busy = 0
        cdef jn_grant *grant = jn_enter(&self.journal, ino, 0, &busy)
        if busy:
            with nogil:
                grant = jn_enter(&self.journal, ino, 1, &busy)
        return grant
