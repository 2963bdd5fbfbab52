"""Metrics are at their address as long as there is a mount, whichever process serves it."""

import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support.mounts import Mount, MountFactory, cairnfs
from support.takeovers import config, take_over

sys.path.insert(0, str(Path(__file__).parent))
from test_worker_kill import KILLED, kill_if_alive, serving, workers

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

N_KILLS = 8
GOES_ON = ("cairnfs_operation_seconds_count", "cairnfs_arena_table_bytes")


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"127.0.0.1:{listening.getsockname()[1]}"


def scrape(address: str) -> dict[str, float]:
    """What all labels have together. Once, without trying again: whoever asks while no process serves waits."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    found: defaultdict[str, float] = defaultdict(float)
    for name, value in (line.rsplit(" ", 1) for line in lines):
        found[name.partition("{")[0]] += float(value)
    return dict(found)


def refuses(address: str) -> bool:
    """Within a while: whoever listened last may still be ending."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=5):
                time.sleep(0.05)
        except ConnectionRefusedError:
            return True
    return False


@contextmanager
def changed_on_both_sides(here: Path, there: Path) -> Iterator[None]:
    """One directory is used here and changed there: this mount tells its kernel of that, which waits for the calls under way."""
    over = threading.Event()

    def use(name: str) -> None:
        while not over.is_set():
            for i in range(20):
                with suppress(OSError):  # ESTALE: it is removed again and again
                    os.stat(here / f"file{i}")
            with suppress(OSError):  # what calls say is not what this is about
                (here / name).write_bytes(b"a" * 5000)
                (here / name).unlink()

    def change() -> None:
        while not over.is_set():
            for i in range(20):
                (there / f"file{i}").write_bytes(b"a")
            for i in range(20):
                (there / f"file{i}").unlink()

    with ThreadPoolExecutor() as pool:
        running = [*(pool.submit(use, f"own{i}") for i in range(4)), pool.submit(change)]
        try:
            yield
        finally:
            over.set()
        for one in running:
            one.result()


@pytest.mark.parametrize("n_workers", [1, 4])
def test_a_killed_worker_that_lingers_keeps_the_address_from_nobody(mounts: MountFactory, n_workers: int) -> None:
    address = free_address()
    mount = mounts.new(None, "--workers", str(n_workers), "--metrics", address)
    mount.expected_log.append(KILLED)
    other = mounts.new(mount.volume, "--workers", "1")
    (mount.path / "d").mkdir()
    n_killed, before = 0, scrape(address)
    with changed_on_both_sides(mount.path / "d", other.path / "d"):
        while n_killed < N_KILLS:
            kill_if_alive(serving(mount))
            n_killed += 1
            time.sleep(0.2)
            now = scrape(address)
            assert now["cairnfs_worker_restarts"] >= 1
            assert all(now[name] >= before[name] > 0 for name in GOES_ON), "counts begin again"
            before = now
    assert scrape(address)["cairnfs_worker_restarts"] == n_killed
    mount.stop()
    assert refuses(address)


def test_who_asks_a_stopped_worker_is_answered_by_its_successor(mounts: MountFactory) -> None:
    address = free_address()
    mount = mounts.new(None, "--workers", "1", "--metrics", address)
    mount.expected_log += [KILLED, r"worker \d+ is stopped: replaced"]
    os.kill(workers(mount)[0], signal.SIGSTOP)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(scrape, address)
        time.sleep(0.3)
        (mount.path / "file").write_bytes(b"a")  # somebody who waits for the worker: now it is replaced
        assert asked.result()["cairnfs_worker_restarts"] == 1
    mount.stop()


@pytest.fixture
def served(mounts: MountFactory) -> tuple[Mount, str]:
    address = free_address()
    mount = Mount(mounts.volume(), mounts.root / "mnt", "channel", "--workers", "2")
    mounts.mounts.append(mount)
    take_over(mount, "--metrics", address)  # of nothing: it mounts
    mount.mounted = True
    return mount, address


def test_a_takeover_keeps_the_address(served: tuple[Mount, str]) -> None:
    mount, address = served
    for n in range(1, 4):
        (mount.path / f"file{n}").write_bytes(b"12345")
        take_over(mount, "--metrics", address if n < 3 else "127.0.0.1:0")
        assert scrape(address)["cairnfs_written_bytes_total"] == 5 * n
    take_over(mount)
    assert refuses(address)


def test_a_takeover_may_change_the_address_or_keep_it_if_the_new_one_is_in_use(served: tuple[Mount, str]) -> None:
    mount, address = served
    other = free_address()
    take_over(mount, "--metrics", other)
    assert scrape(other)["cairnfs_open_handles"] == 0
    assert refuses(address)
    pid = config(mount)["pid"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        done = take_over(mount, "--metrics", busy, check=False)
    assert (done.returncode, done.stdout) == (1, f"cairnfs: cannot serve metrics on {busy}: Address already in use\n")
    assert config(mount)["pid"] == pid and config(mount)["metrics"] == other
    assert scrape(other)["cairnfs_open_handles"] == 0


def test_a_newcomer_that_dies_takes_no_address_with_it(served: tuple[Mount, str]) -> None:
    mount, address = served
    mount.expected_log += [r"has not taken over: .*: going on", KILLED]
    change = "import os, cairnfs.daemon.takeover as module\nmodule._end = lambda *a: os._exit(1)"
    assert take_over(mount, "--metrics", address, change=change, check=False).returncode == 1
    (mount.path / "file").write_bytes(b"12345")
    assert scrape(address)["cairnfs_written_bytes_total"] == 5


def test_umount_after_a_kill_leaves_the_address_free(mounts: MountFactory) -> None:
    address = free_address()
    mount = mounts.new(None, "--workers", "1", "--metrics", address)
    mount.expected_log.append(KILLED)
    kill_if_alive(serving(mount))
    assert scrape(address)["cairnfs_worker_restarts"] == 1
    mount.restart()
    assert scrape(address)["cairnfs_worker_restarts"] == 0
    assert cairnfs("umount", mount.path).returncode == 0
    mount.mounted = False
