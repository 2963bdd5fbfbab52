"""kill -9 of the mount at random instants under writers: nothing that was closed or fsynced may be lost."""

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.mounts import Mount, MountFactory

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

WRITER = Path(__file__).with_name("manifest_writer.py")


class Expectation:
    """What each name may hold: the digests allowed after the kill; None stands for "no such file"."""

    def __init__(self) -> None:
        self.allowed: dict[str, set[str | None]] = {}

    def apply(self, line: dict[str, object]) -> None:
        name = str(line["name"])
        if "renaming" in line:
            held = self.allowed[str(line["renaming"])]
            self.allowed[str(line["renaming"])] = held | {None}
            self.allowed[name] = held | {None}
        elif "renamed" in line:
            old = self.allowed[str(line["renamed"])]
            self.allowed[str(line["renamed"])] = {None}
            self.allowed[name] = old - {None} or {None}
        elif line["sure"]:
            self.allowed[name] = {line["sha"]}  # type: ignore[arg-type]
        else:
            self.allowed[name] = {"any"} if line["sha"] else self.allowed[name] | {None}

    def check(self, top: Path) -> int:
        n_sure = 0
        for name, allowed in self.allowed.items():
            if "any" in allowed:
                continue
            try:
                found: str | None = hashlib.sha256((top / name).read_bytes()).hexdigest()
            except FileNotFoundError:
                found = None
            assert found in allowed, f"{name}: found {found}, expected one of {allowed}"
            n_sure += 1
        return n_sure


def replay(manifest: Path) -> Expectation:
    expected = Expectation()
    for line in manifest.read_text().splitlines():
        expected.apply(json.loads(line))
    return expected


def run_writers(mount: Mount, tmp_path: Path, generation: int, n: int) -> list[tuple[subprocess.Popen[bytes], Path]]:
    writers = []
    for w in range(n):
        manifest = tmp_path / f"manifest-{generation}-{w}"
        command = [sys.executable, str(WRITER), str(mount.path), str(manifest), f"g{generation}w{w}"]
        writers.append((subprocess.Popen(command, stderr=subprocess.DEVNULL), manifest))
    return writers


def test_acknowledged_writes_survive_kills(mounts: MountFactory, front: str, tmp_path: Path) -> None:
    mount = mounts.new(front=front)
    rng = random.Random(11)
    n_checked = 0
    for generation in range(6 if front == "channel" else 2):
        writers = run_writers(mount, tmp_path, generation, 3)
        time.sleep(0.7 + rng.random() * 1.5)
        mount.kill_processes()
        for process, _ in writers:
            process.kill()  # before the mountpoint is cleared, lest they write to the bare directory
            process.wait()
        mount.clear()
        mount.start()
        for _, manifest in writers:
            n_checked += replay(manifest).check(mount.path)
    assert n_checked > 20
    mount.stop()
    mount.volume.assert_clean("--verify-data")


def test_open_unlinked_files_are_cleaned_after_a_kill(mounts: MountFactory) -> None:
    mount = mounts.new()
    with open(mount.path / "held", "wb") as file:
        file.write(os.urandom(3_000_000))
        file.flush()
        os.fsync(file.fileno())
        (mount.path / "held").unlink()
        assert mount.volume.packs
        mount.kill()
        try:
            file.close()
        except OSError:
            pass
    mount.start()
    deadline = time.monotonic() + 20
    while mount.volume.packs:
        assert time.monotonic() < deadline, "the packs of a removed file stay"
        time.sleep(0.1)


def test_a_stale_mountpoint_is_mounted_over(mounts: MountFactory) -> None:
    mount = mounts.new()
    (mount.path / "f").write_bytes(b"x")
    for pid in mount.pids:
        os.kill(pid, 9)
    time.sleep(0.3)
    mount.start()
    assert (mount.path / "f").read_bytes() == b"x"
