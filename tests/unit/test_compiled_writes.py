"""WRITE answered by compiled code, over a real engine without a mount: who answers, who sees it when, what a death leaves."""

import errno
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cairnfs.const import KIB, MIB
from cairnfs.errors import FsError
from cairnfs.ext.arena import DIRTY
from cairnfs.options import EngineOptions
from cairnfs.vfs.granted import FIRST_BYTES, MAX_FILES
from support.engine import ME, ROOT, TEST_OPTIONS, Engine
from support.fuse_peer import ENTRY_OUT
from support.writing import FATTR_MODE, FATTR_MTIME, FATTR_SIZE, KILL_SUIDGID, WRITE_CACHE, Mounted

LARGEST = 128  # records of a grant


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mounted]:
    mounted = Mounted(tmp_path)
    yield mounted
    mounted.end()


# Who answers


def test_a_new_file_is_written_without_python(mount: Mounted) -> None:
    ino, fh = mount.create("file", os.O_WRONLY)
    with mount.answers("WRITE", 4, 0):
        for i in range(4):
            assert mount.write(ino, fh, 1000 * i, bytes([i]) * 1000) == 0
    assert mount.carried.arena.marks(ino) & DIRTY
    assert mount.flush(ino, fh) == 0
    assert mount.engine.meta.names.get(ino).size == 4000
    assert not mount.carried.arena.marks(ino)
    mount.release(ino, fh)
    mount.assert_nothing_is_kept()
    assert mount.engine.files.read("file") == b"".join(bytes([i]) * 1000 for i in range(4))


def test_a_file_written_on_and_on_asks_python_now_and_then(mount: Mounted) -> None:
    ino, fh = mount.create("file")
    piece = os.urandom(128 * KIB)
    with mount.answers("WRITE", 45, 3):  # after 256 KiB, 1 MiB more, 4 MiB more
        for i in range(48):
            mount.write(ino, fh, i * len(piece), piece)
    assert mount.size(ino) == 6 * MIB
    assert mount.flush(ino, fh) == 0
    mount.release(ino, fh)
    mount.assert_nothing_is_kept()
    assert mount.engine.files.read("file") == piece * 48


def test_as_many_small_writes_as_a_grant_holds_go_without_python(mount: Mounted) -> None:
    ino, fh = mount.create("file")
    with mount.answers("WRITE", LARGEST, 1):
        for i in range(LARGEST + 1):
            mount.write(ino, fh, i, bytes([i]))
    with mount.answers("WRITE", LARGEST, 0):
        for i in range(LARGEST):
            mount.write(ino, fh, i, b"x")
    assert mount.read(ino, fh) == b"x" * LARGEST + bytes([LARGEST])


def test_a_file_whose_pages_the_kernel_must_drop_is_python_s_until_its_first_write(mount: Mounted) -> None:
    mount.engine.files.write("file", b"a" * 100)
    ino = mount.engine.files.ino("file")
    mount.carried.arena.shown_drop(ino)
    fh = mount.open(ino)
    with mount.answers("WRITE", 1, 1):
        mount.write(ino, fh, 0, b"b")
        mount.write(ino, fh, 50, b"c")
    assert mount.read(ino, fh) == b"b" + b"a" * 49 + b"c" + b"a" * 49


@pytest.mark.parametrize(
    ("write_flags", "flags"),
    [(WRITE_CACHE, os.O_RDWR), *((0, os.O_RDWR | flag) for flag in (os.O_APPEND, os.O_SYNC, os.O_DSYNC, os.O_DIRECT))],
)
def test_what_is_unusual_is_python_s(mount: Mounted, write_flags: int, flags: int) -> None:
    ino, fh = mount.create("file")
    with mount.answers("WRITE", 0, 1):
        assert mount.write(ino, fh, 0, b"data", write_flags, flags) == 0
    assert mount.read(ino, fh) == b"data"


def test_a_handle_that_appends_has_no_grant_and_sees_what_others_wrote(mount: Mounted) -> None:
    ino, fh = mount.create("file")
    appending = mount.open(ino, os.O_WRONLY | os.O_APPEND)
    with mount.answers("WRITE", 2, 1):
        mount.write(ino, fh, 0, b"first")
        mount.write(ino, appending, 0, b"+second", flags=os.O_WRONLY | os.O_APPEND)
        mount.write(ino, fh, 0, b"F")
    assert mount.read(ino, fh) == b"First+second"


