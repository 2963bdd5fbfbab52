"""What every test gets: a quiet run is part of passing.

Unannounced log records of WARNING or above, descriptors left open and cairnfs mounts left behind fail the test.
"""

import errno
import gc
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from cairnfs.meta.stores import memory
from support import hosts
from support.alone import alone
from support.ceph_server import CEPH, RADOSGW, CephCluster
from support.gateway import KEYS, Gateway
from support.mounts import N_DATABASES, Mount, MountFactory, cairnfs_mounts, rados_options, stores
from support.redis_server import REDIS_SERVER, VALKEY_SERVER, RedisServer
from support.stopping import stop_process

hypothesis.settings.register_profile("ci", max_examples=40, stateful_step_count=30, deadline=None, print_blob=True)
hypothesis.settings.register_profile("expensive", max_examples=1000, stateful_step_count=80, deadline=None)
hypothesis.settings.load_profile(os.environ.get("CAIRN_HYPOTHESIS", "ci"))

YOUNG = 1  # what a collection looks at: not at what earlier tests have left, such as their reports, which is ever more
lasting: set[int] = set()  # descriptors that a library keeps to the end of the process

# Names that meet in a bucket of an arena do so in every run, or in none. Set and empty, arenas have secrets, as users' have.
HASH_SEED = os.environ.setdefault("CAIRN_HASH_SEED", "cairnfs")

VOLUME = os.environ.get("CAIRN_TEST_VOLUME", "sqlite+file")  # what a volume is on whose test does not say it
IN_CI = os.environ.get("CI") == "true"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pjdfstest", metavar="DIR", help="a built pjdfstest source tree")
    parser.addoption("--fsx", metavar="PROGRAM", help="a built fsx program")
    parser.addoption("--full", action="store_true", help="full sizes: a million directory entries, 200,000 fsx operations")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where several processes run the tests: who runs which."""
    from support.sharing import Sharing

    return Sharing(config, log)


def pytest_report_header() -> str:
    return f"CAIRN_HASH_SEED={HASH_SEED}"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Sweep mounts that a killed run left behind; those that answer belong to a run beside this one."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells ignore for what they run in the background
    if hasattr(session.config, "workerinput"):  # one of several processes, others of which may be testing dead mounts
        return
    for mountpoint in cairnfs_mounts():
        try:
            os.stat(mountpoint)
        except OSError as error:
            if error.errno == errno.ENOTCONN:
                subprocess.run(["umount", "-l", mountpoint], check=False)


def pytest_collection_finish() -> None:
    """What is there before the first test stays: the collections around every test need not look at it."""
    gc.collect()
    gc.freeze()


def missing(what: str) -> None:
    """Skip for want of something on this machine; in CI, where it must be there, fail."""
    if IN_CI:
        pytest.fail(f"{what} is missing, and CI must have it")
    pytest.skip(f"{what} is missing")


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for many tests."""
    if REDIS_SERVER is None:
        missing("redis-server")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The same of Valkey, which is also a Redis newer than Debian's."""
    if VALKEY_SERVER is None:
        missing("valkey-server")
    server = RedisServer(tmp_path_factory.mktemp("valkey"), program=VALKEY_SERVER)
    yield server
    server.stop()


@pytest.fixture
def valkey_server(shared_valkey: RedisServer) -> Iterator[RedisServer]:
    """A server without any data."""
    with shared_valkey.client() as client:
        client.flushall()
    yield shared_valkey


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> Iterator[RedisServer]:
    """A server without any data."""
    with shared_redis.client() as client:
        client.flushall()
    yield shared_redis


@pytest.fixture(scope="session")
def shared_gateway(shared_ceph: CephCluster) -> Iterator[Gateway]:
    """One S3 for many tests."""
    if not RADOSGW:
        missing("radosgw")
    server = Gateway(shared_ceph)
    before = open_descriptors()
    server.begin()
    lasting.update(fd for fd in open_descriptors() if fd not in before)
    yield server


@pytest.fixture
def s3_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of the gateway, and nothing else that the environment may say about S3."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def gateway(shared_gateway: Gateway, s3_keys: None) -> Gateway:
    """A real S3, whose keys are in the environment."""
    return shared_gateway


@pytest.fixture(scope="session")
def need_ceph() -> None:
    if not CEPH:
        missing("ceph")


@pytest.fixture(scope="session")
def shared_ceph(need_ceph: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CephCluster]:
    """A cluster with authentication for many tests, which leave it as it is; each takes a pool or a name of its own."""
    yield from ceph_cluster(tmp_path_factory.mktemp("ceph"), cephx=True)


@pytest.fixture(scope="session")
def open_ceph(need_ceph: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CephCluster]:
    """The same without authentication."""
    yield from ceph_cluster(tmp_path_factory.mktemp("ceph-open"), cephx=False)


@pytest.fixture
def osd_stopped(open_ceph: CephCluster) -> Iterator[Callable[[bool], None]]:
    """Stops the OSD's process, or has it go on; it goes on at the end."""

    def stop(on: bool) -> None:
        pid = open_ceph.pid("osd")
        if on:
            stop_process(pid)
        else:
            os.kill(pid, signal.SIGCONT)

    yield stop
    stop(False)


def ceph_cluster(folder: Path, *, cephx: bool) -> Iterator[CephCluster]:
    with CephCluster(folder, cephx=cephx) as cluster:
        yield cluster


