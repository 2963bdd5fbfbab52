"""kill -9 of the worker under load: no call fails, no byte is wrong, nothing happens twice.

CAIRN_WORKER_KILLS sets how often it is killed (default 12); `-s` shows how much was done, the longest call of each load, and how
busy the machine was with other things.
"""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from support.busy import Machine
from support.invariants import check_invariants
from support.mounts import Mount, MountFactory, alive, cairnfs_mounts
from support.redis_server import RedisServer
from support.stepping import traced
from support.storing import wait
from support.takeovers import take_over

sys.path.insert(0, str(Path(__file__).parent))
from worker_load import content

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

LOAD = Path(__file__).with_name("worker_load.py")
N_KILLS = int(os.environ.get("CAIRN_WORKER_KILLS", "12"))
LONGEST_S = 2  # of a single call of a load, and what others held it up (support/busy.py)
HANGS_ONCE = """
import ctypes, os
from cairnfs.vfs import Vfs
symlink = Vfs.symlink
def hold_the_interpreter():
    mutex, lock = ctypes.create_string_buffer(64), ctypes.PyDLL(None).pthread_mutex_lock  # which keeps the GIL
    while True: lock(mutex)  # the second time for ever
def hang_once(*a, **k):
    if not os.path.exists({hung!r}):
        with open({hung!r}, "w") as file: file.write(str(os.getpid()))
        hold_the_interpreter()
    return symlink(*a, **k)
Vfs.symlink = hang_once
"""  # a program that has a bug
DIES_ONCE = """
import os, signal
import cairnfs.daemon.invalidate as invalidate
from cairnfs.vfs import Vfs
invalidate.OPENED_WITHIN_S = {limit_s}
create = Vfs.create
def die_once(*a, **k):
    made = create(*a, **k)
    if not os.path.exists({died!r}):
        open({died!r}, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return made
Vfs.create = die_once
"""  # the file is made, and whoever asked for it is not told
KILLED = r"the process that served was killed: another one takes over"


def workers(mount: Mount, n: int = 1) -> list[int]:
    """The workers' pids: processes of the mount whose parent is one, too. At least `n`."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        pids, found = mount.pids, []
        for pid in pids:
            try:
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent in pids and alive(pid):
                found.append(pid)
        if len(found) >= n:
            return found
        time.sleep(0.01)
    raise AssertionError(f"the mount has no {n} workers")


def worker(mount: Mount) -> int:
    """The pid of the only worker."""
    return workers(mount)[0]


def serving(mount: Mount) -> int:
    """The pid of the worker that serves."""
    pid = json.loads((mount.path / ".config").read_bytes())["serving_pid"]
    assert isinstance(pid, int)
    return pid


def kill_if_alive(pid: int) -> None:
    """At a moment when it may have ended by itself."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def supervisor(mount: Mount) -> int:
    return next(pid for pid in mount.pids if pid not in workers(mount))


