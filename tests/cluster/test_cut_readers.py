"""What readers see on a host whose link to Redis is cut for longer than the lease, while another host changes what they look at.

Where opens ask for the end of the log, none shows what was there before a change that was acknowledged before it began. With
`-o ro` the kernel answers by itself, which it may until the lease ends. (`--consistency push` is in test_cut_links.py.)
"""

import os
import time
from pathlib import Path

import pytest

from cairnfs.daemon.lease import LEASE_S
from support.hosts import HostMount, Network
from support.looking import Readers, Seen, between
from support.mounts import MountFactory, Volume

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

AWAY = ["Redis at .* Error", "change log", "no heartbeat", "has not answered", "cannot be told"]
IO_TIMEOUT_S = 2.0
LATE_S = 2.0  # what a busy machine may add
PATIENCE_S = 40
OLD, NEW = b"first;" * 1000, b"other;" * 1000  # of one size: attributes do not tell that pages are old
BEFORE = {
    "held:text": "first",
    "opened:text": "first",
    "opened:replaced": "first",
    "mode:mode": "644",
    "names:.": "gone,mode,renamed,replaced,text",
    "there:gone": "yes",
    "there:renamed": "yes",
    "there:made": "no",
}
AFTER = {
    "held:text": "other",
    "opened:text": "other",
    "opened:replaced": "other",
    "mode:mode": "600",
    "names:.": "made,mode,moved,replaced,text",
    "there:gone": "no",
    "there:renamed": "no",
    "there:made": "yes",
}
OPENS = ("opened:text", "opened:replaced")


def make(top: Path) -> None:
    top.mkdir()
    for name in ("text", "replaced", "mode", "gone", "renamed"):
        (top / name).write_bytes(OLD)
        (top / name).chmod(0o644)


def change(top: Path) -> None:
    with (top / "text").open("r+b") as file:
        file.write(NEW)
    (top / "made").write_bytes(NEW)
    (top / "made").rename(top / "replaced")
    (top / "mode").chmod(0o600)
    (top / "gone").unlink()
    (top / "renamed").rename(top / "moved")
    (top / "made").write_bytes(NEW)


def wait_until(when_s: float) -> None:
    time.sleep(max(0, when_s - time.monotonic()))


def wait_for_the_link(mount: HostMount, folder: str) -> None:
    """Until all is seen there as it is."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            if sorted(os.listdir(mount.top / folder)) == AFTER["names:."].split(","):
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, "the mount does not follow again"
        time.sleep(0.1)


def looked_during_a_cut(alpha: HostMount, beta: HostMount) -> tuple[dict[str, list[Seen]], float, float, float]:
    """What readers on alpha saw of what beta changes, and when the link was cut, all was changed, and the link mended."""
    make(beta.top / "d")
    time.sleep(1)
    readers = Readers(alpha, *(thing.replace(":", ":d/") for thing in BEFORE))
    time.sleep(1)
    cut_s = time.monotonic()
    alpha.host.cut()
    time.sleep(0.5)
    change(beta.top / "d")
    changed_s = time.monotonic()
    wait_until(cut_s + LEASE_S + LATE_S + 5 * IO_TIMEOUT_S)  # one look is several calls
    mended_s = time.monotonic()
    alpha.host.mend()
    wait_for_the_link(alpha, "d")
    time.sleep(2)
    seen = readers.stop()
    return {thing: seen[thing.replace(":", ":d/")] for thing in BEFORE}, cut_s, changed_s, mended_s


@pytest.fixture
def beta(network: Network, volume: Volume, mounts: MountFactory) -> HostMount:
    return network.mount(mounts, network.host("beta"), volume)


def node(network: Network, volume: Volume, mounts: MountFactory, *options: str) -> HostMount:
    mount = network.mount(mounts, network.host("alpha"), volume, "--io-timeout", f"{IO_TIMEOUT_S:g}", *options)
    mount.expected_log += AWAY
    return mount


def test_an_open_asks_during_a_cut_and_shows_nothing_that_was_replaced(
    network: Network, volume: Volume, mounts: MountFactory, beta: HostMount
) -> None:
    seen, _, changed_s, mended_s = looked_during_a_cut(node(network, volume, mounts), beta)
    for thing in OPENS:
        assert not [each for each in seen[thing] if each.began_s > changed_s and each.what == BEFORE[thing]], thing
        away = [each for each in between(seen[thing], changed_s, mended_s) if each.ended_s < mended_s]
        assert {each.what for each in away} <= {"EIO"}, "it waits, and fails"
        assert seen[thing][-1].what == AFTER[thing]
    failed = [each for thing in OPENS for each in seen[thing] if each.what == "EIO"]
    assert failed and max(each.ended_s - each.began_s for each in failed) > IO_TIMEOUT_S - 0.1


def test_a_kernel_that_answers_by_itself_has_nothing_left_when_the_lease_ends(
    network: Network, volume: Volume, mounts: MountFactory, beta: HostMount
) -> None:
    seen, cut_s, _, mended_s = looked_during_a_cut(node(network, volume, mounts, "-o", "ro"), beta)
    for thing in BEFORE:
        leased = between(seen[thing], cut_s + 0.5, cut_s + LEASE_S - 1.5)
        if thing != "there:made":  # of names that are absent it has none
            assert leased and {each.what for each in leased} == {BEFORE[thing]}, f"{thing}: cached answers go on"
        late = between(seen[thing], cut_s + LEASE_S + LATE_S, mended_s)
        assert BEFORE[thing] not in {each.what for each in late}, f"{thing}: stale after the lease"
        assert seen[thing][-1].what == AFTER[thing], thing
    assert "EIO" in {each.what for looks in seen.values() for each in looks}, "they wait, and fail"
