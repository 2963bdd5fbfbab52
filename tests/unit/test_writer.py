"""Write buffers: what was written is what is read and committed, with as little memory and as few packs as it takes."""

import errno
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnfs.clock import SystemClock
from cairnfs.const import CHUNK_BYTES, MIB
from cairnfs.data.dirty import DirtyBlock
from cairnfs.data.pack import pack_name
from cairnfs.data.uploader import State
from cairnfs.errors import CorruptError, FsError, SessionLost, StoreError
from cairnfs.objects.base import ObjectStore
from cairnfs.types import Buffer
from support.datavolume import BLOCK, DataVolume, OpenedFile


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[DataVolume]:
    made = DataVolume(tmp_path)
    yield made
    made.close()
    assert made.data.budget.used_bytes == 0


@pytest.fixture
def file(volume: DataVolume) -> Iterator[OpenedFile]:
    opened = volume.file()
    yield opened
    opened.writer.close()


# One block


@given(st.lists(st.tuples(st.integers(0, 199), st.integers(1, 60), st.integers(0, 255)), max_size=40))
def test_a_block_holds_what_was_written_last(writes: list[tuple[int, int, int]]) -> None:
    block = DirtyBlock(1000, 200, 0.0)
    model: dict[int, int] = {}
    for offset, length, value in writes:
        length = min(length, 200 - offset)
        before = len(model)
        grown = block.write(1000 + offset, bytes([value]) * length)
        model.update(dict.fromkeys(range(1000 + offset, 1000 + offset + length), value))
        assert grown == len(model) - before
        assert block.n_bytes == len(model)
    copied = {at + i: value for at, data in block.copy(1050, 1150) for i, value in enumerate(data)}
    assert copied == {at: value for at, value in model.items() if 1050 <= at < 1150}
    assert block.end == max(model, default=-1) + 1
    assert block.full == (len(model) == 200)
    runs = block.runs()
    assert {at + i: value for at, data in runs for i, value in enumerate(data)} == model
    assert all(at + len(data) < after for (at, data), (after, _) in zip(runs, runs[1:], strict=False))


# Reading one's own writes


def test_dirty_bytes_are_seen_before_and_after_the_flush(file: OpenedFile) -> None:
    file.writer.write(10, b"hello")
    assert file.writer.dirty
    assert file.writer.dirty_end == 15
    assert file.read(0, 100) == bytes(10) + b"hello"
    attr = file.writer.flush()
    assert attr is not None
    assert attr.size == 15
    assert not file.writer.dirty
    assert file.writer.dirty_end == 0
    assert file.read(0, 100) == bytes(10) + b"hello"


def test_nothing_to_flush_is_nothing_done(file: OpenedFile, volume: DataVolume) -> None:
    assert file.writer.flush() is None
    assert volume.faulty.calls["put"] == 0


def test_later_writes_lie_on_top_whatever_was_uploaded_between(file: OpenedFile) -> None:
    file.writer.write(0, b"a" * 100)
    file.writer.push(float("inf"))
    file.writer.write(50, b"b" * 100)
    file.writer.push(float("inf"))
    file.writer.write(75, b"c" * 10)
    expected = b"a" * 50 + b"b" * 25 + b"c" * 10 + b"b" * 65
    assert file.read(0, 200) == expected
    file.writer.flush()
    assert len(file.commits) == 1
    assert file.read(0, 200) == expected


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_random_writes_against_a_model(tmp_path: Path, seed: int, compression: str) -> None:
    rng = random.Random(seed)
    volume = DataVolume(tmp_path, compression=compression)
    file = volume.file()
    model = bytearray()
    for _ in range(120):
        offset = rng.randrange(8 * BLOCK)
        action = rng.random()
        if action < 0.6:
            n_bytes = rng.randrange(1, rng.choice([2, 200, 10_000, 3 * BLOCK]))
            data = rng.choice([rng.randbytes(n_bytes), bytes([rng.randrange(256)]) * n_bytes])
            model.extend(bytes(max(0, offset - len(model))))
            model[offset : offset + n_bytes] = data
            file.writer.write(offset, data)
        elif action < 0.8:
            n_bytes = rng.randrange(1, 5 * BLOCK)
            assert file.read(offset, n_bytes) == bytes(model[offset : offset + n_bytes])
        elif action < 0.9:
            file.writer.flush()
        else:
            file.writer.push(float("inf"))
    file.writer.flush()
    volume.data.cache.clear()
    assert file.read(0, len(model)) == bytes(model)
    assert file.attr.size == len(model)
    file.writer.close()
    assert volume.data.budget.used_bytes == 0
    assert len(volume.data.writers) == 0
    volume.close()


