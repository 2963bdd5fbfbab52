"""What the deployment page and the example units say works as it stands there."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from support.mount_type import installed, program
from support.mounts import CAIRNFS, MountFactory, Volume, cairnfs, cairnfs_mounts
from support.redis_server import RedisServer

pytestmark = pytest.mark.fuse

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "daemon" / "deploy"
PASSWORD = "only for tests"


def fstab_line() -> str:
    """The one of the deployment page."""
    page = (ROOT / "README.md").read_text().partition("## Deployment")[2]
    (line,) = [line.strip() for line in page.splitlines() if re.search(r"\sfuse\.cairnfs\s", line)]
    return line


def permissions() -> list[str]:
    """Of a user of Redis, by the deployment page."""
    (found,) = re.findall(r"`(~\{cairnfs:\*[^`]*)`", (ROOT / "README.md").read_text())
    return found.replace("\\|", "|").split()


def test_the_fstab_line_mounts(mounts: MountFactory, tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", password=PASSWORD)
    try:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "cairnfs", "on", f">{PASSWORD}", *permissions())
        password_file, point = tmp_path / "redis.password", tmp_path / "point"
        password_file.write_text(PASSWORD + "\n")
        point.mkdir()
        line = fstab_line().replace("redis.example:6379", f"127.0.0.1:{server.port}").replace("/mnt/data", str(point))
        line = line.replace("/etc/cairnfs/redis.password", str(password_file)).replace("/var/log", str(tmp_path))
        url = line.split()[0]
        assert f"password-file={password_file}" in url and PASSWORD not in line
        volume = Volume(tmp_path / "volume", url=url)
        (tmp_path / "fstab").write_text(line + "\n")
        with installed(Path("/sbin/mount.fuse.cairnfs"), "cairnfs.daemon.mount_helper", tmp_path):
            for _ in range(2):
                subprocess.run(["mount", "--fstab", tmp_path / "fstab", "--all"], check=True, capture_output=True)
        try:
            assert cairnfs_mounts().count(str(point)) == 1
            (point / "file").write_bytes(b"content")
            with server.client() as client:
                users = [each["user"] for each in client.client_list() if each["id"] != str(client.client_id())]
            assert set(users) == {"cairnfs"}
        finally:
            cairnfs("umount", point)
        volume.assert_clean("--verify-data")
    finally:
        server.stop()


def unit_of(name: str, tmp_path: Path, cairnfs_program: Path) -> Path:
    unit = tmp_path / name.replace("@", "@data")
    unit.write_text((DEPLOY / name).read_text().replace("/usr/local/bin/cairnfs", str(cairnfs_program)))
    return unit


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not on this machine")
@pytest.mark.parametrize("name", ["cairnfs-mount@.service", "mnt-data.mount"])
def test_systemd_understands_the_units(name: str, tmp_path: Path) -> None:
    unit = unit_of(name, tmp_path, program("cairnfs.daemon.cli", tmp_path))
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_units_and_fstab_line_say_the_same() -> None:
    url, point, kind, options, *_ = fstab_line().split()
    unit = dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / "mnt-data.mount").read_text(), re.M))
    assert (unit["What"], unit["Where"], unit["Type"], unit["Options"]) == (url, point, kind, options)
    assert (unit["What"], unit["Where"]) == (settings()["META_URL"], settings()["MOUNTPOINT"])


def settings() -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / "data.env").read_text(), re.M))


@pytest.mark.parametrize(("workers", "abstract"), [(0, True), (2, False)])
def test_the_service_is_ready_when_the_mount_answers(mounts: MountFactory, tmp_path: Path, workers: int, abstract: bool) -> None:
    volume, point = mounts.volume(), tmp_path / "point"
    point.mkdir()
    unit = dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / "cairnfs-mount@.service").read_text(), re.M))
    assert (unit["Type"], unit["KillMode"]) == ("notify", "mixed")
    options = settings()["OPTIONS"].replace("/var/log", str(tmp_path)) + f" --workers {workers}"
    values = {"${META_URL}": volume.url, "${MOUNTPOINT}": str(point)}
    words = [values.get(word, word) for word in unit["ExecStart"].split()[1:-1]] + shlex.split(options)
    address = f"\0cairnfs-{os.getpid()}-{workers}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        listening.settimeout(60)
        environment = os.environ | {"NOTIFY_SOCKET": address.replace("\0", "@")}
        process = subprocess.Popen([*CAIRNFS, *words], env=environment, stderr=subprocess.PIPE, text=True)
        try:
            assert listening.recv(100) == b"READY=1"
            (point / "file").write_bytes(b"content")
        finally:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.recv(100)
    assert str(point) not in cairnfs_mounts()
