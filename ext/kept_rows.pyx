# cython: embedsignature=True, embedsignature.format=clinic
"""Rows by key, the most recently used ones. The caller has a lock."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from collections import OrderedDict


@cython.final
cdef class KeptRows:
    """At most `max_rows` of them."""

    cdef object rows  # the one that was put longest ago comes first
    cdef object move_to_end, make_row
    cdef list subkeys  # by the first byte of the partition: the key, True: any, None: no row is kept
    cdef Py_ssize_t max_rows, max_value_bytes

    def __cinit__(self, dict subkeys not None, make_row, Py_ssize_t max_rows, Py_ssize_t max_value_bytes):
        self.rows = OrderedDict()
        self.move_to_end = self.rows.move_to_end
        self.make_row = make_row
        self.max_rows = max_rows
        self.max_value_bytes = max_value_bytes
        self.subkeys = [None] * 256
        for letter, subkey in subkeys.items():
            self.subkeys[ord(letter)] = True if subkey is None else subkey

    def __len__(self):
        return len(self.rows)

    def __contains__(self, tuple key not None):
        return key in self.rows

    def may_keep(self, keys not None):
        cdef bytes part
        cdef list found = []
        for key in keys:
            part, subkey = key
            wanted = self.subkeys[<unsigned char>PyBytes_AS_STRING(part)[0]]
            if wanted is True or (wanted is not None and wanted == subkey):
                found.append(key)
        return found

    def known(self, keys not None):
        cdef dict found = {}
        for key in keys:
            if key in self.rows:
                found[key] = self.rows[key]
        return found

    def put(self, tuple key not None, row):
        if row is not None and PyBytes_GET_SIZE(<bytes?>row[0]) > self.max_value_bytes:
            self.rows.pop(key, None)
            return
        self.rows[key] = row
        self.move_to_end(key)
        if len(self.rows) > self.max_rows:
            self.rows.popitem(last=False)

    def committed(self, list keys not None, dict values not None, position):
        for key in keys:
            before = self.rows.get(key)
            if before is None or before[1] < position:
                value = values[key]
                self.put(key, None if value is None else self.make_row((value, position)))

    def drop(self, keys not None):
        for key in keys:
            self.rows.pop(key, None)

    def clear(self):
        self.rows.clear()