def test_writes_through_two_handles_come_in_their_order(mount: Mounted) -> None:
    ino, one = mount.create("file")
    two = mount.open(ino)
    for i in range(20):
        mount.write(ino, (one, two)[i % 2], 5 * i, b"%010d" % i)
    assert mount.read(ino, two) == expected_overlap(20)
    for fh in (one, two):
        assert mount.flush(ino, fh) == 0
        mount.release(ino, fh)
    mount.assert_nothing_is_kept()
    assert mount.engine.files.read("file") == expected_overlap(20)


def expected_overlap(n: int) -> bytes:
    model = bytearray()
    for i in range(n):
        model[5 * i : 5 * i + 10] = b"%010d" % i
    return bytes(model)


def test_the_access_log_sees_every_write(mount: Mounted) -> None:
    ino, fh = mount.create("file")
    mount.carried.arena.hush(True)
    with mount.answers("WRITE", 0, 1):
        mount.write(ino, fh, 0, b"data")
    mount.carried.arena.hush(False)
    with mount.answers("WRITE", 1, 0):
        mount.write(ino, fh, 4, b"more")


def test_a_write_beyond_the_largest_file_is_refused(mount: Mounted) -> None:
    ino, fh = mount.create("file")
    mount.write(ino, fh, 0, b"x")
    assert mount.write(ino, fh, (1 << 63) - 2, b"too long") == errno.EFBIG
    assert mount.size(ino) == 1


def test_whoever_may_not_write_does_not(mount: Mounted) -> None:
    ino, fh = mount.create("file")
    reading = mount.open(ino, os.O_RDONLY)
    assert mount.write(ino, reading, 0, b"x") == errno.EBADF
    assert mount.write(ino, 12345 << 1, 0, b"x") == errno.EBADF
    assert mount.size(ino) == 0


# Who sees it


def test_everybody_sees_it_at_once(mount: Mounted) -> None:
    ino, fh = mount.create("file")
    mount.write(ino, fh, 0, b"one")
    assert mount.read(ino, fh) == b"one"
    mount.write(ino, fh, 3, b"two")
    assert mount.size(ino) == 6
    mount.write(ino, fh, 6, b"three")
    reading = mount.open(ino, os.O_RDONLY)
    assert mount.read(ino, reading) == b"onetwothree"
    mount.write(ino, fh, 11, b"four")
    assert ENTRY_OUT.unpack_from(mount.peer.call("LOOKUP", b"file\0", ROOT).body)[0] == ino
    mount.write(ino, fh, 15, b"!")
    reply = mount.peer.call("LSEEK", struct.pack("=QQII", fh, 0, os.SEEK_END, 0), ino)
    assert struct.unpack("=Q", reply.body) == (16,)
    mount.write(ino, fh, 16, b"?")
    assert mount.peer.call("FSYNC", struct.pack("=QII", fh, 0, 0), ino).error == 0
    assert mount.engine.meta.names.get(ino).size == 17
    mount.write(ino, fh, 17, b".")
    mount.engine.vfs.syncfs(ME)
    assert mount.engine.meta.names.get(ino).size == 18


def test_a_hole_is_not_counted_as_written(mount: Mounted) -> None:
    ino, fh = mount.create("file")
    with mount.answers("WRITE", 3, 0):
        mount.write(ino, fh, 0, bytes(600))
        mount.write(ino, fh, MIB, bytes(600))
        mount.write(ino, fh, 300, bytes(600))
    shown = mount.engine.vfs.getattr(ME, ino)
    assert (shown.size, shown.alloc_bytes) == (MIB + 600, 1200)


def test_the_time_is_that_of_the_write(mount: Mounted) -> None:
    ino, fh = mount.create("file")
    made = mount.engine.vfs.getattr(ME, ino).mtime_ns
    mount.write(ino, fh, 0, b"x")
    written = mount.engine.volume.clock.now_ns()
    shown = mount.engine.vfs.getattr(ME, ino)
    assert made < shown.mtime_ns <= written
    assert mount.flush(ino, fh) == 0
    assert mount.engine.meta.names.get(ino).mtime_ns == shown.mtime_ns


