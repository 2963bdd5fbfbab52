"""What a mount counts of its caches, the arena's and Python's: `.stats`, `cairnfs stats` and Prometheus say the same."""

import json
import os
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from cairnfs.daemon.cmd_stats import take_snapshot
from support.mounts import Mount, MountFactory, cairnfs

pytestmark = pytest.mark.fuse

FILE_BYTES = 10_000
N_FILES = 600  # together more than twice what the arena holds
SMALL = ("--cache-memory", "4M", "--heartbeat", "30", "--metrics", "127.0.0.1:0")
ALONE = ("--workers", "1")  # what another worker has fetched is found where it was missed
N_READS = 50


def counts(mount: Mount) -> dict[str, float]:
    """Of the caches, in `.stats`, without "cairnfs_"."""
    found = take_snapshot(mount.path).samples
    return {name.removeprefix("cairnfs_"): n for name, n in found.items() if re.match("cairnfs_(arena|cache|journal)_", name)}


def added(mount: Mount, act: Callable[[], object]) -> dict[str, float]:
    before = counts(mount)
    act()
    return {name: n - before[name] for name, n in counts(mount).items()}


def read_again(path: Path, n: int) -> None:
    """From the mount each time: the kernel has dropped its pages."""
    with path.open("rb", buffering=0) as file:
        for _ in range(n):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert len(os.pread(file.fileno(), FILE_BYTES, 0)) == FILE_BYTES


def test_more_than_the_cache_holds_is_evicted_and_hits_and_misses_are_exact(mounts: MountFactory) -> None:
    volume = mounts.volume()
    mount = mounts.new(volume, *SMALL, *volume.compiled_opens, *ALONE)
    paths = [mount.path / f"file{i}" for i in range(N_FILES)]
    assert counts(mount)['arena_evictions_total{kind="segment"}'] == 0
    for path in paths:
        path.write_bytes(os.urandom(FILE_BYTES))
    full = counts(mount)
    assert full['arena_evictions_total{kind="segment"}'] > 0
    assert 0 < full["arena_table_bytes"] < 4 << 20 and 0 < full["cache_bytes"] < 4 << 20
    newest, oldest = paths[-1], paths[0]
    found = added(mount, lambda: read_again(newest, N_READS))
    assert (found["arena_hits_total"], found["arena_misses_total"]) == (N_READS, 0)
    assert found["cache_misses_total"] == 0
    found = added(mount, lambda: read_again(oldest, N_READS))
    assert (found["arena_misses_total"], found["cache_misses_total"]) == (1, 1), "it was evicted, and is fetched once"
    assert found["arena_hits_total"] == N_READS - 1


def test_every_way_of_looking_shows_the_same(mounts: MountFactory) -> None:
    mount = mounts.new(None, *SMALL)
    path = mount.path / "file"
    path.write_bytes(os.urandom(FILE_BYTES))
    read_again(path, N_READS)
    shown = counts(mount)
    assert shown["arena_hits_total"] >= N_READS
    by_command = json.loads(cairnfs("stats", mount.path, "--json").stdout)["stats"]
    where = re.search(r"metrics: (http://\S+/metrics)", mount.log.read_text())
    assert where
    with urllib.request.urlopen(where[1], timeout=20) as answer:
        text = answer.read().decode()
    by_prometheus = dict(re.findall(r"^cairnfs_((?:arena|cache)_\w+)\{.*\} (\S+)$", text, re.MULTILINE))
    for name in ("arena_hits_total", "arena_misses_total", "arena_table_bytes", "cache_bytes"):
        assert by_command[f"cairnfs_{name}"] == shown[name] == float(by_prometheus[name])
    kinds = re.findall(r'cairnfs_arena_evictions_total\{kind="(\w+)"', text)
    assert kinds == ["segment", "attributes", "name"]


def test_the_journal_shows_what_is_not_committed(mounts: MountFactory) -> None:
    mount = mounts.new(None, "--workers", "1", "--heartbeat", "30")
    assert counts(mount)["journal_bytes"] == 0
    with (mount.path / "file").open("wb", buffering=0) as file:
        file.write(bytes(100_000))
        assert 100_000 <= counts(mount)["journal_bytes"] < 200_000
        os.fsync(file.fileno())
        assert counts(mount)["journal_bytes"] == 0
