"""Takeovers under load, and kill -9 of either side at every step: one of the two has the mount, and nothing is lost."""

import contextlib
import os
import sys
import time
from pathlib import Path

import pytest

from support.mounts import Mount, MountFactory, alive, cairnfs, cairnfs_mounts
from support.takeovers import config, dies_in, sessions, take_over, wait_for, wait_for_end

sys.path.insert(0, str(Path(__file__).parent))
from test_worker_kill import finish, mixed_load
from worker_load import content

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

N_TAKEOVERS = int(os.environ.get("CAIRN_TAKEOVERS", "5"))
GOES_ON = [r"has not taken over: .*: going on", r"the process that served was killed: another one takes over"]
DATA = content(1, 2_500_000)

# Where a newcomer dies, before and after it is told who the workers are.
EARLY = {
    "before it asks": dies_in("takeover", "_connect"),
    "after it has asked": dies_in("takeover", "_hear"),
    "with everything mapped": dies_in("takeover", "_end_workers"),
}
WORKER_SPEAKS = """
import os, signal, time
import cairnfs.daemon.control as module
call = module.Control._claim
def changed(*a):
    parent = os.getppid()
    os.kill(parent, signal.SIGKILL)
    while os.getppid() == parent: pass
    time.sleep({pause_s})
    return call(*a)
module.Control._claim = changed
"""  # after the death of its supervisor
LATE = {
    "before it kills the workers": dies_in("takeover", "_end"),
    "after it has killed them": dies_in("takeover", "_end", after=True),
    "after the session has its name": dies_in("scout", "Scout.adopt", after=True),
    "after the note has its name": dies_in("running", "Registration.renew", after=True),
    "before it starts a worker": dies_in("worker", "Worker.start"),
    "before its worker speaks": WORKER_SPEAKS.format(pause_s=0),
}


class Writing:
    """A file with data that is not stored, on a mount whose first process may be changed."""

    def __init__(self, mounts: MountFactory, change: str = "") -> None:
        self.mount = Mount(mounts.volume(), mounts.root / "mnt", "channel", "--workers", "1")
        mounts.mounts.append(self.mount)
        take_over(self.mount, change=change)  # of nothing: it mounts
        self.mount.mounted = True
        self.file = (self.mount.path / "file").open("w+b", buffering=0)
        assert self.file.write(DATA[:1_000_000]) == 1_000_000
        self.pid = int(str(config(self.mount)["pid"]))

    def goes_on(self) -> None:
        assert os.pread(self.file.fileno(), 2_000_000, 0) == DATA[:1_000_000]
        assert self.file.write(DATA[1_000_000:]) == len(DATA) - 1_000_000
        assert os.pread(self.file.fileno(), len(DATA), 0) == DATA
        self.file.close()
        assert (self.mount.path / "file").read_bytes() == DATA
        self.mount.stop()
        assert self.mount.pids == [] and sessions(self.mount) == []
        self.mount.volume.assert_clean("--verify-data")


@pytest.mark.parametrize("n_workers", [1, 3])
def test_a_load_goes_on_while_the_mount_is_taken_over_again_and_again(mounts: MountFactory, n_workers: int) -> None:
    mount = mounts.new(None, "--workers", str(n_workers))
    shared, loads = mixed_load(mount, ["writer", "appender", "names", "unlinked"])
    for _ in range(N_TAKEOVERS):
        take_over(mount)
        time.sleep(0.3)
    rounds = finish(loads)
    assert all(done.n_rounds for done in rounds.values()), rounds
    for name in ("counter-lockf", "counter-flock"):
        assert int((shared / name).read_bytes()) == rounds["counter1"].n_rounds + rounds["counter2"].n_rounds
    assert "cairnfs_worker_restarts 0\n" in (mount.path / ".stats").read_text()
    assert [session["pid"] for session in sessions(mount)] == [config(mount)["pid"]]
    mount.stop()
    mount.volume.assert_clean("--verify-data")


@pytest.mark.parametrize("when", EARLY)
def test_a_newcomer_that_dies_before_anything_happened_changes_nothing(mounts: MountFactory, when: str) -> None:
    writing = Writing(mounts)
    before = config(writing.mount)
    assert take_over(writing.mount, change=EARLY[when], check=False).returncode == 1
    assert config(writing.mount) == before
    take_over(writing.mount)
    assert config(writing.mount)["pid"] != writing.pid
    writing.goes_on()


