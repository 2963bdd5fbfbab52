"""Attributes, extended attributes and access control lists through a real mount, on both fronts."""

import errno
import os
import stat
import struct
import subprocess
import time
from pathlib import Path

import pytest

from support.mounts import Mount
from support.other_user import as_user
from support.syscalls import UTIME_NOW, UTIME_OMIT, birth_time_ns, utimensat

pytestmark = pytest.mark.fuse
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changing owners needs root")


def test_mode_and_owner_changes_are_kept(mount: Mount) -> None:
    path = mount.path / "f"
    path.touch()
    path.chmod(0o4751)
    if os.geteuid() == 0:
        os.chown(path, 1234, 5678)
        path.chmod(0o4751)
    before = os.stat(path)
    mount.restart()
    after = os.stat(path)
    assert (before.st_mode, before.st_uid, before.st_gid) == (after.st_mode, after.st_uid, after.st_gid)
    assert stat.S_IMODE(after.st_mode) == 0o4751


@needs_root
def test_owner_change_clears_suid(mount: Mount) -> None:
    path = mount.path / "f"
    path.touch()
    path.chmod(0o6755)
    os.chown(path, 1234, 1234)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o755


@pytest.mark.parametrize("when", [0, 1, -1, -1_500_000_000, 1_234_567_890_123_456_789, (2**33) * 10**9 + 999_999_999])
def test_times_are_kept_to_the_nanosecond(mount: Mount, when: int) -> None:
    path = mount.path / "f"
    path.touch()
    os.utime(path, ns=(when, when + 7))
    assert (os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns) == (when, when + 7)
    mount.restart()
    assert (os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns) == (when, when + 7)


def test_omitted_times_stay_and_now_is_now(mount: Mount) -> None:
    path = mount.path / "f"
    path.touch()
    os.utime(path, ns=(111, 222))
    utimensat(path, [(0, UTIME_OMIT), (5, 6)])
    assert (os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns) == (111, 5_000_000_006)
    before = time.time_ns()
    utimensat(path, [(0, UTIME_NOW), (0, UTIME_OMIT)])
    assert os.stat(path).st_mtime_ns == 5_000_000_006
    assert before - 10**9 <= os.stat(path).st_atime_ns <= time.time_ns() + 10**9


def test_time_set_after_a_write_survives_the_close(mount: Mount) -> None:
    with open(mount.path / "f", "wb") as file:
        file.write(b"data")
        file.flush()
        os.utime(file.fileno(), ns=(1000, 2000))
    assert os.stat(mount.path / "f").st_mtime_ns == 2000
    mount.restart()
    assert os.stat(mount.path / "f").st_mtime_ns == 2000


def test_changes_move_the_times_of_file_and_directory(mount: Mount) -> None:
    top = mount.path / "d"
    top.mkdir()
    path = top / "f"
    path.touch()
    for change in (
        lambda: (top / "g").touch(),
        lambda: os.rename(top / "g", top / "h"),
        lambda: os.link(top / "h", top / "i"),
        lambda: os.unlink(top / "h"),
        lambda: os.symlink("x", top / "s"),
        lambda: (top / "sub").mkdir(),
        lambda: (top / "sub").rmdir(),
    ):
        os.utime(top, ns=(0, 0))
        change()
        assert os.stat(top).st_mtime_ns > 10**18
    before = os.stat(path).st_ctime_ns
    time.sleep(0.01)
    path.chmod(0o600)
    assert os.stat(path).st_ctime_ns > before
    os.utime(path, ns=(0, 0))
    path.write_bytes(b"more")
    assert os.stat(path).st_mtime_ns > 10**18


def test_birth_time_stays(channel_mount: Mount) -> None:
    path = channel_mount.path / "f"
    path.touch()
    born = birth_time_ns(path)
    assert born is not None and abs(time.time_ns() - born) < 60 * 10**9
    time.sleep(0.01)
    path.write_bytes(b"x")
    path.chmod(0o600)
    channel_mount.restart()
    assert birth_time_ns(path) == born


def test_extended_attributes(mount: Mount) -> None:
    path = mount.path / "f"
    path.touch()
    assert os.listxattr(path) == []
    os.setxattr(path, "user.one", b"1")
    os.setxattr(path, "user.big", b"x" * 60_000)
    os.setxattr(path, "user.empty", b"")
    with pytest.raises(FileExistsError):
        os.setxattr(path, "user.one", b"2", os.XATTR_CREATE)
    with pytest.raises(OSError) as caught:
        os.setxattr(path, "user.none", b"2", os.XATTR_REPLACE)
    assert caught.value.errno == errno.ENODATA
    os.setxattr(path, "user.one", b"two", os.XATTR_REPLACE)
    mount.restart()
    assert sorted(os.listxattr(path)) == ["user.big", "user.empty", "user.one"]
    assert os.getxattr(path, "user.one") == b"two"
    assert os.getxattr(path, "user.big") == b"x" * 60_000
    assert os.getxattr(path, "user.empty") == b""
    os.removexattr(path, "user.one")
    with pytest.raises(OSError) as caught:
        os.getxattr(path, "user.one")
    assert caught.value.errno == errno.ENODATA
    with pytest.raises(OSError) as caught:
        os.setxattr(path, "nonsense.name", b"x")
    assert caught.value.errno == errno.EOPNOTSUPP


