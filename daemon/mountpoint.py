"""Mounting and unmounting: mount(2) as root, fusermount3 otherwise, and what the kernel says is mounted where.

Owns no state. `mount_fuse` returns the descriptor that a front serves; closing its last copy ends the mount's life (calls
then fail with ENOTCONN) but leaves the dead mount in place, which `clear_stale` removes.
Nothing here touches the inside of a mount whose server may hang, except `clear_stale`, in a thread that can be left behind.
"""

import ctypes
import errno
import logging
import os
import re
import socket
import stat
import subprocess
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cairnfs.errors import MountError, UsageError
from cairnfs.options import FuseOptions

log = logging.getLogger(__name__)

FSTYPE = "fuse.cairnfs"
DEVICE = "/dev/fuse"
ANSWER_S = 3.0  # a mount that does not answer a stat for so long is taken to be alive but busy

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS = 1, 2, 4, 8, 16
MS_DIRSYNC, MS_NOATIME, MS_NODIRATIME = 128, 1024, 2048
MS_RELATIME, MS_STRICTATIME, MS_LAZYTIME = 1 << 21, 1 << 24, 1 << 25
MNT_FORCE, MNT_DETACH, UMOUNT_NOFOLLOW = 1, 2, 8

# Option word: flags to set, flags to clear.
WORDS = {
    "ro": (MS_RDONLY, 0),
    "rw": (0, MS_RDONLY),
    "nosuid": (MS_NOSUID, 0),
    "suid": (0, MS_NOSUID),
    "nodev": (MS_NODEV, 0),
    "dev": (0, MS_NODEV),
    "noexec": (MS_NOEXEC, 0),
    "exec": (0, MS_NOEXEC),
    "sync": (MS_SYNCHRONOUS, 0),
    "async": (0, MS_SYNCHRONOUS),
    "dirsync": (MS_DIRSYNC, 0),
    "noatime": (MS_NOATIME, 0),
    "atime": (0, MS_NOATIME),
    "nodiratime": (MS_NODIRATIME, 0),
    "diratime": (0, MS_NODIRATIME),
    "relatime": (MS_RELATIME, 0),
    "norelatime": (0, MS_RELATIME),
    "strictatime": (MS_STRICTATIME, 0),
    "nostrictatime": (0, MS_STRICTATIME),
    "lazytime": (MS_LAZYTIME, 0),
    "nolazytime": (0, MS_LAZYTIME),
}


class Mounted(NamedTuple):
    """One line of /proc/self/mountinfo."""

    mountpoint: str
    device: str  # major:minor
    fstype: str
    source: str
    super_options: str


def unescape(field: str) -> str:
    """A field of mountinfo as it was: the kernel writes blanks, backslashes and the like as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def parse_mountinfo(text: str) -> list[Mounted]:
    """Mounts in the order they were made; of several on one path the last is the visible one."""
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        if len(fields) >= 6 and len(tail) >= 3:
            found.append(Mounted(unescape(fields[4]), fields[2], unescape(tail[0]), unescape(tail[1]), unescape(tail[2])))
    return found


def mounts() -> list[Mounted]:
    """What is mounted, as this process sees it."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse_mountinfo(file.read())


def find_mount(mountpoint: Path) -> Mounted | None:
    """What is mounted exactly at `mountpoint`. Links in its parents are followed, and those in itself if it is no mount."""
    known = {mounted.mountpoint: mounted for mounted in mounts()}
    path = os.path.abspath(mountpoint)
    beside = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return known.get(os.path.normpath(beside)) or known.get(os.path.realpath(path))


def mounted_by(mountpoint: Path) -> int | None:
    """The user who made the cairnfs mount at `mountpoint`, None when there is no such mount."""
    mounted = find_mount(mountpoint)
    if mounted is None or mounted.fstype != FSTYPE:
        return None
    user = re.search(r"(?:^|,)user_id=(\d+)", mounted.super_options)
    return int(user[1]) if user else 0


def is_mounted(mountpoint: Path) -> bool:
    """Is a cairnfs mount at `mountpoint`, alive or not?"""
    return mounted_by(mountpoint) is not None


# Mounting


def mount_fuse(mountpoint: Path, options: FuseOptions) -> int:
    """Mount, and return the descriptor to serve. MountError says what is in the way; UsageError for unknown options."""
    flags = mount_flags(options)
    clear_stale(mountpoint)
    check_mountpoint(mountpoint)
    check_device()
    if os.geteuid() == 0:
        return _mount_as_root(mountpoint, options, flags)
    return _mount_with_helper(mountpoint, options)