def start(kind: str, folder: Path, seed: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, LOAD, kind, folder, str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def mixed_load(mount: Mount, kinds: list[str]) -> "tuple[Path, dict[str, subprocess.Popen[str]]]":
    """Loads of these kinds, two that count under locks in the folder returned, and a reader."""
    files = mount.path / "files"
    files.mkdir()
    for i in range(50):
        (files / f"file{i}").write_bytes(content(i, 30_000))
    shared = mount.path / "shared"
    shared.mkdir()
    for name in ("counter-lockf", "counter-flock"):
        (shared / name).write_bytes(b"%020d" % 0)
    loads = {}
    for i, kind in enumerate(kinds):
        folder = mount.path / f"{kind}{i}"
        folder.mkdir()
        loads[f"{kind}{i}"] = start(kind, folder, i)
    loads |= {f"counter{i}": start("counter", shared, i) for i in (1, 2)}
    loads |= {"reader": start("reader", files, 7)}
    return shared, loads


def stats(mount: Mount) -> dict[str, float]:
    lines = (mount.path / ".stats").read_text().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


class Done(NamedTuple):
    """What a load has done."""

    n_rounds: int
    longest_s: float  # of all its calls
    what: str


def finish(loads: "dict[str, subprocess.Popen[str]]") -> dict[str, Done]:
    """Let the loads end."""
    done = {}
    try:
        for name, load in loads.items():
            out, err = load.communicate("\n", timeout=60)
            assert load.returncode == 0 and out.endswith("ok\n"), f"{name}: {out}\n{err}"
            assert not err, f"{name}: {err}"
            n_rounds, longest_s, what, _ = out.split()
            done[name] = Done(int(n_rounds), float(longest_s), what)
    finally:
        for load in loads.values():
            load.kill()
            load.communicate()
    return done


def report(n_kills: int, seconds: float, done: dict[str, Done], counts: dict[str, float], machine: Machine) -> None:
    counted = ("cairnfs_operation_seconds_count", "cairnfs_fuse_answers_total")
    n = sum(value for name, value in counts.items() if name.startswith(counted))
    longest_s = max(load.longest_s for load in done.values())
    print(f"\n{n_kills} kills in {seconds:.0f} s, {n:.0f} operations, longest call {longest_s:.3f} s; {machine}")
    for name, (n_rounds, longest_s, what) in done.items():
        print(f"  {name:12} {n_rounds:7} rounds, longest call {longest_s:.3f} s ({what})")


@pytest.mark.timeout(300 + 3 * N_KILLS)
@pytest.mark.parametrize(("n_workers", "all_at_once"), [(1, True), (4, False), (4, True)])
def test_a_load_goes_on_while_workers_are_killed_again_and_again(
    mounts: MountFactory, n_workers: int, all_at_once: bool, tmp_path: Path
) -> None:
    mount = mounts.new(None, "--workers", str(n_workers))
    mount.expected_log.append(KILLED)
    shared, loads = mixed_load(mount, ["writer", "appender", "names", "unlinked", "writer"])
    chance, machine = random.Random(5), Machine(tmp_path)
    began_s = time.monotonic()
    for _ in range(N_KILLS):
        machine.sleep(chance.uniform(0.2, 0.8))
        found = workers(mount)
        for pid in found if all_at_once else [chance.choice(found)]:
            os.kill(pid, signal.SIGKILL)
        machine.work()  # the loads wait now: it has the processors, unless others than this test have them
        if chance.random() < 0.7:  # else the next one may be killed while it takes over
            stats(mount)
    machine.sleep(0.5)
    done = finish(loads)
    report(N_KILLS, time.monotonic() - began_s, done, stats(mount), machine)
    assert all(load.n_rounds for load in done.values()), done
    for name in ("counter-lockf", "counter-flock"):
        assert int((shared / name).read_bytes()) == done["counter1"].n_rounds + done["counter2"].n_rounds
    assert max(load.longest_s for load in done.values()) < LONGEST_S + machine.held_up_s, f"{done}; {machine}"
    if os.geteuid() == 0:
        check_invariants(mount)
    mount.stop()
    mount.volume.assert_clean("--verify-data")


@pytest.mark.parametrize("how", ["umount", "signal", "signals to all"])
def test_a_worker_that_is_killed_while_it_ends_is_followed_by_one_that_stores_the_rest(mounts: MountFactory, how: str) -> None:
    mount = mounts.new(None, "--workers", "1")
    mount.expected_log.append(KILLED)
    data = content(3, 40 << 20)
    file = (mount.path / "file").open("wb", buffering=0)
    assert file.write(data) == len(data)
    serving = worker(mount)
    for pid in [serving, supervisor(mount)] if how == "signals to all" else [supervisor(mount)] if how == "signal" else []:
        os.kill(pid, signal.SIGTERM)
    if how == "umount":
        subprocess.run(["umount", "-l", mount.path], check=True)
    threading.Timer(0.02, kill_if_alive, (serving,)).start()
    with contextlib.suppress(OSError):
        file.close()
    deadline = time.monotonic() + 60
    while mount.pids:
        assert time.monotonic() < deadline, "the mount does not end"
        time.sleep(0.05)
    mount.mounted = False
    mount.expected_log.append("detaching from those who still use it")
    mount.start()
    assert (mount.path / "file").read_bytes() == data


def test_a_worker_that_does_nothing_any_more_is_replaced(mounts: MountFactory) -> None:
    mount = mounts.new(None, "--workers", "1", "--worker-timeout", "2")
    mount.expected_log += [KILLED, r"worker \d+ shows no sign of life for \d+ s: replaced"]
    (mount.path / "file").write_bytes(b"a" * 5000)
    silent = worker(mount)
    with traced(silent):
        assert (mount.path / "file").read_bytes() == b"a" * 5000
        (mount.path / "other").write_bytes(b"b")
        assert worker(mount) != silent
    mount.stop()


def test_a_worker_that_hangs_with_the_interpreter_says_where_and_is_replaced(mounts: MountFactory, tmp_path: Path) -> None:
    mount = mounts.new(None, "--workers", "1", "--worker-timeout", "2")
    mount.expected_log += [KILLED, r"worker \d+ shows no sign of life for \d+ s: replaced"]
    take_over(mount, change=HANGS_ONCE.format(hung=str(tmp_path / "hung")))
    hanging = worker(mount)
    os.symlink("target", mount.path / "link")
    assert os.readlink(mount.path / "link") == "target" and (tmp_path / "hung").read_text() == str(hanging)
    assert not alive(hanging) and worker(mount) != hanging
    assert stats(mount)["cairnfs_worker_restarts"] >= 1
    log = mount.log.read_text()
    dumped = log[log.index("shows no sign of life") : log.index("another one takes over", log.index("shows no sign of life"))]
    assert re.search(r"File .* in hold_the_interpreter\n.* in hang_once\n", dumped), "the request that hangs"
    assert re.search(r"File .*inherited\.py\", line \d+ in run\n", dumped), "another thread"
    assert len(re.findall(r"^(Current thread|Thread) 0x", dumped, re.MULTILINE)) > 2
    mount.stop()


def test_a_successor_says_at_once_that_a_file_is_made(mounts: MountFactory, tmp_path: Path) -> None:
    """The kernel is told to forget the file's name, which waits for the lock of the directory, and that is held until the call is
    answered: the answer must not wait for the kernel to forget."""
    limit_s = 40.0
    mount = mounts.new(None, "--workers", "1")
    mount.expected_log.append(KILLED)
    take_over(mount, change=DIES_ONCE.format(died=str(tmp_path / "died"), limit_s=limit_s))
    began_s = time.monotonic()
    with (mount.path / "file").open("xb") as file:
        took_s = time.monotonic() - began_s
        file.write(b"content")
    assert (tmp_path / "died").exists() and took_s < limit_s, took_s
    assert (mount.path / "file").read_bytes() == b"content"
    mount.stop()


def test_a_stopped_worker_that_somebody_waits_for_is_replaced_long_before_its_timeout(mounts: MountFactory) -> None:
    mount = mounts.new(None, "--workers", "3", "--worker-timeout", "60")
    mount.expected_log += [KILLED, r"worker \d+ is stopped: replaced"]
    (mount.path / "file").write_bytes(b"a" * 5000)
    for pid in workers(mount, 3):
        os.kill(pid, signal.SIGSTOP)
    began_s = time.monotonic()
    (mount.path / "other").write_bytes(b"b")
    assert (mount.path / "file").read_bytes() == b"a" * 5000
    while (n := stats(mount)["cairnfs_worker_restarts"]) < 3 or len(workers(mount)) < 3:
        assert time.monotonic() < began_s + 30, f"{n} of 3 workers were replaced"
        time.sleep(0.05)
    assert time.monotonic() < began_s + 30
    mount.stop()


def test_a_stopped_worker_that_nobody_waits_for_and_a_traced_one_are_left_alone(mounts: MountFactory) -> None:
    mount = mounts.new(None, "--workers", "1", "--worker-timeout", "60")
    pid = worker(mount)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(2)
    assert alive(pid)
    os.kill(pid, signal.SIGCONT)
    with traced(pid):
        reader = subprocess.Popen(["ls", mount.path], stdout=subprocess.DEVNULL)
        time.sleep(2)
        assert alive(pid) and reader.poll() is None
    assert reader.wait(30) == 0
    assert stats(mount)["cairnfs_worker_restarts"] == 0
    mount.stop()


def test_whoever_is_in_a_removed_directory_stays_there(mounts: MountFactory) -> None:
    mount = mounts.new(None, "--workers", "1")
    mount.expected_log.append(KILLED)
    inside = mount.path / "d"
    inside.mkdir(mode=0o751)
    script = "import os; print(flush=True); input(); s = os.stat('.'); print(s.st_nlink, oct(s.st_mode), os.listdir('.'))"
    args = [sys.executable, "-c", script]
    with subprocess.Popen(args, cwd=inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        inside.rmdir()
        os.kill(worker(mount), signal.SIGKILL)
        out, _ = process.communicate("\n", timeout=30)
    assert process.returncode == 0 and out == "0 0o40751 []\n"
    mount.stop()


def test_what_was_written_survives_the_death_of_everything_at_once_if_it_was_stored(mounts: MountFactory) -> None:
    mount = mounts.new(None, "--workers", "1")
    path = mount.path / "file"
    with path.open("wb", buffering=0) as file:
        file.write(b"a" * 100_000)
        os.fsync(file.fileno())
    mount.kill()
    mount.start()
    assert path.read_bytes() == b"a" * 100_000


def test_without_its_supervisor_a_worker_stores_everything_and_unmounts(mounts: MountFactory) -> None:
    mount = mounts.new(None, "--workers", "1")
    file = (mount.path / "file").open("wb", buffering=0)
    file.write(b"a" * 100_000)
    pid = worker(mount)
    os.kill(supervisor(mount), signal.SIGKILL)
    deadline = time.monotonic() + 30
    while alive(pid) or str(mount.path) in cairnfs_mounts():
        assert time.monotonic() < deadline, "the worker does not end"
        time.sleep(0.05)
    mount.mounted = False
    with contextlib.suppress(OSError):
        file.close()
    mount.start()
    assert (mount.path / "file").read_bytes() == b"a" * 100_000


def test_each_death_is_followed_by_a_new_worker_at_once(mounts: MountFactory) -> None:
    mount = mounts.new(None, "--workers", "1")
    mount.expected_log.append(KILLED)
    (mount.path / "file").write_bytes(b"a")
    before = stats(mount)
    for i in range(3):
        os.kill(worker(mount), signal.SIGKILL)
        assert (mount.path / "file").read_bytes() == b"a"
        now = stats(mount)
        assert now["cairnfs_worker_restarts"] == i + 1
        for name in ('operation_seconds_count{op="create"}', 'fuse_requests_total{opcode="CREATE"}', "uploads_total"):
            assert now[f"cairnfs_{name}"] == before[f"cairnfs_{name}"] == 1, "counts do not go on"
    mount.stop()


@pytest.fixture
def server(tmp_path: Path, shared_redis: RedisServer) -> Iterator[RedisServer]:
    """One that ends after the mounts."""
    server = RedisServer(tmp_path / "redis")
    yield server
    server.kill()


def test_a_worker_that_dies_while_the_store_refuses_is_followed_when_it_does_not(
    server: RedisServer, mounts: MountFactory
) -> None:
    """Not given up, with what was written, as one that crashes again and again."""
    mount = mounts.new(mounts.volume(url=server.url), "--workers", "1")
    mount.expected_log += [KILLED, "refuses the login", "change log", "no heartbeat"]

    def refuse_and_kill(n: int) -> None:
        client.config_set("requirepass", "another")
        client.execute_command("CLIENT", "KILL", "TYPE", "normal")
        os.kill(worker(mount), signal.SIGKILL)
        wait(lambda: mount.log.read_text().count(KILLED) == n, "nobody is to follow")
        n_tries = mount.log.read_text().count("cannot go on yet")
        wait(lambda: mount.log.read_text().count("cannot go on yet") > n_tries, "nobody has tried to follow")

    with server.client() as client:
        with (mount.path / "file").open("wb", buffering=0) as file:
            file.write(b"written")
            refuse_and_kill(1)
            client.config_set("requirepass", "")
            os.fsync(file.fileno())
        assert (mount.path / "file").read_bytes() == b"written"
        refuse_and_kill(2)
        os.kill(supervisor(mount), signal.SIGTERM)
        wait(lambda: str(mount.path) not in cairnfs_mounts(), "it stays mounted, and nobody serves it")
        mount.mounted = False
        client.config_set("requirepass", "")


def test_workers_that_fetch_come_and_go_unnoticed(mounts: MountFactory) -> None:
    mount = mounts.new(None, "--workers", "4")
    mount.expected_log.append(r"worker \d+ is stopped: replaced")
    files = mount.path / "files"
    files.mkdir()
    for i in range(50):
        (files / f"file{i}").write_bytes(content(i, 30_000))
    mount.restart()
    before = workers(mount, 4)
    one, two, three = [pid for pid in before if pid != serving(mount)]
    os.kill(one, signal.SIGKILL)
    os.kill(two, signal.SIGSTOP)
    loads = {f"reader{i}": start("reader", files, i) for i in range(4)}
    deadline = time.monotonic() + 30
    while alive(one) or alive(two) or len(workers(mount)) < 4:
        assert time.monotonic() < deadline, "workers are not replaced"
        time.sleep(0.1)
    assert all(load.n_rounds for load in finish(loads).values())
    assert {serving(mount), three} < set(workers(mount, 4))
    assert stats(mount)["cairnfs_worker_restarts"] == 2
    pids = mount.pids
    mount.stop()
    assert not [pid for pid in pids if alive(pid)], "workers outlive their mount"


def test_workers_that_fetch_do(mounts: MountFactory) -> None:
    mount = mounts.new(None, "--workers", "3")
    files = mount.path / "files"
    files.mkdir()
    for i in range(400):
        (files / f"file{i}").write_bytes(content(i, 3_000))
    for _ in range(20):
        mount.restart()
        workers(mount, 3)
        finish({f"reader{i}": start("each", files, i) for i in range(6)})
        if stats(mount)["cairnfs_fuse_fetched_total"] > 0:
            break
    else:
        raise AssertionError("nothing was ever fetched")
    mount.stop()
