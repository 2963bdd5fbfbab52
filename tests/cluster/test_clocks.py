"""Wall clocks that are wrong, or are set while they are used: the Redis server's, a node's. Only times of files go by them."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest

from cairnfs.daemon.lease import LEASE_S
from cairnfs.volume import open_volume
from support.answers import until
from support.hosts import HostMount, Network
from support.mounts import MountFactory, Volume, cairnfs
from support.programs import ended, says
from support.redis_server import RedisServer
from support.shifted_clock import ShiftedClock
from support.stopping import stopped

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

HOUR_S = 3600
BEATS = ("--heartbeat", "1")  # so a session that was not heard of for 5 s is dead
PATIENCE_S = 30
OLD, NEW = b"old;" * 1000, b"new;" * 1000
AWAY = ["Redis at .* Error", "change log", "no heartbeat", "has not answered"]

HOLD = """
import fcntl, os, sys
os.chdir(sys.argv[1])
locked = open("locked", "w+b", buffering=0)
fcntl.flock(locked, fcntl.LOCK_EX)
gone = open("gone", "w+b", buffering=0)
gone.write(b"g" * 1000)
os.fsync(gone)
os.unlink("gone")
print("holding", flush=True)
for line in sys.stdin:
    gone.seek(0)
    locked.write(b"more")
    os.fsync(locked)
    print(gone.read() == b"g" * 1000, flush=True)