def test_a_time_that_is_set_outlives_what_was_written_before(mount: Mounted) -> None:
    ino, fh = mount.create("file")
    mount.write(ino, fh, 0, b"x")
    mount.set_attr(ino, FATTR_MTIME, mtime_s=1000)
    assert mount.flush(ino, fh) == 0
    assert mount.engine.meta.names.get(ino).mtime_ns == 1000 * 10**9
    mount.write(ino, fh, 1, b"y")
    assert mount.flush(ino, fh) == 0
    assert mount.engine.meta.names.get(ino).mtime_ns > 1000 * 10**9


def test_a_time_that_is_set_outlives_them_in_a_successor(mount: Mounted) -> None:
    ino, fh = mount.create("file")
    mount.write(ino, fh, 0, b"x")
    mount.set_attr(ino, FATTR_MTIME, mtime_s=1000)
    mount.kill()
    assert mount.flush(ino, fh) == 0
    assert mount.engine.meta.names.get(ino).mtime_ns == 1000 * 10**9


@pytest.mark.parametrize("size", [0, 3, 20])
def test_truncation_comes_after_what_was_written_before_it(mount: Mounted, size: int) -> None:
    ino, fh = mount.create("file")
    mount.write(ino, fh, 0, b"0123456789")
    mount.set_attr(ino, FATTR_SIZE, size=size)
    assert mount.read(ino, fh) == b"0123456789"[:size].ljust(size, b"\0")
    with mount.answers("WRITE", 1, 0):
        mount.write(ino, fh, 5, b"after")
    expected = b"0123456789"[:size].ljust(max(size, 5), b"\0")[:5] + b"after" + bytes(max(size - 10, 0))
    assert mount.read(ino, fh) == expected
    assert mount.flush(ino, fh) == 0
    mount.release(ino, fh)
    assert mount.engine.files.read("file") == expected


def test_privileges_go_with_the_first_write_of_an_ordinary_user(mount: Mounted) -> None:
    ino, fh = mount.create("file")
    with mount.answers("WRITE", 1, 0):
        mount.write(ino, fh, 0, b"x", KILL_SUIDGID)
    mount.set_attr(ino, FATTR_MODE, mode=stat.S_IFREG | 0o4755)
    with mount.answers("WRITE", 1, 0):
        mount.write(ino, fh, 0, b"y")
    assert mount.attr(ino)[9] & 0o7777 == 0o4755
    with mount.answers("WRITE", 0, 1):
        mount.write(ino, fh, 0, b"z", KILL_SUIDGID)
    assert mount.attr(ino)[9] & 0o7777 == 0o755
    assert mount.read(ino, fh) == b"z"


def test_a_file_without_a_name_can_be_written_until_it_is_closed(mount: Mounted) -> None:
    ino, fh = mount.create("file")
    assert mount.peer.call("UNLINK", b"file\0", ROOT).error == 0
    with mount.answers("WRITE", 1, 0):
        mount.write(ino, fh, 0, b"nobody can find it")
    assert mount.read(ino, fh) == b"nobody can find it"
    mount.flush(ino, fh)
    mount.write(ino, fh, 0, b"N")
    mount.release(ino, fh)
    mount.assert_nothing_is_kept()
    with pytest.raises(FsError):
        mount.engine.vfs.getattr(ME, ino)


def test_what_nobody_asks_about_is_collected_in_the_background(mount: Mounted) -> None:
    ino, fh = mount.create("file")
    mount.write(ino, fh, 0, b"x" * 1000)
    writers = mount.engine.volume.data.writers
    assert writers.gather is not None
    writers.gather()
    assert mount.ring.pending(ino) == 0
    writer = writers.get(ino)
    assert writer is not None
    assert writer.push(mount.engine.volume.clock.monotonic_s() + 1) == 1000, "it would not have been uploaded"
    mount.flush(ino, fh)
    mount.release(ino, fh)


# FLUSH


