"""The example units under a real systemd: a mount as a service, and as a mount unit."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import missing

from support.mount_type import installed, program
from support.mounts import MountFactory, Volume
from support.systemd import PROGRAM, Systemd, cgroups

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

DEPLOY = Path(__file__).parents[2] / "daemon" / "deploy"
SERVICE = "cairnfs-mount@data.service"


@pytest.fixture
def systemd(need_fuse: None, tmp_path: Path) -> Iterator[Systemd]:
    if os.geteuid() != 0:
        pytest.skip("only root may start a systemd")
    if not PROGRAM.exists():
        missing("systemd")
    if cgroups() is None:
        pytest.skip("this machine has no cgroup2 hierarchy to begin one in")
    systemd = Systemd(tmp_path)
    yield systemd
    systemd.close()


@pytest.fixture
def own_volume(mounts: MountFactory) -> Volume:
    return mounts.volume()


@pytest.fixture
def point(tmp_path: Path) -> Path:
    point = tmp_path / "point"
    point.mkdir()
    return point


def unit(name: str, replaced: dict[str, str]) -> str:
    """The text of an example with places of the test in it; each must be there."""
    text = (DEPLOY / name).read_text()
    for old, new in replaced.items():
        assert old in text, f"{name} has no {old}"
        text = text.replace(old, new)
    return text


def make_service(systemd: Systemd, volume: Volume, point: Path) -> None:
    folder = systemd.units.parent
    places = {"/usr/local/bin/cairnfs": str(program("cairnfs.daemon.cli", folder)), "/etc/cairnfs": str(folder)}
    (systemd.units / "cairnfs-mount@.service").write_text(unit("cairnfs-mount@.service", places))
    more = systemd.units / "cairnfs-mount@.service.d"
    more.mkdir()
    (more / "said.conf").write_text(f"[Service]\nStandardError=append:{folder}/said\n")  # there is no journal
    values = {"redis://cairnfs@redis.example:6379/1?password-file=/etc/cairnfs/redis.password": volume.url}
    values |= {"/mnt/data": str(point), "/var/log": str(folder), "4G": "64M"}
    (folder / "data.env").write_text(unit("data.env", values))


def test_a_mount_is_a_service(systemd: Systemd, own_volume: Volume, point: Path) -> None:
    make_service(systemd, own_volume, point)
    there = Path(f"{systemd.root}{point}")
    systemd.start(SERVICE)
    (there / "file").write_bytes(b"content")  # at once: who is ordered after it finds the mount
    main = systemd.property(SERVICE, "MainPID")
    workers = systemd.run("cat", f"/proc/{main}/task/{main}/children").split()
    assert len(workers) >= 2

    systemd.run("kill", "-9", *workers)
    assert (there / "file").read_bytes() == b"content"
    assert [systemd.property(SERVICE, name) for name in ("ActiveState", "MainPID", "NRestarts")] == ["active", main, "0"]

    systemd.run("kill", "-9", main)
    deadline = time.monotonic() + 60
    while systemd.property(SERVICE, "NRestarts") != "1" or systemd.property(SERVICE, "ActiveState") != "active":
        assert time.monotonic() < deadline, systemd.systemctl("status", SERVICE)
        time.sleep(0.2)
    assert systemd.property(SERVICE, "MainPID") != main
    assert (there / "file").read_bytes() == b"content"
    (there / "later").write_bytes(b"stored before it is stopped")

    systemd.stop(SERVICE)
    assert [systemd.property(SERVICE, name) for name in ("ActiveState", "Result")] == ["inactive", "success"]
    assert str(point) not in systemd.run("cat", "/proc/self/mounts")
    assert systemd.run("systemctl", "is-system-running") == "running"
    own_volume.assert_clean("--verify-data")


def test_a_service_that_cannot_mount_fails_and_says_why(systemd: Systemd, own_volume: Volume, point: Path) -> None:
    make_service(systemd, own_volume, point)
    point.rmdir()
    done = systemd.systemctl("start", SERVICE)
    assert done == "" and systemd.property(SERVICE, "ActiveState") == "activating"  # for another try
    assert systemd.property(SERVICE, "Result") == "exit-code"
    said = (systemd.units.parent / "said").read_text()
    assert said.startswith(f"cairnfs: {point}") and said.count("\n") == 1
    systemd.stop(SERVICE)


def test_a_mount_is_a_mount_unit(systemd: Systemd, own_volume: Volume, point: Path) -> None:
    folder = systemd.units.parent
    command = ["systemd-escape", "--path", "--suffix=mount", str(point)]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    values = {"redis://cairnfs@redis.example:6379/1?password-file=/etc/cairnfs/redis.password": own_volume.url}
    values |= {"/mnt/data": str(point), "/var/log": str(folder), "4G": "64M"}
    (systemd.units / name).write_text(unit("mnt-data.mount", values))
    there = Path(f"{systemd.root}{point}")
    with installed(Path("/sbin/mount.fuse.cairnfs"), "cairnfs.daemon.mount_helper", folder):
        for content in (b"one", b"two"):
            systemd.start(name)
            (there / "file").write_bytes(content)
            assert systemd.property(name, "ActiveState") == "active"
            systemd.stop(name)
            assert not (there / "file").exists()
            assert [systemd.property(name, what) for what in ("ActiveState", "Result")] == ["inactive", "success"]
    own_volume.assert_clean("--verify-data")
