"""Listings of directories in the arena's log, for compiled code to answer from. listing_impl.h is the contract.

This file gathers what somebody reads anyway, and reads on for whoever has to go on where compiled code cannot.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from cairnfs.ext.arena cimport Arena, ar_arena, ar_attr, ar_attr_find, ar_whole_generation
from cairnfs.ext.page cimport Page, pg_dentry, pg_row

cdef extern from "listing_impl.h" nogil:
    enum:
        LS_ENTRY_BYTES
        LS_MAX_NAME
        LS_MAX_PAGE
        LS_FIRST_COOKIE
        LS_HASH_SHIFT

    uint64_t LS_INDEX_MASK
    uint64_t LS_MOVED

    struct ls_head:
        uint64_t dir
        uint64_t version
        uint64_t parent
        uint32_t first
        uint32_t next_hash
        uint16_t n_entries
        uint8_t is_last

    struct ls_entry:
        uint64_t ino
        const uint8_t *name
        uint64_t cookie
        uint8_t n_name
        uint8_t type

    struct ls_page:
        pass

    uint32_t ls_page_entries(const ar_arena *arena)
    uint64_t ls_max_bytes(const ar_arena *arena)
    uint64_t ls_pack(uint64_t dir)
    uint32_t ls_stored_off(uint64_t version, uint32_t page_no)
    uint32_t ls_hash(const void *name, size_t n_bytes)
    uint64_t ls_cookie(uint32_t index, uint32_t next_hash)
    int ls_resume(ar_arena *arena, uint64_t dir, uint64_t version, uint64_t cookie, ls_page *page)
    int ls_take(ls_page *page, ls_entry *out)
    int ls_keep(ar_arena *arena, ls_head *head, const void *entries, size_t n_bytes)

MOVED = LS_MOVED

cdef size_t FIRST_ROOM = 4096


@cython.final
cdef class Listing:
    """A listing in the making: entries of one directory in the order in which they are listed. Not thread-safe."""

    cdef Arena arena
    cdef uint64_t dir
    cdef readonly uint64_t version
    cdef uint64_t parent
    cdef uint8_t *entries
    cdef size_t n_bytes
    cdef size_t room
    cdef readonly uint32_t n_entries
    cdef bint broken

    def __cinit__(self, Arena arena not None, uint64_t ino, uint64_t version, uint64_t parent):
        self.arena = arena
        self.dir = ino
        self.version = version
        self.parent = parent
        self.broken = ls_page_entries(&arena.arena) == 0

    def __dealloc__(self):
        free(self.entries)

    def add(self, uint32_t index, bytes name not None, uint64_t ino, uint32_t kind):
        """The entry number `index`; nothing happens when it is there already. One left out, or more than may be kept: give up."""
        if index > self.n_entries:
            self.give_up()
        elif index == self.n_entries:
            self.append(<const uint8_t *>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), ino, <uint8_t>(kind >> 12))

    def add_page(self, Page page not None, size_t begin):
        """Rows of the directory from `begin` on, which come next."""
        cdef pg_row row
        cdef uint64_t ino
        cdef uint8_t type
        cdef size_t i
        for i in range(begin, page.n_rows):
            if self.broken:
                return
            page.row(i, &row)
            if pg_dentry(&row, &ino, &type) == 0:
                self.append(row.key, row.n_key, ino, type)
            else:
                self.give_up()

    cdef void append(self, const uint8_t *name, size_t n_name, uint64_t ino, uint8_t type) noexcept:
        cdef size_t n = LS_ENTRY_BYTES + n_name
        cdef uint8_t *at
        if self.broken:
            return
        if not 0 < n_name <= LS_MAX_NAME or self.n_bytes + n > ls_max_bytes(&self.arena.arena):
            self.give_up()
            return
        if self.n_bytes + n > self.room:
            self.room = max(2 * self.room, FIRST_ROOM)
            at = <uint8_t *>realloc(self.entries, self.room)
            if at == NULL:
                self.give_up()
                return
            self.entries = at
        at = self.entries + self.n_bytes
        memcpy(at, &ino, 8)
        at[8] = type
        at[9] = <uint8_t>n_name
        memcpy(at + LS_ENTRY_BYTES, name, n_name)
        self.n_bytes += n
        self.n_entries += 1

    cdef void give_up(self) noexcept:
        free(self.entries)
        self.entries = NULL
        self.n_bytes = self.room = 0
        self.broken = True

    def keep(self):
        """All entries are there, and the directory's row has still the version: keep the listing. Whether it is kept."""
        cdef uint32_t full = ls_page_entries(&self.arena.arena)
        cdef ls_head head
        cdef uint8_t *begin = self.entries
        cdef uint8_t *at = begin
        cdef uint8_t *end = self.entries + self.n_bytes
        cdef bint kept = not self.broken
        cdef uint32_t first = 0
        memset(&head, 0, sizeof(head))
        head.dir, head.version, head.parent = self.dir, self.version, self.parent
        while kept and not head.is_last:
            head.first = first
            head.n_entries = <uint16_t>min(full, self.n_entries - first)
            first += head.n_entries
            for _ in range(head.n_entries):
                at += LS_ENTRY_BYTES + at[9]
            head.is_last = at == end
            head.next_hash = 0 if head.is_last else ls_hash(at + LS_ENTRY_BYTES, at[9])
            kept = ls_keep(&self.arena.arena, &head, begin, at - begin) != 0
            begin = at
        return bool(kept)


def read_on(Arena arena not None, uint64_t ino, uint64_t version, uint64_t cookie):
    """Entries of a kept listing after a cookie, to the end of a page: (name, inode, type, cookie). None: they are not there.

    Cookies are those of a handle of this version: whoever reads on in another listing adds MOVED.
    """
    cdef ls_page page
    cdef ls_entry entry
    cdef list found = []
    if cookie >= LS_FIRST_COOKIE and cookie >> LS_HASH_SHIFT == 0:
        return found
    if not ls_resume(&arena.arena, ino, version, cookie, &page):
        return None
    while ls_take(&page, &entry):
        name = PyBytes_FromStringAndSize(<const char *>entry.name, entry.n_name)
        found.append((name, entry.ino, <uint32_t>entry.type << 12, entry.cookie))
    return found


def cookie_of(uint32_t index, bytes following):
    """The cookie of entry `index`, which the name `following` comes after; None at the end."""
    return ls_cookie(index, 0 if following is None else hash_of(following))


def next_of(uint64_t cookie):
    """Where a cookie means to go on: index and hash of the next name, which is 0 at the end, and at the beginning."""
    cdef uint64_t given = cookie & LS_INDEX_MASK
    return (0 if given < LS_FIRST_COOKIE else given - LS_FIRST_COOKIE + 1, cookie >> LS_HASH_SHIFT)


def hash_of(bytes name not None):
    """The hash of a name as it is in cookies."""
    return ls_hash(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))


def place(uint64_t ino, uint64_t version, uint32_t page_no):
    """The slice that a page is: (pack, stored offset). For tests."""
    return ls_pack(ino), ls_stored_off(version, page_no)


def is_whole(Arena arena not None, uint64_t ino):
    """Has this mount made all there is in a directory, and knows their names (arena_whole.c)?"""
    cdef ar_attr dir
    return bool(ar_attr_find(&arena.arena, ino, &dir) and dir.whole and dir.whole == ar_whole_generation(&arena.arena))


def page_entries(Arena arena not None):
    """How many entries a full page has; 0 when the arena keeps no listings."""
    return ls_page_entries(&arena.arena)