@pytest.fixture(scope="module", autouse=True)
def nothing_forgotten() -> Iterator[None]:
    """What the tests of a file have forgotten ends, and is complained about, with the file at the latest."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def no_leaked_descriptors() -> Iterator[None]:
    gc.collect(YOUNG)
    before, n_before = open_descriptors(), len(os.listdir("/proc/self/fd"))
    yield
    gc.collect(YOUNG)
    if newer_than(before) or len(os.listdir("/proc/self/fd")) > n_before:  # or of memory
        gc.collect()
    deadline = time.monotonic() + 2  # compiled clients close their connections on threads of their own
    while (
        leaked := {fd: to for fd, to in open_descriptors().items() if fd not in before and fd not in lasting}
    ) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not leaked, f"descriptors left open: {leaked}"


@pytest.fixture(autouse=True)
def no_kept_volumes(no_leaked_descriptors: None) -> Iterator[None]:
    """Volumes in memory end with their test: the collections around every later one would look at all their rows."""
    before = set(memory._volumes)
    yield
    for url in memory._volumes.keys() - before:
        del memory._volumes[url]


def newer_than(before: dict[int, str]) -> dict[int, str]:
    return {fd: to for fd, to in open_descriptors().items() if fd not in before and fd not in lasting}


def open_descriptors() -> dict[int, str]:
    """Descriptors of this process, without those that pytest itself and the listing hold, and those of shared memory.

    Engines that a test abandons, as if their process were killed, keep their memory; tests/kernels/test_shm.py looks after that.
    """
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            to = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        if "/proc/" not in to and not to.startswith(("/dev/null", "/memfd:cairnfs-")):
            found[int(name)] = to
    return found


class ExpectedLogs:
    """Announces log records that a test provokes on purpose: `expected_logs.add("pack .* corrupt")`."""

    def __init__(self) -> None:
        self.patterns: list[str] = []

    def add(self, pattern: str) -> None:
        self.patterns.append(pattern)


@pytest.fixture
def expected_logs() -> ExpectedLogs:
    return ExpectedLogs()


@pytest.fixture(autouse=True)
def quiet_logs(caplog: pytest.LogCaptureFixture, expected_logs: ExpectedLogs) -> Iterator[None]:
    import re

    yield
    loud = [
        record
        for phase in ("setup", "call")
        for record in caplog.get_records(phase)
        if record.levelno >= logging.WARNING and record.name.startswith("cairnfs")
    ]
    unannounced = [r.getMessage() for r in loud if not any(re.search(p, r.getMessage()) for p in expected_logs.patterns)]
    assert not unannounced, f"log records nobody announced: {unannounced}"


@pytest.fixture
def kernel_caches() -> Iterator[None]:
    """For a test that makes the kernel forget, or counts what it asks: no other such test is beside it on the machine."""
    if os.geteuid() == 0:  # nobody else can make it
        with alone("kernel-caches"):
            yield
    else:
        yield


@pytest.fixture(scope="session")
def need_fuse() -> None:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        missing(f"/dev/fuse ({error.strerror})")


@pytest.fixture(params=["channel", "pyfuse3"])
def front(request: pytest.FixtureRequest) -> str:
    if request.param == "pyfuse3":
        try:
            import pyfuse3  # noqa: F401
        except ImportError:
            missing("pyfuse3")
    return str(request.param)


@pytest.fixture(scope="session")
def chosen_stores(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Servers of the run's own for the volumes of mounts, as CAIRN_TEST_VOLUME says."""
    kinds = VOLUME.split("+")
    if len(kinds) != 2 or kinds[0] not in ("sqlite", "redis") or kinds[1] not in ("file", "rados"):
        pytest.fail(f"CAIRN_TEST_VOLUME is {VOLUME!r}: it is sqlite or redis, +, file or rados")
    server = None
    if kinds[0] == "redis":
        if REDIS_SERVER is None:
            missing("redis-server")
        server = RedisServer(tmp_path_factory.mktemp("redis-of-volumes"), "--databases", str(N_DATABASES))
        stores.meta = server.url
    if kinds[1] == "rados":
        ceph: CephCluster = request.getfixturevalue("shared_ceph")
        stores.storage = [*rados_options(ceph.make_pool("volumes")), "--ceph-conf", str(ceph.conf)]
    yield
    if server is not None:
        server.stop()


@pytest.fixture
def mounts(tmp_path: Path, need_fuse: None, chosen_stores: None) -> Iterator[MountFactory]:
    """Makes volumes and mounts; at the end unmounts them, and checks logs and, with fsck, the volumes."""
    for folder in (tmp_path, *tmp_path.parents):  # other users of the tests must be able to reach the mounts
        if folder.owner() == tmp_path.owner() and "pytest" in str(folder):
            folder.chmod(0o755)
    factory = MountFactory(tmp_path)
    yield factory
    factory.finish()


@pytest.fixture
def network() -> Iterator[hosts.Network]:
    """Makes hosts that have their own networks and processes. A test asks for it before `mounts`, which must end first."""
    if os.geteuid() != 0:
        pytest.skip("hosts are namespaces, which only root can make")
    for program in ("ip", "unshare", "nsenter"):
        if shutil.which(program) is None:
            missing(program)
    with hosts.network() as made:
        yield made


@pytest.fixture
def mount(mounts: MountFactory, front: str) -> Mount:
    """A fresh volume, mounted once per front."""
    return mounts.new(front=front)


@pytest.fixture
def channel_mount(mounts: MountFactory) -> Mount:
    """A fresh volume behind the compiled channel, for what pyfuse3 cannot express."""
    return mounts.new(front="channel")
