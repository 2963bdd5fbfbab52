"""`cairnfs objbench`: says what works and how fast, finds a store that breaks its contract, and leaves nothing behind."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from cairnfs.check import objbench
from cairnfs.errors import UsageError
from cairnfs.objects.base import MARKER, ObjectInfo
from cairnfs.objects.file import FileStore
from cairnfs.objects.rados import Access
from cairnfs.types import Buffer
from support.gateway import Gateway
from support.mounts import CAIRNFS, cairnfs

SMALL = ("--big-object-size", "8M", "--block-size", "1M", "--small-objects", "20", "--small-size", "4")


@pytest.fixture(params=["file", "s3", "rados"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    if request.param == "file":
        return ["--bucket", str(tmp_path)]
    if request.param == "rados":
        pool: Access = request.getfixturevalue("open_pool")
        return ["--storage", "rados", "--bucket", pool.pool, "--ceph-conf", str(pool.conf)]
    gateway: Gateway = request.getfixturevalue("gateway")
    return ["--storage", "s3", "--bucket", f"{gateway.url}/objbench"]


def test_what_works_and_how_fast(place: list[str]) -> None:
    report = json.loads(cairnfs("objbench", *place, *SMALL, "--json").stdout)
    assert report["ok"] is True
    assert [check["failure"] for check in report["checks"]] == [""] * len(objbench.CHECKS)
    expected = {
        "put large objects": (8, 8 << 20),
        "get large objects": (8, 8 << 20),
        "get ranges of them": (8, 8 << 16),
        "put small objects": (20, 20 << 12),
        "get small objects": (20, 20 << 12),
        "look at small objects": (20, 0),
        "list small objects": (20, 0),
        "delete objects": (28, 0),
    }
    assert {name: (rate["n"], rate["n_bytes"]) for name, rate in report["rates"].items()} == expected
    assert all(rate["per_s"] > 0 and 0 < rate["median_s"] <= rate["slowest_s"] for rate in report["rates"].values())


def test_people_get_tables(tmp_path: Path) -> None:
    done = cairnfs("objbench", "--bucket", tmp_path, *SMALL)
    assert "put small objects" in done.stdout and "1 MiB large, 4 KiB small, 4 at a time" in done.stdout
    assert "must work" in done.stdout
    assert "must work" not in cairnfs("objbench", "--bucket", tmp_path, *SMALL, "--skip-functional-tests").stdout
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_when_it_is_interrupted(tmp_path: Path) -> None:
    command = [*CAIRNFS, "objbench", "--bucket", str(tmp_path), "--big-object-size", "4G", "--block-size", "64"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/big/*/*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


class Slow(FileStore):
    """Storing takes long enough for something to happen meanwhile."""

    n_under_way = 0

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        self.n_under_way += 1
        time.sleep(0.3)
        super().put(name, parts)
        self.n_under_way -= 1


def test_an_interrupt_while_a_thread_is_started_waits_for_that_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / MARKER).write_text("uuid")
    store = Slow(str(tmp_path))
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        while store.n_under_way == 0:
            time.sleep(0.01)
        raise KeyboardInterrupt  # and the pool has not noted the thread

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        objbench.run_rates(store, objbench.Sizes(1 << 20, 2 << 20, 1 << 10, 2, 2), lambda n: None)
    assert store.n_under_way == 0


def test_what_is_asked_for_must_make_sense(tmp_path: Path) -> None:
    for wrong in (("--threads", "0"), ("--small-objects", "0"), ("--block-size", "1"), ("--storage", "nonsense")):
        assert cairnfs("objbench", "--bucket", tmp_path, *wrong, check=False).returncode == 2
    (tmp_path / "file").touch()
    done = cairnfs("objbench", "--bucket", tmp_path / "file", check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    with pytest.raises(UsageError):
        objbench.Sizes(1 << 20, 0, 1, 1, 1).check()


class Careless(FileStore):
    """A store that breaks one promise."""

    def __init__(self, root: Path, fault: str) -> None:
        super().__init__(str(root))
        self.fault = fault
        (root / MARKER).write_text("uuid")

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        if self.fault == "overwrites":
            with suppress(FileNotFoundError):
                Path(self.root, name).unlink()
        super().put(name, parts)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        data = super().get(name, offset, length)
        return data[:-1] + bytes([data[-1] ^ 1]) if self.fault == "damages" and len(data) > 1 else data

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        found = list(super().list(prefix, after))
        return iter(found[::-1] if self.fault == "disorders" else found)

    def delete(self, name: str) -> None:
        if self.fault != "keeps":
            super().delete(name)


@pytest.mark.parametrize(
    ("fault", "broken"),
    [
        ("", set()),
        ("overwrites", {"a taken name is refused", "one of several wins a name"}),
        ("damages", {"what was stored is read back", "ranges", "a taken name is refused", "one of several wins a name"}),
        ("disorders", {"listing in order"}),
        ("keeps", {"deletion"}),
    ],
)
def test_broken_promises_are_found(fault: str, broken: set[str], tmp_path: Path) -> None:
    found = objbench.run_checks(Careless(tmp_path, fault))
    assert {check.name for check in found if check.failure} == broken
