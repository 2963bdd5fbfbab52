"""When objects in a folder are synced: as they are put, or by fsync(2) and whatever else relies on them."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path

import pytest
from conftest import ExpectedLogs

from cairnfs.check import gc
from cairnfs.errors import CairnError, ObjectError, UsageError
from cairnfs.objects import create_bucket
from cairnfs.objects.base import MARKER
from cairnfs.objects.file import FileStore
from cairnfs.volume import format_volume, new_format
from support.engine import ME, ROOT, Engine
from support.failing_calls import build, outcome_of

PUT_AND_SYNC = """
import json, sys
from cairnfs.errors import ObjectError
from cairnfs.objects.file import FileStore
store = FileStore(sys.argv[1], sys.argv[2])
store._unnamed_files = sys.argv[3] == "True"
said = []
for act in (lambda: store.put("packs/00/x", [b"01234"]), store.sync):
    try:
        act()
        said.append(0)
    except ObjectError as error:
        said.append(error.errno)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def failing_calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("failing-calls"))


@pytest.mark.parametrize("unnamed", [True, False])
@pytest.mark.parametrize(
    ("when", "calls", "expected"),
    [
        ("close", {"fsync": errno.EIO}, [errno.EIO, 0]),
        ("close", {"syncfs": errno.EIO}, [0, 0]),
        ("fsync", {"fsync": errno.EIO}, [0, 0]),
        ("fsync", {"syncfs": errno.EIO}, [0, errno.EIO]),
        ("fsync", {"syncfs": errno.ENOSPC}, [0, errno.ENOSPC]),
    ],
)
def test_what_is_synced_when(
    tmp_path: Path, failing_calls: Path, when: str, calls: dict[str, int], expected: list[int], unnamed: bool
) -> None:
    (tmp_path / MARKER).write_bytes(b"x")
    assert outcome_of(failing_calls, PUT_AND_SYNC, [str(tmp_path), when, str(unnamed)], **calls) == expected


def test_a_folder_that_is_gone_cannot_be_synced(tmp_path: Path) -> None:
    with pytest.raises(ObjectError) as caught:
        FileStore(str(tmp_path / "none"), "fsync").sync()
    assert caught.value.errno == errno.ENOENT


def test_when_to_sync_must_be_known(tmp_path: Path) -> None:
    place = new_format("volume", bucket=str(tmp_path / "bucket"), storage_options={"sync": "never"})
    with pytest.raises(UsageError, match="'never' is not when to sync: choose close or fsync"):
        create_bucket(place)
    with pytest.raises(UsageError, match="--sync is not for --storage rados"):
        new_format("volume", storage="rados", bucket="pool", storage_options={"sync": "fsync"})


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite3://{tmp_path}/meta.db"
    format_volume(url, new_format("volume", bucket=str(tmp_path / "bucket"), storage_options={"sync": "fsync"}))
    with Engine(url) as engine:
        yield engine


