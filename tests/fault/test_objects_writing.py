"""Failing uploads: nothing is dropped silently, errors reach whoever flushes, and everything heals."""

import errno
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cairnfs.data.uploader import State
from cairnfs.errors import CairnError, FsError, ObjectError, StoreError
from support.datavolume import BLOCK, DataVolume, OpenedFile


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[DataVolume]:
    made = DataVolume(tmp_path, buffer_bytes=1)
    yield made
    made.close()
    assert made.data.budget.used_bytes == 0


@pytest.fixture
def file(volume: DataVolume) -> OpenedFile:
    return volume.file()


def wait_until_failed(file: OpenedFile) -> None:
    while not all(b.state.value == "failed" for b in file.writer._batches):
        pass


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_failed_upload_is_reported_by_flush_and_the_data_stays(file: OpenedFile, volume: DataVolume, code: int) -> None:
    volume.faulty.fail_forever("put", error=ObjectError("no", code))
    file.writer.write(0, b"precious")
    for _ in range(2):
        with pytest.raises(ObjectError) as caught:
            file.writer.flush()
        assert caught.value.errno == code
        assert file.writer.dirty
        assert file.read(0, 100) == b"precious"
    volume.faulty.heal()
    file.writer.flush()
    assert file.read(0, 100) == b"precious"
    file.writer.close()


def test_a_failed_background_upload_is_tried_again_by_flush(file: OpenedFile, volume: DataVolume) -> None:
    volume.faulty.fail_once("put")
    file.writer.write(0, b"x" * BLOCK)
    wait_until_failed(file)
    attr = file.writer.flush()
    assert attr is not None
    assert attr.size == BLOCK
    assert volume.faulty.calls["put"] == 2
    file.writer.close()


def test_what_was_stored_is_not_stored_again(file: OpenedFile, volume: DataVolume) -> None:
    for i in range(4):
        file.writer.write(i * BLOCK, b"x" * (BLOCK - 1))
    volume.faulty.fail_once("put", 2)
    with pytest.raises(ObjectError):
        file.writer.flush()
    file.writer.flush()
    assert volume.faulty.calls["put"] == 5
    assert file.read(3 * BLOCK, 4) == b"xxxx"
    file.writer.close()


