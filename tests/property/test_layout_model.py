"""Layouts against a model that knows, for each byte of each file, which byte of which pack it is.

Offsets lie within a few bytes of chunk borders, near and far, so that ranges cross one, several, or very many chunks.
"""

import errno
import itertools
import os
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cairnfs.const import CHUNK_BYTES
from cairnfs.errors import FsError
from cairnfs.ext import slicer
from cairnfs.meta.core import MetaCore
from cairnfs.meta.layout import Layout
from cairnfs.meta.layout_write import MAX_COPY_BYTES
from cairnfs.types import Inode, PackId
from support.metavolume import MetaVolume

Cell = tuple[int, int]  # pack, offset in its only slice
FILES = (0, 1, 2)
REACH = 24

borders = st.sampled_from([0, CHUNK_BYTES, 2 * CHUNK_BYTES, 90 * CHUNK_BYTES])
offsets = st.builds(lambda border, delta: max(border + delta, 0), borders, st.integers(-REACH, REACH))
files = st.sampled_from(FILES)
ranges = st.tuples(offsets, offsets).map(sorted).filter(lambda ends: ends[0] < ends[1])


@dataclass
class Model:
    """One file: its mapped bytes and its size."""

    name: bytes
    ino: Inode
    size: int = 0
    cells: dict[int, Cell] = field(default_factory=dict)

    def clear(self, start: int, end: int) -> None:
        for at in [at for at in self.cells if start <= at < end]:
            del self.cells[at]


