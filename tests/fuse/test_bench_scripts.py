"""The programs behind numbers of the READMEs, with tiny amounts: they end well, print what can be, and leave nothing behind."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import missing

from support.ceph_server import CEPH
from support.mounts import cairnfs_mounts
from support.redis_server import REDIS_SERVER

pytestmark = [pytest.mark.fuse, pytest.mark.usefixtures("need_fuse")]

LIMIT_S = 240  # a busy machine takes a minute to start a cluster
N_FILES = 40


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """Where a program has its temporary files; afterwards none are there, nothing is mounted there, and nobody works on any."""
    if REDIS_SERVER is None:
        missing("redis-server")
    folder = tmp_path / "tmp"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []
    assert [place for place in cairnfs_mounts() if place.startswith(f"{folder}/")] == []
    assert processes_in(folder) == []


def processes_in(folder: Path) -> list[str]:
    """Those whose command line names the folder, or that stand in it: a Redis server shows other words than it was given."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words, place = (entry / "cmdline").read_bytes(), os.readlink(entry / "cwd")
        except OSError:
            continue
        if os.fsencode(folder) in words or place.startswith(f"{folder}/"):
            found.append(os.fsdecode(words.replace(b"\0", b" ")))
    return found


def run(program: str, temporary: Path, *options: str) -> str:
    """What it prints. What it says when it fails is the test's failure."""
    done = subprocess.run(
        [sys.executable, "-m", f"cairnfs.bench.{program}", *options],
        env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def rows(printed: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in printed.splitlines() if line.startswith("│")]


def test_how_late_another_node_sees_a_change(temporary: Path) -> None:
    found = rows(run("staleness", temporary, "--changes", "3", "--load", "2"))
    looked_for = ("content of a file", "a new name")
    assert [tuple(row[:2]) for row in found] == [(what, load) for load in ("none", "2 processes") for what in looked_for]
    for row in found:
        median_ms, late_ms, worst_ms = map(float, row[2:])
        assert 0 < median_ms <= late_ms <= worst_ms < 10_000


def test_how_much_memory_of_redis_a_file_takes(temporary: Path, tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    printed = run("redis_memory", temporary, "--files", "600", "--per-folder", "100", "--bucket", str(bucket))
    found = re.fullmatch(r"600 files in \d+ s: (\d+) bytes each, (\d+) for each record of the change log\n", printed)
    assert found is not None, printed
    assert 400 < int(found[1]) < 4000 and 20 < int(found[2]) < 2000
    assert list(bucket.iterdir()) == []


def test_what_a_file_costs_at_least(temporary: Path) -> None:
    found = rows(run("floor", temporary, "--files", str(N_FILES), "--size", "4000"))
    assert [row[0] for row in found] == ["create, write, close", "remove"]
    (created, removed) = ([float(cell.replace(",", "")) for cell in row[1:]] for row in found)
    assert 3 <= created[0] < 4 and 1 <= removed[0] < 2  # requests: the end of the log and two commits, one commit
    for _, redis_us, object_us, synced_us, rate, rate_synced in (created, removed):
        assert redis_us > 0 and rate == pytest.approx(1e6 / (redis_us + object_us), rel=0.02)
        assert rate_synced == pytest.approx(1e6 / (redis_us + synced_us), rel=0.02)
    assert created[2] > 0 < created[3] and removed[2:4] == [0, 0]


@pytest.mark.slow
@pytest.mark.usefixtures("kernel_caches")
def test_an_epoch_on_redis_and_ceph(temporary: Path) -> None:
    if not CEPH:
        missing("ceph")
    printed = run("ceph_epoch", temporary, "--files", str(N_FILES), "--cache-memory", "64M")
    assert f"{N_FILES} files" in printed
    steps = {row[0]: row[1:] for row in rows(printed)}
    assert list(steps) == ["write", "read, cold", "read, arena", "read, kernel"]
    assert all(float(cell.replace(",", "")) > 0 for row in steps.values() for cell in row[:2])
    put, got = ({step: float(row[i]) for step, row in steps.items()} for i in (2, 3))
    assert put == {"write": 1.0, "read, cold": 0.0, "read, arena": 0.0, "read, kernel": 0.0}
    assert 0 < got["read, cold"] <= 1
    assert got["write"] == got["read, arena"] == got["read, kernel"] == 0
    assert steps["write"][4].endswith(" ms") and steps["read, cold"][5].endswith(" ms")
