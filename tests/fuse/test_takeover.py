"""A mount that another program takes over: whoever uses it notices nothing, and whoever cannot have it gets one line."""

import fcntl
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from support.mounts import Mount, MountFactory, cairnfs, cairnfs_mounts
from support.takeovers import config, sessions, take_over, wait_for_end

pytestmark = pytest.mark.fuse


@pytest.fixture
def taken(mounts: MountFactory) -> Mount:
    return mounts.new(None, "--workers", "1")


def refused(mount: Mount, *options: str, change: str = "") -> str:
    """The one line with which a takeover is refused; the mount goes on with the process it has."""
    before = config(mount)["serving_pid"]
    done = take_over(mount, *options, change=change, check=False)
    assert done.returncode == 1 and done.stdout.count("\n") == 1, done.stdout
    assert config(mount)["serving_pid"] == before
    return done.stdout


def test_open_files_and_what_was_written_to_them_go_on(taken: Mount) -> None:
    data = random.Random(1).randbytes(3_000_000)
    (taken.path / "old").write_bytes(data)
    (taken.path / "dir").mkdir()
    with (taken.path / "old").open("rb", buffering=0) as reading, (taken.path / "new").open("w+b", buffering=0) as writing:
        assert reading.read(1000) == data[:1000]
        assert writing.write(data[:1_000_001]) == 1_000_001
        gone = (taken.path / "gone").open("w+b", buffering=0)
        gone.write(b"no name")
        os.unlink(taken.path / "gone")
        before = config(taken)
        take_over(taken)
        after = config(taken)
        assert {before["pid"], before["serving_pid"]} & {after["pid"], after["serving_pid"]} == set()
        wait_for_end(int(str(before["pid"])))
        assert [session["pid"] for session in sessions(taken)] == [after["pid"]]
        assert writing.write(data[1_000_001:]) == len(data) - 1_000_001
        assert os.pread(writing.fileno(), len(data), 0) == data
        assert reading.read() == data[1000:]
        assert os.pread(gone.fileno(), 100, 0) == b"no name"
        gone.close()
    assert (taken.path / "new").read_bytes() == data
    assert (taken.path / ".stats").read_text().count("cairnfs_worker_restarts 0\n") == 1
    taken.stop()
    assert str(taken.path) not in cairnfs_mounts() and taken.pids == [] and sessions(taken) == []
    assert f"taken over by process {after['pid']}" in taken.log.read_text()
    taken.volume.assert_clean("--verify-data")


def test_locks_are_held_across_and_waited_for(taken: Mount) -> None:
    file = (taken.path / "file").open("w+b", buffering=0)
    other = (taken.path / "other").open("w+b", buffering=0)
    fcntl.lockf(file, fcntl.LOCK_EX)
    fcntl.flock(other, fcntl.LOCK_EX)
    script = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+b', buffering=0); print('on', flush=True); "
        "getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX | int(sys.argv[3])); print('locked', flush=True)"
    )

    def asker(path: Path, kind: str, flags: int) -> "subprocess.Popen[str]":
        args = [sys.executable, "-c", script, str(path), kind, str(flags)]
        process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "on\n"
        return process

    waiting = [asker(taken.path / "file", "lockf", 0), asker(taken.path / "other", "flock", 0)]
    take_over(taken)
    take_over(taken)
    for path, kind in ((taken.path / "file", "lockf"), (taken.path / "other", "flock")):
        trying = asker(path, kind, fcntl.LOCK_NB)
        assert "BlockingIOError" in trying.communicate(timeout=30)[1]
    assert [process.poll() for process in waiting] == [None, None]
    fcntl.lockf(file, fcntl.LOCK_UN)
    other.close()
    for process in waiting:
        assert process.communicate(timeout=30)[0] == "locked\n"
    file.close()


def test_a_listing_and_a_working_directory_go_on(taken: Mount) -> None:
    folder = taken.path / "folder"
    folder.mkdir()
    for i in range(3000):
        (folder / f"file{i:05}").touch()
    script = (
        "import os, sys\n"
        "os.chdir(sys.argv[1]); found = os.scandir('.'); names = [next(found).name for _ in range(10)]\n"
        "print('on', flush=True); sys.stdin.readline()\n"
        "names += [entry.name for entry in found]; print(len(names), len(set(names)), os.path.exists('file00001'))"
    )
    args = [sys.executable, "-c", script, str(folder)]
    with subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "on\n"
        take_over(taken)
        assert process.communicate("\n", timeout=60)[0] == "3000 3000 True\n"