def test_closing_a_handle_that_has_written_nothing_does_not_enter_python(mount: Mounted) -> None:
    ino, fh = mount.create("file")
    with mount.answers("FLUSH", 1, 0):
        assert mount.flush(ino, fh) == 0
    mount.write(ino, fh, 0, b"x")
    other = mount.open(ino)
    with mount.answers("FLUSH", 0, 1):
        assert mount.flush(ino, other) == 0
    assert mount.engine.meta.names.get(ino).size == 1, "a close stores what any handle has written"
    with mount.answers("FLUSH", 1, 0):
        assert mount.flush(ino, fh) == 0
    mount.lock(ino, fh)
    with mount.answers("FLUSH", 0, 1):
        assert mount.flush(ino, fh) == 0
    assert mount.engine.vfs._state.files.all()[0].lock_owners == {}, "a close gives locks back"


# Room


def test_a_volume_that_is_nearly_full_says_so_at_the_write(tmp_path: Path) -> None:
    mount = Mounted(tmp_path, capacity_bytes=300_000)
    ino, fh = mount.create("file")
    with mount.answers("WRITE", 0, 4):
        errors = [mount.write(ino, fh, i * 100_000, bytes(100_000)) for i in range(4)]
    assert errors == [0, 0, 0, errno.ENOSPC]
    assert mount.flush(ino, fh) == 0
    mount.release(ino, fh)
    mount.close()
    assert mount.stored["file"] == bytes(300_000)


def test_memory_for_it_is_shared_among_all_who_write(tmp_path: Path) -> None:
    mount = Mounted(tmp_path, options=TEST_OPTIONS)
    grants = mount.engine.vfs._state.files.grants
    assert grants is not None
    n_files = 3 * TEST_OPTIONS.buffer_bytes // 8 // FIRST_BYTES
    handles = [mount.create(f"f{i}") for i in range(n_files)]
    assert grants._used_bytes <= TEST_OPTIONS.buffer_bytes // 8
    for step in range(2):
        for i, (ino, fh) in enumerate(handles):
            assert mount.write(ino, fh, step * 1000, b"%04d" % i * 250) == 0
    assert grants._used_bytes <= TEST_OPTIONS.buffer_bytes // 8
    for ino, fh in handles:
        assert mount.flush(ino, fh) == 0
        mount.release(ino, fh)
    mount.assert_nothing_is_kept()
    mount.close()
    assert mount.stored == {f"f{i}": b"%04d" % i * 500 for i in range(n_files)}


def test_more_files_than_there_are_grants(tmp_path: Path) -> None:
    options = EngineOptions(buffer_bytes=1024 * MIB, cache_bytes=32 * MIB, background_jobs=False)
    mount = Mounted(tmp_path, options=options)
    handles = [mount.create(f"f{i}") for i in range(MAX_FILES + 60)]
    for ino, fh in handles:
        mount.write(ino, fh, 0, b"%d" % ino)
    for ino, fh in handles:
        assert mount.read(ino, fh) == b"%d" % ino
        assert mount.flush(ino, fh) == 0
        mount.release(ino, fh)
    mount.assert_nothing_is_kept()
    mount.end()


def test_a_full_journal_has_the_oldest_files_stored(tmp_path: Path) -> None:
    mount = Mounted(tmp_path, journal_bytes=MIB)
    handles = [mount.create(f"f{i}") for i in range(8)]
    for i, (ino, fh) in enumerate(handles):
        assert mount.write(ino, fh, 0, bytes([i]) * 200_000) == 0
    assert mount.engine.meta.names.get(handles[0][0]).size == 200_000, "the oldest was not committed"
    mount.kill()
    mount.end()
    with Engine(mount.url) as engine:
        assert [engine.files.read(f"f{i}") for i in range(8)] == [bytes([i]) * 200_000 for i in range(8)]


# Deaths