class Layouts(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.volume = MetaVolume()
        self.layout = self.volume.layout
        self.serial = 0
        self.files = [self.new_file() for _ in FILES]

    def new_file(self) -> Model:
        self.serial += 1
        name = b"f%d" % self.serial
        return Model(name, self.volume.file(name))

    @rule(no=files, pieces=st.lists(st.tuples(offsets, st.integers(1, REACH)), min_size=1, max_size=3), shared=st.booleans())
    def write(self, no: int, pieces: list[tuple[int, int]], shared: bool) -> None:
        """Each piece is a slice of its own pack, or they all show the same one."""
        file = self.files[no]
        one = self.volume.slice(REACH)
        written = [(at, length, one if shared else self.volume.slice(length)) for at, length in pieces]
        new_packs = sorted({(ref.pack, ref.plain_len, ref.plain_len + 200) for _, _, ref in written})
        self.layout.commit_write(file.ino, written, mtime_ns=None, new_packs=new_packs)
        for at, length, ref in written:
            file.cells.update({at + i: (ref.pack, i) for i in range(length)})
            file.size = max(file.size, at + length)

    @rule(no=files, size=offsets)
    def truncate(self, no: int, size: int) -> None:
        file = self.files[no]
        self.layout.truncate(file.ino, size)
        file.clear(size, file.size)
        file.size = size

    @rule(no=files, ends=ranges, keep_size=st.booleans())
    def zero(self, no: int, ends: list[int], keep_size: bool) -> None:
        file = self.files[no]
        self.layout.zero(file.ino, ends[0], ends[1] - ends[0], keep_size)
        file.clear(*ends)
        file.size = file.size if keep_size else max(file.size, ends[1])

    @rule(no=files, ends=ranges)
    def punch(self, no: int, ends: list[int]) -> None:
        file = self.files[no]
        self.layout.punch(file.ino, ends[0], ends[1] - ends[0])
        file.clear(*ends)

    @rule(no=files, ends=ranges, keep_size=st.booleans())
    def allocate(self, no: int, ends: list[int], keep_size: bool) -> None:
        file = self.files[no]
        self.layout.allocate(file.ino, ends[0], ends[1] - ends[0], keep_size)
        file.size = file.size if keep_size else max(file.size, ends[1])

    @rule(source_no=files, target_no=files, ends=ranges, target_off=offsets)
    def copy_range(self, source_no: int, target_no: int, ends: list[int], target_off: int) -> None:
        source, target = self.files[source_no], self.files[target_no]
        start, length = ends[0], ends[1] - ends[0]
        available = max(0, min(length, source.size - start))
        if source is target and available and abs(start - target_off) < available:
            with pytest.raises(FsError) as failed:
                self.layout.copy_range(source.ino, start, target.ino, target_off, length)
            assert failed.value.errno == errno.EINVAL
            return
        expected = min(available, MAX_COPY_BYTES)
        copied, attr = self.layout.copy_range(source.ino, start, target.ino, target_off, length)
        assert copied == expected
        taken = {at: cell for at, cell in source.cells.items() if start <= at < start + copied}
        target.clear(target_off, target_off + copied)
        target.cells.update({at - start + target_off: cell for at, cell in taken.items()})
        target.size = max(target.size, target_off + copied) if copied else target.size
        assert attr.size == target.size

    @rule(no=files, chunk_no=st.sampled_from([0, 1, 89]))
    def compact(self, no: int, chunk_no: int) -> None:
        """Give every mapped run of a chunk a slice of a new pack, as the compactor does."""
        file = self.files[no]
        old = self.layout.read(file.ino, chunk_no)
        new, new_packs, cells = b"", [], {}
        for pos, length, *_ in slicer.unpack(old):
            ref = self.volume.slice(length)
            new += slicer.pack_record(pos, length, 0, length, ref.pack, 64, length, ref.crc, 0)
            new_packs.append((ref.pack, length, length + 200))
            cells.update({chunk_no * CHUNK_BYTES + pos + i: (int(ref.pack), i) for i in range(length)})
        before = self.volume.attr(file.ino).data_version
        assert self.layout.replace(file.ino, chunk_no, old, new, new_packs)
        assert self.volume.attr(file.ino).data_version == before
        file.cells.update(cells)

    @rule(no=files)
    def remove(self, no: int) -> None:
        self.volume.remove(self.files[no].ino, self.files[no].name)
        self.files[no] = self.new_file()

    @rule()
    def free_in_background(self) -> None:
        while self.layout.free_deleted(1):
            pass
        assert self.layout.free_deleted(1) == 0
        for pack in self.layout.garbage(1000):
            assert self.volume.packs()[pack].live_bytes == 0
            assert self.layout.drop_pack(pack)
        live = self.live()
        assert {pack: info.live_bytes for pack, info in self.volume.packs().items()} == live
        assert not self.volume.marked()

    def live(self) -> dict[PackId, int]:
        counts: dict[PackId, int] = {}
        for file in self.files:
            for pack, _ in file.cells.values():
                counts[PackId(pack)] = counts.get(PackId(pack), 0) + 1
        return counts

    @invariant()
    def extents_are_the_model(self) -> None:
        for file in self.files:
            cells: dict[int, Cell] = {}
            at = 0
            for extent in self.layout.extents(file.ino, 0, file.size + 100):
                assert extent.file_off == at and extent.length > 0
                at += extent.length
                if extent.ref is not None:
                    pack = extent.ref.pack
                    cells.update({extent.file_off + i: (pack, extent.off + i) for i in range(extent.length)})
            assert at == file.size
            assert cells == file.cells

    @invariant()
    def counters_are_exact(self) -> None:
        for file in self.files:
            attr = self.volume.attr(file.ino)
            assert (attr.size, attr.alloc_bytes) == (file.size, len(file.cells))
        assert self.volume.usage() == (sum(len(file.cells) for file in self.files), 1 + len(FILES))
        packs, marked = self.volume.packs(), self.volume.marked()
        deleted = self.still_to_be_freed()
        for pack, info in packs.items():
            assert info.live_bytes == self.live().get(pack, 0) + deleted.get(pack, 0)
            assert info.live_bytes > 0 or pack in marked
        assert self.live().keys() <= packs.keys()

    def still_to_be_freed(self) -> dict[int, int]:
        """Bytes that chunk rows of deleted files refer to."""
        counts: dict[int, int] = {}
        for key, _ in self.volume.store.scan(b"z", None, 1000):
            for layout in self.volume.chunk_rows(Inode(int.from_bytes(key, "big"))).values():
                for record in slicer.unpack(layout):
                    counts[record[4]] = counts.get(record[4], 0) + record[1]
        return counts

    @invariant()
    def layouts_are_canonical(self) -> None:
        for file in self.files:
            for chunk_no, layout in [(0, self.volume.attr(file.ino).tail), *self.volume.chunk_rows(file.ino).items()]:
                slicer.check(layout, CHUNK_BYTES)
                assert layout == self.layout.read(file.ino, chunk_no)
                assert layout or chunk_no == 0

    @invariant()
    def seek_finds_data_and_holes(self) -> None:
        for file in self.files:
            points = {0, file.size - 1, *(at + delta for at in file.cells for delta in (-1, 0, 1))}
            for start in sorted(p for p in points if 0 <= p < file.size)[:12]:
                data = min((at for at in file.cells if at >= start), default=None)
                hole = next(at for at in range(start, start + 4 * REACH * len(file.cells) + 2) if at not in file.cells)
                assert self.seek(file.ino, start, os.SEEK_DATA) == data
                assert self.seek(file.ino, start, os.SEEK_HOLE) == min(hole, file.size)
            assert self.seek(file.ino, file.size, os.SEEK_HOLE) is None

    def seek(self, ino: Inode, start: int, whence: int) -> int | None:
        try:
            return self.layout.seek(ino, start, whence)
        except FsError as error:
            assert error.errno == errno.ENXIO
            return None


class RecallingLayouts(Layouts):
    """Two nodes by turns, which begin with the rows they remember, and are never told of what the other has changed."""

    def begin_two(self) -> None:
        self.by_turns = itertools.cycle([self.volume.layout, Layout(MetaCore(self.volume.store))])
        for _ in range(2):
            next(self.by_turns)._core.recall.start()

    @property  # type: ignore[override]
    def layout(self) -> Layout:
        if not hasattr(self, "by_turns"):
            self.begin_two()
        return next(self.by_turns)

    @layout.setter
    def layout(self, layout: Layout) -> None: ...


TestLayoutsRecalled = RecallingLayouts.TestCase
TestLayouts = Layouts.TestCase
