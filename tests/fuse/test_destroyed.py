"""A mount whose volume is destroyed by force, and perhaps replaced: it says so, fails, and leaves the next volume alone."""

import errno
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from support.mounts import Mount, MountFactory, Volume, cairnfs, cairnfs_mounts
from support.redis_server import RedisServer
from support.stopping import stopped
from support.storing import wait

pytestmark = pytest.mark.fuse

N_FILES = 20
EXPECTED = ["was destroyed", "no longer reaches back", "could not be followed", "are lost: they could not be stored"]
OLD, NEW = b"old;" * 5000, b"new;" * 5000  # of one size: only the bytes tell the two apart


@pytest.fixture
def volume(mounts: MountFactory, redis_server: RedisServer) -> Volume:
    return mounts.volume(url=f"{redis_server.url}/6")


def filled(mount: Mount, data: bytes) -> None:
    for i in range(N_FILES):
        (mount.path / f"f{i}").write_bytes(data)


def contents(mount: Mount) -> list[bytes]:
    return [(mount.path / f"f{i}").read_bytes() for i in range(N_FILES)]


def destroy(volume: Volume) -> None:
    with_uuid = (volume.bucket / volume.name / "cairnfs_uuid").read_text().strip()
    cairnfs("destroy", volume.url, with_uuid, "--yes", "--force")


def fails(call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError as error:
        assert error.errno in (errno.EIO, errno.ENOENT, errno.ESTALE), error
        return True
    return False


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"late")


@pytest.mark.parametrize("is_stopped", [False, True], ids=["running", "stopped"])
def test_it_does_not_touch_the_next_volume(mounts: MountFactory, volume: Volume, is_stopped: bool) -> None:
    """Nothing of it is held open here: who starts a program closes a copy of that, which waits for a mount that is stopped."""
    old = mounts.new(volume, "--heartbeat", "30")
    old.expected_log += EXPECTED
    filled(old, OLD)
    with stopped(*(old.pids if is_stopped else ())):
        destroy(volume)
        cairnfs("format", volume.url, volume.name, *volume.format_options)
        new = mounts.new(volume)
        filled(new, NEW)
    for i in range(N_FILES):
        fails(lambda i=i: append(old.path / f"f{i}"))  # type: ignore[misc]
        fails(lambda i=i: (old.path / f"g{i}").write_bytes(b"late"))  # type: ignore[misc]
    assert contents(new) == [NEW] * N_FILES
    wait(lambda: fails(lambda: os.listdir(old.path)), "the destroyed volume is still listed")
    assert fails(lambda: (old.path / "f1").read_bytes())
    assert fails(lambda: (old.path / "h").write_bytes(b"late"))
    cairnfs("umount", old.path, check=False)
    old.mounted = False
    assert str(old.path) not in cairnfs_mounts()
    assert "was destroyed" in old.log.read_text()
    new.restart()
    assert contents(new) == [NEW] * N_FILES


def test_whoever_follows_a_killed_worker_does_not_serve_the_next_volume(mounts: MountFactory, volume: Volume) -> None:
    old = mounts.new(volume, "--heartbeat", "30", "--workers", "1")
    old.expected_log += [*EXPECTED, "was killed", "killed too often", "has failed"]
    filled(old, OLD)
    serving = json.loads((old.path / ".config").read_bytes())["serving_pid"]
    with stopped(*old.pids):
        destroy(volume)
        cairnfs("format", volume.url, volume.name, *volume.format_options)
        new = mounts.new(volume)
        filled(new, NEW)
        (new.path / "in the next").touch()
        os.kill(serving, signal.SIGKILL)
    seen: list[bool] = []
    wait(lambda: seen.append(os.path.exists(old.path / "in the next")) or "killed too often" in old.log.read_text(), "it goes on")
    assert not any(seen)
    old.mounted = False
    assert contents(new) == [NEW] * N_FILES


def test_it_fails_where_there_is_no_next_volume(mounts: MountFactory, volume: Volume) -> None:
    mounts.expect_damage(volume)
    mount = mounts.new(volume)
    mount.expected_log += EXPECTED
    filled(mount, OLD)
    destroy(volume)
    wait(lambda: fails(lambda: os.listdir(mount.path)), "the destroyed volume is still listed")
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        (mount.path / "f0").read_bytes()
    cairnfs("umount", mount.path, check=False)
    mount.mounted = False
    assert str(mount.path) not in cairnfs_mounts()


def test_a_store_that_is_emptied_under_a_mount_is_said_once_and_nothing_is_written_to_it(
    mounts: MountFactory, redis_server: RedisServer, volume: Volume
) -> None:
    mounts.expect_damage(volume)
    mount = mounts.new(volume)
    mount.expected_log += [*EXPECTED, "worker . has failed: .* holds no volume"]  # those that have not begun by then
    filled(mount, OLD)
    with redis_server.client() as client:
        clean, dirty = (os.open(mount.path / name, os.O_RDWR) for name in ("f0", "f1"))
        client.flushall()
        wait(lambda: fails(lambda: os.listdir(mount.path)), "the emptied volume is still listed")
        os.write(dirty, b"late")
        for descriptor in (clean, dirty):
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                os.fsync(descriptor)
        assert fails((mount.path / "new").touch)
        os.close(clean)
        assert fails(lambda: os.close(dirty))
        cairnfs("umount", mount.path, check=False)
        mount.mounted = False
        assert client.dbsize() == 0
    said = mount.log.read_text()
    assert len(re.findall(r"session: volume .* was destroyed: unmount$", said, re.MULTILINE)) == 1
