"""The supervisor alone: small while it serves; and killed under writers, nothing that was closed or fsynced is lost."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.mounts import Mount, MountFactory, cairnfs_mounts

sys.path.insert(0, str(Path(__file__).parent))
from test_kill import WRITER, replay
from test_worker_kill import supervisor, worker, workers

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

LARGEST_KB = 40 << 10  # of the supervisor's own memory: Python with what a mount needs, before anything is served
MAX_GROWN_KB = 4 << 10
N_KILLS = 2


def memory_kb(pid: int) -> int:
    """Its own: without what it shares, and without files."""
    return int(status(pid)["RssAnon"].split()[0])


def status(pid: int) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


def use(folder: Path) -> None:
    folder.mkdir()
    for i in range(200):
        (folder / f"file{i}").write_bytes(os.urandom(20_000))
    assert sum(len(path.read_bytes()) for path in folder.iterdir()) == 200 * 20_000


def test_it_has_one_thread_and_stays_small_while_its_workers_serve(mounts: MountFactory) -> None:
    mount = mounts.new(None, "--workers", "3")
    serving = workers(mount, 3)
    pid = supervisor(mount)
    before_kb = memory_kb(pid)
    for i in range(3):
        use(mount.path / f"d{i}")
        assert status(pid)["Threads"] == "1"
    assert memory_kb(pid) < LARGEST_KB
    assert memory_kb(pid) - before_kb < MAX_GROWN_KB, "what is served costs the supervisor nothing"
    assert all(int(status(one)["Threads"]) > 1 for one in serving)


def write(mount: Mount, manifest: Path, name: str) -> "subprocess.Popen[bytes]":
    """A writer that is in the mount: once that is over it finds nothing, not the bare directory below."""
    command = [sys.executable, str(WRITER), ".", str(manifest), name]
    return subprocess.Popen(command, cwd=mount.path, stderr=subprocess.DEVNULL)


def until_gone(mount: Mount) -> None:
    deadline = time.monotonic() + 90
    while mount.pids or str(mount.path) in cairnfs_mounts():
        assert time.monotonic() < deadline, f"processes {mount.pids} do not end, or the mount stays"
        time.sleep(0.05)
    mount.mounted = False


@pytest.mark.timeout(600)
@pytest.mark.parametrize("n_workers", [1, 3])
def test_without_it_the_mount_ends_and_a_new_one_has_all_that_was_acknowledged(
    mounts: MountFactory, tmp_path: Path, n_workers: int
) -> None:
    mount = mounts.new(None, "--workers", str(n_workers))
    chance, n_checked = random.Random(3), 0
    for generation in range(N_KILLS):
        manifests = [tmp_path / f"manifest-{generation}-{i}" for i in range(3)]
        writers = [write(mount, manifest, manifest.name) for manifest in manifests]
        workers(mount, n_workers)
        time.sleep(0.7 + chance.random())
        os.kill(supervisor(mount), signal.SIGKILL)
        until_gone(mount)
        for writer in writers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert writer.wait(5) != 0, "it writes for ever, unless the mount is gone"
            writer.kill()
            writer.wait()
        assert os.listdir(mount.path) == [], "the bare directory"
        mount.start()
        n_checked += sum(replay(manifest).check(mount.path) for manifest in manifests)
    assert n_checked > 10 and worker(mount) in mount.pids
    mount.stop()
    mount.volume.assert_clean("--verify-data")