@pytest.fixture
def synced(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced, in order."""
    said: list[str] = []
    for name, store in (("objects", engine.volume.objects), ("metadata", engine.meta.store)):
        monkeypatch.setattr(store, "sync", lambda name=name, sync=store.sync: (said.append(name), sync()))
    return said


def fsync(engine: Engine) -> None:
    with engine.files.opened("f", os.O_RDWR) as fh:
        engine.files.pwrite(fh, 0, b"changed")
        engine.vfs.fsync(ME, fh)


def fsyncdir(engine: Engine) -> None:
    fh = engine.vfs.opendir(ME, ROOT).fh
    engine.vfs.fsyncdir(ME, fh)
    engine.vfs.releasedir(ME, fh)


def delete(engine: Engine) -> None:
    engine.files.unlink("f")
    engine.volume.data.deleter.run_once()


def collect(engine: Engine) -> None:
    engine.files.unlink("f")
    gc.run(engine.volume, delete=True)


@pytest.mark.parametrize("act", [fsync, fsyncdir, lambda engine: engine.vfs.syncfs(ME), delete, collect])
def test_objects_are_synced_before_the_metadata_that_names_them(
    engine: Engine, synced: list[str], act: Callable[[Engine], None]
) -> None:
    engine.files.write("f", b"content")
    assert synced == []
    act(engine)
    assert synced[:2] == ["objects", "metadata"]


@pytest.mark.parametrize("act", [fsync, delete, collect])
def test_what_relies_on_objects_fails_when_they_cannot_be_synced(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs, act: Callable[[Engine], None]
) -> None:
    expected_logs.add("may be lost")
    engine.files.write("f", b"content")
    objects = sorted(info.name for info in engine.volume.objects.list("packs/"))

    def fail() -> None:
        raise ObjectError("the disk has lost something", errno.EIO)

    monkeypatch.setattr(engine.volume.objects, "sync", fail)
    with pytest.raises(CairnError) as caught:
        act(engine)
    assert caught.value.errno == errno.EIO
    assert set(objects) <= {info.name for info in engine.volume.objects.list("packs/")}, "an object is gone too soon"
    monkeypatch.undo()
    outcomes(lambda: engine.vfs.syncfs(ME))  # else the end is told


class Disk:
    """Tells once of what it has lost, to whoever syncs it next: so does a descriptor for which a folder was opened anew."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.has_lost = False
        monkeypatch.setattr(engine.volume.objects, "sync", self.sync)

    def sync(self) -> None:
        had_lost, self.has_lost = self.has_lost, False
        if had_lost:
            raise ObjectError("the disk has lost something", errno.EIO)


def outcomes(*calls: Callable[[], object]) -> list[int | None]:
    found: list[int | None] = []
    for call in calls:
        try:
            call()
            found.append(0)
        except CairnError as error:
            found.append(error.errno)
    return found


@pytest.mark.parametrize("who", ["a handle", "the deleter"])
def test_every_handle_is_told_once_of_what_the_disk_has_lost(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs, who: str
) -> None:
    """Whoever met with the error. Nobody has asked the deleter, so what that has met with is told to whoever opens then, too."""
    expected_logs.add("may be lost")
    disk, vfs = Disk(engine, monkeypatch), engine.vfs
    engine.files.write("f", b"content")
    engine.files.write("g", b"for the deleter")
    folder = vfs.opendir(ME, ROOT).fh
    with engine.files.opened("f", os.O_RDWR) as one, engine.files.opened("f", os.O_RDONLY) as two:
        asking = [lambda: vfs.fsync(ME, one), lambda: vfs.fsync(ME, two)]
        asking += [lambda: vfs.fsyncdir(ME, folder), lambda: vfs.syncfs(ME)]
        disk.has_lost = True
        if who == "a handle":
            assert outcomes(asking.pop(0)) == [errno.EIO]
        else:
            engine.files.unlink("g")
            assert outcomes(engine.volume.data.deleter.run_once) == [errno.EIO]
        with engine.files.opened("f", os.O_RDWR) as late:
            assert outcomes(lambda: vfs.fsync(ME, late)) == [0 if who == "a handle" else errno.EIO]
        with engine.files.opened("f", os.O_RDWR) as latest:
            assert outcomes(lambda: vfs.fsync(ME, latest)) == [0]
        assert outcomes(*asking) == [errno.EIO] * len(asking)
        assert outcomes(lambda: vfs.fsync(ME, one), *asking) == [0] * (len(asking) + 1)
    vfs.releasedir(ME, folder)


def test_nobody_passes_while_another_one_is_about_to_be_told(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs
) -> None:
    """The disk tells the first of two that sync at a time, and lets the second pass before the first has noted it."""
    expected_logs.add("may be lost")
    disk = Disk(engine, monkeypatch)
    is_told, goes_on = threading.Event(), threading.Event()

    def slow() -> None:
        try:
            disk.sync()
        except ObjectError:
            is_told.set()
            assert goes_on.wait(20)
            raise

    monkeypatch.setattr(engine.volume.objects, "sync", slow)
    engine.files.write("f", b"content")
    with engine.files.opened("f", os.O_RDWR) as one, engine.files.opened("f", os.O_RDWR) as two, ThreadPoolExecutor(2) as pool:
        disk.has_lost = True
        first = pool.submit(outcomes, lambda: engine.vfs.fsync(ME, one))
        assert is_told.wait(20)
        second = pool.submit(outcomes, lambda: engine.vfs.fsync(ME, two))
        assert not wait_for([second], timeout=0.2).done
        goes_on.set()
        assert first.result() == second.result() == [errno.EIO]
    assert outcomes(engine.vfs.close) == [errno.EIO], "the end of a mount is told, too"


def test_a_volume_that_is_closed_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite3://{tmp_path}/meta.db"
    format_volume(url, new_format("volume", bucket=str(tmp_path / "bucket"), storage_options={"sync": "fsync"}))
    engine = Engine(url)
    engine.files.write("f", b"content")
    said: list[str] = []
    monkeypatch.setattr(engine.volume.objects, "sync", lambda: said.append("objects"))
    monkeypatch.setattr(engine.meta.store, "close", lambda close=engine.meta.store.close: (said.append("closed"), close()))
    engine.close()
    assert said[-2:] == ["objects", "closed"]