@pytest.mark.skipif(os.geteuid() != 0, reason="attributes in trusted. are root's")
def test_others_are_not_told_of_trusted_attributes(mount: Mount) -> None:
    path = mount.path / "f"
    path.touch()
    os.setxattr(path, "user.one", b"1")
    os.setxattr(path, "trusted.one", b"1")
    assert sorted(os.listxattr(path)) == ["trusted.one", "user.one"]

    def look() -> None:
        assert os.listxattr(path) == ["user.one"]

    as_user(65534, look)


def test_removing_an_acl_that_is_not_there_is_no_error(mount: Mount) -> None:
    (mount.path / "d").mkdir()
    (mount.path / "f").touch()
    os.removexattr(mount.path / "d", "system.posix_acl_default")
    os.removexattr(mount.path / "f", "system.posix_acl_access")
    with pytest.raises(OSError) as caught:
        os.removexattr(mount.path / "f", "user.none")
    assert caught.value.errno == errno.ENODATA


def acl(*entries: tuple[int, int, int]) -> bytes:
    """The kernel's posix_acl_xattr: version 2, then tag, permissions and id of each entry, little-endian."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, perm, who & 0xFFFFFFFF) for tag, perm, who in entries)


USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32


def test_access_acl_sets_the_mode_and_chmod_sets_the_mask(mount: Mount) -> None:
    path = mount.path / "f"
    path.touch()
    path.chmod(0o600)
    entries = acl((USER_OBJ, 6, -1), (USER, 4, 1234), (GROUP_OBJ, 0, -1), (MASK, 4, -1), (OTHER, 0, -1))
    os.setxattr(path, "system.posix_acl_access", entries)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
    assert os.getxattr(path, "system.posix_acl_access") == entries
    path.chmod(0o670)
    changed = os.getxattr(path, "system.posix_acl_access")
    assert changed == acl((USER_OBJ, 6, -1), (USER, 4, 1234), (GROUP_OBJ, 0, -1), (MASK, 7, -1), (OTHER, 0, -1))
    os.setxattr(path, "system.posix_acl_access", acl((USER_OBJ, 7, -1), (GROUP_OBJ, 5, -1), (OTHER, 1, -1)))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o751
    assert "system.posix_acl_access" not in os.listxattr(path)


def test_default_acl_is_inherited_instead_of_the_umask(channel_mount: Mount) -> None:
    top = channel_mount.path / "d"  # pyfuse3 cannot ask the kernel for the mode before the umask
    top.mkdir()
    entries = acl((USER_OBJ, 7, -1), (USER, 7, 1234), (GROUP_OBJ, 5, -1), (MASK, 7, -1), (OTHER, 0, -1))
    os.setxattr(top, "system.posix_acl_default", entries)
    old = os.umask(0o077)
    try:
        (top / "f").touch(mode=0o666)
        (top / "sub").mkdir(mode=0o777)
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(top / "f").st_mode) == 0o660
    assert os.getxattr(top / "sub", "system.posix_acl_default") == entries
    assert os.getxattr(top / "f", "system.posix_acl_access") == acl(
        (USER_OBJ, 6, -1), (USER, 7, 1234), (GROUP_OBJ, 5, -1), (MASK, 6, -1), (OTHER, 0, -1)
    )


@needs_root
def test_the_kernel_enforces_acls_and_modes(mount: Mount) -> None:
    path = mount.path / "secret"
    path.write_bytes(b"secret")
    path.chmod(0o600)
    mount.path.chmod(0o755)
    read = ["setpriv", "--reuid=1234", "--regid=1234", "--clear-groups", "cat", str(path)]
    reachable = subprocess.run(read[:4] + ["test", "-d", str(mount.path)], capture_output=True)
    if reachable.returncode != 0:
        pytest.skip("the test's temporary directory is closed to other users")
    assert subprocess.run(read, capture_output=True).returncode != 0
    subprocess.run(["setfacl", "-m", "u:1234:r", str(path)], check=True)
    assert subprocess.run(read, capture_output=True).stdout == b"secret"
    shown = subprocess.run(["getfacl", "-cn", str(path)], capture_output=True, text=True, check=True).stdout
    assert "user:1234:r--" in shown


@needs_root
def test_sticky_directories_protect_other_users_files(mount: Mount) -> None:
    top = mount.path / "tmp"
    top.mkdir()
    top.chmod(0o1777)
    (top / "mine").touch()
    mount.path.chmod(0o755)
    remove = ["setpriv", "--reuid=1234", "--regid=1234", "--clear-groups", "rm", "-f", str(top / "mine")]
    assert subprocess.run(remove, capture_output=True).returncode != 0
    assert Path(top / "mine").exists()
