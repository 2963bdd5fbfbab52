"""What was written and cannot be stored now: it is kept for later, or those who have the file open are told that it is lost."""

import errno
import os
from pathlib import Path

import pytest
from conftest import ExpectedLogs

from cairnfs.const import MIB
from cairnfs.data.uploader import Batch, Piece
from cairnfs.errors import CairnError, StoreError
from cairnfs.ext.arena import DIRTY, Arena
from cairnfs.types import SetAttr
from cairnfs.vfs.carried import Carried
from support.datavolume import BLOCK, DataVolume
from support.engine import ME, Engine, new_volume
from support.writing import Mounted


class Process:
    """A process with a journal, and its successors."""

    def __init__(self, url: str, journal_bytes: int = 8 * MIB) -> None:
        self.url = url
        self.carried = Carried(Arena(8 * MIB), journal_bytes)
        self.engine = Engine(url, carried=self.carried)

    def kill(self) -> None:
        self.engine.abandon()
        self.carried.generation += 1
        self.engine = Engine(self.url, carried=self.carried)
        self.engine.vfs.resume(())


def errno_of(call: object, *args: object) -> int:
    try:
        call(*args)  # type: ignore[operator]
    except CairnError as error:
        return error.errno or 0
    return 0


# Between a block and a batch


def test_what_is_being_sealed_is_dirty_all_the_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever flushes asks without a lock whether there is anything to do, maybe just as the background seals it."""
    volume = DataVolume(tmp_path)
    file = volume.file()
    dirty: list[bool] = []

    def made(pieces: list[Piece], sealed_s: float) -> Batch:
        dirty.append(file.writer.dirty)
        return Batch(pieces, sealed_s)

    monkeypatch.setattr("cairnfs.data.writer.Batch", made)
    file.writer.write(0, b"x")
    file.writer.write(3 * BLOCK, b"y")
    file.writer.push(float("inf"))
    file.writer.write(0, b"z" * BLOCK)
    file.writer.flush()
    assert dirty == [True, True]
    file.writer.close()
    volume.close()


# Truncation that fails


@pytest.mark.parametrize("how", ["open", "truncate"])
def test_a_truncation_that_fails_leaves_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    def fail(*args: object) -> None:
        raise StoreError("the metadata store does not answer")

    with Engine(new_volume(tmp_path)) as engine:
        fh = engine.files.create("f")
        engine.files.pwrite(fh, 0, b"not stored")
        with monkeypatch.context() as patch:
            patch.setattr(engine.meta.layout, "truncate", fail)
            if how == "open":
                assert errno_of(engine.files.open, "f", os.O_WRONLY | os.O_TRUNC) == errno.EIO
            else:
                assert errno_of(engine.vfs.setattr, ME, engine.files.ino("f"), SetAttr(size=0)) == errno.EIO
        engine.vfs.fsync(ME, fh)
        assert engine.meta.names.get(engine.files.ino("f")).size == len(b"not stored")
        engine.files.pwrite(fh, 10, b", and more")
        assert engine.vfs.setattr(ME, engine.files.ino("f"), SetAttr(size=0)).size == 0
        assert engine.files.pread(fh, 0, 100) == b""
        engine.files.close(fh)
        assert engine.files.read("f") == b""
        assert engine.volume.data.budget.used_bytes == 0


# Files deleted elsewhere


def test_everybody_who_may_write_is_told_once_that_a_file_was_deleted_elsewhere(tmp_path: Path) -> None:
    mount = Mounted(tmp_path)
    ino, one = mount.create("f")
    two, reading = mount.open(ino), mount.open(ino, os.O_RDONLY)
    mount.write(ino, one, 0, b"from one")
    mount.write(ino, two, 8, b", from two")
    with Engine(mount.url) as other:
        other.files.unlink("f")
    assert mount.flush(ino, one) == errno.ESTALE
    assert mount.flush(ino, reading) == 0, "it can have lost nothing"
    assert mount.flush(ino, two) == errno.ESTALE
    assert mount.flush(ino, one) == mount.flush(ino, two) == 0
    for fh in (one, two, reading):
        mount.release(ino, fh)
    mount.assert_nothing_is_kept()
    assert not mount.carried.arena.marks(ino) & DIRTY
    mount.end()


def test_a_full_journal_s_writer_has_no_error_of_another_file(tmp_path: Path) -> None:
    process = Process(new_volume(tmp_path, "sqlite"), journal_bytes=MIB)
    engine = process.engine
    gone, large = engine.files.create("gone"), engine.files.create("large")
    engine.files.pwrite(gone, 0, b"x" * 1000)
    with Engine(process.url) as other:
        other.files.unlink("gone")
    assert engine.vfs.write(ME, large, 0, b"z" * 3 * MIB) == 3 * MIB
    assert errno_of(engine.vfs.fsync, ME, gone) == errno.ESTALE, "what was lost, and by whose call, is not this one's affair"
    assert errno_of(engine.vfs.fsync, ME, gone) == 0
    for fh in (gone, large):
        engine.files.close(fh)
    assert engine.files.read("large") == b"z" * 3 * MIB
    assert process.carried.journal.resume() == []
    engine.close()


# A full volume, and a successor


def test_a_write_that_was_refused_is_not_made_by_a_successor(tmp_path: Path) -> None:
    process = Process(new_volume(tmp_path, "sqlite", capacity_bytes=MIB))
    fh = process.engine.files.create("f")
    process.engine.files.pwrite(fh, 0, b"fits")
    assert errno_of(process.engine.vfs.write, ME, fh, 4, b"x" * 2 * MIB) == errno.ENOSPC
    process.kill()
    assert process.engine.files.pread(fh, 0, 100) == b"fits"
    process.engine.files.close(fh)
    process.engine.close()


def test_what_was_acknowledged_is_kept_by_a_successor_though_the_volume_is_full_now(tmp_path: Path) -> None:
    process = Process(new_volume(tmp_path, "sqlite", capacity_bytes=MIB))
    fh = process.engine.files.create("f")
    process.engine.files.pwrite(fh, 0, b"x" * 700_000)
    with Engine(process.url) as other:
        other.files.write("in the way", b"y" * 700_000)
        process.kill()
        assert errno_of(process.engine.vfs.fsync, ME, fh) == errno.ENOSPC
        other.files.unlink("in the way")
    process.engine.vfs.fsync(ME, fh)
    assert process.engine.meta.names.get(process.engine.files.ino("f")).size == 700_000
    process.engine.files.close(fh)
    process.engine.close()


# Locks that are lost


@pytest.mark.parametrize("when", ["before", "after"])
def test_no_grant_outlives_a_lock(tmp_path: Path, expected_logs: ExpectedLogs, when: str) -> None:
    """A write that was let pass goes on while the locks are found lost: it must not have compiled code take the next ones."""
    expected_logs.add("its locks were given up")
    mount = Mounted(tmp_path)
    ino, fh = mount.create("f")
    mount.lock(ino, fh)
    files = mount.engine.vfs._state.files
    file = files.get(ino)
    assert file is not None
    lose, write = file.locks.lose, file.write

    def lose_late() -> bool:
        assert mount.engine.vfs.write(ME, fh >> 1, 0, b"late") == 4
        return lose()

    def write_early(*args: object, **more: object) -> None:
        write(*args, **more)  # type: ignore[arg-type]
        files.lose_locks()

    if when == "before":
        file.locks.lose = lose_late  # type: ignore[method-assign]
        files.lose_locks()
    else:
        file.write = write_early  # type: ignore[method-assign]
        assert mount.engine.vfs.write(ME, fh >> 1, 0, b"late") == 4
        del file.write
    assert mount.write(ino, fh, 4, b"more") == errno.EIO
    assert mount.flush(ino, fh) == errno.EIO
    mount.release(ino, fh)
    mount.assert_nothing_is_kept()
    mount.end()
