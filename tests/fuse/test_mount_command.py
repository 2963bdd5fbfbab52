"""The life of a mount process: starting, being asked to end in every way, and what it leaves behind."""

import errno
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.mount_type import installed
from support.mounts import CAIRNFS, Mount, MountFactory, Volume, cairnfs, cairnfs_mounts

pytestmark = pytest.mark.fuse


def sessions(volume: Volume) -> list[dict[str, object]]:
    found = json.loads(cairnfs("status", volume.url, "--json").stdout)["sessions"]
    assert isinstance(found, list)
    return found


def fails(*args: str | Path) -> str:
    """Run a command that must fail with 1 and one line on stderr; returns that line."""
    done = cairnfs(*args, check=False)
    assert done.returncode == 1, done
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("cairnfs: "), done.stderr
    return done.stderr


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"{what} does not happen"
        time.sleep(0.01)


@contextmanager
def foreground(volume: Volume, path: Path, front: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A mount that runs in the foreground, mounted; killed at the end if it still runs."""
    path.mkdir(exist_ok=True)
    args = [*CAIRNFS, "mount", volume.url, str(path), "--front", front, *options]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: str(path) in cairnfs_mounts() or process.poll() is not None, "mounting")
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            subprocess.run(["umount", "-l", str(path)], check=False, capture_output=True)


def ended(process: subprocess.Popen[str]) -> str:
    """Wait for a process that must end with 0; returns its stderr."""
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return err


def test_a_background_mount_answers_when_the_command_returns_and_has_ended_when_umount_does(mount: Mount) -> None:
    assert str(mount.path) in cairnfs_mounts()
    (session,) = sessions(mount.volume)
    assert session["mountpoint"] == str(mount.path)
    assert [session["pid"]] == mount.pids[:1]
    (mount.path / "f").write_bytes(b"x" * 100_000)
    mount.stop()
    assert str(mount.path) not in cairnfs_mounts()
    assert mount.pids == []
    assert sessions(mount.volume) == []
    log = mount.log.read_text()
    assert "mounted" in log and "everything is stored" in log


@pytest.mark.parametrize(("front", "n_workers"), [("channel", 0), ("channel", 2), ("pyfuse3", 0)])
def test_status_says_how_a_mount_is_served(mounts: MountFactory, front: str, n_workers: int) -> None:
    mount = mounts.new(None, *(["--workers", str(n_workers)] if front == "channel" else []), front=front)
    config = json.loads((mount.path / ".config").read_text())
    (session,) = sessions(mount.volume)
    assert (session["front"], session["workers"]) == (front, n_workers)
    assert (session["transport"], session["transport_reason"]) == (config["transport"], config["transport_reason"])
    (line,) = [line for line in cairnfs("status", mount.volume.url).stdout.splitlines() if str(mount.path) in line]
    said = f"{config['transport']}: {config['transport_reason']}" if config["transport_reason"] else config["transport"]
    assert re.search(rf" {n_workers} +{re.escape(said)} *$", line), line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts_after_storing_everything(
    mounts: MountFactory, tmp_path: Path, front: str, number: signal.Signals
) -> None:
    volume, path = mounts.volume(), tmp_path / "fg"
    with foreground(volume, path, front) as process:
        (path / "f").write_bytes(b"y" * 3_000_000)
        process.send_signal(number)
        err = ended(process)
    assert str(path) not in cairnfs_mounts()
    assert "everything is stored" in err
    assert sessions(volume) == []
    again = mounts.new(volume, front=front)
    assert (again.path / "f").read_bytes() == b"y" * 3_000_000


def test_a_second_signal_does_not_wait_for_users_and_still_stores_what_they_wrote(
    mounts: MountFactory, tmp_path: Path, front: str
) -> None:
    volume, path = mounts.volume(), tmp_path / "fg"
    with foreground(volume, path, front) as process:
        fd = os.open(path / "f", os.O_WRONLY | os.O_CREAT)
        try:
            os.write(fd, b"z" * 200_000)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert process.poll() is None, "it did not wait for the open file"
            process.send_signal(signal.SIGTERM)
            ended(process)
            with pytest.raises(OSError) as caught:
                os.write(fd, b"more")
            assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
        finally:
            try:
                os.close(fd)
            except OSError:
                pass
    again = mounts.new(volume, front=front)
    assert (again.path / "f").read_bytes() == b"z" * 200_000


def test_a_signal_writes_the_stacks_of_every_process(mounts: MountFactory) -> None:
    mount = mounts.new(None, "--workers", "1")

    def n_dumped(frame: str) -> int:
        return len(re.findall(frame, mount.log.read_text(), re.MULTILINE))

    for n in (1, 2):
        os.kill(mount.pids[0], signal.SIGUSR1)
        wait_until(lambda n=n: n_dumped(r'session\.py", line \d+ in work$') == n, "a dump of the worker")
        frames = r'supervisor\.py", line \d+ in supervise$'  # a worker has those, too, that forked it
        wait_until(lambda n=n, frames=frames: n_dumped(frames) == 2 * n, "a dump of the supervisor")
    assert (mount.path / ".config").read_bytes()


def test_the_process_ends_well_when_the_kernel_unmounts(mounts: MountFactory, tmp_path: Path, front: str) -> None:
    volume, path = mounts.volume(), tmp_path / "fg"
    with foreground(volume, path, front) as process:
        (path / "f").write_bytes(b"k" * 10_000)
        subprocess.run(
            ["umount" if os.geteuid() == 0 else "fusermount3", *(() if os.geteuid() == 0 else ("-u",)), path], check=True
        )
        ended(process)
    assert sessions(volume) == []


def test_umount_of_a_mount_in_use_is_refused_unless_lazy(mount: Mount) -> None:
    with open(mount.path / "f", "wb") as file:
        file.write(b"1")
        assert "in use" in fails("umount", mount.path)
        assert str(mount.path) in cairnfs_mounts()
        pids = mount.pids
        cairnfs("umount", "--lazy", mount.path)
        assert str(mount.path) not in cairnfs_mounts()
        assert mount.pids == pids
        file.write(b"2")
    wait_until(lambda: mount.pids == [], "the end of the process")
    mount.start()
    assert (mount.path / "f").read_bytes() == b"12"


def test_umount_by_force_ends_a_mount_in_use(mount: Mount) -> None:
    fd = os.open(mount.path / "f", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"kept")
    cairnfs("umount", "--force", mount.path)
    try:
        os.close(fd)
    except OSError:
        pass
    assert mount.pids == []
    mount.start()
    assert (mount.path / "f").read_bytes() == b"kept"


def test_umount_says_what_could_not_be_stored(mounts: MountFactory, tmp_path: Path, front: str) -> None:
    mount = mounts.new(mounts.volume("--storage", "file"), "--io-timeout", "1", front=front)
    mount.expected_log.append(".")
    fd = os.open(mount.path / "f", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"lost")
    mount.volume.bucket.rename(tmp_path / "aside")
    done = cairnfs("umount", "--force", mount.path, check=False)  # which may say that it waits
    assert done.returncode == 1 and "not everything could be stored" in done.stderr.splitlines()[-1], done
    try:
        os.close(fd)
    except OSError:
        pass
    mount.mounted = False
    (tmp_path / "aside").rename(mount.volume.bucket)
    assert mount.pids == [] and sessions(mount.volume) == []


def test_umount_says_that_something_was_lost_earlier(mounts: MountFactory, tmp_path: Path, front: str) -> None:
    """Also if all that was written since is stored, by another process."""
    mount = mounts.new(mounts.volume("--storage", "file"), "--io-timeout", "1", front=front)
    mount.expected_log.append(".")
    fd = os.open(mount.path / "f", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"lost")
    mount.volume.bucket.rename(tmp_path / "aside")
    with pytest.raises(OSError):
        os.close(fd)
    wait_until(lambda: "is lost" in mount.log.read_text(), "the last try")
    (tmp_path / "aside").rename(mount.volume.bucket)
    if len(mount.pids) > 1:
        os.kill(mount.pids[1], signal.SIGKILL)
    (mount.path / "g").write_bytes(b"stored")
    done = cairnfs("umount", mount.path, check=False)
    assert done.returncode == 1 and "something written was lost earlier" in done.stderr, done
    assert "everything is stored" not in mount.log.read_text()
    mount.start()
    assert (mount.path / "g").read_bytes() == b"stored"
    mount.stop()
    assert mount.log.read_text().count("everything is stored") == 1


def test_umount_of_what_is_not_mounted_is_one_line(tmp_path: Path) -> None:
    assert "is not a cairnfs mount" in fails("umount", tmp_path)
    assert "is not a cairnfs mount" in fails("umount", "/proc")


def test_a_mountpoint_that_cannot_be_used_is_one_line_and_leaves_no_session(mount: Mount, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    other = Volume(tmp_path / "other")
    for background in ((), ("-d",)):
        for path, hint in ((tmp_path / "none", "mkdir -p"), (tmp_path / "file", "not a directory"), (mount.path, "in use")):
            args = ("mount", other.url, path, "--front", mount.front, "--log", tmp_path / "log", *background)
            assert hint in fails(*args)
    assert len(sessions(mount.volume)) == 1 and sessions(other) == []


def test_a_volume_whose_objects_are_gone_is_not_mounted(mounts: MountFactory, tmp_path: Path, front: str) -> None:
    volume, path = mounts.volume("--storage", "file"), tmp_path / "mnt"
    path.mkdir()
    volume.bucket.rename(tmp_path / "aside")
    assert str(volume.bucket) in fails("mount", volume.url, path, "-d", "--front", front, "--log", tmp_path / "log")
    assert sessions(volume) == [] and str(path) not in cairnfs_mounts()
    (tmp_path / "aside").rename(volume.bucket)


def test_a_killed_mount_is_replaced_by_the_next_and_its_session_cleaned_at_once(mount: Mount) -> None:
    (mount.path / "f").write_bytes(b"kept")
    mount.kill_processes()
    with pytest.raises(OSError) as caught:
        found = os.listdir(mount.path)
        pytest.fail(f"{found}: {mount.pids} serve it, mounted: {str(mount.path) in cairnfs_mounts()}")
    assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    assert [session["dead"] for session in sessions(mount.volume)] == [True]
    mount.start()
    assert (mount.path / "f").read_bytes() == b"kept"
    assert [session["pid"] for session in sessions(mount.volume)] == mount.pids[:1]


def test_a_dead_mount_is_replaced_although_the_kernel_still_knows_its_attributes(channel_mount: Mount) -> None:
    (channel_mount.path / "f").write_bytes(b"kept")
    os.stat(channel_mount.path)
    channel_mount.kill_processes()
    os.stat(channel_mount.path)  # nobody is asked
    channel_mount.start()
    assert (channel_mount.path / "f").read_bytes() == b"kept"


def test_a_read_only_mount_refuses_changes(mounts: MountFactory, front: str) -> None:
    mount = mounts.new(front=front)
    (mount.path / "f").write_bytes(b"data")
    other = mounts.new(mount.volume, "-o", "ro", front=front)
    assert (other.path / "f").read_bytes() == b"data"
    for change in (lambda: (other.path / "g").mkdir(), lambda: (other.path / "f").write_bytes(b"x")):
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno == errno.EROFS


def test_a_volume_in_use_is_neither_formatted_nor_destroyed(mount: Mount) -> None:
    uuid = json.loads(cairnfs("status", mount.volume.url, "--json").stdout)["format"]["uuid"]
    again = ("format", mount.volume.url, mount.volume.name, *mount.volume.format_options, "--force")
    for args in (again, ("destroy", mount.volume.url, uuid, "--yes")):
        assert str(mount.path) in fails(*args)
    (mount.path / "f").write_bytes(b"still works")


def test_info_shows_where_a_file_is_stored(mount: Mount) -> None:
    (mount.path / "dir").mkdir()
    path = mount.path / "dir" / "f"
    path.write_bytes(b"i" * 5000)
    info = json.loads(cairnfs("info", path, "--json").stdout)
    assert (info["path"], info["size"], info["inode"]) == ("/dir/f", 5000, os.stat(path).st_ino)
    assert info["extents"][0]["pack"] in {pack.name.rpartition("/")[2] for pack in mount.volume.stored()}
    assert "/dir/f" in cairnfs("info", path).stdout
    both = json.loads(cairnfs("info", path, mount.path / "dir", "--json").stdout)
    assert [one["type"] for one in both] == ["file", "directory"]


def test_a_mount_takes_up_changed_limits(mounts: MountFactory, front: str) -> None:
    mount = mounts.new(None, "--heartbeat", "0.2", front=front)
    cairnfs("config", mount.volume.url, "--inodes", "2")
    wait_until(lambda: os.statvfs(mount.path).f_files == 2, "taking up the limit")
    (mount.path / "f").write_bytes(b"")
    with pytest.raises(OSError) as caught:
        (mount.path / "g").write_bytes(b"")
    assert caught.value.errno == errno.ENOSPC


def test_status_counts_what_is_in_the_mount(mount: Mount) -> None:
    (mount.path / "f").write_bytes(b"u" * 12_345)
    usage = json.loads(cairnfs("status", mount.volume.url, "--json").stdout)["usage"]
    assert usage == {"used_bytes": 12_345, "used_inodes": 2}


@pytest.fixture
def mount8_type(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A type for mount -t, with the helper installed as the parameter says; taken away again."""
    kind, place, module = request.param
    with installed(place, module, tmp_path):
        yield kind


@pytest.mark.parametrize(
    "mount8_type",
    [
        ("cairnfs", Path("/sbin/mount.cairnfs"), "cairnfs.daemon.mount_helper"),
        ("fuse.cairnfs", Path("/sbin/mount.fuse.cairnfs"), "cairnfs.daemon.mount_helper"),
        ("fuse.cairnfs", Path("/usr/local/bin/cairnfs"), "cairnfs.daemon.cli"),
    ],
    ids=["mount.cairnfs", "mount.fuse.cairnfs", "through mount.fuse3"],
    indirect=True,
)
def test_mount8_mounts_by_type(mounts: MountFactory, tmp_path: Path, front: str, mount8_type: str) -> None:
    volume, path, log = mounts.volume(), tmp_path / "by-type", tmp_path / "log"
    path.mkdir()
    words = f"front={front},log={log},cache-memory=64M,noatime,_netdev,x-systemd.requires=network.target"
    args = ["mount", "-t", mount8_type, volume.url, path, "-o", words]
    subprocess.run(args, check=True, capture_output=True)
    try:
        (line,) = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {path} " in line]
        assert "noatime" in line and " fuse.cairnfs cairnfs:test-volume " in line
        (path / "f").write_bytes(b"hello")
        subprocess.run(args, check=True, capture_output=True)
        assert cairnfs_mounts().count(str(path)) == 1
        wrong = subprocess.run([*args, "-o", "nonsense"], check=False, capture_output=True, text=True)
        assert wrong.returncode != 0 and "nonsense" in wrong.stderr
    finally:
        cairnfs("umount", path)
    assert log.read_text().count("mounted ") == 1
