"""Deletion and compaction: what no layout names goes, what a layout names stays, whatever fails in between."""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cairnfs.clock import SystemClock
from cairnfs.const import CHUNK_BYTES
from cairnfs.data.compact import MAX_RECORDS, plan
from cairnfs.data.pack import BuiltPack, pack_name
from cairnfs.errors import CairnError, CorruptError, StoreError
from cairnfs.ext import slicer
from support.datavolume import BLOCK, DataVolume, OpenedFile


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[DataVolume]:
    made = DataVolume(tmp_path)
    yield made
    made.close()


def fragmented(volume: DataVolume, n_slices: int = 100, base: int = 0) -> tuple[OpenedFile, bytes]:
    """A file written in small pieces, each committed by itself."""
    rng = random.Random(n_slices)
    file = volume.file()
    data = rng.randbytes(n_slices * 1000)
    for i in range(n_slices):
        file.writer.write(base + i * 1000, data[i * 1000 : i * 1000 + 1000])
        file.writer.flush()
    return file, data


# Deletion


def test_overwritten_and_removed_packs_are_deleted(volume: DataVolume) -> None:
    file = volume.file()
    for i in range(5):
        file.writer.write(0, bytes([i]) * 100)
        file.writer.flush()
    file.writer.close()
    assert volume.data.deleter.run_once() == 4
    assert len(volume.packs()) == len(volume.meta_rows.packs()) == 1
    volume.meta_rows.remove(file.ino, b"file1")
    assert volume.data.deleter.run_once() == 1
    assert volume.packs() == []
    assert volume.meta_rows.packs() == {}
    assert volume.meta_rows.marked() == set()


def test_large_deleted_files_are_freed_to_the_end(volume: DataVolume) -> None:
    file = volume.file()
    for chunk_no in range(5):
        file.writer.write(chunk_no * CHUNK_BYTES, b"x" * 100)
        file.writer.flush()
    file.writer.close()
    volume.meta_rows.remove(file.ino, b"file1")
    volume.data.deleter.run_once()
    assert volume.packs() == []
    assert volume.meta_rows.packs() == {}


def test_a_pack_that_cannot_be_deleted_keeps_its_rows_and_is_tried_again(volume: DataVolume, expected_logs: Any) -> None:
    expected_logs.add("cannot be deleted now")
    file = volume.file()
    for i in range(3):
        file.writer.write(0, bytes([i]) * 100)
        file.writer.flush()
    file.writer.close()
    volume.faulty.fail_once("delete")
    assert volume.data.deleter.run_once() == 1
    assert len(volume.meta_rows.packs()) == len(volume.packs()) == 2
    assert volume.data.deleter.run_once() == 1
    assert len(volume.meta_rows.packs()) == len(volume.packs()) == 1


def test_nothing_is_tried_while_the_store_is_down(volume: DataVolume, expected_logs: Any) -> None:
    expected_logs.add("unused packs cannot be deleted now")
    file = volume.file()
    for i in range(3):
        file.writer.write(0, bytes([i]))
        file.writer.flush()
    file.writer.close()
    volume.faulty.fail_forever("check")
    assert volume.data.deleter.run_once() == 0
    assert volume.data.deleter.run_once() == 0
    assert volume.faulty.calls["delete"] == 0
    volume.faulty.heal()
    assert volume.data.deleter.run_once() == 2


def test_objects_go_only_after_the_commits_are_safe(volume: DataVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(volume.meta.store, "sync", lambda: events.append("sync"))
    monkeypatch.setattr(volume.faulty.store, "delete", lambda name: events.append("delete"))
    file = volume.file()
    for i in range(3):
        file.writer.write(0, bytes([i]))
        file.writer.flush()
    file.writer.close()
    volume.data.deleter.run_once()
    assert events == ["sync", "delete", "delete"]


def test_a_notice_wakes_the_thread_and_close_stops_it(tmp_path: Path) -> None:
    volume = DataVolume(tmp_path, background_jobs=True)
    file = volume.file()
    for i in range(3):
        file.writer.write(0, bytes([i]))
        file.writer.flush()
    file.writer.close()
    volume.data.deleter.notify()
    volume.faulty.wait_for("delete", 2)
    volume.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("cairnfs")]


