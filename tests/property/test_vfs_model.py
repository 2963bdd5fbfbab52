"""Any sequence of file operations through the Vfs against a byte array per inode, with commits, reopening and compaction between.

Files are looked at through a window that lies at the start of the file or across a chunk border, so that small examples
reach every boundary. At the end of each example fsck reads every byte and finds nothing.
"""

import itertools
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cairnfs.check import fsck
from cairnfs.const import CHUNK_BYTES, KIB
from cairnfs.data import compact
from cairnfs.types import Inode, SetAttr
from support.engine import ME, ROOT, Engine, new_volume

BLOCK = 64 * KIB
WINDOW = 3 * BLOCK
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10

NAMES = st.sampled_from(["a", "b", "c"])
PICK = st.integers(0, 1 << 30)
OFFSETS = st.one_of(st.integers(0, WINDOW), st.sampled_from([0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK]))
LENGTHS = st.one_of(st.integers(1, 300), st.integers(1, WINDOW), st.sampled_from([BLOCK, BLOCK + 1, 2 * BLOCK]))


@dataclass
class File:
    """What an inode must hold: zeros before `base`, then `window`, cut at `size`."""

    ino: Inode
    base: int
    size: int = 0
    window: bytearray = field(default_factory=lambda: bytearray(WINDOW))

    def put(self, at: int, data: bytes) -> None:
        self.window[at : at + len(data)] = data
        self.size = max(self.size, self.base + at + len(data))

    def cut(self, size: int) -> None:
        if size < self.size:
            at = max(size - self.base, 0)
            self.window[at:] = bytes(WINDOW - at)
        self.size = size

    def visible(self) -> bytes:
        return bytes(self.window[: max(self.size - self.base, 0)])


class VfsAgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(compact, "MAX_RECORDS", 2)  # so that short layouts are rewritten, too
        self.patch.setattr(compact, "MIN_RUN", 2)
        self.folder = Path(tempfile.mkdtemp(prefix="cairnfs-model-"))
        self.url = new_volume(self.folder, block_bytes=BLOCK)
        self.engine = Engine(self.url)
        self.names: dict[str, File] = {}
        self.handles: dict[int, File] = {}
        self.fill = itertools.cycle(range(1, 256))

    def teardown(self) -> None:
        for fh in list(self.handles):
            self.engine.files.close(fh)
        self.handles.clear()
        self.look()
        assert self.engine.vfs.statfs(ME).used_inodes == 1 + len({f.ino for f in self.names.values()})
        assert fsck.run(self.engine.volume, verify_data=True).problems == []
        self.engine.close()
        self.patch.undo()
        shutil.rmtree(self.folder)

    # Names

    @rule(name=NAMES, across=st.booleans())
    def create(self, name: str, across: bool) -> None:
        if name in self.names or len(self.handles) > 6:
            return
        fh = self.engine.files.create(name)
        base = CHUNK_BYTES - BLOCK - 100 if across else 0
        self.names[name] = self.handles[fh] = File(self.engine.files.ino(name), base)

    @rule(name=NAMES)
    def open(self, name: str) -> None:
        if name in self.names and len(self.handles) < 6:
            self.handles[self.engine.files.open(name)] = self.names[name]

    @rule(name=NAMES)
    def unlink(self, name: str) -> None:
        if name in self.names:
            self.engine.files.unlink(name)
            del self.names[name]

    @rule(old=NAMES, new=NAMES)
    def rename(self, old: str, new: str) -> None:
        if old in self.names:
            self.engine.files.rename(old, new)
            if self.names.get(new) is not self.names[old]:
                self.names[new] = self.names.pop(old)

    @rule(old=NAMES, new=NAMES)
    def link(self, old: str, new: str) -> None:
        if old in self.names and new not in self.names:
            self.engine.vfs.link(ME, self.names[old].ino, ROOT, new.encode())
            self.names[new] = self.names[old]

    # Content

    def handle(self, pick: int) -> tuple[int, File]:
        fh = sorted(self.handles)[pick % len(self.handles)]
        return fh, self.handles[fh]

    @precondition(lambda self: self.handles)
    @rule(pick=PICK, at=OFFSETS, length=LENGTHS)
    def write(self, pick: int, at: int, length: int) -> None:
        fh, file = self.handle(pick)
        data = bytes([next(self.fill)]) * min(length, WINDOW - at)
        self.engine.files.pwrite(fh, file.base + at, data)
        if data:
            file.put(at, data)

    @precondition(lambda self: self.handles)
    @rule(pick=PICK, at=OFFSETS, n_bytes=st.integers(1, 300))
    def scribble(self, pick: int, at: int, n_bytes: int) -> None:
        """Many small commits side by side: what compaction is for."""
        fh, file = self.handle(pick)
        for start in range(at, min(at + 6 * n_bytes, WINDOW - n_bytes), n_bytes):
            data = bytes([next(self.fill)]) * n_bytes
            self.engine.files.pwrite(fh, file.base + start, data)
            file.put(start, data)
            self.engine.vfs.flush(ME, fh)

    @precondition(lambda self: self.handles)
    @rule(pick=PICK, size=st.one_of(st.none(), OFFSETS))
    def truncate(self, pick: int, size: int | None) -> None:
        _, file = self.handle(pick)
        new_size = 0 if size is None else file.base + size
        assert self.engine.vfs.setattr(ME, file.ino, SetAttr(size=new_size)).size == new_size
        file.cut(new_size)

    @precondition(lambda self: self.handles)
    @rule(pick=PICK, at=OFFSETS, length=LENGTHS, mode=st.sampled_from([0, 1, 3, 16, 17]))
    def fallocate(self, pick: int, at: int, length: int, mode: int) -> None:
        fh, file = self.handle(pick)
        length = min(length, WINDOW - at)
        if not length:
            return
        self.engine.vfs.fallocate(ME, fh, mode, file.base + at, length)
        if mode & (PUNCH_HOLE | ZERO_RANGE):
            file.window[at : at + length] = bytes(length)
        if not mode & KEEP_SIZE:
            file.size = max(file.size, file.base + at + length)

    @precondition(lambda self: self.handles)
    @rule(pick=PICK, other=PICK, off_in=OFFSETS, off_out=OFFSETS, length=LENGTHS)
    def copy(self, pick: int, other: int, off_in: int, off_out: int, length: int) -> None:
        (source_fh, source), (target_fh, target) = self.handle(pick), self.handle(other)
        length = min(length, WINDOW - off_in, WINDOW - off_out)
        if source is target and abs(off_in - off_out) < length:
            return
        expected = source.visible()[off_in : off_in + length]
        arguments = (source_fh, source.base + off_in, target_fh, target.base + off_out, length)
        assert self.engine.vfs.copy_file_range(ME, *arguments) == len(expected)
        if expected:
            target.put(off_out, expected)

    @precondition(lambda self: self.handles)
    @rule(pick=PICK, at=OFFSETS, length=LENGTHS)
    def read(self, pick: int, at: int, length: int) -> None:
        fh, file = self.handle(pick)
        assert self.engine.files.pread(fh, file.base + at, length) == file.visible()[at : at + length]

    # What must not change anything

    @precondition(lambda self: self.handles)
    @rule(pick=PICK, how=st.sampled_from(["flush", "fsync", "close"]))
    def store(self, pick: int, how: str) -> None:
        fh, _ = self.handle(pick)
        if how == "flush":
            self.engine.vfs.flush(ME, fh)
        elif how == "fsync":
            self.engine.vfs.fsync(ME, fh)
        else:
            self.engine.files.close(fh)
            del self.handles[fh]

    @rule()
    def compact_and_delete(self) -> None:
        data = self.engine.volume.data
        for file in {id(f): f for f in [*self.names.values(), *self.handles.values()]}.values():
            for chunk_no in range(2):
                data.compactor.compact(file.ino, chunk_no)
        data.deleter.run_once()

    @rule(background=st.booleans())
    def push(self, background: bool) -> None:
        """What the background thread would do after a while: upload, and sometimes commit."""
        for writer in list(self.engine.volume.data.writers._writers.values()):
            writer.push(float("inf"))
            if background:
                writer.commit_if_due(float("inf"))

    @rule()
    def reopen(self) -> None:
        self.engine.close()
        self.handles.clear()
        self.engine = Engine(self.url)

    @rule()
    def drop_caches(self) -> None:
        self.engine.volume.data.cache.clear()
        self.engine.vfs.invalidate_all()

    @initialize()
    def start(self) -> None:
        self.create("a", False)

    @invariant()
    def sizes(self) -> None:
        assert self.engine.files.names() == set(self.names)
        for file in self.handles.values():
            assert self.engine.vfs.getattr(ME, file.ino).size == file.size

    def look(self) -> None:
        for name, file in self.names.items():
            assert self.engine.files.attr(name).size == file.size
            with self.engine.files.opened(name, os.O_RDONLY) as fh:
                assert self.engine.files.pread(fh, file.base, WINDOW) == file.visible()
                assert not any(self.engine.files.pread(fh, 0, min(file.base, 2 * BLOCK)))


TestVfsAgainstModel = VfsAgainstModel.TestCase