def mount_flags(options: FuseOptions) -> int:
    """Flags for mount(2); of contradicting words the last counts."""
    flags = 0
    for word in option_words(options):
        if word not in WORDS:
            raise UsageError(f"unknown mount option '{word}'")
        set_, clear = WORDS[word]
        flags = (flags | set_) & ~clear
    return flags


def option_words(options: FuseOptions) -> list[str]:
    """Words for the kernel, as they would stand after -o."""
    return [*options.mount_options, *(("ro",) if options.read_only else ())]


def check_mountpoint(mountpoint: Path) -> None:
    """MountError unless `mountpoint` is a directory on which nothing is mounted."""
    mounted = find_mount(mountpoint)
    if mounted is not None:
        raise MountError(f"{mountpoint} is in use: {mounted.source} ({mounted.fstype}) is mounted there", errno.EBUSY)
    try:
        mode = os.stat(mountpoint).st_mode
    except FileNotFoundError:
        raise MountError(f"{mountpoint} does not exist: create it with 'mkdir -p {mountpoint}'", errno.ENOENT) from None
    except OSError as error:
        raise MountError(f"{mountpoint} cannot be used: {error.strerror}", error.errno) from error
    if not stat.S_ISDIR(mode):
        raise MountError(f"{mountpoint} is not a directory", errno.ENOTDIR)


def check_device() -> None:
    """MountError when this machine or container has no usable /dev/fuse. Unprivileged users get it from fusermount3."""
    if not os.path.exists(DEVICE):
        raise MountError(
            f"{DEVICE} is missing: load the kernel module with 'modprobe fuse', or start the container with --device {DEVICE}",
            errno.ENODEV,
        )


def clear_stale(mountpoint: Path) -> None:
    """Detach a cairnfs mount at `mountpoint` whose process is gone. Does nothing else."""
    if is_mounted(mountpoint) and _is_dead(mountpoint):
        log.info("%s: removing the mount of a process that is gone", mountpoint)
        try:
            unmount(mountpoint, lazy=True)
        except MountError as error:
            if error.errno != errno.EINVAL:  # else somebody was faster
                raise


def _is_dead(mountpoint: Path) -> bool:
    """Does the kernel say that nobody serves this mount? A server that does not answer in time is not dead."""
    dead = threading.Event()

    def ask() -> None:
        try:
            os.statvfs(mountpoint)  # attributes may come from what the kernel keeps
        except OSError as error:
            if error.errno == errno.ENOTCONN:
                dead.set()

    asking = threading.Thread(target=ask, name="ask-mount", daemon=True)
    asking.start()
    asking.join(ANSWER_S)
    return dead.is_set()


def _mount_as_root(mountpoint: Path, options: FuseOptions, flags: int) -> int:
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise MountError(
            f"{DEVICE} cannot be opened: {error.strerror}; in a container, allow it with --device {DEVICE}", error.errno
        ) from error
    try:
        root_mode = stat.S_IFMT(os.stat(mountpoint).st_mode)
        data = [f"fd={fd}", f"rootmode={root_mode:o}", f"user_id={os.geteuid()}", f"group_id={os.getegid()}"]
        _mount(f"cairnfs:{options.volume_name}", mountpoint, flags, ",".join([*data, *_fuse_words(options)]))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _fuse_words(options: FuseOptions) -> list[str]:
    """Options of FUSE itself: the kernel checks permissions, and reads as much at once as it writes."""
    words = ["default_permissions", f"max_read={options.max_write_bytes}"]
    return [*words, "allow_other"] if options.allow_other else words


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _mount(source: str, mountpoint: Path, flags: int, data: str) -> None:
    arguments = (os.fsencode(source), os.fsencode(mountpoint), FSTYPE.encode(), ctypes.c_ulong(flags), os.fsencode(data))
    if _libc().mount(*arguments) == 0:
        return
    code = ctypes.get_errno()
    hint = {
        errno.EPERM: "it needs the capability CAP_SYS_ADMIN; in a container, --cap-add SYS_ADMIN",
        errno.ENODEV: "this kernel has no FUSE; load the module with 'modprobe fuse'",
    }.get(code, os.strerror(code))
    raise MountError(f"cannot mount on {mountpoint}: {hint}", code)


