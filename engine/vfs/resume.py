"""Taking over from a process that was killed: handles, locks, files without a name, and what was written and not committed.

Runs before any request is served, in a process that shares nothing with the dead one but what is carried on (`carried`) and the
volume. Nobody else uses the arena meanwhile.
"""

import logging
from collections.abc import Collection

from cairnfs.data.journal import Written
from cairnfs.errors import CairnError
from cairnfs.meta import Meta
from cairnfs.types import Inode
from cairnfs.vfs.carried import DIRECTORY, Carried, HeldHandle
from cairnfs.vfs.handles import FIRST_COMPILED, Handle
from cairnfs.vfs.openfile import OpenFile
from cairnfs.vfs.readdir import Directories, DirHandle
from cairnfs.vfs.state import VfsState
from cairnfs.vfs.virtual import is_virtual

log = logging.getLogger("cairnfs.vfs")


def resume(state: VfsState, dirs: Directories, meta: Meta, carried: Carried, left: Collection[int]) -> list[HeldHandle]:
    """Make the tables what they were; returns the handles of virtual files, which are not this module's to restore.

    `left`: the requests that the dead process had in work, which will be served again.
    """
    state.left = frozenset(left)
    virtual = []
    written = carried.journal.resume()
    for held in carried.handles.resume():
        if held.request in state.left:
            carried.handles.remove(held.fh)  # the kernel was not told of it, and asks again
        elif is_virtual(held.fh):
            virtual.append(held)
        elif held.flags & DIRECTORY:
            dirs.handles.restore(held.fh, DirHandle(held.ino, resumed=True))
        else:
            _restore(state, held, meta)
    for ino in meta.sessions.sustained():
        state.files.resume_unlinked(ino)
    _write_again(state, written)
    return virtual


def _restore(state: VfsState, held: HeldHandle, meta: Meta) -> None:
    compiled = held.fh >= FIRST_COMPILED
    file = state.files.adopt(held.ino) if compiled else state.files.acquire(held.ino)
    handle = Handle(file, held.flags, state.data.reader.cursor())
    if held.lock_owner:
        handle.lock_owners.add(held.lock_owner)
        file.lock_owners[held.lock_owner] = handle
    handle.flock_owner = held.flock_owner
    if meta.sessions.has_lost:
        for owner, flock in ((held.lock_owner, False), (held.flock_owner, True)):
            if owner:
                file.locks.lose_of(owner, flock=flock)
    elif held.lock_owner or held.flock_owner:
        file.locks.note_all(meta.locks.held(held.ino))
    state.files.count_direct(handle, 1)
    state.handles.restore(held.fh, handle)


def _write_again(state: VfsState, written: list[Written]) -> None:
    """In the order in which it was written; files that nobody has open any more are stored at once. What was written under a
    lock that is lost goes with the next flush, which says so.
    """
    files: dict[Inode, OpenFile] = {}
    for ino, offset, data, when_ns in written:
        file = files.get(ino) or files.setdefault(ino, state.files.acquire(ino))
        try:
            with file.changing():
                file.write(offset, data, when_ns=when_ns, journaled=False)
        except CairnError as error:
            log.error("inode %d: what was written before a process was killed is lost: %s", ino, error)
            file.lose(error)
    if written:
        log.info("%d writes to %d files taken over", len(written), len(files))
    for file in files.values():
        state.files.release(file)
