"""Pages of rows as servers send them: checked once, then walked without an object for each row. page_impl.h is the contract."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from cairnfs.ext.arena cimport Arena, ar_attr, ar_attr_find

cdef enum:
    MAX_KEY = 0xFFFF
    MIN_NOGIL_ROWS = 64  # which take longer to keep than the GIL takes to be handed over


@cython.final
cdef class Page:
    """Rows in order of their keys. Immutable."""

    def __cinit__(self, bytes packed not None, bytes after=None, size_t limit=0xFFFFFFFF):
        cdef size_t n_bytes = PyBytes_GET_SIZE(packed)
        cdef int64_t n_rows
        cdef size_t n_left_out = 0
        self.packed = packed
        self.base = <const uint8_t *>PyBytes_AS_STRING(packed)
        n_rows = pg_count(self.base, n_bytes)
        if n_rows < 0:
            raise ValueError("a page of rows is damaged")
        self.places = <uint32_t *>malloc(max(n_rows, 1) * sizeof(uint32_t))
        if self.places == NULL:
            raise MemoryError
        pg_index(self.base, n_bytes, self.places)
        if after is not None:
            n_left_out = pg_n_up_to(self.base, self.places, n_rows, <const uint8_t *>PyBytes_AS_STRING(after), PyBytes_GET_SIZE(after))
        self.first = self.places + n_left_out
        self.n_rows = min(<size_t>n_rows - n_left_out, limit)

    def __dealloc__(self):
        free(self.places)

    @staticmethod
    def of(rows):
        """The page of (key, version, value, named version, named value) rows; no named row: its value is None."""
        cdef list parts = []
        cdef uint8_t[18] head
        cdef bytes key, value, named
        cdef uint64_t version, named_version
        for key, version, value, named_version, named in rows:
            if PyBytes_GET_SIZE(key) > MAX_KEY:
                raise ValueError(f"a key of {PyBytes_GET_SIZE(key)} bytes")
            put(head, 2, PyBytes_GET_SIZE(key))
            put(head + 2, 4, 8 + PyBytes_GET_SIZE(value))
            put(head + 6, 4, 0 if named is None else 8 + PyBytes_GET_SIZE(named))
            parts.append(PyBytes_FromStringAndSize(<const char *>head, 10))
            parts.append(key)
            put(head, 8, version)
            parts.append(PyBytes_FromStringAndSize(<const char *>head, 8))
            parts.append(value)
            if named is not None:
                put(head, 8, named_version)
                parts.append(PyBytes_FromStringAndSize(<const char *>head, 8))
                parts.append(named)
        return Page(b"".join(parts))

    def __len__(self):
        return self.n_rows

    def __iter__(self):
        return iter(self.rows())

    def rows(self, size_t begin=0, size_t end=0xFFFFFFFF):
        """Rows `begin` up to `end`: (key, row, named row)."""
        cdef size_t i
        cdef pg_row row
        cdef list found = []
        for i in range(begin, min(end, self.n_rows)):
            self.row(i, &row)
            named = None if row.named == NULL else (copy(row.named, row.n_named), row.named_version)
            found.append((copy(row.key, row.n_key), (copy(row.value, row.n_value), row.version), named))
        return found

    def names(self, size_t begin=0, size_t end=0xFFFFFFFF):
        """Keys of rows `begin` up to `end`."""
        cdef pg_row row
        cdef size_t i
        cdef list found = []
        for i in range(begin, min(end, self.n_rows)):
            self.row(i, &row)
            found.append(copy(row.key, row.n_key))
        return found

    @property
    def last(self):
        """The greatest key, None when there is no row."""
        cdef pg_row row
        if self.n_rows == 0:
            return None
        self.row(self.n_rows - 1, &row)
        return copy(row.key, row.n_key)

    def n_up_to(self, bytes key not None):
        """How many rows have this key or one before it."""
        return pg_n_up_to(self.base, self.first, self.n_rows, <const uint8_t *>PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))

    def unknown(self, Arena arena not None):
        """Inodes that names of a directory stand for of which the arena knows nothing."""
        cdef pg_row row
        cdef ar_attr attr
        cdef uint64_t ino
        cdef uint8_t type
        cdef size_t i
        cdef list found = []
        for i in range(self.n_rows):
            self.row(i, &row)
            if pg_dentry(&row, &ino, &type) == 0 and not ar_attr_find(&arena.arena, ino, &attr):
                found.append(ino)
        return found

    def note(self, Arena arena not None, uint64_t ino, uint64_t token):
        """Rows of the directory `ino` and the inode records they name, fetched after `token` was taken: keep them."""
        cdef const uint32_t *first = self.first
        cdef size_t n_rows = self.n_rows
        if n_rows < MIN_NOGIL_ROWS:
            pg_note(&arena.arena, ino, self.base, first, n_rows, token)
            return
        with nogil:
            pg_note(&arena.arena, ino, self.base, first, n_rows, token)

    cdef int row(self, size_t i, pg_row *row) except -1:
        if i >= self.n_rows:
            raise IndexError(i)
        pg_row_at(self.base + self.first[i], row)
        return 0


cdef bytes copy(const uint8_t *at, size_t n_bytes):
    return PyBytes_FromStringAndSize(<const char *>at, <Py_ssize_t>n_bytes)


cdef void put(uint8_t *at, int n_bytes, uint64_t value) noexcept:
    """Big-endian."""
    cdef int i
    for i in range(n_bytes):
        at[i] = <uint8_t>(value >> 8 * (n_bytes - 1 - i))