def test_writes_across_chunks_become_one_commit(file: OpenedFile) -> None:
    file.writer.write(CHUNK_BYTES - 10, b"0123456789abcdefghij")
    file.writer.write(3 * CHUNK_BYTES, b"far")
    file.writer.flush()
    assert len(file.commits) == 1
    assert file.read(CHUNK_BYTES - 12, 24) == bytes(2) + b"0123456789abcdefghij" + bytes(2)
    assert file.read(3 * CHUNK_BYTES - 1, 10) == b"\0far"


# Memory, packs and threads


def test_a_small_file_takes_small_memory(volume: DataVolume, file: OpenedFile) -> None:
    file.writer.write(BLOCK * 5 + 60_000, b"x" * 10)
    assert volume.data.budget.used_bytes == 10
    file.writer.write(BLOCK * 5 + 60_005, b"y" * 10)
    assert volume.data.budget.used_bytes == 15
    file.writer.discard()
    assert volume.data.budget.used_bytes == 0


def test_scattered_small_writes_share_a_pack(volume: DataVolume, file: OpenedFile) -> None:
    for i in range(40):
        file.writer.write(i * 3 * BLOCK, b"x" * 100)
    file.writer.flush()
    assert len(volume.packs()) == 1
    assert file.attr.alloc_bytes == 4000


def test_a_full_block_goes_out_at_once(volume: DataVolume, file: OpenedFile) -> None:
    file.writer.write(0, b"x" * (BLOCK - 1))
    assert volume.faulty.calls["put"] == 0
    file.writer.write(BLOCK - 1, b"x")
    volume.faulty.wait_for("put")
    file.writer.flush()
    assert volume.faulty.calls["put"] == 1


