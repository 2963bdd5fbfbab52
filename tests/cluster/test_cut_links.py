"""The link of a node to Redis is cut and mended, Redis restarted or replaced: nothing promised is lost, nothing stale shown.

The lease is 5 s (`cairnfs.daemon.lease`).
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cairnfs.daemon.lease import LEASE_S
from support.hosts import Network
from support.looking import Readers, between
from support.mounts import MountFactory, Volume
from support.programs import Load
from support.proxy import SLOW_S, Proxy
from support.redis_server import RedisServer
from support.storing import wait

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

AWAY = ["Redis at .* Error", "change log", "no heartbeat", "has not answered", "cannot be told"]
IO_TIMEOUT_S = 2.0
FETCHING_S = 2.0  # that one read() may wait besides: a second for a worker that fetches, and the kernel asks twice
LATE_S = 2.0  # what a busy machine may add


def wait_until(when_s: float) -> None:
    time.sleep(max(0, when_s - time.monotonic()))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_cut_that_outlasts_the_lease(network: Network, volume: Volume, mounts: MountFactory) -> None:
    options = ("--io-timeout", f"{IO_TIMEOUT_S:g}", "--consistency", "push")
    alpha, beta = (network.mount(mounts, network.host(name), volume, *options) for name in ("alpha", "beta"))
    alpha.expected_log += AWAY
    (beta.top / "f").write_bytes(b"first;" * 1000)
    time.sleep(0.5)
    readers = Readers(alpha, "held:f", "opened:f")
    time.sleep(1)
    cut_s = time.monotonic()
    alpha.host.cut()
    time.sleep(0.5)
    (beta.top / "f").write_bytes(b"second;" * 1000)
    changed_s = time.monotonic()
    wait_until(cut_s + LEASE_S + 2 * IO_TIMEOUT_S + FETCHING_S + 1)
    mended_s = time.monotonic()
    alpha.host.mend()
    time.sleep(8)
    for seen in readers.stop().values():
        early = between(seen, cut_s, cut_s + LEASE_S - 1.5)
        assert len(early) > 20, "cached reads went on"
        assert {each.what for each in early} == {"first"}
        assert max(each.ended_s - each.began_s for each in early[:-1]) < 1
        stale = [each for each in seen if each.began_s > changed_s + LEASE_S and each.what == "first"]
        assert not stale
        failed = [each for each in seen if each.what == "EIO"]
        assert failed, "and then they waited, and failed"
        took_s = [each.ended_s - each.began_s for each in failed]  # those that follow soon are not made to wait again
        assert took_s[0] >= IO_TIMEOUT_S - 0.1 and max(took_s) < IO_TIMEOUT_S + FETCHING_S + LATE_S
        recovered = between(seen, mended_s + 6, mended_s + 8)
        assert recovered and {each.what for each in recovered} == {"second"}
        assert {each.what for each in seen} == {"first", "EIO", "second"}


@pytest.mark.parametrize("cut_s", [2.0, LEASE_S + 2])
def test_writers_wait_while_the_link_is_cut(
    network: Network, volume: Volume, mounts: MountFactory, stack: ExitStack, cut_s: float, pytestconfig: pytest.Config
) -> None:
    if cut_s > LEASE_S and not pytestconfig.getoption("--full"):
        pytest.skip("takes 15 s: --full")
    alpha, beta = (network.mount(mounts, network.host(name), volume) for name in ("alpha", "beta"))
    alpha.expected_log += AWAY
    (alpha.top / "d").mkdir()
    load = Load(alpha.prefix, alpha.path / "d", "alpha")
    stack.callback(load.kill)
    time.sleep(0.5)
    alpha.host.cut()
    time.sleep(cut_s)
    alpha.host.mend()
    time.sleep(cut_s + 2)
    load.stop()
    assert load.failures == []
    assert load.slowest_s > cut_s - 0.5
    load.check(beta.top / "d")


def test_redis_is_killed_and_started_again(
    shared_redis: RedisServer, mounts: MountFactory, tmp_path: Path, stack: ExitStack
) -> None:
    server = RedisServer(tmp_path / "redis", "--appendfsync", "always")  # else it may write late while it waits for the disk
    stack.callback(server.kill)
    volume = mounts.volume(url=server.url)
    one, two = mounts.new(volume), mounts.new(volume)
    for mount in (one, two):
        mount.expected_log += AWAY
    (one.path / "d").mkdir()
    load = Load([], one.path / "d", "one")
    stack.callback(load.kill)
    for _ in range(2):
        time.sleep(0.7)
        server.kill()
        time.sleep(0.3)
        server.start()
    time.sleep(1.5)
    load.stop()
    assert load.failures == []
    load.check(two.path / "d")
    one.stop()
    two.stop()
    volume.assert_clean()
    mounts.volumes.remove(volume)


def test_a_bad_line_to_redis(redis_server: RedisServer, mounts: MountFactory, stack: ExitStack) -> None:
    volume = mounts.volume(url=f"{redis_server.url}/7")
    proxy = stack.enter_context(Proxy(redis_server.port))
    good_url, volume.url = volume.url, f"redis://127.0.0.1:{proxy.port}/7"
    mount = mounts.new(volume, "--io-timeout", "6")
    mount.expected_log += AWAY
    volume.url = good_url
    (mount.path / "d").mkdir()
    load = Load([], mount.path / "d", "one")
    stack.callback(load.kill)
    for trouble, amount, counter, n in (
        ("slow_s", 0.5, "n_slow", 20),
        ("breaking", 0.05, "n_broken", 5),
        ("silent", 0.02, "n_silent", 1),  # once: who is met by two in a row has waited for as long as calls may take
    ):
        setattr(proxy, trouble, amount)
        wait(lambda counter=counter, n=n: getattr(proxy, counter) >= n, f"{counter} stays below {n}")  # type: ignore[misc]
        setattr(proxy, trouble, 0.0)
    load.stop()
    assert load.failures == []
    assert load.slowest_s > SLOW_S
    load.check(mount.path / "d")
    mount.stop()


def test_a_failover_that_loses_a_file_does_not_give_its_number_to_another(
    shared_redis: RedisServer, mounts: MountFactory, tmp_path: Path, stack: ExitStack
) -> None:
    """Whoever has the lost file open goes on writing to its number, and may be the last to notice."""
    master = RedisServer(tmp_path / "master")
    stack.callback(master.kill)
    replica = RedisServer(tmp_path / "replica", "--replicaof", "127.0.0.1", str(master.port))
    stack.callback(replica.kill)
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"sentinel monitor chief 127.0.0.1 {master.port} 1\nsentinel down-after-milliseconds chief 500\n"
        "sentinel failover-timeout chief 3000\n"
    )
    sentinel = RedisServer(tmp_path / "sentinel", config=config)
    stack.callback(sentinel.kill)
    volume = mounts.volume(url=f"redis://chief,127.0.0.1:{sentinel.port}/2")
    one, two = mounts.new(volume), mounts.new(volume)
    for mount in (one, two):
        mount.expected_log += [*AWAY, "a failover loses commits that no replica had yet"]
    with replica.client() as client, master.client() as above:
        while client.info("replication").get("slave_repl_offset") != above.info("replication")["master_repl_offset"]:
            time.sleep(0.05)
        client.config_set("masterauth", "which the master does not know")  # so it does not get through to it again
        client.execute_command("CLIENT", "KILL", "TYPE", "master")
        lost = os.open(one.path / "lost", os.O_CREAT | os.O_WRONLY)
        os.write(lost, b"lost")
        os.fsync(lost)
        number = os.fstat(lost).st_ino
        master.kill()
        (two.path / "kept").write_bytes(b"kept")
        assert client.info("replication")["role"] == "master"
    assert (two.path / "kept").stat().st_ino != number
    for call in (lambda: os.write(lost, b"more of it"), lambda: os.close(lost)):
        try:
            call()
        except OSError as error:
            assert error.errno in (errno.ENOENT, errno.ESTALE, errno.EIO)
    assert [(mount.path / "kept").read_bytes() for mount in (one, two)] == [b"kept"] * 2
    assert os.listdir(two.path) == ["kept"]
    one.stop()
    two.stop()
    volume.assert_clean()
    mounts.volumes.remove(volume)


def test_a_replica_takes_over_from_a_master_that_is_killed(
    network: Network, server: RedisServer, mounts: MountFactory, tmp_path: Path, stack: ExitStack
) -> None:
    replica = network.redis(tmp_path / "replica", "--replicaof", network.address, str(server.port))
    stack.callback(replica.kill)
    with replica.client() as client:
        while client.info("replication")["master_link_status"] != "up":  # a fresh one waits before it copies
            time.sleep(0.05)
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"sentinel monitor chief {network.address} {server.port} 1\nsentinel down-after-milliseconds chief 500\n"
        "sentinel failover-timeout chief 3000\n"
    )
    sentinel = network.redis(tmp_path / "sentinel", config=config)
    stack.callback(sentinel.kill)
    volume = mounts.volume(url=f"redis://chief,{network.address}:{sentinel.port}/2")
    alpha, beta = (network.mount(mounts, network.host(name), volume) for name in ("alpha", "beta"))
    for mount in (alpha, beta):
        mount.expected_log += [*AWAY, "a failover loses commits that no replica had yet"]
    (alpha.top / "d").mkdir()
    load = Load(alpha.prefix, alpha.path / "d", "alpha")
    stack.callback(load.kill)
    time.sleep(1.5)
    server.kill()
    time.sleep(5)
    load.stop()
    assert load.failures == []
    load.check(beta.top / "d")
    with replica.client() as client:
        assert client.info("replication")["role"] == "master"
    alpha.stop()
    beta.stop()
    volume.assert_clean()
    mounts.volumes.remove(volume)
