"""What `cairnfs info PATH` shows: one inode as JSON, with where its bytes are stored.

Bounded by what an extended attribute can carry: a long layout is cut and `"truncated": true` says so.
"""

import json
import os
import stat
from collections.abc import Iterator
from typing import Any

from cairnfs.const import CHUNK_BYTES
from cairnfs.types import TYPE_NAMES, Attr, Extent, Inode
from cairnfs.vfs.state import VfsState

MAX_INFO_BYTES = 60 << 10  # below the kernel's limit of 64 KiB for one value


def describe(state: VfsState, ino: Inode) -> bytes:
    """JSON text of at most MAX_INFO_BYTES. ENOENT when the inode is gone."""
    file = state.files.get(ino)
    dirty = file is not None and file.dirty
    attr = state.meta.names.get(ino)
    path = state.meta.names.path_of(ino)
    info: dict[str, Any] = {
        "inode": ino,
        "path": None if path is None else os.fsdecode(path),
        "type": TYPE_NAMES.get(stat.S_IFMT(attr.mode), "unknown"),
        "mode": f"{stat.S_IMODE(attr.mode):04o}",
        "uid": attr.uid,
        "gid": attr.gid,
        "nlink": attr.nlink,
        "size": attr.size,
        "alloc_bytes": attr.alloc_bytes,
        "data_version": attr.data_version,
        "dirty": dirty,
    }
    if attr.is_symlink:
        info["target"] = os.fsdecode(attr.tail)
    if attr.is_file:
        info["truncated"] = False
        info["extents"] = []
        _add_extents(info, _extents(state, attr))
    return _text(info)


def _text(info: dict[str, Any]) -> bytes:
    return json.dumps(info, separators=(",", ":")).encode()


def _add_extents(info: dict[str, Any], extents: Iterator[Extent]) -> None:
    left = MAX_INFO_BYTES - len(_text(info)) - len("truncated")
    for extent in extents:
        shown = _extent(extent)
        left -= len(_text(shown)) + 1
        if left < 0:
            info["truncated"] = True
            return
        info["extents"].append(shown)


def _extent(extent: Extent) -> dict[str, Any]:
    shown: dict[str, Any] = {"offset": extent.file_off, "length": extent.length}
    if extent.ref is not None:
        ref = extent.ref
        shown |= {
            "pack": f"{ref.pack:016x}",
            "slice_off": extent.off,
            "stored_off": ref.stored_off,
            "stored_len": ref.stored_len,
            "plain_len": ref.plain_len,
            "codec": ref.codec,
        }
    return shown


def _extents(state: VfsState, attr: Attr) -> Iterator[Extent]:
    """The file's extents chunk by chunk, so that a huge file costs no more than what is shown of it."""
    for start in range(0, attr.size, CHUNK_BYTES):
        yield from state.meta.layout.extents(attr.ino, start, min(CHUNK_BYTES, attr.size - start))
