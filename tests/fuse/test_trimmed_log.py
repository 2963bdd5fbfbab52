"""A mount that falls behind a change log which was trimmed: the kernel is told to forget everything, nothing stale stays.

All processes of the mount are stopped while another one changes things, and the log is cut to its last record, as a log that is
full would be. They are stopped for less than a lease, at whose end they would drop everything anyway.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.mounts import MountFactory, Volume
from support.redis_server import RedisServer
from support.stopping import stopped

pytestmark = [pytest.mark.fuse, pytest.mark.usefixtures("kernel_caches")]

LOG = "{cairnfs:0}log"
PATIENCE_S = 30
OLD, NEW = b"old;" * 5000, b"new;" * 5000  # of one size: only that they are dropped tells pages of the two apart
MODES = {"close to open": (), "push": ("--consistency", "push"), "read-only": ("-o", "ro")}
KEPT = """
import os, sys
top = sys.argv[1]
assert os.stat(top + "/d/mode").st_mode & 0o777 == 0o644
assert os.path.exists(top + "/d/gone") and os.path.exists(top + "/moved/below")
held = os.open(top + "/d/text", os.O_RDONLY) if len(sys.argv) > 2 else None
assert held is None or os.read(held, 4) == b"old;"
os._exit(0)
"""


@pytest.fixture
def volume(mounts: MountFactory, redis_server: RedisServer) -> Volume:
    return mounts.volume(url=f"{redis_server.url}/0")


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def make(top: Path) -> None:
    (top / "d").mkdir()
    (top / "moved").mkdir()
    (top / "moved" / "below").write_bytes(OLD)
    for name in ("text", "replaced", "mode", "gone", "renamed", "held"):
        (top / "d" / name).write_bytes(OLD)
        (top / "d" / name).chmod(0o644)


def change(top: Path) -> None:
    d = top / "d"
    with (d / "text").open("r+b") as file:
        file.write(NEW)
    with (d / "held").open("r+b") as file:
        file.write(NEW)
    (d / "next").write_bytes(NEW)
    (d / "next").rename(d / "replaced")
    (d / "mode").chmod(0o600)
    (d / "gone").unlink()
    (d / "renamed").rename(d / "other")
    (d / "made").write_bytes(NEW)
    (top / "moved").rename(top / "elsewhere")


def warm(top: Path) -> None:
    """Whatever the kernel can keep, it has: names, absent names, attributes, pages, listings."""
    for _ in range(3):
        for folder in (top, top / "d", top / "moved"):
            for name in names(folder):
                (folder / name).stat()
                if (folder / name).is_file():
                    assert (folder / name).read_bytes() == OLD
        assert not (top / "d" / "made").exists()


@pytest.mark.parametrize("mode", MODES)
def test_nothing_of_before_the_gap_is_seen_after_it(
    mode: str, mounts: MountFactory, volume: Volume, redis_server: RedisServer
) -> None:
    two = mounts.new(volume)
    make(two.path)
    one = mounts.new(volume, *MODES[mode])
    for mount in (one, two):  # which may be a record behind
        mount.expected_log += ["no longer reaches back", "could not be followed"]
    d = one.path / "d"
    warm(one.path)
    with (d / "held").open("rb", buffering=0) as held, redis_server.client() as client:
        assert held.read() == OLD
        with stopped(*one.pids):
            change(two.path)
            assert client.llen(LOG) > 10
            client.ltrim(LOG, -1, -1)
            kept = [sys.executable, "-c", KEPT, one.path, *(["opens"] if mode == "read-only" else [])]
            subprocess.run(kept, check=True, timeout=PATIENCE_S)  # the kernel has them: it answers, and nobody else can
        if mode == "close to open":  # each is the first open since
            assert (d / "text").read_bytes() == NEW
            assert (d / "replaced").read_bytes() == NEW
            assert (d / "made").read_bytes() == NEW
            assert not (d / "gone").exists() or not opens(d / "gone")
        eventually(lambda: "no longer reaches back" in one.log.read_text(), "the gap was not noticed")
        eventually(lambda: (d / "text").read_bytes() == NEW, "pages of what was written in place")
        eventually(lambda: os.pread(held.fileno(), len(OLD), 0) == NEW, "pages of an open file")
        eventually(lambda: (d / "replaced").read_bytes() == NEW, "the name of what was replaced")
        eventually(lambda: (d / "mode").stat().st_mode & 0o777 == 0o600, "attributes")
        eventually(lambda: not (d / "gone").exists(), "the name of what was removed")
        eventually(lambda: not (d / "renamed").exists() and (d / "other").exists(), "both names of what was renamed")
        eventually(lambda: (d / "made").exists(), "that a name was absent")
        eventually(lambda: not (one.path / "moved" / "below").exists(), "a path through what was renamed")
        eventually(lambda: (one.path / "elsewhere" / "below").exists(), "a path by the new name")
        eventually(lambda: names(one.path) == ["d", "elsewhere"], "the listing of the root")
        eventually(lambda: names(d) == ["held", "made", "mode", "other", "replaced", "text"], "a listing")


def opens(path: Path) -> bool:
    try:
        path.read_bytes()
    except FileNotFoundError:
        return False
    return True
