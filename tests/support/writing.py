"""Compiled code that takes writes, over a real engine without a mount: processes that follow each other, a kernel that asks."""

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cairnfs.const import MIB
from cairnfs.ext.arena import Arena
from cairnfs.options import EngineOptions
from cairnfs.types import Inode
from cairnfs.vfs.carried import Carried
from support.engine import ROOT, TEST_OPTIONS, Engine, new_volume
from support.fuse_peer import ATTR, ENTRY_OUT, OPEN_OUT, FusePeer

PIECE = 128 << 10  # of a read: an answer is a message of a socket, which takes 200 KB and no more
WRITE_CACHE, KILL_SUIDGID = 1, 4
FATTR_MODE, FATTR_SIZE, FATTR_MTIME = 1, 8, 32


class Mounted:
    """Processes that follow each other over one journal, and a kernel that asks the present one."""

    def __init__(self, folder: Path, journal_bytes: int = 8 * MIB, options: EngineOptions = TEST_OPTIONS, **fmt: int) -> None:
        self.url = new_volume(folder, "sqlite", **fmt)
        self.options = options
        self.carried = Carried(Arena(8 * MIB), journal_bytes)
        self.ring = self.carried.journal.ring
        self._begin()

    def _begin(self) -> None:
        self.engine = Engine(self.url, self.options, carried=self.carried)
        if self.carried.generation:
            self.engine.vfs.resume(())
        self.peer = FusePeer(self.engine.vfs, min_threads=1, max_threads=2, arena=self.carried.arena, journal=self.ring)
        self.peer.__enter__()
        self.peer.init()

    def kill(self) -> None:
        """The process is killed, and another takes over."""
        self.peer.__exit__()
        self.engine.abandon()
        self.carried.generation += 1
        self._begin()

    def end(self) -> None:
        self.peer.__exit__()
        self.engine.close()

    def close(self) -> None:
        self.end()
        with Engine(self.url) as engine:  # nothing but what was stored
            self.stored = {name: engine.files.read(name) for name in engine.files.names()}

    # Requests

    def create(self, name: str, flags: int = os.O_RDWR) -> tuple[Inode, int]:
        body = struct.pack("=IIII", flags | os.O_CREAT, stat.S_IFREG | 0o644, 0, 0) + name.encode() + b"\0"
        reply = self.peer.call("CREATE", body, ROOT)
        assert reply.error == 0
        return Inode(ENTRY_OUT.unpack_from(reply.body)[0]), OPEN_OUT.unpack_from(reply.body, 128)[0]

    def open(self, ino: int, flags: int = os.O_RDWR) -> int:
        reply = self.peer.call("OPEN", struct.pack("=II", flags, 0), ino)
        assert reply.error == 0
        return int(OPEN_OUT.unpack(reply.body)[0])

    def write(self, ino: int, fh: int, offset: int, data: bytes, write_flags: int = 0, flags: int = os.O_RDWR) -> int:
        """The errno."""
        body = struct.pack("=QQIIQII", fh, offset, len(data), write_flags, 0, flags, 0)
        unique = self.peer.send("WRITE", body + data, ino)
        while (reply := self.peer.receive()).unique != unique:
            assert reply.unique == 0, "no notification"
        assert reply.error or struct.unpack("=II", reply.body) == (len(data), 0)
        return reply.error

    def read(self, ino: int, fh: int, size: int = MIB, offset: int = 0) -> bytes:
        data = b""
        while True:
            n_bytes = min(size - len(data), PIECE)
            reply = self.peer.call("READ", struct.pack("=QQIIQII", fh, offset + len(data), n_bytes, 0, 0, 0, 0), ino)
            assert reply.error == 0
            data += reply.body
            if len(reply.body) < n_bytes or len(data) == size:
                return data

    def attr(self, ino: int) -> tuple[int, ...]:
        reply = self.peer.call("GETATTR", struct.pack("=IIQ", 0, 0, 0), ino)
        assert reply.error == 0
        return ATTR.unpack(reply.body[16:])

    def size(self, ino: int) -> int:
        return self.attr(ino)[1]

    def set_attr(self, ino: int, valid: int, *, size: int = 0, mtime_s: int = 0, mode: int = 0) -> None:
        body = struct.pack("=IIQQQQQQIIIIIIII", valid, 0, 0, size, 0, 0, mtime_s, 0, 0, 0, 0, mode, 0, 0, 0, 0)
        assert self.peer.call("SETATTR", body, ino).error == 0

    def flush(self, ino: int, fh: int) -> int:
        return self.peer.call("FLUSH", struct.pack("=QIIQ", fh, 0, 0, 9), ino).error

    def release(self, ino: int, fh: int) -> None:
        assert self.peer.call("RELEASE", struct.pack("=QIIQ", fh, 0, 0, 0), ino).error == 0

    def lock(self, ino: int, fh: int) -> None:
        body = struct.pack("=QQQQIIII", fh, 9, 0, (1 << 63) - 1, 1, 0, 0, 0)
        assert self.peer.call("SETLK", body, ino).error == 0

    @contextmanager
    def answers(self, opcode: str, compiled: int, python: int) -> Iterator[None]:
        """So many requests of an opcode are answered, by whom."""
        before = self._counted(opcode)
        yield
        asked, answered = (now - then for now, then in zip(self._counted(opcode), before, strict=True))
        assert (answered, asked - answered) == (compiled, python)

    def _counted(self, opcode: str) -> tuple[int, int]:
        buckets, _ = self.peer.channel.answers().get(opcode, ((), 0))
        return self.peer.channel.counts().get(opcode, 0), sum(buckets)

    def assert_nothing_is_kept(self) -> None:
        """Of files that are closed."""
        files = self.engine.vfs._state.files
        assert files.grants is not None
        assert (len(files), files.grants.files(), files.grants._used_bytes) == (0, [], 0)
        assert self.engine.volume.data.budget.used_bytes == 0
        assert self.ring.oldest() == 0
