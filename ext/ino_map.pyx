"""A compact table from inode numbers to 64-bit values, for what must be remembered of a million inodes.

The loops are in ino_map_impl.c, which the channel calls by itself; this face of it is for tests. Every method runs
under the GIL to its end, so each is one step for other threads.
"""

cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport uint64_t

cdef extern from "ino_map_impl.h" nogil:
    im_slot *im_find(const im_map *map, uint64_t ino)
    int im_put(im_map *map, uint64_t ino, uint64_t value)
    int im_remove(im_map *map, uint64_t ino)
    void im_mask_all(im_map *map, uint64_t mask)
    void im_free(im_map *map)
    int im_check(const im_map *map)


@cython.final
cdef class InoMap:
    """Inode number -> value."""

    def __cinit__(self, size_t limit=1 << 62):
        if limit < 1:
            raise ValueError("a table of no entries")
        self.map.limit = limit

    def __dealloc__(self):
        im_free(&self.map)

    def __len__(self):
        return self.map.n

    @property
    def n_bytes(self):
        """Memory of the table."""
        return self.map.n_slots * sizeof(im_slot)

    def get(self, uint64_t ino):
        """The value, None when there is none."""
        cdef im_slot *slot = im_find(&self.map, ino)
        return None if slot == NULL else slot.value

    def put(self, uint64_t ino, uint64_t value):
        """Set the value. In a full table another entry goes."""
        if ino == 0:
            raise ValueError("there is no inode 0")
        if im_put(&self.map, ino, value) < 0:
            raise MemoryError

    def remove(self, uint64_t ino):
        """Forget an inode; whether it was there."""
        return im_remove(&self.map, ino) != 0

    def mask_all(self, uint64_t mask):
        """Keep only the bits of `mask` in every value."""
        im_mask_all(&self.map, mask)

    def check(self):
        """ValueError when an invariant of ino_map_impl.h is broken."""
        cdef int broken = im_check(&self.map)
        if broken:
            raise ValueError(f"invariant {broken} does not hold")
