"""An ordinary user formats, mounts by fusermount3, writes, reads and unmounts, without any privilege."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.fuse

AS_USER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]  # nobody: fusermount3 wants a user with a name


@pytest.fixture
def home(need_fuse: None) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("becoming an ordinary user needs root; as an ordinary user every other test is this one")
    if stat.S_IMODE(os.stat("/dev/fuse").st_mode) & 0o006 != 0o006:
        pytest.skip("/dev/fuse is not open to ordinary users here (udev makes it 0666 elsewhere)")
    if subprocess.run([*AS_USER, sys.executable, "-c", "import cairnfs"], capture_output=True).returncode != 0:
        pytest.skip("this Python environment is closed to other users")
    path = Path(tempfile.mkdtemp(prefix="cairnfs-user-"))
    os.chown(path, 65534, 65534)
    yield path
    subprocess.run(["umount", "-l", str(path / "mnt")], capture_output=True)
    shutil.rmtree(path)


def as_user(home: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HOME": str(home)}
    return subprocess.run([*AS_USER, *map(str, words)], capture_output=True, text=True, env=environment, timeout=60)


@pytest.mark.parametrize("front", ["channel", "pyfuse3"])
def test_an_ordinary_user_can_do_it_all(home: Path, front: str) -> None:
    cairnfs = [sys.executable, "-m", "cairnfs.daemon.cli"]
    url, mountpoint = f"sqlite3://{home}/m.db", home / "mnt"
    for words in (
        [*cairnfs, "format", url, "user-volume"],
        ["mkdir", mountpoint],
        [*cairnfs, "mount", url, mountpoint, "-d", "--front", front],
        [
            "sh",
            "-c",
            f"echo hello > {mountpoint}/file && cat {mountpoint}/file && ln -s file {mountpoint}/link && ls -la {mountpoint}",
        ],
    ):
        done = as_user(home, *words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    assert "hello" in done.stdout
    with pytest.raises(PermissionError):
        os.listdir(mountpoint)
    done = as_user(home, *cairnfs, "umount", mountpoint)
    assert done.returncode == 0, done.stderr
    done = as_user(home, *cairnfs, "fsck", url)
    assert done.returncode == 0, done.stderr
    assert (home / ".cairnfs" / "local" / "user-volume").is_dir()
