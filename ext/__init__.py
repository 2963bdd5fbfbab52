"""Compiled kernels: no policy, no imports from the engine.

Each kernel is NAME.pyx (argument checks, buffers, the GIL), NAME_*.c and NAME_*.h (loops and contracts, no Python.h) and
NAME.pyi (what a caller may use). README.md beside this file describes formats, invariants and variants.
"""

KERNELS = (
    "arena",
    "busy_poll",
    "checksum",
    "file_io",
    "fuse_chan",
    "fuse_files",
    "fuse_names",
    "fuse_notify",
    "fuse_req",
    "fuse_resumed",
    "fuse_slots",
    "fuse_table",
    "ino_map",
    "journal",
    "kept_rows",
    "listing",
    "log_end",
    "log_keys",
    "page",
    "parts",
    "rados_io",
    "shm",
    "slicer",
    "steps",
)
"""Every kernel, by module name: an editable install cannot list the folder as a package, so they are named here."""
