"""Limits of bandwidth on a real mount: no faster than they allow, with all processes together, and nothing fails."""

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.mounts import MountFactory

pytestmark = pytest.mark.fuse

MBPS = 40
BYTES_PER_S = MBPS * 125_000
CATCH_UP_S = 0.1
N_FILES, FILE_BYTES = 30, 200_000


def counted(root: Path, name: str) -> int:
    lines = (line.split() for line in (root / ".stats").read_text().splitlines())
    return sum(int(words[1]) for words in lines if words and words[0] == name)


def test_a_mount_keeps_to_its_limits(mounts: MountFactory) -> None:
    limits = ("--upload-limit", str(MBPS), "-o", f"download-limit={MBPS}")
    mount = mounts.new(None, *limits)
    config = json.loads((mount.path / ".config").read_text())["engine"]
    assert (config["upload_limit_mbps"], config["download_limit_mbps"]) == (MBPS, MBPS)
    data = {f"{n:02d}": random.Random(n).randbytes(FILE_BYTES) for n in range(N_FILES)}

    def write(name: str) -> None:
        (mount.path / name).write_bytes(data[name])

    def read(name: str) -> None:
        assert (mount.path / name).read_bytes() == data[name]

    for use, metric in ((write, "cairnfs_object_put_bytes_total"), (read, "cairnfs_object_got_bytes_total")):
        started_s = time.monotonic()
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(use, data))
        elapsed_s = time.monotonic() - started_s
        n_bytes = counted(mount.path, metric)
        assert n_bytes >= N_FILES * FILE_BYTES
        assert n_bytes <= BYTES_PER_S * (elapsed_s + CATCH_UP_S) + 2 * FILE_BYTES
        mount.restart()
    started_s = time.monotonic()
    mount.stop()
    assert time.monotonic() - started_s < 30
