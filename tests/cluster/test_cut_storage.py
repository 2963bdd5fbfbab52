"""The link of a node to Ceph is cut, to the monitor and the OSD, and mended: a delay if that is short, EIO in time if it is long.

Redis is reached over another network, as where storage has one of its own.
"""

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.ceph_server import CephCluster
from support.hosts import HostMount, Network
from support.mounts import MountFactory
from support.redis_server import RedisServer
from support.storing import Writing, digest, wait

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

IO_TIMEOUT_S = 4.0
SHORT_S = 1.5
LATE_S = 3.0  # for a worker that fetches (a second for each time that the kernel asks), and a busy machine
AWAY = [
    "trying again",
    "cannot (store|read|delete|reach|look at)",
    "has not answered",
    "no monitor of the Ceph cluster .* has answered",
    "are lost",
    "cannot be stored",
    "monclient",
]


@pytest.fixture
def ceph(need_ceph: None, network: Network, tmp_path: Path) -> Iterator[CephCluster]:
    """A cluster in a network of its own, which hosts made from now on reach."""
    with CephCluster(tmp_path / "ceph", cephx=False, address=network.storage()) as cluster:
        cluster.make_pool("cut")
        yield cluster


@pytest.fixture
def nodes(network: Network, ceph: CephCluster, server: RedisServer, mounts: MountFactory) -> list[HostMount]:
    place = ("--storage", "rados", "--bucket", "cut", "--ceph-conf", str(ceph.conf))
    volume = mounts.volume(*place, url=network.url(server))
    made = [network.mount(mounts, network.host(name), volume, "--io-timeout", f"{IO_TIMEOUT_S:g}") for name in ("alpha", "beta")]
    for mount in made:
        mount.expected_log += AWAY
        (mount.top / mount.host.name).mkdir()
    return made


def read_apart(mount: HostMount, path: str) -> tuple[str, float]:
    """What a process on the host reads of a file, or the name of the errno; and how many seconds it took."""
    program = (
        "import errno, sys, time\n"
        "began_s = time.monotonic()\n"
        "try:\n"
        "    found = open(sys.argv[1], 'rb').read().hex()\n"
        "except OSError as error:\n"
        "    found = errno.errorcode[error.errno]\n"
        "print(found, time.monotonic() - began_s)\n"
    )
    found, took_s = mount.host.run(sys.executable, "-c", program, mount.path / path).split()
    return found, float(took_s)


def test_a_cut_between_a_node_and_ceph(nodes: list[HostMount], tmp_path: Path) -> None:
    alpha, beta = nodes
    storage = alpha.host.links[1]
    cold = {f"cold{i}": os.urandom(50_000) for i in range(2)}
    for name, data in cold.items():
        (beta.top / name).write_bytes(data)
    (beta.top / "cached").write_bytes(b"cached")
    assert (alpha.top / "cached").read_bytes() == b"cached"
    with ExitStack() as stack:
        writers = []
        for mount in nodes:
            name = mount.host.name
            writers.append(Writing(mount.path / name, tmp_path / name, mount.prefix, mount.top / name))
            stack.callback(writers[-1].end)
        here, there = writers
        for writer in writers:
            writer.wait_for_more(5)

        storage.cut()
        time.sleep(SHORT_S)
        storage.mend()
        here.wait_for_more(5)
        assert here.failures == []
        assert here.longest_s > SHORT_S / 2

        storage.cut()
        found, took_s = read_apart(alpha, "cold0")
        assert found == "EIO"
        assert IO_TIMEOUT_S - 0.1 <= took_s < IO_TIMEOUT_S + LATE_S
        assert read_apart(alpha, "cached") == (b"cached".hex(), pytest.approx(0, abs=1))
        wait(lambda: bool(here.failures), "nothing fails without a link")
        there.wait_for_more(5)
        storage.mend()
        here.wait_for_more(5)
    assert set(here.failures) == {errno.EIO}
    assert there.failures == []
    assert {name for name, data in cold.items() if (alpha.top / name).read_bytes() != data} == set()
    for mount, other in ((alpha, there), (beta, here)):  # each sees all that the other was promised
        folder = mount.top / other.folder.name
        stored = {folder / path.name: expected for path, expected in other.acknowledged.items()}
        assert {path for path, expected in stored.items() if digest(path.read_bytes()) != expected} == set()
    alpha.stop()
    beta.stop()
    alpha.volume.assert_clean("--verify-data")
