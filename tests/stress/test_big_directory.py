"""A very large directory: created, listed with bounded memory, removed, through a real mount.

20,000 entries by default; `--full` makes it 1,000,000.
"""

import os
import random
from pathlib import Path

import pytest

from support.mounts import Mount

pytestmark = [pytest.mark.fuse, pytest.mark.slow, pytest.mark.timeout(7200)]


def resident_bytes(mount: Mount) -> int:
    status = Path(f"/proc/{mount.pids[0]}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def test_a_large_directory_is_made_listed_and_removed(channel_mount: Mount, request: pytest.FixtureRequest) -> None:
    n = 1_000_000 if request.config.getoption("--full") else 20_000
    top = channel_mount.path / "large"
    top.mkdir()
    directory = os.open(top, os.O_RDONLY)
    for i in range(n):
        os.mknod(f"{i:07}", 0o100644, dir_fd=directory)
    channel_mount_size = os.stat(top).st_nlink
    assert channel_mount_size == 2
    os.close(directory)
    channel_mount.restart()
    before = resident_bytes(channel_mount)
    seen = bytearray(n)
    with os.scandir(top) as entries:
        for entry in entries:
            assert not seen[int(entry.name)]
            seen[int(entry.name)] = 1
    assert all(seen)
    grown = resident_bytes(channel_mount) - before
    assert grown < 64 << 20, f"listing took {grown >> 20} MiB"
    for i in random.Random(1).sample(range(n), 500):
        os.stat(top / f"{i:07}")
    directory = os.open(top, os.O_RDONLY)
    for i in range(n):
        os.unlink(f"{i:07}", dir_fd=directory)
    os.close(directory)
    top.rmdir()
    assert os.listdir(channel_mount.path) == []