def test_a_commit_that_was_applied_is_not_made_again_when_its_pack_is_gone(
    volume: DataVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer was lost, and before it is tried again another node cuts the file, and deletes what nobody refers to."""
    file = volume.file()
    operations = volume.meta.layout
    commit_write = operations.commit_write

    def unanswered(*args: Any, **more: Any) -> None:
        commit_write(*args, **more)
        raise StoreError("the answer was lost")

    file.writer.write(0, b"x" * 1000)
    with monkeypatch.context() as patch:
        patch.setattr(operations, "commit_write", unanswered)
        with pytest.raises(StoreError):
            file.writer.flush()
    volume.meta_rows.layout.truncate(file.ino, 0)
    assert volume.data.deleter.run_once() == 1
    with pytest.raises(CorruptError, match="deleted"):
        file.writer.flush()
    assert volume.meta_rows.attr(file.ino).size == 0
    file.writer.discard()
    file.writer.close()


# Compaction


def layout(*records: tuple[int, int]) -> bytes:
    return b"".join(slicer.pack_record(pos, n, 0, n, 1 + i, 64, n, 0, 0) for i, (pos, n) in enumerate(records))


def test_the_plan_joins_small_neighbours_up_to_a_block() -> None:
    small = layout(*((i * 1000, 1000) for i in range(100)))
    assert plan(small, BLOCK) == [(0, 65_000), (65_000, 100_000)]


def test_the_plan_leaves_holes_large_slices_and_short_runs() -> None:
    records = [(0, 1000), (1000, 1000), (2000, 1000)]  # a run of three
    records += [(4000 + i * 2000, 1000) for i in range(20)]  # holes between
    records += [(100_000, BLOCK), (100_000 + BLOCK, 1000)]
    assert plan(layout(*records), BLOCK) == []
    after = 200_000
    records += [(after, BLOCK // 4)] + [(after + BLOCK // 4 + i * 10, 10) for i in range(4)]
    assert plan(layout(*records), BLOCK) == [(after + BLOCK // 4, after + BLOCK // 4 + 40)]


@pytest.mark.parametrize("base", [0, 3 * CHUNK_BYTES + 500])
def test_a_fragmented_chunk_is_rewritten_with_the_same_bytes(volume: DataVolume, base: int) -> None:
    file, data = fragmented(volume, base=base)
    chunk_no = base // CHUNK_BYTES
    before = file.attr
    assert volume.data.compactor.compact(file.ino, chunk_no)
    assert len(file.layout(chunk_no)) == 2 * slicer.RECORD_BYTES
    after = volume.meta_rows.attr(file.ino)
    assert (after.data_version, after.mtime_ns, after.alloc_bytes) == (before.data_version, before.mtime_ns, 100_000)
    volume.data.deleter.run_once()
    assert len(volume.packs()) == 2
    volume.data.cache.clear()
    assert file.read(base, 100_000) == data
    assert not volume.data.compactor.compact(file.ino, chunk_no)
    file.writer.close()


def test_whoever_writes_meanwhile_wins(volume: DataVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    file, data = fragmented(volume)
    replace = volume.meta.layout.replace

    def late(*args: Any) -> bool:
        file.writer.write(500, b"new")
        file.writer.flush()
        return replace(*args)

    monkeypatch.setattr(volume.meta.layout, "replace", late)
    assert not volume.data.compactor.compact(file.ino, 0)
    assert file.read(0, 100_000) == data[:500] + b"new" + data[503:]
    volume.data.uploader.close()
    assert len(volume.packs()) == 101  # the rewritten packs are gone again
    file.writer.close()


@pytest.mark.parametrize(("wall_s", "monotonic_s"), [(7200, 60), (-7200, 60), (60, 7200)])
def test_what_was_collected_before_it_was_named_gets_into_no_layout(
    volume: DataVolume, monkeypatch: pytest.MonkeyPatch, wall_s: int, monotonic_s: int
) -> None:
    """A machine is suspended for hours between storing and committing, or its clock is set; and `gc --delete` elsewhere."""
    file, data = fragmented(volume)
    store = volume.data.uploader.store

    def suspended(*args: Any) -> BuiltPack:
        built = store(*args)
        volume.objects.delete(pack_name(built.pack))
        now_ns, now_s = time.time_ns() + wall_s * 10**9, time.monotonic() + monotonic_s
        monkeypatch.setattr(SystemClock, "now_ns", lambda self: now_ns)
        monkeypatch.setattr(SystemClock, "monotonic_s", lambda self: now_s)
        return built

    monkeypatch.setattr(volume.data.uploader, "store", suspended)
    with pytest.raises(CairnError, match="collected"):
        volume.data.compactor.compact(file.ino, 0)
    volume.data.deleter.run_once()
    volume.data.cache.clear()
    assert file.read(0, len(data)) == data
    file.writer.close()


def test_a_reader_that_knows_the_old_layout_is_told_to_look_again(volume: DataVolume) -> None:
    file, data = fragmented(volume)
    old = file.layout(0)
    volume.data.compactor.compact(file.ino, 0)
    volume.data.deleter.run_once()
    volume.data.cache.clear()
    fresh = file.layout
    file.layout = lambda chunk_no: old  # type: ignore[method-assign]
    with pytest.raises(OSError, match="does not exist"):
        file.read(0, 100_000)
    file.layout = fresh  # type: ignore[method-assign]
    assert file.read(0, 100_000) == data
    file.writer.close()


@pytest.mark.parametrize("base", [0, CHUNK_BYTES])
def test_small_commits_have_the_chunk_compacted_in_the_background(tmp_path: Path, base: int) -> None:
    volume = DataVolume(tmp_path, background_jobs=True)
    file, data = fragmented(volume, 4 * MAX_RECORDS, base=base)
    for i in range(2000):
        if len(file.layout(base // CHUNK_BYTES)) < 2 * MAX_RECORDS * slicer.RECORD_BYTES:
            break
        threading.Event().wait(0.01)
        if i % 100 == 99:
            file.read(base, 1)
    else:
        pytest.fail("the chunk was never compacted")
    assert b"".join(volume.data.reader.read(file, None, base, len(data))) == data
    file.writer.close()
    volume.close()


@pytest.mark.parametrize("nth", [1, 2])
def test_failing_uploads_leave_the_layout_alone_and_no_packs(volume: DataVolume, nth: int) -> None:
    file, data = fragmented(volume)
    before = file.layout(0)
    volume.faulty.fail_forever("put", nth)
    with pytest.raises(OSError, match="injected"):
        volume.data.compactor.compact(file.ino, 0)
    assert file.layout(0) == before
    assert file.read(0, 100_000) == data
    volume.data.uploader.close()
    assert len(volume.packs()) == 100
    file.writer.close()