@pytest.mark.parametrize("when", LATE)
def test_when_the_newcomer_dies_the_supervisor_goes_on(mounts: MountFactory, when: str) -> None:
    writing = Writing(mounts)
    writing.mount.expected_log += GOES_ON
    assert take_over(writing.mount, change=LATE[when], check=False).returncode == 1
    wait_for(writing.mount, "going on")
    (writing.mount.path / "other").write_bytes(b"other")
    assert config(writing.mount)["pid"] == writing.pid
    assert [(session["pid"], session["dead"]) for session in sessions(writing.mount)] == [(writing.pid, False)]
    writing.goes_on()


def test_a_newcomers_worker_that_speaks_when_the_supervisor_goes_on_already_does_not_serve(mounts: MountFactory) -> None:
    """It asks whether anybody has the mount, since its own supervisor is dead."""
    writing = Writing(mounts)
    writing.mount.expected_log += GOES_ON
    assert take_over(writing.mount, change=WORKER_SPEAKS.format(pause_s=2), check=False).returncode == 1
    wait_for(writing.mount, "going on")
    time.sleep(4)
    assert {config(writing.mount)["pid"] for _ in range(50)} == {writing.pid}, "nobody else serves"
    writing.goes_on()


def test_when_the_newcomer_cannot_use_the_volume_the_supervisor_goes_on(mounts: MountFactory) -> None:
    writing = Writing(mounts)
    writing.mount.expected_log += GOES_ON
    change = "import cairnfs.daemon.scout as module\ndef fails(*a): raise OSError(5, 'store away')\nmodule._adopt = fails"
    done = take_over(writing.mount, change=change, check=False)
    assert (done.returncode, done.stdout) == (1, "cairnfs: [Errno 5] store away\n")
    wait_for(writing.mount, "going on")
    writing.goes_on()


def test_a_newcomer_that_hangs_is_killed(mounts: MountFactory) -> None:
    writing = Writing(mounts, change="import cairnfs.daemon.control as module\nmodule.CLAIM_S = 1.0")
    writing.mount.expected_log += [*GOES_ON, "takes over, and says nothing: killed"]
    change = "import os, signal\nimport cairnfs.daemon.takeover as module\n"
    change += "module._end = lambda *a: os.kill(os.getpid(), signal.SIGSTOP)"
    assert take_over(writing.mount, change=change, check=False).returncode == 1
    wait_for(writing.mount, "going on")
    writing.goes_on()


@pytest.mark.parametrize(
    "change",
    [
        dies_in("control", "Control._outcome"),
        dies_in("control", "Control._outcome", after=True),
        dies_in("running", "Registration.give"),
    ],
    ids=["after it has named the workers", "after it has heard that it is taken over", "before it ends"],
)
def test_when_the_supervisor_dies_the_newcomer_goes_on(mounts: MountFactory, change: str) -> None:
    writing = Writing(mounts, change)
    with (writing.mount.path / "busy").open("w"):  # else the worker, which is told of the death first, may unmount in time
        take_over(writing.mount)
        wait_for_end(writing.pid)
        (session,) = sessions(writing.mount)
        assert (session["pid"], session["dead"]) == (config(writing.mount)["pid"], False)
        assert session["pid"] != writing.pid
    writing.goes_on()


def test_when_the_supervisor_dies_before_anything_happened_its_worker_stores_everything(mounts: MountFactory) -> None:
    writing = Writing(mounts, dies_in("control", "Control._give"))
    mount = writing.mount
    mount.expected_log.append("detaching from those who still use it")
    done = take_over(mount, check=False)
    assert done.returncode == 1 and "has ended: try again" in done.stdout, done.stdout
    mount.expected_log.append(".*")
    deadline = time.monotonic() + 60
    while any(alive(pid) for pid in mount.pids) or str(mount.path) in cairnfs_mounts():
        assert time.monotonic() < deadline, "the worker does not end"
        time.sleep(0.05)
    with contextlib.suppress(OSError):
        writing.file.close()
    mount.mounted = False
    mount.start()
    assert (mount.path / "file").read_bytes() == DATA[:1_000_000]
    cairnfs("umount", mount.path)
    mount.mounted = False
