"""What is mounted where, and which options the kernel gets: the parts of mounting that mount nothing."""

import errno
from contextlib import nullcontext
from pathlib import Path

import pytest

from cairnfs.daemon import mountpoint as mp
from cairnfs.errors import MountError, UsageError
from cairnfs.options import FuseOptions

MOUNTINFO = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:39 / /mnt/a rw - fuse.cairnfs cairnfs:vol rw,user_id=1000,group_id=100,default_permissions
41 22 0:40 / /mnt/with\040blank\011and\134 rw shared:5 master:2 - fuse.cairnfs cairnfs:a\040b rw,user_id=0,group_id=0
42 22 0:41 / /mnt/over rw - tmpfs tmpfs rw
43 42 0:42 / /mnt/over rw - fuse.cairnfs cairnfs:top rw
not a line of mountinfo
44 22 0:43 / /mnt/other rw - fuse.sshfs host: rw,user_id=5
"""


def test_mountinfo_is_parsed_with_its_escapes() -> None:
    found = mp.parse_mountinfo(MOUNTINFO)
    assert [mounted.mountpoint for mounted in found] == [
        "/",
        "/mnt/a",
        "/mnt/with blank\tand\\",
        "/mnt/over",
        "/mnt/over",
        "/mnt/other",
    ]
    assert found[2] == mp.Mounted("/mnt/with blank\tand\\", "0:40", "fuse.cairnfs", "cairnfs:a b", "rw,user_id=0,group_id=0")


@pytest.fixture
def known_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mp, "mounts", lambda: mp.parse_mountinfo(MOUNTINFO))


@pytest.mark.usefixtures("known_mounts")
def test_owner_of_a_mount_is_found_and_others_are_not_ours() -> None:
    assert mp.mounted_by(Path("/mnt/a")) == 1000
    assert mp.mounted_by(Path("/mnt/a/")) == 1000
    assert mp.mounted_by(Path("/mnt/x/../a")) == 1000
    assert mp.mounted_by(Path("/mnt/over")) == 0, "the last mount on a path is the visible one"
    assert mp.mounted_by(Path("/mnt/other")) is None
    assert mp.mounted_by(Path("/mnt")) is None


@pytest.mark.usefixtures("known_mounts")
def test_links_to_a_mount_are_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/mnt/a")
    (tmp_path / "parent").symlink_to("/mnt")
    assert mp.is_mounted(tmp_path / "link")
    assert mp.is_mounted(tmp_path / "parent" / "a")


def test_option_words_become_flags_and_the_last_one_counts() -> None:
    def flags(*words: str, read_only: bool = False) -> int:
        return mp.mount_flags(FuseOptions(mount_options=words, read_only=read_only))

    assert flags() == 0
    assert flags("nosuid", "nodev", "noatime") == mp.MS_NOSUID | mp.MS_NODEV | mp.MS_NOATIME
    assert flags("noexec", "exec") == 0
    assert flags("dirsync", "sync", read_only=True) == mp.MS_DIRSYNC | mp.MS_SYNCHRONOUS | mp.MS_RDONLY
    with pytest.raises(UsageError, match="unknown mount option 'shiny'"):
        flags("shiny")


def test_unknown_option_is_found_before_anything_is_touched(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        mp.mount_fuse(tmp_path / "missing", FuseOptions(mount_options=("shiny",)))


def test_mountpoint_that_is_missing_or_a_file_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="does not exist: create it with 'mkdir -p") as caught:
        mp.mount_fuse(tmp_path / "missing", FuseOptions())
    assert caught.value.errno == errno.ENOENT
    (tmp_path / "file").touch()
    with pytest.raises(MountError, match="is not a directory") as caught:
        mp.mount_fuse(tmp_path / "file", FuseOptions())
    assert caught.value.errno == errno.ENOTDIR


def test_missing_device_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mp, "DEVICE", str(tmp_path / "fuse"))
    with pytest.raises(MountError, match="modprobe fuse"):
        mp.mount_fuse(tmp_path, FuseOptions())


def test_unmounting_what_is_not_mounted_says_so(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="is not mounted") as caught:
        mp.unmount(tmp_path)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(("code", "raises"), [(errno.EINVAL, False), (errno.EPERM, True)])
def test_who_unmounts_what_is_dead_may_be_overtaken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, raises: bool
) -> None:
    """`cairnfs umount --force` aborts and detaches, while the process sees that its mount is dead, and does the same."""

    def unmount(mountpoint: Path, *, lazy: bool) -> None:
        raise MountError("too late", code)

    monkeypatch.setattr(mp, "is_mounted", lambda path: True)
    monkeypatch.setattr(mp, "_is_dead", lambda path: True)
    monkeypatch.setattr(mp, "unmount", unmount)
    with pytest.raises(MountError) if raises else nullcontext():
        mp.clear_stale(tmp_path)


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        ("fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf\n", "user_allow_other'$"),
        ("fusermount3: user has no write access to mountpoint /x\n", "no write access to mountpoint /x; the mountpoint must be"),
        ("fusermount3: failed to open /dev/fuse: Permission denied\n", "chmod 666 /dev/fuse"),
        ("fusermount3: mount failed: Operation not permitted\n", "set-user-id root"),
        ("", "without a message"),
    ],
)
def test_messages_of_the_helper_tell_how_to_mend_it(stderr: str, expected: str) -> None:
    with pytest.raises(MountError, match=expected):
        raise MountError(mp._helper_message(stderr))


def test_missing_helper_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MountError, match="install the package fuse3"):
        mp._fusermount(["-V"])
