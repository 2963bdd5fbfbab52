"""What was written and cannot be stored now: it is kept for later, or those who have the file open are told that it is lost."""

from pathlib import Path

import pytest

from cairnfs.const import MIB
from cairnfs.data.uploader import Batch, Piece
from cairnfs.errors import CairnError
from cairnfs.ext.arena import Arena
from cairnfs.vfs.carried import Carried
from support.datavolume import BLOCK, DataVolume
from support.engine import Engine


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