def test_one_piece_is_uploaded_by_the_thread_that_flushes(
    volume: DataVolume, file: OpenedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    put = volume.faulty.store.put

    def noting_put(name: str, parts: object) -> None:
        threads.append(threading.current_thread())
        put(name, parts)  # type: ignore[arg-type]

    monkeypatch.setattr(volume.faulty.store, "put", noting_put)
    file.writer.write(0, b"small")
    file.writer.flush()
    assert threads == [threading.current_thread()]


def test_several_pieces_are_uploaded_side_by_side(volume: DataVolume, file: OpenedFile) -> None:
    gate = volume.faulty.hold("put")
    for i in range(4):
        file.writer.write(i * BLOCK, b"x" * (BLOCK - 1))
    flusher = threading.Thread(target=file.writer.flush)
    flusher.start()
    volume.faulty.wait_for("put", 4)
    gate.set()
    flusher.join()
    assert len(file.commits) == 1


def test_a_write_during_a_flush_goes_to_new_buffers(volume: DataVolume, file: OpenedFile) -> None:
    gate = volume.faulty.hold("put")
    file.writer.write(0, b"old")
    flusher = threading.Thread(target=file.writer.flush)
    flusher.start()
    volume.faulty.wait_for("put")
    file.writer.write(0, b"new")
    assert file.read(0, 3) == b"new"
    gate.set()
    flusher.join()
    assert len(file.commits) == 1
    assert file.writer.dirty
    assert file.read(0, 3) == b"new"
    file.writer.flush()
    assert not file.writer.dirty
    assert file.read(0, 3) == b"new"


def test_writers_wait_for_memory_while_uploads_go_on(tmp_path: Path) -> None:
    volume = DataVolume(tmp_path, buffer_bytes=1)  # the least there is: eight blocks
    file = volume.file()
    gate = volume.faulty.hold("put")
    written: list[int] = []

    def write() -> None:
        for i in range(32):
            file.writer.write(i * BLOCK, bytes([i]) * BLOCK)
            written.append(i)

    thread = threading.Thread(target=write)
    thread.start()
    volume.faulty.wait_for("put", 8)
    assert len(written) <= 8
    assert volume.data.budget.used_bytes <= volume.data.budget.limit_bytes
    gate.set()
    thread.join()
    file.writer.flush()
    assert file.read(31 * BLOCK, 3) == bytes([31]) * 3
    file.writer.close()
    volume.close()


def test_memory_pressure_sends_unfinished_blocks_of_other_files(tmp_path: Path) -> None:
    volume = DataVolume(tmp_path, buffer_bytes=1)
    files = [volume.file() for _ in range(24)]
    for file in files:
        file.writer.write(0, b"x" * (BLOCK - 1))
    assert volume.data.budget.used_bytes <= 8 * BLOCK
    for file in files:
        file.writer.flush()
        assert file.read(0, BLOCK) == b"x" * (BLOCK - 1)
        file.writer.close()
    volume.close()


def test_many_threads_writing_one_file(tmp_path: Path) -> None:
    volume = DataVolume(tmp_path, buffer_bytes=1)
    file = volume.file()

    def work(i: int) -> None:
        for n in range(20):
            file.writer.write((n * 4 + i) * 10_000, bytes([i + 1]) * 10_000)
            if n % 7 == i:
                file.writer.flush()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    file.writer.flush()
    expected = b"".join(bytes([i + 1]) * 10_000 for _ in range(20) for i in range(4))
    assert file.read(0, len(expected)) == expected
    file.writer.close()
    assert volume.data.budget.used_bytes == 0
    volume.close()


# Times, and who may commit


def test_the_commit_carries_the_time_of_the_last_write(file: OpenedFile) -> None:
    assert file.writer.mtime_ns is None
    file.writer.write(0, b"x")
    written_ns = file.writer.mtime_ns
    assert written_ns is not None
    file.writer.flush()
    assert file.attr.mtime_ns == written_ns
    assert file.writer.mtime_ns is None


def test_a_time_set_explicitly_outlives_earlier_writes(file: OpenedFile) -> None:
    before_ns = file.attr.mtime_ns
    file.writer.write(0, b"x")
    file.writer.mtime_set()
    assert file.writer.mtime_ns is None
    file.writer.flush()
    assert file.attr.mtime_ns == before_ns
    file.writer.write(0, b"y")
    file.writer.flush()
    assert file.attr.mtime_ns > before_ns


def test_readers_know_the_new_layout_before_dirty_bytes_leave(volume: DataVolume) -> None:
    seen: list[object] = []
    file = volume.file()
    writer = volume.data.writers.open(volume.meta_rows.file(b"other"), lambda attr: seen.append(writer.snapshot(0, 9)))
    writer.write(0, b"bytes")
    writer.flush()
    assert [[(at, bytes(data)) for at, data in pieces] for pieces in seen] == [[(0, b"bytes")]]  # type: ignore[attr-defined]
    writer.close()
    file.writer.close()


def test_handles_share_a_writer_until_the_last_is_closed(volume: DataVolume, file: OpenedFile) -> None:
    again = volume.data.writers.open(file.ino)
    assert again is file.writer
    again.close()
    assert volume.data.writers.get(file.ino) is file.writer


def test_much_stored_data_is_committed_without_a_flush(tmp_path: Path) -> None:
    volume = DataVolume(tmp_path, buffer_bytes=64 * MIB)
    file = volume.file()
    for i in range(130):
        file.writer.write(i * BLOCK, b"x" * BLOCK)
    volume.faulty.wait_for("put", 130)
    while not all(b.state.value == "stored" for b in file.writer._batches):
        pass
    file.writer.commit_if_due(0.0)
    assert len(file.commits) == 1
    assert not file.writer.dirty
    file.writer.close()
    volume.close()


class FakeClock(SystemClock):
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def monotonic_s(self) -> float:
        return self.at_s


def test_old_dirty_data_is_uploaded_and_committed_in_the_background(tmp_path: Path) -> None:
    clock = FakeClock()
    volume = DataVolume(tmp_path, clock=clock)
    file = volume.file()
    file.writer.write(0, b"precious")
    volume.data.writers._tick()
    assert volume.faulty.calls["put"] == 0
    clock.at_s += 6
    volume.data.writers._tick()
    volume.faulty.wait_for("put")
    while file.writer.in_flight_bytes():
        pass
    assert file.commits == []
    clock.at_s += 30
    volume.data.writers._tick()
    assert [attr.size for attr in file.commits] == [8]
    assert not file.writer.dirty
    assert volume.data.budget.used_bytes == 0
    file.writer.close()
    volume.close()


def test_writes_wait_for_as_long_as_uploads_go_on(tmp_path: Path) -> None:
    """A slow store, or a limit of bandwidth, is no error, whatever the io-timeout: here it is 5 s, and each upload takes 10."""
    clock = FakeClock()

    def slow(store: ObjectStore) -> ObjectStore:
        put = store.put

        def put_slowly(name: str, parts: Sequence[Buffer]) -> None:
            time.sleep(0.25)
            clock.at_s += 10
            put(name, parts)

        store.put = put_slowly  # type: ignore[method-assign]
        return store

    volume = DataVolume(tmp_path, clock=clock, objects=slow, buffer_bytes=1, max_uploads=1)
    files = [volume.file() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(write_blocks, file, 4) for file in files]:
            done.result()
    for file in files:
        file.writer.flush()
        assert file.read(0, 4 * BLOCK) == b"x" * 4 * BLOCK
        file.writer.close()
    volume.close()


def write_blocks(file: OpenedFile, n: int) -> None:
    for i in range(n):
        file.writer.write(i * BLOCK, b"x" * BLOCK)


def test_without_on_commit_nothing_is_committed_in_the_background(tmp_path: Path) -> None:
    clock = FakeClock()
    volume = DataVolume(tmp_path, clock=clock)
    ino = volume.meta_rows.file(b"other")
    writer = volume.data.writers.open(ino)
    writer.write(0, b"x")
    writer.push(clock.at_s)
    while writer.in_flight_bytes():
        pass
    clock.at_s += 1000
    volume.data.writers._tick()
    assert writer.dirty
    assert volume.meta_rows.attr(ino).size == 0
    assert writer.flush() is not None
    writer.close()
    volume.close()


def test_discard_leaves_no_bytes_and_no_packs(volume: DataVolume, file: OpenedFile) -> None:
    file.writer.write(0, b"x" * (3 * BLOCK + 5))
    volume.faulty.wait_for("put", 3)
    assert file.writer.discard() == 3 * BLOCK + 5
    assert not file.writer.dirty
    assert file.writer.dirty_end == 0
    assert file.read(0, 100) == b""
    volume.data.uploader.close()
    assert volume.packs() == []


@pytest.mark.parametrize("refusal", [FsError(errno.ENOENT), FsError(errno.ENOSPC), SessionLost("its locks are gone")])
def test_a_commit_that_is_refused_leaves_no_packs(
    volume: DataVolume, file: OpenedFile, monkeypatch: pytest.MonkeyPatch, refusal: FsError
) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise refusal

    file.writer.write(0, b"x" * (2 * BLOCK + 5))
    with monkeypatch.context() as patch:
        patch.setattr(volume.meta.layout, "commit_write", refuse)
        with pytest.raises(FsError):
            file.writer.flush()
    assert len(volume.packs()) == 3, "it may be tried again"
    file.writer.discard()
    volume.data.uploader.close()
    assert volume.packs() == []


def test_a_commit_that_may_have_been_applied_leaves_its_packs(
    volume: DataVolume, file: OpenedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [StoreError("the answer was lost"), FsError(errno.ENOENT)]

    def fail(*args: object, **more: object) -> None:
        raise errors.pop(0)

    monkeypatch.setattr(volume.meta.layout, "commit_write", fail)
    file.writer.write(0, b"x")
    for error in tuple(errors):
        with pytest.raises(type(error)):
            file.writer.flush()
    file.writer.discard()
    volume.data.uploader.close()
    assert len(volume.packs()) == 1


@pytest.mark.parametrize(
    ("wall_s", "monotonic_s", "is_long"),
    [(7200, 60, True), (-7200, 60, True), (60, 7200, True), (60, 60, False)],
    ids=["suspended", "set back", "as much set back as passed", "short"],
)
def test_what_was_collected_before_its_commit_is_an_error_and_not_a_layout_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wall_s: int, monotonic_s: int, is_long: bool
) -> None:
    """A machine that was suspended for hours, say, commits what it had stored; somebody may have run `gc --delete` meanwhile."""
    volume = DataVolume(tmp_path)
    kept, lost = volume.file(), volume.file()
    for file in (kept, lost):
        file.writer.write(0, b"x" * BLOCK)
        while file.writer._batches[0].state is not State.STORED:
            time.sleep(0.001)
    now_ns, now_s = time.time_ns() + wall_s * 10**9, time.monotonic() + monotonic_s
    monkeypatch.setattr(SystemClock, "now_ns", lambda self: now_ns)
    monkeypatch.setattr(SystemClock, "monotonic_s", lambda self: now_s)
    assert kept.writer.flush() is not None
    assert volume.faulty.calls["head"] == is_long, "it asks only after long"
    if is_long:
        assert (pack := lost.writer._batches[0].pack) is not None
        volume.objects.delete(pack_name(pack.pack))
        for _ in range(2):
            with pytest.raises(CorruptError, match="collected") as raised:
                lost.writer.flush()
            assert raised.value.errno == errno.EIO
        assert volume.meta_rows.attr(lost.ino).size == 0
    lost.writer.discard()
    for file in (kept, lost):
        file.writer.close()
    volume.close()
