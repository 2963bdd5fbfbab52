"""Servers on loopback, for measurements and for tests: a Ceph cluster of one monitor, one manager and an OSD or several
(BlueStore in files), with a RADOS Gateway if asked; a Redis server.

They run in sessions of their own, so that an interrupt does not end them before the mounts that use them.
"""

import json
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from cairnfs.errors import CairnError

REDIS_SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
PROGRAMS = ("ceph", "ceph-mon", "ceph-mgr", "ceph-osd", "ceph-authtool", "monmaptool", "rados")
CEPH = all(shutil.which(program) for program in PROGRAMS)
RADOSGW = CEPH and shutil.which("radosgw") is not None and shutil.which("radosgw-admin") is not None
OSD_BYTES = 8 << 30  # a sparse file
LAST_PORT = 55535  # a Redis server in a cluster needs another port, higher by 10,000

_CONF = """
[global]
fsid = {fsid}
mon host = v2:{address}:{port}
auth cluster required = {auth}
auth service required = {auth}
auth client required = {auth}
ms bind msgr1 = false
public addr = {address}
keyring = {folder}/keyring
run dir = {folder}/run
admin socket = {folder}/run/$cluster-$name.$pid.asok
log file = {folder}/$name.log
mon cluster log file = {folder}/cluster.log
osd pool default size = 1
osd pool default min size = 1
osd pool default pg autoscale mode = off
osd pool default pg num = 8
osd crush chooseleaf type = 0
mon warn on pool no redundancy = false
mon allow pool size one = true
mon allow pool delete = true
mon data avail crit = 1
[mon]
mon data = {folder}/mon
[osd]
osd data = {folder}/osd$id
osd objectstore = bluestore
bluestore block size = {osd_bytes}
bluestore block create = true
osd memory target = 939524096
[mgr]
mgr data = {folder}/mgr
mgr initial modules =
mgr stats period = 1
"""


def free_port() -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            if port <= LAST_PORT:
                return port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class ServerError(CairnError):
    """A server cannot be had here; the message says why."""


def wait_for(ready: Callable[[], bool], process: "subprocess.Popen[bytes]", program: str, limit_s: float = 30) -> None:
    """Until it is ready. ServerError when it ends instead, or takes too long."""
    until_s = time.monotonic() + limit_s
    while not ready():
        if process.poll() is not None:
            raise ServerError(f"{program} ended with exit code {process.returncode}")
        if time.monotonic() > until_s:
            raise ServerError(f"{program} was not ready within {limit_s:.0f} s")
        time.sleep(0.05)