def test_a_successor_has_all_that_was_acknowledged(mount: Mounted) -> None:
    ino, fh = mount.create("file")
    mount.write(ino, fh, 0, b"a" * 1000)
    mount.write(ino, fh, 500, b"b" * 1000)
    written_ns = mount.engine.volume.clock.now_ns()
    mount.kill()
    assert mount.read(ino, fh) == b"a" * 500 + b"b" * 1000
    assert mount.engine.vfs.getattr(ME, ino).mtime_ns <= written_ns
    with mount.answers("WRITE", 1, 1):
        mount.write(ino, fh, 1500, b"c")
        mount.write(ino, fh, 1501, b"d")
    mount.kill()
    assert mount.flush(ino, fh) == 0
    mount.release(ino, fh)
    mount.assert_nothing_is_kept()
    assert mount.engine.files.read("file") == b"a" * 500 + b"b" * 1000 + b"cd"


def test_what_was_collected_and_not_committed_is_not_lost_either(mount: Mounted) -> None:
    ino, fh = mount.create("file")
    mount.write(ino, fh, 0, b"a")
    assert mount.size(ino) == 1
    mount.write(ino, fh, 1, b"b")
    mount.kill()
    assert mount.read(ino, fh) == b"ab"


OFFSETS = st.one_of(st.integers(0, 200), st.integers(0, 100_000))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 3), OFFSETS, st.one_of(st.integers(1, 50), st.integers(1, 90_000))),
        st.tuples(st.just("truncate"), st.integers(0, 1), OFFSETS, st.just(0)),
        st.tuples(st.sampled_from(["flush", "read", "fsync", "reopen", "rename"]), st.integers(0, 3), st.just(0), st.just(0)),
        st.tuples(st.sampled_from(["kill", "gather", "full"]), st.just(0), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@example([("write", 2, 0, 70_982), ("write", 3, 0, 70_981), ("write", 3, 0, 70_982)])  # more than a message holds
@given(STEPS)
def test_any_sequence_leaves_what_plain_files_would_have(tmp_path: Path, steps: list[tuple[str, int, int, int]]) -> None:
    """Two files with two handles each; the second of the second file appends."""
    mount = Mounted(tmp_path, journal_bytes=400_000)
    inos, handles = [], []
    for name in ("one", "two"):
        ino, fh = mount.create(name)
        inos.append(ino)
        handles += [fh, mount.open(ino, os.O_RDWR | (os.O_APPEND if name == "two" else 0))]
    models = [bytearray(), bytearray()]
    for number, (step, which, offset, n_bytes) in enumerate(steps):
        ino, fh, model = inos[which // 2], handles[which], models[which // 2]
        if step == "write":
            data = bytes([number + 1]) * n_bytes
            at = len(model) if which == 3 else offset
            model.extend(bytes(max(at - len(model), 0)))
            model[at : at + n_bytes] = data
            assert mount.write(ino, fh, offset, data, flags=os.O_RDWR | (os.O_APPEND if which == 3 else 0)) == 0
        elif step == "truncate":
            model = models[which]
            model[:] = model[:offset].ljust(offset, b"\0")
            mount.set_attr(inos[which], FATTR_SIZE, size=offset)
        elif step == "read":
            assert mount.size(ino) == len(model)
            assert mount.read(ino, fh) == model
        elif step == "flush":
            assert mount.flush(ino, fh) == 0
        elif step == "fsync":
            assert mount.peer.call("FSYNC", struct.pack("=QII", fh, 0, 0), ino).error == 0
            assert mount.engine.meta.names.get(ino).size == len(model)
        elif step == "reopen" and which != 3:
            assert mount.flush(ino, fh) == 0
            mount.release(ino, fh)
            handles[which] = mount.open(ino)
        elif step == "rename":
            mount.peer.call("RENAME", struct.pack("=Q", ROOT) + b"one\0three\0", ROOT)
        elif step == "kill":
            mount.kill()
        elif step == "gather":
            gather = mount.engine.volume.data.writers.gather
            assert gather is not None
            gather()
    for which, fh in enumerate(handles):
        assert mount.read(inos[which // 2], fh) == models[which // 2]
        assert mount.flush(inos[which // 2], fh) == 0
        mount.release(inos[which // 2], fh)
    mount.assert_nothing_is_kept()
    mount.close()
    names = {"one", "three"} & mount.stored.keys()
    assert [mount.stored[names.pop()], mount.stored["two"]] == models
