"""A read that the store has not answered fails once by waiting, and at once when it comes again soon."""

import dataclasses
import errno
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cairnfs.const import MIB
from cairnfs.errors import CairnError, FsError
from cairnfs.types import Inode
from cairnfs.vfs import unanswered
from cairnfs.vfs.unanswered import MAX_PIECES, Unanswered
from support.engine import TEST_OPTIONS, Engine, new_volume

TIMEOUT_S = 1.0


class Clock:
    def __init__(self) -> None:
        self.at_s = 100.0

    def now_ns(self) -> int:
        return int(self.at_s * 1e9)

    def monotonic_s(self) -> float:
        return self.at_s

    def sleep(self, seconds: float) -> None:
        self.at_s += seconds


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Has files a and b, and none of their bytes."""
    url = new_volume(tmp_path, "sqlite")
    with Engine(url) as writer:
        for name in "ab":
            writer.files.write(name, name.encode() * 5 * MIB)
    with Engine(url, dataclasses.replace(TEST_OPTIONS, io_timeout_s=TIMEOUT_S)) as made:
        yield made


def took_s(call: Callable[[], object]) -> float:
    """What a call takes that fails with EIO."""
    began_s = time.monotonic()
    with pytest.raises(CairnError) as caught:
        call()
    assert caught.value.errno == errno.EIO
    return time.monotonic() - began_s


def test_what_was_not_answered_is_not_waited_for_twice(engine: Engine, tmp_path: Path, expected_logs: Any) -> None:
    expected_logs.add("trying again")
    files, bucket = engine.files, tmp_path / "bucket"
    with files.opened("a") as a, files.opened("b") as b:
        bucket.rename(tmp_path / "away")
        assert took_s(lambda: files.pread(a, 0, 4096)) >= TIMEOUT_S
        for _ in range(3):
            assert took_s(lambda: files.pread(a, 4096, 4096)) < TIMEOUT_S / 2
        assert took_s(lambda: files.pread(b, 0, 4096)) >= TIMEOUT_S  # another file
        (tmp_path / "away").rename(bucket)
        assert files.pread(a, 4 * MIB, 4096) == b"a" * 4096  # other bytes
        assert took_s(lambda: files.pread(b, 0, 4096)) < TIMEOUT_S / 2  # the second request
        assert files.pread(a, 0, 4096) == b"a" * 4096  # the store has answered since
        assert files.pread(b, 0, 4096) == b"b" * 4096


def fails(reads: Unanswered, ino: int, offset: int = 0) -> bool:
    try:
        reads.check(Inode(ino), offset)
    except FsError as error:
        assert error.errno == errno.EIO
        return True
    return False


def test_only_what_has_waited_is_remembered_and_not_for_long() -> None:
    clock = Clock()
    reads = Unanswered(clock, lambda: 0)
    reads.note(Inode(5), 0, 4096, clock.at_s - unanswered.WORTH_S / 2, is_metadata=False)
    assert not fails(reads, 5)
    reads.note(Inode(5), MIB - 1, 2, clock.at_s - 1, is_metadata=False)
    assert all(fails(reads, 5, offset) for offset in (0, MIB - 1, MIB, 2 * MIB - 1))  # both pieces that it touches
    assert not fails(reads, 5, 2 * MIB)
    assert not fails(reads, 6)
    clock.sleep(unanswered.REMEMBERED_S)
    assert not fails(reads, 5)


def test_after_an_answer_only_the_second_request_fails_at_once() -> None:
    clock, n_answers = Clock(), 7
    reads = Unanswered(clock, lambda: n_answers)
    for ino, is_metadata in ((5, False), (6, False), (7, True)):
        reads.note(Inode(ino), 0, 4096, clock.at_s - 1, is_metadata=is_metadata)
    assert fails(reads, 5) and fails(reads, 5)
    n_answers = 8
    assert not fails(reads, 5)
    assert fails(reads, 6) and not fails(reads, 6)
    assert fails(reads, 7) and fails(reads, 7)  # of metadata nothing was answered


def test_not_more_is_remembered_than_needed() -> None:
    clock = Clock()
    reads = Unanswered(clock, lambda: 0)
    for ino in range(3 * MAX_PIECES):
        clock.sleep(0.01)
        reads.note(Inode(ino), 0, 1, clock.at_s - 1, is_metadata=False)
    assert len(reads._failures) <= MAX_PIECES
    assert fails(reads, 3 * MAX_PIECES - 1)
