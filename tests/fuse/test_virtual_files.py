"""`.stats`, `.config` and `.accesslog` in the root of a mount, behind both fronts."""

import errno
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.mounts import Mount, MountFactory

pytestmark = [pytest.mark.fuse, pytest.mark.usefixtures("kernel_caches")]

VIRTUAL = (".stats", ".config", ".accesslog")


def stats(mount: Mount) -> dict[str, float]:
    lines = (mount.path / ".stats").read_text().splitlines()
    return {name: float(value) for name, value in (line.split(" ") for line in lines)}


def change(mount: Mount, act: Callable[[], object]) -> dict[str, float]:
    """What an act adds to the counts, without what stays as it is."""
    before = stats(mount)
    act()
    return {name: value - before[name] for name, value in stats(mount).items() if value != before[name]}


@pytest.fixture
def quiet(mounts: MountFactory, front: str) -> Mount:
    """A mount whose heartbeat does not commit in the middle of a test, and whose kernel keeps nothing. Nobody fetches for it:
    what was fetched is answered by compiled code.
    """
    more = ("--workers", "1") if front == "channel" else ()
    return mounts.new(None, "--heartbeat", "30", *more, front=front)


def test_they_are_found_by_name_and_not_listed(mount: Mount) -> None:
    (mount.path / "real").write_bytes(b"")
    assert os.listdir(mount.path) == ["real"]
    modes = {name: os.stat(mount.path / name).st_mode for name in VIRTUAL}
    assert [f"{modes[name]:o}" for name in VIRTUAL] == ["100444", "100444", "100400"]
    for name in VIRTUAL:
        st = os.stat(mount.path / name)
        assert (st.st_uid, st.st_gid, st.st_size, st.st_nlink) == (os.geteuid(), os.getegid(), 0, 1)
        assert (1 << 62) < st.st_ino < (1 << 63)
    (mount.path / "d").mkdir()
    assert not (mount.path / "d" / ".stats").exists()


def test_their_names_cannot_be_taken_and_they_cannot_be_changed(mount: Mount) -> None:
    real = mount.path / "real"
    real.write_bytes(b"x")
    for name in VIRTUAL:
        path = mount.path / name
        refused: list[tuple[int, Callable[[], object]]] = [
            (errno.EPERM, lambda path=path: os.unlink(path)),
            (errno.EPERM, lambda path=path: os.rename(path, mount.path / "other")),
            (errno.EPERM, lambda path=path: os.rename(real, path)),
            (errno.EPERM, lambda path=path: os.link(path, mount.path / "other")),
            (errno.EPERM, lambda path=path: os.chmod(path, 0o777)),
            (errno.EPERM if os.geteuid() == 0 else errno.EACCES, lambda path=path: os.setxattr(path, "user.a", b"b")),
            (errno.EEXIST, lambda path=path: os.mkdir(path)),
            (errno.EEXIST, lambda path=path: os.symlink("target", path)),
            (errno.EEXIST, lambda path=path: os.link(real, path)),
            (errno.EEXIST, lambda path=path: os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR)),
            (errno.EACCES, lambda path=path: os.open(path, os.O_WRONLY)),
        ]
        for code, act in refused:
            with pytest.raises(OSError) as caught:
                act()
            assert caught.value.errno == code, (name, caught.value)
        assert os.listxattr(path) == []
    assert real.read_bytes() == b"x"


