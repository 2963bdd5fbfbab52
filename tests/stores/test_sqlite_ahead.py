"""What SQLite is about to write over is in memory by then."""

import errno
import os
from pathlib import Path

import pytest

from cairnfs.meta.stores.base import Put
from cairnfs.meta.stores.sqlite import SqliteStore
from cairnfs.meta.stores.sqlite_ahead import AHEAD_BYTES, FRAME_BYTES, HEADER_BYTES
from cairnfs.meta.stores.sqlite_watch import n_frames

VALUE = os.urandom(3000)


def log_end(store: SqliteStore) -> int:
    """Where in the log the next frame goes."""
    mark = store.mark()
    assert mark is not None
    return HEADER_BYTES + n_frames(mark) * FRAME_BYTES


def test_the_part_that_comes_next_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    advise = os.posix_fadvise

    def noted(fd: int, offset: int, length: int, advice: int) -> None:
        assert os.readlink(f"/proc/self/fd/{fd}") == f"{tmp_path}/meta.db-wal"
        assert advice == os.POSIX_FADV_WILLNEED
        asked.append((offset, offset + length))
        advise(fd, offset, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", noted)
    store = SqliteStore(tmp_path / "meta.db", "sqlite3://meta.db", True)
    ends = []
    n_restarts = 0
    for i in range(4000):
        store.commit([], [Put((b"part", b"%d" % (i % 3000)), VALUE)])
        ends.append(log_end(store))
        n_restarts += len(ends) > 1 and ends[-1] < ends[-2]
        begins, until = asked[-1]
        assert begins <= ends[-1] <= until - AHEAD_BYTES // 2
    assert n_restarts >= 1, "the log never began again"
    written = sum(max(0, after - before) for before, after in zip(ends, ends[1:], strict=False))
    assert len(asked) <= 2 + n_restarts + written // (AHEAD_BYTES // 2), "it is asked for too often"
    store.close()


def test_a_commit_is_done_where_the_kernel_takes_no_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "no advice")

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    store = SqliteStore(tmp_path / "meta.db", "sqlite3://meta.db", True)
    assert store.commit([], [Put((b"part", b"key"), VALUE)]).position == 1
    store.close()
