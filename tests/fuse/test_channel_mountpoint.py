"""Mounting for real: what stands in the way, stale mounts, flags, and mounting without privileges."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cairnfs.daemon.mountpoint import clear_stale, find_mount, is_mounted, mount_fuse, mounted_by, unmount
from cairnfs.errors import MountError
from cairnfs.options import FuseOptions
from support.toy_mount import NEEDS_ROOT, ToyMount

pytestmark = [pytest.mark.fuse, NEEDS_ROOT]

TREE = Path(__file__).parents[2] / "build" / "tree"
NOBODY = 65534

# In a mount namespace of its own, where /dev/fuse is open to everybody, becomes an ordinary user (who may not be able to
# read this interpreter, hence after the imports), mounts a dictionary through fusermount3, uses it, and unmounts it.
AS_ORDINARY_USER = """
import os, subprocess, sys, threading
from pathlib import Path
from cairnfs.daemon.mountpoint import find_mount, is_mounted, mount_fuse, mounted_by, unmount
from cairnfs.ext.fuse_chan import Channel
from cairnfs.options import FuseOptions
from cairnfs.types import Lock, SetAttr
from support.memory_handler import MemoryHandler

mountpoint, user = Path(sys.argv[1]), 65534
def run(script):
    return subprocess.check_output(["sh", "-euc", script, "sh", mountpoint], text=True, timeout=20)

run('mount -t tmpfs tmpfs /mnt; mknod /mnt/fuse c 10 229; chmod 666 /mnt/fuse; mount --bind /mnt/fuse /dev/fuse')
os.setgroups([]), os.setresgid(user, user, user), os.setresuid(user, user, user)
fd = mount_fuse(mountpoint, FuseOptions(volume_name="a,b", mount_options=("noexec",)))
handler = MemoryHandler()
handler.attrs[1].uid = user
channel = Channel(fd, handler, set_attr=SetAttr, lock=Lock)
serving = threading.Thread(target=channel.serve, daemon=True)
serving.start()
mounted = find_mount(mountpoint)
print(mounted.source, mounted.fstype, mounted_by(mountpoint))
print(run('cd $1; umask 0; echo hello > f; cat f; stat -c %u f'), end="")
try:
    busy = open(mountpoint / "f")
    unmount(mountpoint)
except OSError as error:
    print(error)
busy.close()
unmount(mountpoint)
serving.join()
print(is_mounted(mountpoint))
"""


def test_mount_shows_source_type_and_flags(tmp_path: Path) -> None:
    options = FuseOptions(volume_name="my volume", mount_options=("noatime", "nosuid"), read_only=True)
    with ToyMount(tmp_path / "mnt with blank", options) as toy:
        mounted = find_mount(toy.path)
        assert mounted is not None
        assert (mounted.source, mounted.fstype) == ("cairnfs:my volume", "fuse.cairnfs")
        assert "default_permissions" in mounted.super_options and "max_read=1048576" in mounted.super_options
        assert mounted_by(toy.path) == os.geteuid()
        flags = os.statvfs(toy.path).f_flag
        assert flags & os.ST_NOATIME and flags & os.ST_NOSUID and flags & os.ST_RDONLY
        with pytest.raises(OSError, match="Read-only"):
            (toy.path / "f").touch()


def test_mounting_on_a_mount_is_refused(tmp_path: Path) -> None:
    with ToyMount(tmp_path / "mnt") as toy:
        with pytest.raises(MountError, match="in use: cairnfs:cairnfs") as caught:
            mount_fuse(toy.path, FuseOptions())
        assert caught.value.errno == errno.EBUSY
        assert os.stat(toy.path).st_ino == 1


def test_mount_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    os.close(mount_fuse(tmp_path, FuseOptions()))
    with pytest.raises(OSError, match="not connected"):
        os.stat(tmp_path)
    assert is_mounted(tmp_path)
    os.close(mount_fuse(tmp_path, FuseOptions()))
    clear_stale(tmp_path)
    assert not is_mounted(tmp_path)
    assert os.listdir(tmp_path) == []


def test_live_mount_is_not_cleared(tmp_path: Path) -> None:
    with ToyMount(tmp_path / "mnt") as toy:
        clear_stale(toy.path)
        assert is_mounted(toy.path)


def test_dead_mount_can_be_unmounted(tmp_path: Path) -> None:
    os.close(mount_fuse(tmp_path, FuseOptions()))
    unmount(tmp_path)
    assert not is_mounted(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
@pytest.mark.skipif(shutil.which("fusermount3") is None, reason="fusermount3 is missing")
def test_unprivileged_user_mounts_and_unmounts_through_the_helper() -> None:
    with tempfile.TemporaryDirectory(prefix="cairnfs-user-", dir="/tmp") as mountpoint:
        os.chown(mountpoint, NOBODY, NOBODY)
        path = os.pathsep.join([str(TREE), str(Path(__file__).parents[1]), *filter(None, sys.path)])
        done = subprocess.run(
            ["unshare", "--mount", sys.executable, "-c", AS_ORDINARY_USER, mountpoint],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"cairnfs:a,b fuse.cairnfs {NOBODY}",
        "hello",
        f"{NOBODY}",
        f"cannot unmount {mountpoint}: it is in use; see who with 'fuser -vm', or detach it with --lazy",
        "False",
    ]