def test_stats_count_a_known_sequence_exactly(quiet: Mount) -> None:
    n = 20
    folder = quiet.path / "d"
    folder.mkdir()
    (folder / "first").write_bytes(b"")  # takes the batch of inode numbers

    def create() -> None:
        for i in range(n):
            os.close(os.open(folder / f"f{i}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))

    added = change(quiet, create)
    assert added['cairnfs_fuse_requests_total{opcode="CREATE"}'] == n
    assert added['cairnfs_operation_seconds_count{op="create"}'] == n
    compiled = 'cairnfs_fuse_answers_total{opcode="LOOKUP"}'
    looked_for = added.get('cairnfs_operation_errors_total{op="lookup"}', 0) + added.get(compiled, 0)
    assert looked_for == n, "each name was looked for first"
    assert added['cairnfs_meta_operations_total{op="names.create"}'] == n
    assert added['cairnfs_meta_store_seconds_count{kind="commit"}'] == n
    assert added['cairnfs_operation_seconds_sum{op="create"}'] > 0
    assert "cairnfs_written_bytes_total" not in added
    assert not [name for name in added if name.startswith("cairnfs_object")]


def test_stats_count_bytes_objects_and_the_cache(quiet: Mount) -> None:
    path = quiet.path / "f"
    data = os.urandom(100_000)
    path.write_bytes(b"")
    added = change(quiet, lambda: path.write_bytes(data))
    assert added["cairnfs_written_bytes_total"] == len(data)
    assert added['cairnfs_object_seconds_count{kind="put"}'] == added["cairnfs_uploads_total"] == 1
    assert added["cairnfs_writer_commits_total"] == 1
    assert added["cairnfs_upload_bytes_total"] == len(data) < added["cairnfs_object_put_bytes_total"]
    quiet.restart()
    assert stats(quiet)["cairnfs_read_bytes_total"] == 0, "counts begin with the mount"
    added = change(quiet, lambda: path.read_bytes())
    assert added["cairnfs_read_bytes_total"] == len(data)
    assert added['cairnfs_object_seconds_count{kind="get"}'] == added["cairnfs_cache_misses_total"] == 1
    assert added["cairnfs_object_got_bytes_total"] >= len(data)


def test_stats_show_what_is_open(quiet: Mount) -> None:
    with open(quiet.path / "f", "wb"), open(quiet.path / "f", "rb"):
        now = stats(quiet)
        assert (now["cairnfs_open_handles"], now["cairnfs_open_inodes"]) == (2, 1)
    assert now["cairnfs_sessions"] == 1


def test_stats_can_be_copied_and_read_in_pieces(mount: Mount, tmp_path: Path) -> None:
    subprocess.run(["cp", mount.path / ".config", tmp_path / "copy"], check=True)
    assert json.loads((tmp_path / "copy").read_text())
    fd = os.open(mount.path / ".stats", os.O_RDONLY)
    try:
        whole = os.pread(fd, 1 << 20, 0)
        assert os.pread(fd, 100, 50) == whole[50:150]
        assert os.pread(fd, 100, len(whole)) == b""
    finally:
        os.close(fd)


def test_config_says_what_the_mount_is(mount: Mount) -> None:
    config = json.loads((mount.path / ".config").read_text())
    assert config["front"] == mount.front
    assert [config["pid"]] == mount.pids[:1]
    assert config["mountpoint"] == str(mount.path)
    assert config["meta_url"] == mount.volume.url
    assert config["format"]["name"] == mount.volume.name
    assert config["engine"]["cache_bytes"] == 256 << 20
    assert config["fuse"]["max_threads"] == 64


LINE = re.compile(
    rb"\d{4}\.\d\d\.\d\d \d\d:\d\d:\d\d\.\d{6} \[uid:\d+,gid:\d+,pid:\d+\] \w+ \([^\n]*\): [A-Z][^\n]* <\d+\.\d{6}>\n"
)


def log_of(mount: Mount, act: Callable[[], object], last: bytes) -> list[bytes]:
    """Lines of the access log while an act goes on, up to the one that contains `last`."""
    fd = os.open(mount.path / ".accesslog", os.O_RDONLY)
    try:
        thread = threading.Thread(target=act)
        thread.start()
        found = b""
        for _ in range(100):
            found += os.read(fd, 65536)
            if last in found:
                break
        thread.join()
        return [line for line in found.splitlines(keepends=True) if line != b"#\n"]
    finally:
        os.close(fd)


def test_the_access_log_has_a_line_per_operation(mount: Mount) -> None:
    name = "a name\nof two lines"

    def act() -> None:
        (mount.path / name).write_bytes(b"secret content")
        with pytest.raises(FileNotFoundError):
            os.stat(mount.path / "missing")
        os.mkdir(mount.path / "last")

    lines = log_of(mount, act, b"mkdir (1,last,")
    assert all(LINE.fullmatch(line) for line in lines), lines
    text = b"".join(lines)
    assert rb" create (1,a name\nof two lines," in text
    assert re.search(rb" write(_mapped)? \(\d+,0,14[,)]", text)
    assert re.search(rb" lookup \(1,missing\): No such file or directory <", text)
    assert re.search(rb" mkdir \(1,last,\d+\): OK \(\d+,040755,0\) <", text)
    assert b"secret" not in text
    assert f"[uid:{os.geteuid()},gid:{os.getegid()},pid:".encode() in text
    assert b" read (" not in text, "reading the log is not logged"


def test_a_read_of_the_access_log_ends_when_nothing_happens(mount: Mount) -> None:
    fd = os.open(mount.path / ".accesslog", os.O_RDONLY)
    try:
        while (found := os.read(fd, 4096)) != b"#\n":
            assert found
    finally:
        os.close(fd)


@pytest.fixture
def killable(mounts: MountFactory) -> Mount:
    volume = mounts.volume()
    mount = mounts.new(volume, "--workers", "1", *volume.compiled_opens)
    mount.expected_log.append("the process that served was killed: another one takes over")
    return mount


def kill_worker(mount: Mount) -> None:
    os.kill(json.loads((mount.path / ".config").read_text())["serving_pid"], signal.SIGKILL)


def test_open_ones_outlive_the_process_that_serves(killable: Mount) -> None:
    fds = {name: os.open(killable.path / name, os.O_RDONLY) for name in VIRTUAL}
    try:
        began = os.pread(fds[".stats"], 100, 0)
        assert len(began) == 100
        killed = json.loads(os.pread(fds[".config"], 1 << 16, 0))["serving_pid"]
        os.kill(killed, signal.SIGKILL)
        assert os.pread(fds[".stats"], 100, 100) == b"", "the rest of what a dead process had made"
        whole = os.pread(fds[".stats"], 1 << 20, 0)
        assert b"\ncairnfs_worker_restarts 1\n" in whole
        assert os.pread(fds[".stats"], 100, 50) == whole[50:150]
        assert json.loads(os.pread(fds[".config"], 1 << 16, 0))["serving_pid"] != killed
        (killable.path / "made").mkdir()
        found = b""
        while b"mkdir (1,made," not in found:
            found += os.read(fds[".accesslog"], 65536)
        assert b"# the process that served was killed: lines are missing\n" in found
    finally:
        for fd in fds.values():
            os.close(fd)


def test_an_access_log_that_is_closed_leaves_compiled_code_alone_also_after_a_death(killable: Mount) -> None:
    path = killable.path / "file"
    path.write_bytes(b"x")
    fd = os.open(killable.path / ".accesslog", os.O_RDONLY)
    kill_worker(killable)
    assert path.read_bytes() == b"x"
    os.close(fd)
    for n in range(2):
        deadline = time.monotonic() + 30
        while not change(killable, path.read_bytes).get('cairnfs_fuse_answers_total{opcode="OPEN"}'):
            assert time.monotonic() < deadline, f"compiled code answers nothing after death {n + 1}"
        kill_worker(killable)


def test_a_reader_of_the_access_log_can_be_killed(mount: Mount) -> None:
    reader = subprocess.Popen(["cat", mount.path / ".accesslog"], stdout=subprocess.PIPE)
    assert reader.stdout is not None
    os.mkdir(mount.path / "d")
    assert reader.stdout.read(1)
    reader.send_signal(signal.SIGINT)
    reader.stdout.close()
    assert reader.wait(20) != 0


def test_only_the_mounting_user_reads_the_access_log(mount: Mount) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs another user")
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", mount.path / ".accesslog"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and "Permission denied" in done.stderr
