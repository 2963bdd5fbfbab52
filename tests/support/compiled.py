"""Compiled code and a Vfs over one arena, without a mount: requests come over a socket, and are served as a kernel's are."""

import errno
import os
import struct
from collections.abc import Iterable, Sequence

from cairnfs.daemon.invalidate import Follower
from cairnfs.ext.arena import Arena
from cairnfs.ext.fuse_slots import Slots
from cairnfs.ext.log_end import LogEnd
from cairnfs.meta.records import SUSTAINED_PREFIX
from cairnfs.meta.stores.base import Key, Row
from cairnfs.types import Inode
from support.engine import ROOT, Engine
from support.fuse_peer import ATTR, ENTRY_OUT, OPEN_OUT, FusePeer

ARENA_BYTES = 8 << 20
COMPILED_FH = 1 << 63
LK_FLOCK = 1
FOPEN_KEEP_CACHE = 2


class Kernel:
    """What a front would make the kernel forget: nothing here."""

    def invalidate(self, inos: Iterable[Inode], dentries: Iterable[tuple[Inode, bytes]]) -> set[Inode]:
        return set()

    def leaving(self, on: bool) -> None: ...

    def invalidate_attributes(self, inos: Iterable[Inode]) -> None: ...

    def invalidate_own(self, inos: Iterable[Inode]) -> None: ...

    def invalidate_all(self) -> None: ...

    def trust(self, followed: bool) -> None: ...


class Node:
    """An engine with an arena, and one or more kernels that ask it."""

    def __init__(self, url: str, arena_bytes: int = ARENA_BYTES, arena: Arena | None = None) -> None:
        self.arena = Arena(arena_bytes) if arena is None else arena
        self.engine = Engine(url, arena=self.arena)
        self.vfs = self.engine.vfs
        self.files = self.engine.files
        self.follower = Follower(self.engine.volume.store, self.vfs, Kernel(), self.arena)
        self.vfs.follow(self.follower.fence, lambda inos: None)

    def asks(self, slots: Slots | None = None, log_end: LogEnd | None = None) -> FusePeer:
        return FusePeer(self.vfs, min_threads=1, max_threads=4, arena=self.arena, slots=slots, log_end=log_end)

    def warm(self, path: str, data: bytes) -> Inode:
        """A file that compiled code can open and read."""
        self.files.write(path, data)
        assert self.files.read(path) == data
        self.follower.catch_up()
        assert self.arena.fresh()
        return self.files.ino(path)

    def sustained(self) -> list[bytes]:
        return self.engine.volume.store.partitions(SUSTAINED_PREFIX, None, 10)

    def assert_nothing_is_open(self, inos: Iterable[int]) -> None:
        assert self.arena.handles() == {}
        assert [ino for ino in inos if self.arena.marks(ino)] == []
        files = self.vfs._state.files
        assert (len(files), files._compiled, files._barred, files._barred_there) == (0, {}, {}, {})
        assert self.vfs._state.handles.numbers() == []
        assert self.sustained() == []
        self.arena.check()


class Remembering(Node):
    """One that recalls rows it has read, and counts how often it asks its store for some."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        store = self.engine.volume.store
        self.follower = Follower(store, self.vfs, Kernel(), self.arena, core=self.engine.meta.core)
        self.vfs.follow(self.follower.fence, lambda inos: None)
        self.n_reads = 0
        read = store.read

        def counted(keys: Sequence[Key]) -> list[Row | None]:
            self.n_reads += 1
            return read(keys)

        vars(store)["read"] = counted


class Asking:
    """Requests of one kernel; each waits for its reply."""

    def __init__(self, peer: FusePeer) -> None:
        self.peer = peer

    def lookup(self, name: bytes, parent: int = ROOT) -> int:
        """The inode; 0 for ENOENT."""
        reply = self.peer.call("LOOKUP", name + b"\0", parent)
        if reply.error:
            assert reply.error == errno.ENOENT
            return 0
        return int(ENTRY_OUT.unpack_from(reply.body)[0])

    def open(self, ino: int, flags: int = os.O_RDONLY) -> int:
        """The handle; 0 for ESTALE."""
        reply = self.peer.call("OPEN", struct.pack("=II", flags, 0), ino)
        if reply.error:
            assert reply.error == errno.ESTALE
            return 0
        return int(OPEN_OUT.unpack(reply.body)[0])

    def opened(self, ino: int) -> tuple[int, bool]:
        """The handle, and whether pages are kept."""
        reply = self.peer.call("OPEN", struct.pack("=II", os.O_RDONLY, 0), ino)
        assert reply.error == 0
        fh, flags, _ = OPEN_OUT.unpack(reply.body)
        return fh, bool(flags & FOPEN_KEEP_CACHE)

    def open_compiled(self, ino: int) -> int:
        fh = self.open(ino)
        assert fh & COMPILED_FH, "Python has opened it"
        return fh

    def read(self, ino: int, fh: int, size: int = 100_000, offset: int = 0) -> bytes:
        reply = self.peer.call("READ", struct.pack("=QQIIQII", fh, offset, size, 0, 0, 0, 0), ino)
        assert reply.error == 0
        return reply.body

    def write(self, ino: int, fh: int, data: bytes) -> None:
        assert self.peer.call("WRITE", struct.pack("=QQIIQII", fh, 0, len(data), 0, 0, 0, 0) + data, ino).error == 0

    def nlink_and_size(self, ino: int) -> tuple[int, int]:
        reply = self.peer.call("GETATTR", struct.pack("=IIQ", 0, 0, 0), ino)
        assert reply.error == 0
        attr = ATTR.unpack(reply.body[16:])
        return attr[10], attr[1]

    def seek_end(self, ino: int, fh: int) -> None:
        """Makes Python know the handle."""
        assert self.peer.call("LSEEK", struct.pack("=QQII", fh, 0, os.SEEK_DATA, 0), ino).error in (0, errno.ENXIO)

    def flock(self, ino: int, fh: int, owner: int, kind: int) -> int:
        body = struct.pack("=QQQQIIII", fh, owner, 0, (1 << 63) - 1, kind, 0, LK_FLOCK, 0)
        return self.peer.call("SETLK", body, ino).error

    def release(self, ino: int, fh: int, owner: int = 0, flocked: bool = False) -> None:
        assert self.peer.call("RELEASE", struct.pack("=QIIQ", fh, 0, 2 if flocked else 0, owner), ino).error == 0

    @property
    def answered(self) -> dict[str, int]:
        """What compiled code has answered. It has counted what somebody has the reply of."""
        return {opcode: sum(buckets) for opcode, (buckets, _) in self.peer.channel.answers().items()}
