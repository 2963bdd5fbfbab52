"""A process that was killed is followed by another: what it had open, written and locked goes on."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from cairnfs.const import MIB
from cairnfs.errors import FsError
from cairnfs.ext.arena import Arena
from cairnfs.types import Inode, Lock, SessionId, SetAttr, serving
from cairnfs.vfs.carried import MAX_REMOVED, Carried
from support.engine import ME, ROOT, Engine, new_volume


class Line:
    """Processes that follow each other."""

    def __init__(self, folder: Path, journal_bytes: int = 8 * MIB) -> None:
        self.url = new_volume(folder, "sqlite")
        self.carried = Carried(Arena(8 * MIB), journal_bytes)
        self.engine = Engine(self.url, carried=self.carried)

    def kill(self, left: tuple[int, ...] = ()) -> Engine:
        """The next process, after the present one was killed with requests in work."""
        self.engine.abandon()
        self.carried.generation += 1
        self.engine = Engine(self.url, carried=self.carried)
        self.engine.vfs.resume(left)
        return self.engine


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


def create(line: Line, name: bytes, flags: int = os.O_RDWR) -> tuple[Inode, int]:
    attr, opened = line.engine.vfs.create(ME, ROOT, name, 0o644, flags | os.O_CREAT)
    return Inode(attr.ino), opened.fh


def read(engine: Engine, fh: int, size: int = 100_000) -> bytes:
    return b"".join(engine.vfs.read(ME, fh, 0, size))


def test_what_was_written_and_not_stored_is_read_and_stored_by_the_next(line: Line) -> None:
    ino, fh = create(line, b"file")
    line.engine.vfs.write(ME, fh, 0, b"a" * 1000)
    line.engine.vfs.write(ME, fh, 500, b"b" * 1000)
    engine = line.kill()
    assert read(engine, fh) == b"a" * 500 + b"b" * 1000
    assert engine.vfs.getattr(ME, ino).size == 1500
    engine.vfs.write(ME, fh, 1500, b"c")
    engine = line.kill()
    engine.vfs.flush(ME, fh)
    engine.vfs.release(ME, fh)
    assert line.carried.journal.resume() == []
    engine = line.kill()
    assert read(engine, engine.vfs.open(ME, ino, os.O_RDONLY).fh) == b"a" * 500 + b"b" * 1000 + b"c"
    engine.close()


@pytest.mark.parametrize("set_ns", [0, 1000 * 10**9])
def test_a_modification_time_that_was_set_is_not_undone(line: Line, set_ns: int) -> None:
    """As by rsync and tar, which set it before they close the file."""
    ino, fh = create(line, b"file")
    line.engine.vfs.write(ME, fh, 0, b"a" * 1000)
    line.engine.vfs.setattr(ME, ino, SetAttr(mtime_ns=set_ns))
    assert line.kill().vfs.getattr(ME, ino).mtime_ns == set_ns
    engine = line.kill()
    engine.vfs.flush(ME, fh)
    assert engine.meta.names.get(ino).mtime_ns == set_ns
    engine.vfs.write(ME, fh, 0, b"b")
    engine.vfs.setattr(ME, ino, SetAttr(mtime_ns=set_ns))
    engine.vfs.write(ME, fh, 0, b"c")
    engine = line.kill()
    engine.vfs.flush(ME, fh)
    assert engine.meta.names.get(ino).mtime_ns > 1000 * 10**9, "the latest write came after it was set"
    engine.vfs.release(ME, fh)
    engine.close()


def test_a_handle_goes_on_with_its_flags(line: Line) -> None:
    ino, fh = create(line, b"file", os.O_WRONLY | os.O_APPEND)
    reading = line.engine.vfs.open(ME, ino, os.O_RDONLY).fh
    engine = line.kill()
    engine.vfs.write(ME, fh, 0, b"one")
    engine.vfs.write(ME, fh, 0, b"two")
    assert read(engine, reading) == b"onetwo"
    with pytest.raises(FsError) as refused:
        engine.vfs.write(ME, reading, 0, b"x")
    assert refused.value.errno == errno.EBADF
    engine.vfs.release(ME, reading)
    engine = line.kill()
    with pytest.raises(FsError):
        read(engine, reading)
    assert engine.vfs.open(ME, ino, os.O_RDONLY).fh not in (fh, reading)
    engine.close()


def test_an_append_is_made_once_though_it_is_asked_for_twice(line: Line) -> None:
    ino, fh = create(line, b"file", os.O_RDWR | os.O_APPEND)
    serving.request = 77
    try:
        line.engine.vfs.write(ME, fh, 0, b"once")
        engine = line.kill(left=(77,))
        assert engine.vfs.write(ME, fh, 0, b"once") == 4
        serving.request = 79
        engine.vfs.write(ME, fh, 4, b" more")
    finally:
        serving.request = 0
    assert read(engine, fh) == b"once more"
    engine.close()


def test_a_handle_that_the_kernel_was_not_told_of_is_dropped(line: Line) -> None:
    ino, _ = create(line, b"file")
    serving.request = 77
    try:
        fh = line.engine.vfs.open(ME, ino, os.O_RDONLY).fh
    finally:
        serving.request = 0
    engine = line.kill(left=(77,))
    with pytest.raises(FsError):
        read(engine, fh)
    engine.close()


def test_a_file_without_a_name_lives_until_its_last_handle_is_closed(line: Line) -> None:
    ino, fh = create(line, b"file")
    line.engine.vfs.write(ME, fh, 0, b"x" * 100)
    line.engine.vfs.unlink(ME, ROOT, b"file")
    engine = line.kill()
    assert engine.vfs.getattr(ME, ino).nlink == 0
    assert read(engine, fh) == b"x" * 100
    engine.vfs.release(ME, fh)
    with pytest.raises(FsError) as gone:
        engine.vfs.getattr(ME, ino)
    assert gone.value.errno == errno.ESTALE
    assert engine.meta.sessions.sustained() == []
    engine.close()


def test_whoever_is_in_a_removed_directory_stays_there(line: Line) -> None:
    vfs = line.engine.vfs
    for name in (b"d", b"e", b"target"):
        vfs.mkdir(ME, ROOT, name, 0o751)
    gone, forgotten, replaced = (vfs.lookup(ME, ROOT, name).ino for name in (b"d", b"e", b"target"))
    vfs.rmdir(ME, ROOT, b"d")
    vfs.rmdir(ME, ROOT, b"e")
    vfs.mkdir(ME, ROOT, b"moved", 0o700)
    vfs.rename(ME, ROOT, b"moved", ROOT, b"target")
    vfs.forget(forgotten, 1)
    for _ in range(2):
        vfs = line.kill().vfs
        for ino in (gone, replaced):
            attr = vfs.getattr(ME, ino)
            assert (attr.ino, attr.nlink, attr.mode) == (ino, 0, 0o40751)
            assert [entry.name for entry in vfs.readdir(ME, vfs.opendir(ME, ino).fh, 0)] in ([], [b".", b".."])
        with pytest.raises(FsError) as none:
            vfs.getattr(ME, forgotten)
        assert none.value.errno == errno.ESTALE
    line.engine.close()


def test_the_latest_removed_directories_are_carried_on(line: Line) -> None:
    vfs, inos = line.engine.vfs, []
    for n in range(MAX_REMOVED + 10):
        inos.append(vfs.mkdir(ME, ROOT, b"%d" % n, 0o755).ino)
        vfs.rmdir(ME, ROOT, b"%d" % n)
    vfs = line.kill().vfs
    assert [vfs.getattr(ME, ino).ino for ino in inos[10:]] == inos[10:]
    with pytest.raises(FsError):
        vfs.getattr(ME, inos[9])
    line.engine.close()


def test_a_file_without_a_name_whose_handle_is_gone_is_freed(line: Line) -> None:
    ino, fh = create(line, b"file")
    line.engine.vfs.unlink(ME, ROOT, b"file")
    line.carried.handles.remove(fh)
    engine = line.kill()
    assert engine.meta.sessions.sustained() == []
    with pytest.raises(FsError):
        engine.vfs.getattr(ME, ino)
    engine.close()


def test_a_file_that_compiled_code_has_open_survives_its_name_and_a_process(line: Line) -> None:
    ino, fh = create(line, b"file")
    line.engine.vfs.write(ME, fh, 0, b"x" * 100)
    line.engine.vfs.flush(ME, fh)
    line.engine.vfs.release(ME, fh)
    assert line.carried.arena.open(ino)
    line.engine.vfs.unlink(ME, ROOT, b"file")
    engine = line.kill()
    compiled = ino << 64 | 1 << 62 | 1
    assert read(engine, compiled) == b"x" * 100
    assert engine.vfs.getattr(ME, ino).nlink == 0
    engine.vfs.release(ME, compiled)
    with pytest.raises(FsError):
        engine.vfs.getattr(ME, ino)
    engine.close()


def test_locks_go_on_and_end_with_their_handle(line: Line) -> None:
    ino, fh = create(line, b"file")
    whole = Lock(fcntl.F_WRLCK, 0, 2**63 - 1, 1, owner=5)
    line.engine.vfs.setlk(ME, ino, fh, whole, wait=False)
    line.engine.vfs.setlk(ME, ino, fh, Lock(fcntl.F_WRLCK, 0, 2**63 - 1, 1, owner=6, flock=True), wait=False)
    engine = line.kill()
    other = engine.vfs.open(ME, ino, os.O_RDWR).fh
    with pytest.raises(FsError) as taken:
        engine.vfs.setlk(ME, ino, other, whole._replace(owner=9), wait=False)
    assert taken.value.errno == errno.EAGAIN
    engine.vfs.flush(ME, fh, 5)
    engine.vfs.setlk(ME, ino, other, whole._replace(owner=9), wait=False)
    engine.vfs.release(ME, fh)
    engine.vfs.setlk(ME, ino, other, Lock(fcntl.F_WRLCK, 0, 2**63 - 1, 1, owner=10, flock=True), wait=False)
    engine.close()


@pytest.mark.parametrize("flock", [False, True])
def test_what_was_written_under_a_lock_that_is_lost_is_not_stored_and_that_is_said(line: Line, flock: bool) -> None:
    """The mount stood still for so long that another node has cleaned up; then its worker dies, or is replaced."""
    (ino, fh), (_, free) = create(line, b"locked"), create(line, b"free")
    line.engine.vfs.setlk(ME, ino, fh, Lock(fcntl.F_WRLCK, 0, 2**63 - 1, 1, owner=5, flock=flock), wait=False)
    for handle in (fh, free):
        line.engine.vfs.write(ME, handle, 0, b"data")
    with Engine(line.url) as other:
        other.meta.sessions._clean(SessionId(line.carried.session))
    engine = line.kill()
    engine.vfs.fsync(ME, free)
    with pytest.raises(FsError, match="given up") as lost:
        engine.vfs.fsync(ME, fh)
    assert lost.value.errno == errno.EIO
    assert engine.meta.names.get(ino).size == 0
    with pytest.raises(FsError):
        engine.vfs.write(ME, fh, 0, b"more")
    engine.vfs.flush(ME, fh, 5)
    for handle in (fh, free):
        engine.vfs.release(ME, handle)
    assert line.carried.journal.resume() == []
    assert engine.files.read("free") == b"data"
    engine.close()


def test_a_listing_goes_on(line: Line) -> None:
    names = [b"f%03d" % i for i in range(300)]
    for name in names:
        line.engine.vfs.mknod(ME, ROOT, name, 0o644)
    fh = line.engine.vfs.opendir(ME, ROOT).fh
    entries = line.engine.vfs.readdir(ME, fh, 0)
    first = [next(entries) for _ in range(100)]
    engine = line.kill()
    rest = list(engine.vfs.readdir(ME, fh, first[-1].cookie))
    assert [entry.name for entry in first + rest if entry.name[:1] == b"f"] == names
    engine.vfs.releasedir(ME, fh)
    engine.close()


def test_a_full_journal_has_the_oldest_files_stored(tmp_path: Path) -> None:
    line = Line(tmp_path, journal_bytes=MIB)
    inos = []
    for i in range(6):
        ino, fh = create(line, b"f%d" % i)
        line.engine.vfs.write(ME, fh, 0, bytes([i]) * 300_000)
        inos.append(ino)
    _, large = create(line, b"large")
    assert line.engine.vfs.write(ME, large, 0, b"z" * 3 * MIB) == 3 * MIB
    assert line.engine.meta.names.get(inos[0]).size == 300_000, "the oldest was not committed"
    engine = line.kill()
    for i, ino in enumerate(inos):
        assert read(engine, engine.vfs.open(ME, ino, os.O_RDONLY).fh, MIB) == bytes([i]) * 300_000
    assert engine.vfs.getattr(ME, Inode(inos[-1] + 1)).size == 3 * MIB
    engine.close()