"""
MAKE = """
import os, sys
for i in range(50):
    os.close(os.open(f"{sys.argv[1]}{i}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
print("made", flush=True)
"""


@pytest.fixture
def clock(tmp_path: Path) -> ShiftedClock:
    return ShiftedClock(tmp_path / "clock")


@pytest.fixture
def set_server(network: Network, shared_redis: RedisServer, tmp_path: Path, clock: ShiftedClock) -> Iterator[RedisServer]:
    """One that has the clock."""
    started = network.redis(tmp_path / "redis-with-clock", env=clock.env)
    yield started
    started.kill()


@pytest.fixture
def set_volume(network: Network, set_server: RedisServer, mounts: MountFactory) -> Volume:
    return mounts.volume(url=network.url(set_server))


def sessions(volume: Volume) -> list[int]:
    with open_volume(volume.url, data=False) as opened:
        return [session.id for session in opened.meta.sessions.list() if not session.is_buried]


def beats(volume: Volume) -> dict[str, int]:
    """The latest heartbeat of each host."""
    with open_volume(volume.url, data=False) as opened:
        return {session.host: session.heartbeat for session in opened.meta.sessions.list()}


def hold(mount: HostMount) -> "Popen[str]":
    holder = mount.host.popen(sys.executable, "-c", HOLD, mount.path)
    assert says(holder) == "holding"
    return holder


def goes_on(holder: "Popen[str]") -> bool:
    assert holder.stdin is not None
    holder.stdin.write("go on\n")
    holder.stdin.flush()
    return says(holder) == "True"


def dies(mount: HostMount, holder: "Popen[str]", volume: Volume) -> None:
    """With its host; one other is left, which cleans up after it."""
    mount.host.kill()
    mount.mounted = False
    until(lambda: len(sessions(volume)) == 1, "the dead one is not cleaned up after", PATIENCE_S)
    holder.kill()


def is_locked(mount: HostMount) -> bool:
    command = ["flock", "--nonblock", "--conflict-exit-code", "0", mount.path / "locked", "echo", "free"]
    return mount.host.run(*command) == ""


def test_the_clock_of_the_server_is_set(network: Network, set_volume: Volume, mounts: MountFactory, clock: ShiftedClock) -> None:
    alpha, beta = (network.mount(mounts, network.host(name), set_volume, *BEATS) for name in ("alpha", "beta"))
    before = sessions(set_volume)
    with ended(holder := hold(alpha)):
        for n, seconds in enumerate((HOUR_S, -2 * HOUR_S, HOUR_S, 5, -5)):
            clock.jump(seconds)
            time.sleep(1.2)  # a heartbeat, after which each looks at the others
            (beta.top / f"made{n}").write_bytes(b"by beta")
            assert (alpha.top / f"made{n}").read_bytes() == b"by beta"
            assert is_locked(beta)
            assert goes_on(holder)
        assert sessions(set_volume) == before
        clock.jump(-HOUR_S)
        dies(alpha, holder, set_volume)
    assert not is_locked(beta)
    assert (beta.top / "locked").read_bytes() == b"more" * 5


def test_machines_with_one_name_live_when_the_clock_of_the_server_is_set(
    network: Network, set_volume: Volume, mounts: MountFactory, clock: ShiftedClock, tmp_path: Path
) -> None:
    """By that clock, each was heard of last before the other one was started, and might be that machine."""
    alpha, beta = (network.host("worker") for _ in range(2))
    (tmp_path / "boot_id").write_text("1df1a5a0-0000-4000-8000-000000000000\n")
    alpha.run("mount", "--bind", tmp_path / "boot_id", "/proc/sys/kernel/random/boot_id")
    one, two = (network.mount(mounts, host, set_volume, "--heartbeat", "2") for host in (alpha, beta))
    before = sessions(set_volume)
    with ended(holder := hold(one)):
        clock.jump(time.clock_gettime(time.CLOCK_BOOTTIME) + HOUR_S)
        time.sleep(3)
        assert sessions(set_volume) == before
        assert is_locked(two)
        assert goes_on(holder)


@pytest.mark.parametrize("seconds", [-HOUR_S, HOUR_S])
def test_a_volume_in_use_is_not_destroyed_when_the_clock_of_the_server_is_set(
    network: Network, set_volume: Volume, mounts: MountFactory, clock: ShiftedClock, seconds: int
) -> None:
    mount = network.mount(mounts, network.host("alpha"), set_volume, "--heartbeat", "2")
    with open_volume(set_volume.url, data=False) as opened:
        uuid = opened.format.uuid
    clock.jump(seconds)
    done = cairnfs("destroy", set_volume.url, uuid, "--yes", check=False)
    assert (done.returncode, "in use by alpha" in done.stderr) == (1, True), done
    (mount.top / "made").write_bytes(NEW)


@pytest.mark.parametrize("ahead_s", [-3 * HOUR_S, 3 * HOUR_S])
def test_the_clock_of_a_node_is_wrong_and_is_set(
    network: Network, volume: Volume, mounts: MountFactory, clock: ShiftedClock, ahead_s: int
) -> None:
    clock.set(ahead_s)
    alpha = network.mount(mounts, network.host("alpha"), volume, *BEATS, clock=clock)
    beta = network.mount(mounts, network.host("beta"), volume, *BEATS)
    before = sessions(volume)
    (beta.top / "d").mkdir()
    with ended(holder := hold(beta)):
        makers = [mount.host.popen(sys.executable, "-c", MAKE, mount.path / "d" / mount.host.name) for mount in (alpha, beta)]
        with ended(*makers):
            assert [says(maker) for maker in makers] == ["made"] * 2
        assert len(os.listdir(beta.top / "d")) == 100
        for seconds in (HOUR_S, -2 * HOUR_S, 3e9):
            clock.jump(seconds)
            (alpha.top / "f").write_bytes(OLD)
            (beta.top / "f").write_bytes(NEW)
            assert (alpha.top / "f").read_bytes() == NEW
            time.sleep(1.2)
            assert is_locked(alpha)
            assert goes_on(holder)
        found = os.stat(beta.top / "f")
        assert (abs(found.st_mtime - time.time()) < HOUR_S, abs(found.st_ctime - time.time()) < HOUR_S) == (True, True)
        assert sessions(volume) == before
        clock.set(-ahead_s)
        dies(beta, holder, volume)
    assert not is_locked(alpha)


def test_a_lease_does_not_go_on_longer_when_the_clock_of_its_node_is_set_back(
    network: Network, volume: Volume, mounts: MountFactory, clock: ShiftedClock
) -> None:
    options = ("--consistency", "push", "--io-timeout", "1")
    alpha = network.mount(mounts, network.host("alpha"), volume, *options, clock=clock)
    beta = network.mount(mounts, network.host("beta"), volume)
    alpha.expected_log += AWAY
    (beta.top / "f").write_bytes(OLD)
    until(lambda: (alpha.top / "f").exists(), "alpha does not follow", PATIENCE_S)
    with (alpha.top / "f").open("rb", buffering=0) as file:
        assert file.read() == OLD
        alpha.host.cut()
        clock.jump(-HOUR_S)
        cut_s = time.monotonic()
        (beta.top / "f").write_bytes(NEW)
        time.sleep(LEASE_S - (time.monotonic() - cut_s) + 1)
        with pytest.raises(OSError, match="Input/output error"):
            os.pread(file.fileno(), 4, 0)
        alpha.host.mend()
        until(lambda: _pread(file.fileno()) == b"new;", "alpha does not follow again", PATIENCE_S)


def _pread(fd: int) -> bytes:
    try:
        return os.pread(fd, 4, 0)
    except OSError:
        return b""


def test_a_machine_that_was_suspended_knows_nothing_of_before_and_says_at_once_that_it_lives(
    network: Network, volume: Volume, mounts: MountFactory, clock: ShiftedClock
) -> None:
    """Its monotonic clock, as that of all that waits there, stood still as well."""
    alpha = network.mount(mounts, network.host("alpha"), volume, "--consistency", "push", "--heartbeat", "30", clock=clock)
    beta = network.mount(mounts, network.host("beta"), volume)
    alpha.expected_log += ["change log"]
    (beta.top / "f").write_bytes(OLD)
    until(lambda: (alpha.top / "f").exists(), "alpha does not follow", PATIENCE_S)
    before = beats(volume)
    with (alpha.top / "f").open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # so the mount is asked
        with stopped(*alpha.pids):
            (beta.top / "f").write_bytes(NEW)
            clock.sleep(50)
        assert os.pread(file.fileno(), 4, 0) == b"new;"
    until(lambda: beats(volume)["alpha"] != before["alpha"], "it does not say that it lives", 15)