@pytest.mark.parametrize("error", [StoreError("down"), FsError(errno.ENOSPC)])
def test_a_failed_commit_keeps_the_data_and_is_repeated_without_uploads(
    file: OpenedFile, volume: DataVolume, error: CairnError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(volume.meta.layout, "commit_write", failing)
        file.writer.write(0, b"precious")
        with pytest.raises(type(error)):
            file.writer.flush()
        assert file.writer.dirty
        assert file.read(0, 100) == b"precious"
    file.writer.flush()
    assert volume.faulty.calls["put"] == 1
    assert file.read(0, 100) == b"precious"
    file.writer.close()


def test_a_commit_whose_answer_was_lost_loses_nothing(
    file: OpenedFile, volume: DataVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_write = volume.meta.layout.commit_write

    def applied_but_lost(*args: Any, **kwargs: Any) -> Any:
        commit_write(*args, **kwargs)
        raise StoreError("connection lost")

    with monkeypatch.context() as patched:
        patched.setattr(volume.meta.layout, "commit_write", applied_but_lost)
        file.writer.write(0, b"precious")
        with pytest.raises(StoreError):
            file.writer.flush()
    file.writer.discard()
    volume.data.uploader.close()
    assert len(volume.packs()) == 1  # a layout names it, although nobody was told
    file.attr = volume.meta_rows.attr(file.ino)
    volume.data.cache.clear()
    assert file.read(0, 100) == b"precious"
    file.writer.close()


def test_data_that_could_never_be_stored_is_dropped_loudly(file: OpenedFile, volume: DataVolume, expected_logs: Any) -> None:
    expected_logs.add(rf"inode {file.ino}: 8 bytes written before close are lost")
    volume.faulty.fail_forever("put")
    file.writer.write(0, b"precious")
    with pytest.raises(ObjectError):
        file.writer.flush()
    file.writer.close()
    assert volume.data.budget.used_bytes == 0


def test_a_write_that_waits_for_memory_learns_that_the_store_is_full(file: OpenedFile, volume: DataVolume) -> None:
    volume.faulty.fail_forever("put", error=ObjectError("full", errno.ENOSPC))
    with pytest.raises(ObjectError) as caught:
        for i in range(100):
            file.writer.write(i * BLOCK, b"x" * BLOCK)
    assert caught.value.errno == errno.ENOSPC
    volume.faulty.heal()
    assert file.writer.flush() is not None
    file.writer.close()


def test_a_write_that_waits_goes_on_when_the_store_recovers(file: OpenedFile, volume: DataVolume) -> None:
    volume.faulty.fail_forever("put")
    done = threading.Event()

    def write() -> None:
        for i in range(20):
            file.writer.write(i * BLOCK, bytes([i]) * BLOCK)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    volume.faulty.wait_for("put", 10)
    assert not done.is_set()
    volume.faulty.heal()
    thread.join()
    file.writer.flush()
    assert file.read(19 * BLOCK, 2) == b"\x13\x13"
    file.writer.close()


def test_a_pack_id_that_is_taken_is_not_used(file: OpenedFile, volume: DataVolume, expected_logs: Any) -> None:
    expected_logs.add("is taken by an object that no metadata knows")
    volume.faulty.fail_once("put", error=ObjectError("taken", errno.EEXIST))
    file.writer.write(0, b"precious")
    file.writer.flush()
    assert file.read(0, 100) == b"precious"
    file.writer.close()


def test_an_upload_that_ends_after_discard_leaves_no_pack(file: OpenedFile, volume: DataVolume) -> None:
    gate = volume.faulty.hold("put")
    file.writer.write(0, b"x" * BLOCK)
    volume.faulty.wait_for("put")
    file.writer.discard()
    gate.set()
    volume.data.uploader.close()
    assert volume.packs() == []
    assert volume.data.budget.used_bytes == 0
    file.writer.close()


def test_an_unforeseen_failure_is_an_error_and_not_a_hang(file: OpenedFile, volume: DataVolume) -> None:
    volume.faulty.fail_once("put", error=RuntimeError("a bug"))
    file.writer.write(0, b"precious")
    with pytest.raises(CairnError, match="a bug") as caught:
        file.writer.flush()
    assert caught.value.errno == errno.EIO
    file.writer.flush()
    assert file.read(0, 100) == b"precious"
    file.writer.close()


def test_a_failing_background_commit_is_left_alone_for_a_while(
    file: OpenedFile, volume: DataVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[int] = []

    def failing(*args: Any, **kwargs: Any) -> Any:
        attempts.append(1)
        raise FsError(errno.ENOENT)

    file.writer.write(0, b"x")
    file.writer.push(float("inf"))
    while file.writer.in_flight_bytes():
        pass
    with monkeypatch.context() as patched:
        patched.setattr(volume.meta.layout, "commit_write", failing)
        now_s = time.monotonic()
        with pytest.raises(FsError):
            file.writer.commit_if_due(now_s + 100)
        file.writer.commit_if_due(now_s + 101)
        assert len(attempts) == 1
    file.writer.commit_if_due(now_s + 200)
    assert not file.writer.dirty
    file.writer.close()


def test_a_flush_waits_for_what_has_failed_and_is_pushed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = DataVolume(tmp_path)
    file = volume.file()
    writer = file.writer
    writer._settled = settled = threading.Condition(writer._lock)  # as if somebody had waited before
    notify_all = settled.notify_all

    claim = writer._claim

    def pushed_at_once() -> None:
        """As if memory pressure had the lock before the thread that flushes, and no thread were free for a while."""
        for batch in writer._batches:
            if batch.state is State.FAILED:
                batch.state, batch.error = State.WAITING, None
                monkeypatch.setattr(writer, "_claim", lambda among: None)
                threading.Timer(0.3, free_again).start()
        notify_all()

    def free_again() -> None:
        monkeypatch.setattr(writer, "_claim", claim)
        writer._upload_in_background(1)

    monkeypatch.setattr(settled, "notify_all", pushed_at_once)
    volume.faulty.fail_once("put")
    gate = volume.faulty.hold("put")
    writer.write(0, b"x" * BLOCK)  # full: goes out in the background
    volume.faulty.wait_for("put", 1)
    threading.Timer(0.3, gate.set).start()
    writer.flush()
    assert file.read(0, BLOCK) == b"x" * BLOCK
    assert volume.faulty.calls["put"] == 2
    writer.close()
    volume.close()
