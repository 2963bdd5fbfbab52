"""Reading inodes that nobody has opened: bounded handles, fresh content, and what is gone is stale."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairnfs.errors import FsError
from cairnfs.types import Inode
from support.engine import ME, Engine, new_volume


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(new_volume(tmp_path)) as found:
        yield found


def read(engine: Engine, ino: Inode) -> bytes:
    return b"".join(engine.vfs.read(ME, -ino, 0, 1 << 20))


def test_an_inode_is_read_and_searched_by_its_number(engine: Engine) -> None:
    engine.files.write("f", b"abc" * 1000)
    ino = engine.files.ino("f")
    assert read(engine, ino) == b"abc" * 1000
    assert engine.vfs.lseek(ME, -ino, 0, os.SEEK_HOLE) == 3000


def test_what_others_change_is_read_after_invalidation(engine: Engine) -> None:
    engine.files.write("f", b"old")
    ino = engine.files.ino("f")
    assert read(engine, ino) == b"old"
    with Engine(engine.url) as other:
        other.files.write("f", b"newer")
    engine.vfs.invalidate([ino])
    assert read(engine, ino) == b"newer"


def test_handles_are_few_and_go_with_what_the_kernel_forgets(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    unopened = engine.vfs._state.unopened
    monkeypatch.setattr(unopened, "_max_handles", 10)
    inos = []
    for i in range(50):
        engine.files.write(f"f{i}", b"%d" % i)
        inos.append(engine.files.ino(f"f{i}"))
    for _ in range(2):
        assert [read(engine, ino) for ino in inos] == [b"%d" % i for i in range(50)]
    assert (len(unopened), len(engine.vfs._state.files)) == (10, 10)
    for ino in inos:
        engine.vfs.forget(ino, 1)
    assert (len(unopened), len(engine.vfs._state.files)) == (0, 0)


def test_an_inode_that_is_gone_is_stale(engine: Engine) -> None:
    engine.files.write("f", b"x")
    ino = engine.files.ino("f")
    engine.files.unlink("f")
    with pytest.raises(FsError) as caught:
        read(engine, ino)
    assert caught.value.errno == errno.ESTALE
    assert len(engine.vfs._state.files) == 0