def _mount_with_helper(mountpoint: Path, options: FuseOptions) -> int:
    """fusermount3 mounts for us, and sends the descriptor over the socket that _FUSE_COMMFD names."""
    name = re.sub(r"([\\,])", r"\\\1", f"cairnfs:{options.volume_name}")
    words = [f"fsname={name}", "subtype=cairnfs", *_fuse_words(options), *option_words(options)]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        done = _fusermount(["-o", ",".join(words), "--", str(mountpoint)], theirs)
        theirs.close()
        if done.returncode != 0:
            raise MountError(f"cannot mount on {mountpoint}: {_helper_message(done.stderr)}", errno.EPERM)
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    if not fds:
        raise MountError(f"cannot mount on {mountpoint}: fusermount3 sent no descriptor")
    return fds[0]


def _fusermount(arguments: Iterable[str], channel: socket.socket | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C"}
    if channel is not None:
        environment["_FUSE_COMMFD"] = str(channel.fileno())
    try:
        return subprocess.run(
            ["fusermount3", *arguments],
            env=environment,
            pass_fds=() if channel is None else (channel.fileno(),),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise MountError("fusermount3 is missing: install the package fuse3, or run as root", errno.ENOENT) from None


def _helper_message(stderr: str) -> str:
    text = stderr.strip().removeprefix("fusermount3: ")
    if "allow_other" in text and "user_allow_other" in text:
        return "allow_other is for root unless /etc/fuse.conf has a line 'user_allow_other'"
    if DEVICE in text and "Permission denied" in text:
        return f"{DEVICE} is closed to you: have root run 'chmod 666 {DEVICE}', which udev does elsewhere"
    if "no write access" in text or "Operation not permitted" in text or "Permission denied" in text:
        return f"{text}; the mountpoint must be yours, and fusermount3 set-user-id root"
    return text or "fusermount3 failed without a message"


# Unmounting


def unmount(mountpoint: Path, *, lazy: bool = False, force: bool = False) -> None:
    """Unmount. `lazy`: detach now, end when the last user leaves. `force`: fail the calls that wait, then detach.

    MountError: EBUSY when it is in use, EINVAL when nothing is mounted there, EPERM when it is somebody else's.
    """
    mounted = find_mount(mountpoint)
    if mounted is None:
        raise MountError(f"{mountpoint} is not mounted", errno.EINVAL)
    if force:
        abort(mounted)
        if find_mount(mountpoint) is None:
            return
    if os.geteuid() == 0:
        _umount2(mounted.mountpoint, MNT_DETACH if lazy or force else 0)
        return
    done = _fusermount(["-u", *(["-z"] if lazy or force else []), "--", mounted.mountpoint])
    if done.returncode != 0:
        if find_mount(Path(mounted.mountpoint)) != mounted:
            code = errno.EINVAL  # its own process was faster
        else:
            code = errno.EBUSY if "busy" in done.stderr else errno.EPERM
        raise MountError(_unmount_message(mounted.mountpoint, code), code)


def abort(mounted: Mounted) -> None:
    """Fail every call that waits in a FUSE mount, now and from now on. Its server sees an unmount."""
    minor = mounted.device.partition(":")[2]
    try:
        Path(f"/sys/fs/fuse/connections/{minor}/abort").write_text("1")
    except FileNotFoundError:
        if os.geteuid() == 0 and find_mount(Path(mounted.mountpoint)) == mounted:
            _libc().umount2(os.fsencode(mounted.mountpoint), MNT_FORCE)  # without fusectl: aborts, and may then not unmount
    except OSError as error:
        log.warning("%s: cannot abort: %s", mounted.mountpoint, error.strerror)


def _umount2(path: str, flags: int) -> None:
    if _libc().umount2(os.fsencode(path), flags | UMOUNT_NOFOLLOW) != 0:
        code = ctypes.get_errno()
        raise MountError(_unmount_message(path, code), code)


def _unmount_message(path: str, code: int) -> str:
    hints = {
        errno.EBUSY: "it is in use; see who with 'fuser -vm', or detach it with --lazy",
        errno.EPERM: "it is not yours",
        errno.EINVAL: "nothing is mounted there",
    }
    return f"cannot unmount {path}: {hints.get(code, os.strerror(code))}"
