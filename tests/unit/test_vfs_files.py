"""Files through the Vfs: content, sizes and times with data not committed yet, handles, and the end of an inode."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cairnfs.const import CHUNK_BYTES, MAX_FILE_BYTES, MIB
from cairnfs.errors import CairnError
from cairnfs.types import SetAttr
from support.engine import ME, ROOT, TEST_OPTIONS, Engine, new_volume


@pytest.fixture(params=["memory", "sqlite"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    with Engine(new_volume(tmp_path, request.param)) as engine:
        yield engine


def n_commits(engine: Engine) -> int:
    return engine.meta.store.position()


def test_written_bytes_are_read_back_before_and_after_the_commit(engine: Engine) -> None:
    files = engine.files
    data = os.urandom(100_000)
    with files.created("f") as fh:
        files.pwrite(fh, 0, data)
        assert files.pread(fh, 0, 200_000) == data
        assert files.pread(fh, 50_000, 10) == data[50_000:50_010]
        assert files.attr("f").size == 100_000
        engine.vfs.flush(ME, fh)
        assert files.pread(fh, 0, 200_000) == data
    assert files.read("f") == data


def test_content_survives_closing_and_opening_the_volume(tmp_path: Path) -> None:
    url = new_volume(tmp_path, "sqlite")
    small, large = os.urandom(3), os.urandom(CHUNK_BYTES + 5 * MIB)
    with Engine(url) as engine:
        engine.files.mkdir("d")
        engine.files.write("d/small", small)
        engine.files.write("large", large)
    with Engine(url) as engine:
        assert engine.files.read("d/small") == small
        assert engine.files.read("large") == large
        assert engine.files.names() == {"d", "large"}


def test_handles_left_open_are_stored_when_the_vfs_closes(tmp_path: Path) -> None:
    url = new_volume(tmp_path, "sqlite")
    with Engine(url) as engine:
        engine.files.pwrite(engine.files.create("f"), 0, b"never closed")
    with Engine(url) as engine:
        assert engine.files.read("f") == b"never closed"


def test_a_write_into_the_middle_leaves_the_rest(engine: Engine) -> None:
    files = engine.files
    files.write("f", b"a" * 1000)
    with files.opened("f") as fh:
        files.pwrite(fh, 400, b"b" * 100)
        assert files.pread(fh, 395, 110) == b"a" * 5 + b"b" * 100 + b"a" * 5
    assert files.read("f") == b"a" * 400 + b"b" * 100 + b"a" * 500


def test_what_was_never_written_reads_as_zeros(engine: Engine) -> None:
    files = engine.files
    with files.created("f") as fh:
        files.pwrite(fh, 3 * MIB, b"end")
        assert files.pread(fh, 3 * MIB - 2, 10) == b"\0\0end"
    assert files.read("f") == bytes(3 * MIB) + b"end"
    assert files.attr("f").alloc_bytes == 3


def test_reading_at_and_beyond_the_end_gives_nothing(engine: Engine) -> None:
    files = engine.files
    files.write("f", b"abc")
    with files.opened("f", os.O_RDONLY) as fh:
        assert files.pread(fh, 3, 10) == files.pread(fh, 1 << 40, 10) == b""
        assert files.pread(fh, 2, 10) == b"c"


def test_append_goes_to_the_end_wherever_the_caller_believes_it_is(engine: Engine) -> None:
    files = engine.files
    files.write("f", b"one")
    with files.opened("f", os.O_WRONLY | os.O_APPEND) as first, files.opened("f", os.O_WRONLY | os.O_APPEND) as second:
        files.pwrite(first, 0, b"two")
        files.pwrite(second, 0, b"three")
        files.pwrite(first, 999, b"four")
    assert files.read("f") == b"onetwothreefour"


def test_a_page_of_a_mapping_goes_where_it_belongs_even_through_an_appending_handle(engine: Engine) -> None:
    files = engine.files
    files.write("f", b"0123456789")
    with files.opened("f", os.O_RDWR | os.O_APPEND) as fh:
        engine.vfs.write_mapped(ME, fh, 2, b"ab")
    assert files.read("f") == b"01ab456789"


def test_a_write_without_privilege_takes_set_user_id_away_once(engine: Engine) -> None:
    files = engine.files
    files.write("f", b"data")
    ino = files.ino("f")
    with files.opened("f") as fh:
        for _ in range(2):
            engine.vfs.setattr(ME, ino, SetAttr(mode=0o6755))
            before = n_commits(engine)
            engine.vfs.write(ME, fh, 0, b"x", True)
            assert stat.S_IMODE(files.attr("f").mode) == 0o755
            engine.vfs.write(ME, fh, 1, b"y", True)
            assert n_commits(engine) == before + 1
        engine.vfs.setxattr(ME, ino, b"security.capability", b"cap")
        engine.vfs.write(ME, fh, 2, b"z", True)
        with pytest.raises(CairnError) as error:
            engine.vfs.getxattr(ME, ino, b"security.capability")
        assert error.value.errno == errno.ENODATA


def test_attributes_in_security_are_not_supported_before_there_was_one(engine: Engine) -> None:
    engine.files.write("f", b"data")
    ino = engine.files.ino("f")
    changes: list[Callable[[], object]] = [
        lambda: engine.vfs.setxattr(ME, ino, b"user.a", b"1"),
        lambda: engine.vfs.setxattr(ME, ino, b"security.a", b"1"),
        lambda: engine.vfs.removexattr(ME, ino, b"security.a"),
    ]
    found = []
    for change in changes:
        change()
        with pytest.raises(CairnError) as error:
            engine.vfs.getxattr(ME, ino, b"security.b")
        found.append(error.value.errno)
    assert found == [errno.EOPNOTSUPP, errno.ENODATA, errno.ENODATA]


@pytest.mark.parametrize("size", [0, 1, 5, 100, 3 * MIB])
def test_truncating_dirty_data_keeps_what_is_before_the_cut(engine: Engine, size: int) -> None:
    files = engine.files
    with files.created("f") as fh:
        files.pwrite(fh, 0, b"0123456789")
        attr = engine.vfs.setattr(ME, files.ino("f"), SetAttr(size=size), fh)
        assert attr.size == files.attr("f").size == size
        expected = b"0123456789"[:size].ljust(size, b"\0")
        assert files.pread(fh, 0, size + 10) == expected
        files.pwrite(fh, size, b"!")
    assert files.read("f") == expected + b"!"


def test_cut_off_bytes_do_not_come_back(engine: Engine) -> None:
    files = engine.files
    files.write("f", b"x" * 200_000)
    engine.vfs.setattr(ME, files.ino("f"), SetAttr(size=40_000))
    with files.opened("f") as fh:
        files.pwrite(fh, 160_000, b"y")
        assert files.pread(fh, 100_000, 60_001) == bytes(60_000) + b"y"
    assert files.read("f")[40_000:160_000] == bytes(120_000)


def test_opening_with_truncation_drops_committed_and_dirty_data(engine: Engine) -> None:
    files = engine.files
    files.write("f", b"old")
    with files.opened("f") as other:
        files.pwrite(other, 0, b"dirty")
        with files.opened("f", os.O_WRONLY | os.O_TRUNC) as fh:
            assert files.attr("f").size == 0
            assert files.pread(other, 0, 10) == b""
            files.pwrite(fh, 0, b"new")
    assert files.read("f") == b"new"


def test_opening_an_empty_file_with_truncation_sets_its_times(engine: Engine) -> None:
    files = engine.files
    files.write("f", b"")
    engine.vfs.setattr(ME, files.ino("f"), SetAttr(mtime_ns=1))
    files.write("f", b"")
    assert files.attr("f").mtime_ns > 1


def test_sizes_beyond_the_limit_are_refused(engine: Engine) -> None:
    files = engine.files
    with files.created("f") as fh:
        with pytest.raises(CairnError) as error:
            engine.vfs.write(ME, fh, MAX_FILE_BYTES, b"x")
        assert error.value.errno == errno.EFBIG
        with pytest.raises(CairnError) as error:
            engine.vfs.setattr(ME, files.ino("f"), SetAttr(size=MAX_FILE_BYTES + 1))
        assert error.value.errno == errno.EFBIG
        files.pwrite(fh, MAX_FILE_BYTES - 1, b"x")
    assert files.attr("f").size == MAX_FILE_BYTES


def test_dirty_data_shows_in_size_and_times_everywhere(engine: Engine) -> None:
    files = engine.files
    with files.created("f") as fh:
        ino = files.ino("f")
        engine.vfs.setattr(ME, ino, SetAttr(mtime_ns=10**9))
        files.pwrite(fh, 0, b"12345")
        for attr in (files.attr("f"), engine.vfs.getattr(ME, ino, fh), files.list(plus=True)[0].attr):
            assert attr is not None
            assert (attr.size, attr.alloc_bytes) == (5, 5)
            assert attr.mtime_ns > 10**9
            assert attr.ctime_ns >= attr.mtime_ns


def test_a_time_set_after_a_write_outlives_the_commit_of_that_write(engine: Engine) -> None:
    files = engine.files
    with files.created("f") as fh:
        files.pwrite(fh, 0, b"data")
        assert engine.vfs.setattr(ME, files.ino("f"), SetAttr(mtime_ns=123, atime_ns=456)).mtime_ns == 123
        assert files.attr("f").mtime_ns == 123
    attr = files.attr("f")
    assert (attr.mtime_ns, attr.atime_ns, attr.size) == (123, 456, 4)


def test_a_write_after_a_time_was_set_sets_the_time_again(engine: Engine) -> None:
    files = engine.files
    with files.created("f") as fh:
        files.pwrite(fh, 0, b"data")
        engine.vfs.setattr(ME, files.ino("f"), SetAttr(mtime_ns=123))
        files.pwrite(fh, 4, b"more")
    assert files.attr("f").mtime_ns > 123


def test_changing_the_mode_does_not_store_dirty_data(engine: Engine) -> None:
    files = engine.files
    with files.created("f") as fh:
        files.pwrite(fh, 0, b"data")
        attr = engine.vfs.setattr(ME, files.ino("f"), SetAttr(mode=0o600))
        assert (stat.S_IMODE(attr.mode), attr.size) == (0o600, 4)
        assert engine.meta.names.get(files.ino("f")).size == 0


def test_a_new_small_file_costs_two_commits(engine: Engine) -> None:
    engine.files.write("warm", b"up")
    before = n_commits(engine)
    with engine.files.created("f") as fh:
        engine.files.pwrite(fh, 0, b"data")
    assert n_commits(engine) == before + 2


def test_closing_a_handle_that_wrote_nothing_costs_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.files.write("f", b"data")
    fh = engine.files.open("f")
    engine.files.pread(fh, 0, 4)
    before = n_commits(engine)
    monkeypatch.setattr(engine.meta.store, "read", None)  # any use of the store would fail now
    engine.vfs.flush(ME, fh, lock_owner=77)
    engine.vfs.release(ME, fh)
    monkeypatch.undo()
    assert n_commits(engine) == before


def test_reading_again_does_not_ask_the_store(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.files.write("f", b"data")
    with engine.files.opened("f") as fh:
        monkeypatch.setattr(engine.meta.store, "read", None)
        assert engine.files.pread(fh, 0, 4) == b"data"
        monkeypatch.undo()


# Handles


def test_a_handle_serves_only_what_it_was_opened_for(engine: Engine) -> None:
    files = engine.files
    files.write("f", b"data")
    with files.opened("f", os.O_RDONLY) as fh:
        for call in (
            lambda: engine.vfs.write(ME, fh, 0, b"x"),
            lambda: engine.vfs.fallocate(ME, fh, 0, 0, 10),
            lambda: engine.vfs.copy_file_range(ME, fh, 0, fh, 100, 1),
        ):
            with pytest.raises(CairnError) as error:
                call()
            assert error.value.errno == errno.EBADF
    with files.opened("f", os.O_WRONLY) as fh, pytest.raises(CairnError) as error:
        engine.vfs.read(ME, fh, 0, 1)
    assert error.value.errno == errno.EBADF


def test_a_closed_handle_is_not_known_any_more(engine: Engine) -> None:
    files = engine.files
    fh = files.create("f")
    files.close(fh)
    for call in (lambda: engine.vfs.read(ME, fh, 0, 1), lambda: engine.vfs.flush(ME, fh), lambda: engine.vfs.release(ME, fh)):
        with pytest.raises(CairnError) as error:
            call()
        assert error.value.errno == errno.EBADF


def test_only_regular_files_are_opened(engine: Engine) -> None:
    engine.files.mkdir("d")
    link = engine.vfs.symlink(ME, ROOT, b"l", b"d")
    fifo = engine.vfs.mknod(ME, ROOT, b"p", stat.S_IFIFO | 0o600)
    expected = {engine.files.ino("d"): errno.EISDIR, link.ino: errno.ELOOP, fifo.ino: errno.ENXIO}
    for ino, code in expected.items():
        with pytest.raises(CairnError) as error:
            engine.vfs.open(ME, ino, os.O_RDONLY)
        assert error.value.errno == code
    assert not len(engine.vfs._state.files)


def test_create_opens_an_existing_file_unless_it_must_be_new(engine: Engine) -> None:
    engine.files.write("f", b"data")
    attr, opened = engine.vfs.create(ME, ROOT, b"f", 0o600, os.O_RDWR)
    assert (attr.size, stat.S_IMODE(attr.mode)) == (4, 0o644)
    engine.vfs.release(ME, opened.fh)
    with pytest.raises(CairnError) as error:
        engine.vfs.create(ME, ROOT, b"f", 0o600, os.O_RDWR | os.O_EXCL)
    assert error.value.errno == errno.EEXIST
    attr, opened = engine.vfs.create(ME, ROOT, b"f", 0o600, os.O_RDWR | os.O_TRUNC)
    assert attr.size == 0
    engine.vfs.release(ME, opened.fh)


# The end of an inode


def test_an_unlinked_open_file_is_usable_until_its_last_close(engine: Engine) -> None:
    files = engine.files
    files.write("f", b"before")
    first, second = files.open("f"), files.open("f")
    ino = files.ino("f")
    files.unlink("f")
    assert engine.vfs.getattr(ME, ino).nlink == 0
    files.pwrite(first, 6, b" after")
    assert files.pread(second, 0, 100) == b"before after"
    engine.vfs.setattr(ME, ino, SetAttr(size=3))
    assert files.pread(second, 0, 100) == b"bef"
    files.close(first)
    assert files.pread(second, 0, 100) == b"bef"
    files.close(second)
    with pytest.raises(CairnError) as error:
        engine.vfs.getattr(ME, ino)
    assert error.value.errno == errno.ESTALE
    usage = engine.vfs.statfs(ME)
    assert (usage.used_bytes, usage.used_inodes) == (0, 1)


def test_an_open_file_replaced_by_a_rename_is_usable_until_its_last_close(engine: Engine) -> None:
    files = engine.files
    files.write("old", b"old")
    files.write("new", b"new")
    with files.opened("old") as fh:
        files.rename("new", "old")
        assert files.read("old") == b"new"
        assert files.pread(fh, 0, 10) == b"old"
    assert engine.vfs.statfs(ME).used_inodes == 2


def test_a_file_with_another_name_is_not_freed(engine: Engine) -> None:
    files = engine.files
    files.write("f", b"data")
    fh = files.open("f")
    engine.vfs.link(ME, files.ino("f"), ROOT, b"g")
    files.pwrite(fh, 0, b"DATA")
    files.unlink("f")
    files.close(fh)
    assert files.read("g") == b"DATA"


def test_nothing_of_a_temporary_file_is_uploaded_at_close(engine: Engine) -> None:
    files = engine.files
    fh = files.create("tmp")
    files.pwrite(fh, 0, b"scratch")
    files.unlink("tmp")
    files.close(fh)
    assert [info.name for info in engine.volume.objects.list("packs/")] == []


def test_unlinked_files_of_a_killed_process_are_freed_by_the_next_cleaner(tmp_path: Path) -> None:
    url = new_volume(tmp_path, "memory")
    dead = Engine(url)
    fh = dead.files.create("f")
    dead.files.pwrite(fh, 0, b"data")
    dead.vfs.fsync(ME, fh)
    dead.files.unlink("f")
    session = dead.meta.sessions.list()[0]
    with Engine(url) as living:
        assert living.vfs.statfs(ME).used_inodes == 2
        living.meta.sessions._clean(session.id)
        assert living.vfs.statfs(ME).used_inodes == 1
    dead.abandon()


# Volumes with limits


def test_a_write_beyond_the_capacity_fails_at_once(tmp_path: Path) -> None:
    with Engine(new_volume(tmp_path, capacity_bytes=MIB)) as engine:
        fh = engine.files.create("f")
        with pytest.raises(CairnError) as error:
            for i in range(20):
                engine.files.pwrite(fh, i * 100_000, bytes(100_000))
        assert error.value.errno == errno.ENOSPC
        engine.files.close(fh)
        assert engine.files.attr("f").size == 1_000_000
        engine.files.unlink("f")
        engine.files.write("g", bytes(1_000_000))


def test_rewriting_a_full_volume_in_place_works(tmp_path: Path) -> None:
    with Engine(new_volume(tmp_path, capacity_bytes=MIB)) as engine:
        engine.files.write("f", bytes(MIB))
        with engine.files.opened("f") as fh:
            engine.files.pwrite(fh, 0, b"x" * MIB)
        assert engine.files.read("f") == b"x" * MIB


def test_filling_holes_of_a_full_volume_fails_when_it_is_stored(tmp_path: Path) -> None:
    with Engine(new_volume(tmp_path, capacity_bytes=MIB)) as engine:
        with engine.files.created("sparse") as fh:
            engine.vfs.setattr(ME, engine.files.ino("sparse"), SetAttr(size=MIB), fh)
        engine.files.write("f", bytes(MIB))
        fh = engine.files.open("sparse")
        engine.files.pwrite(fh, 0, b"x")
        with pytest.raises(CairnError) as error:
            engine.vfs.flush(ME, fh)
        assert error.value.errno == errno.ENOSPC
        engine.files.unlink("f")
        engine.files.close(fh)
        assert engine.files.read("sparse")[:2] == b"x\0"


def test_a_read_only_volume_refuses_every_change(tmp_path: Path) -> None:
    url = new_volume(tmp_path)
    with Engine(url) as writer:
        writer.files.write("f", b"data")
    with Engine(url, replace(TEST_OPTIONS, read_only=True)) as engine:
        vfs, ino = engine.vfs, engine.files.ino("f")
        assert engine.files.read("f") == b"data"
        for call in (
            lambda: vfs.create(ME, ROOT, b"g", 0o600, os.O_RDWR),
            lambda: vfs.open(ME, ino, os.O_WRONLY),
            lambda: vfs.open(ME, ino, os.O_RDONLY | os.O_TRUNC),
            lambda: vfs.mkdir(ME, ROOT, b"d", 0o700),
            lambda: vfs.mknod(ME, ROOT, b"d", 0o700),
            lambda: vfs.symlink(ME, ROOT, b"d", b"f"),
            lambda: vfs.link(ME, ino, ROOT, b"h"),
            lambda: vfs.unlink(ME, ROOT, b"f"),
            lambda: vfs.rmdir(ME, ROOT, b"f"),
            lambda: vfs.rename(ME, ROOT, b"f", ROOT, b"g"),
            lambda: vfs.setattr(ME, ino, SetAttr(mode=0)),
            lambda: vfs.setxattr(ME, ino, b"user.a", b""),
            lambda: vfs.removexattr(ME, ino, b"user.a"),
            lambda: vfs.access(ME, ino, os.W_OK),
        ):
            with pytest.raises(CairnError) as error:
                call()
            assert error.value.errno == errno.EROFS


# What the kernel may keep


def test_pages_are_kept_when_nothing_but_own_writes_came_between(engine: Engine) -> None:
    files, vfs = engine.files, engine.vfs
    files.write("f", b"data")
    ino = files.ino("f")
    for flags in (os.O_RDWR, os.O_RDONLY):
        opened = vfs.open(ME, ino, flags)
        assert opened.keep_cache
        if flags == os.O_RDWR:
            files.pwrite(opened.fh, 0, b"more data")
        files.close(opened.fh)
    vfs.setattr(ME, ino, SetAttr(size=2))
    opened = vfs.open(ME, ino, os.O_RDONLY)
    assert opened.keep_cache
    files.close(opened.fh)


def test_pages_are_dropped_after_a_foreign_commit_and_after_forgetting(engine: Engine) -> None:
    files, vfs = engine.files, engine.vfs
    files.write("f", b"data")
    ino = files.ino("f")
    engine.meta.layout.truncate(ino, 1)  # behind the Vfs's back, as another process would
    opened = vfs.open(ME, ino, os.O_RDONLY)
    assert not opened.keep_cache
    files.close(opened.fh)
    vfs.forget(ino, 1)
    opened = vfs.open(ME, ino, os.O_RDONLY)
    assert not opened.keep_cache
    files.close(opened.fh)