@contextmanager
def redis_server(folder: Path, *, appendonly: bool) -> Iterator[str]:
    """The URL of a fresh server; with `appendonly` it keeps a log of its changes, as a volume needs it. ServerError."""
    if REDIS_SERVER is None:
        raise ServerError("redis-server is not installed: install the package of that name")
    folder.mkdir(exist_ok=True)
    port = free_port()
    command = [REDIS_SERVER, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    command += ["--appendonly", "yes" if appendonly else "no"]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        wait_for(lambda: listens(port), process, "redis-server")
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


class CephCluster:
    """Starts at once; its data stays in `folder` while daemons are stopped and started again.

    `cephx`: with authentication, which a RADOS Gateway insists on. `address`: one of this machine, at which it is reached.
    Daemons are called `mon`, `mgr`, `osd` (number 0), `osd1` and so on, `rgw`.
    """

    def __init__(self, folder: Path, *, cephx: bool = True, address: str = "127.0.0.1", n_osds: int = 1) -> None:
        self.folder = folder
        self.cephx = cephx
        self.address = address
        self._osds = ["osd", *(f"osd{i}" for i in range(1, n_osds))]
        self.conf = folder / "ceph.conf"
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("mon", "mgr", "run", *(f"osd{i}" for i in range(n_osds))):
            (folder / name).mkdir(parents=True)
        self.fsid = str(uuid.uuid4())
        self.mon_port = free_port()
        self.conf.write_text(
            _CONF.format(
                fsid=self.fsid,
                address=address,
                port=self.mon_port,
                auth="cephx" if cephx else "none",
                folder=folder,
                osd_bytes=OSD_BYTES,
            )
        )
        try:
            self._make()
        except BaseException:
            self.stop()
            raise

    def _make(self) -> None:
        keyring, monmap = self.folder / "keyring", self.folder / "monmap"
        every = [word for kind in ("mon", "osd", "mgr", "mds") for word in ("--cap", kind, "allow *")][:9]
        self._run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self._run("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *every)
        self._run("ceph-authtool", keyring, "--gen-key", "-n", "mgr.x", *every)
        mon_at = f"[v2:{self.address}:{self.mon_port}]"
        self._run("monmaptool", "--create", "--fsid", self.fsid, "--addv", "a", mon_at, monmap)
        self._run("ceph-mon", "-c", self.conf, "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
        self.start("mon")
        for name in self._osds:
            self._make_osd(name, keyring)
        self.start("mgr")
        self.wait_for_osd()

    def _make_osd(self, name: str, keyring: Path) -> None:
        osd_uuid, number = str(uuid.uuid4()), self._osds.index(name)
        self.ceph("osd", "new", osd_uuid)
        caps = ["--cap", "mon", "allow profile osd", "--cap", "osd", "allow *"]
        self._run("ceph-authtool", keyring, "--gen-key", "-n", f"osd.{number}", *caps)
        self.ceph("auth", "import", "-i", str(keyring))
        self._run("ceph-osd", "-c", self.conf, "--mkfs", "-i", number, "--osd-uuid", osd_uuid)
        self.start(name)

    def start(self, name: str) -> None:
        """Start `mon`, `mgr` or an OSD."""
        kind, daemon_id = ("osd", self._osds.index(name)) if name in self._osds else (name, {"mon": "a", "mgr": "x"}[name])
        self._spawn(name, [f"ceph-{kind}", "-c", str(self.conf), "-i", str(daemon_id), "-f"])

    def wait_for_osd(self, *, up: bool = True) -> None:
        """Until the monitor says that the OSDs are up (or no longer)."""
        wanted = len(self._osds) if up else 0
        self._wait(lambda: json.loads(self.ceph("osd", "stat", "--format", "json"))["num_up_osds"] == wanted, "the OSD")

    def make_pool(self, name: str, n_pgs: int = 8) -> str:
        self.ceph("osd", "pool", "create", name, str(n_pgs), str(n_pgs), "replicated")
        return name

    def make_erasure_coded_pool(self, name: str, k: int, m: int, n_pgs: int = 8) -> str:
        """A pool that keeps `k` pieces of an object and `m` more, each on an OSD of its own, and serves while `k` are up."""
        self.ceph("osd", "erasure-code-profile", "set", name, f"k={k}", f"m={m}", "crush-failure-domain=osd")
        self.ceph("osd", "pool", "create", name, str(n_pgs), str(n_pgs), "erasure", name)
        self.ceph("osd", "pool", "set", name, "min_size", str(k))
        return name

    def make_user(self, name: str, pool: str, namespace: str = "") -> Path:
        """A user `client.NAME` who may do what a mount needs in one pool, and in one namespace if that is given; returns the
        keyring file, where the configuration says that it is. With `cephx` only.
        """
        keyring = self.folder / f"{name}.keyring"
        place = f"allow rw pool={pool}" + (f" namespace={namespace}" if namespace else "")
        keyring.write_text(self.ceph("auth", "get-or-create", f"client.{name}", "mon", "allow r", "osd", place))
        with self.conf.open("a") as conf:
            conf.write(f"[client.{name}]\nkeyring = {keyring}\n")
        return keyring

    def start_gateway(self, *options: str, user: str = "tester", access: str = "access", secret: str = "secretkey") -> str:
        """A RADOS Gateway with one S3 user, and with `options` of its own; returns its URL. Its pools are made by it."""
        self.gateway_port = free_port()
        self._spawn_gateway(options)
        words = ["--uid", user, "--display-name", user, "--access-key", access, "--secret", secret]
        self._run("radosgw-admin", "-c", self.conf, "user", "create", *words)
        return f"http://127.0.0.1:{self.gateway_port}"

    def _spawn_gateway(self, more: Sequence[str]) -> None:
        frontend = f"beast endpoint=127.0.0.1:{self.gateway_port} tcp_nodelay=1"
        options = ["--rgw-frontends", frontend, "--rgw-enable-gc-threads", "false", "--rgw-dns-name", "127.0.0.1"]
        self._spawn("rgw", ["radosgw", "-c", str(self.conf), "-n", "client.admin", "-f", *options, *more])
        self._wait(lambda: listens(self.gateway_port), "the RADOS Gateway", 60)

    def ceph(self, *words: str) -> str:
        """Output of `ceph WORDS`."""
        return self._run("ceph", "-c", self.conf, "--connect-timeout", "20", *words)

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def kill(self, name: str) -> None:
        """`kill -9`, of `mon`, `mgr`, `osd` or `rgw`."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        """Everything, without ceremony: nothing of a test's cluster is kept."""
        for name in list(self._running):
            self.kill(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _spawn(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self._running[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def _wait(self, ready: Callable[[], bool], what: str, limit_s: float = 30) -> None:
        deadline = time.monotonic() + limit_s
        while not ready():
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise ServerError(f"{name} has ended: {(self.folder / f'{name}.out').read_text()[-2000:]}")
            if time.monotonic() > deadline:
                raise ServerError(f"{what} is not ready after {limit_s:.0f} s")
            time.sleep(0.05)

    def _run(self, *words: object) -> str:
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise ServerError(f"{words}: {done.stdout}{done.stderr}")
        return done.stdout