def test_a_newcomer_that_stands_in_the_mount_and_writes_to_it_needs_nothing_of_it(taken: Mount) -> None:
    out = (taken.path / "out").open("w")
    args = [sys.executable, "-m", "cairnfs.daemon.cli", "mount", "-d", taken.volume.url, taken.path, "--log", taken.log]
    subprocess.run(args, cwd=taken.path, stdin=out, stdout=out, stderr=out, timeout=60, check=True)
    out.close()
    assert len(sessions(taken)) == 1
    taken.stop()


def test_settings_of_the_new_command_apply_but_for_those_that_are_fixed(taken: Mount) -> None:
    taken.expected_log.append("stays what it is until it is unmounted")
    options = ("--heartbeat", "3", "--threads", "200", "--cache-memory", "64M", "--max-background", "9", "-o", "noatime")
    take_over(taken, *options)
    shown = config(taken)
    engine, fuse = shown["engine"], shown["fuse"]
    assert isinstance(engine, dict) and isinstance(fuse, dict)
    assert (engine["heartbeat_s"], engine["cache_bytes"]) == (3.0, 256 << 20)
    assert (fuse["max_threads"], fuse["max_background"], fuse["mount_options"]) == (64, 50, [])
    said = [line.split(": ")[-1] for line in taken.log.read_text().splitlines() if "stays what it is" in line]
    assert [line.split(" stays")[0] for line in said] == [
        "mount options of the kernel", "max-background", "cache-memory", "threads",
    ]  # fmt: skip
    take_over(taken, *options)
    assert config(taken)["engine"] == engine


def test_what_cannot_be_taken_over_goes_on(taken: Mount, mounts: MountFactory) -> None:
    (taken.path / "file").write_bytes(b"data")
    assert "mounted read-write: unmount it first to mount it read-only" in refused(taken, "-o", "ro")
    assert "--workers 0 and --front pyfuse3 cannot take it over" in refused(taken, "--workers", "0")
    another = "import cairnfs.daemon.handover as module; module.LAYOUT += 1"
    line = refused(taken, change=another)
    assert "runs version" in line and "shared memory this program" in line and "unmount it first" in line
    another = "import cairnfs.daemon.handover as module; module.ARENA_VERSION += 1"
    assert "shared memory this program" in refused(taken, change=another)
    other = Mount(mounts.volume(), taken.path, "channel")
    other.log = taken.log
    assert "is in use: cairnfs:test-volume" in refused(other)
    lies = (
        "import cairnfs.daemon.takeover as module; call = module.inherited_from\n"
        "module.inherited_from = lambda told, *more: call({**told, 'n_slots': 7}, *more)"
    )
    assert "hands over what cannot be used" in refused(taken, change=lies)
    assert (taken.path / "file").read_bytes() == b"data"
    assert len(sessions(taken)) == 1


@pytest.mark.parametrize("options", [("--workers", "0"), ("--front", "pyfuse3")], ids=["one process", "pyfuse3"])
def test_a_mount_without_a_supervisor_is_not_taken_over(mounts: MountFactory, options: tuple[str, str]) -> None:
    if options[0] == "--front":
        pytest.importorskip("pyfuse3")
        mount = mounts.new(front="pyfuse3")
    else:
        mount = mounts.new(None, *options)
    mount.options = ()
    assert "cannot hand it over" in refused(mount)


def test_of_newcomers_at_the_same_time_the_last_has_it(taken: Mount) -> None:
    file = (taken.path / "file").open("w+b", buffering=0)
    file.write(b"a" * 10_000)
    args = ["mount", "-d", taken.volume.url, taken.path, "--log", taken.log]
    threads = [threading.Thread(target=cairnfs, args=args, kwargs={"check": False}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.pread(file.fileno(), 20_000, 0) == b"a" * 10_000
    file.close()
    assert [session["pid"] for session in sessions(taken)] == [config(taken)["pid"]]
    assert cairnfs_mounts().count(str(taken.path)) == 1
    taken.stop()
    assert taken.pids == []
