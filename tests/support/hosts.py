"""Several hosts on one machine: each has its own network, processes, mounts, host name, and a link to a bridge that can be cut.

The first process of a host ends when this one does, however that happens, and everything on the host with it: the kernel
kills the processes, and takes away the mounts and the link. Needs root.
"""

import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from support.mounts import Mount, MountFactory, Volume
from support.redis_server import RedisServer
from support.shifted_clock import ShiftedClock

BRIDGE = re.compile(r"cairn(\d+)s?")
START = """
umount --all --lazy --types fuse.cairnfs
hostname $0 && mount -t tmpfs tmpfs /run && ip link set lo up && trap '' CHLD && echo ready && exec cat
"""  # copies of others' mounts would keep these in use; /run is for notes of its own; SIGCHLD ignored, so orphans are no zombies


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


class Link(NamedTuple):
    """Of a host to a bridge; `port` is the bridge's end."""

    bridge: str
    port: str
    device: str
    address: str

    def cut(self) -> None:
        """Nothing goes over it any more, and nobody is told."""
        ip("link", "set", self.port, "down")

    def mend(self) -> None:
        ip("link", "set", self.port, "up")


class Host:
    """One of them. What is mounted there is below `root`. It has one link, and another if there is a network for storage."""

    def __init__(self, name: str, *links: Link) -> None:
        self.name = name
        self.links = links
        self.address = links[0].address
        unshared = ["unshare", "--net", "--uts", "--ipc", "--mount-proc", "--pid", "--fork"]
        command = [*unshared, "sh", "-c", START, name]
        pipe = subprocess.PIPE
        self._first = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        assert self._first.stdout is not None
        assert self._first.stdout.readline() == "ready\n", f"host {name} does not start"
        (child,) = Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children").read_text().split()
        self.pid = int(child)
        try:
            for link in links:
                self._connect(link)
        except BaseException:
            self.kill()
            raise

    def _connect(self, link: Link) -> None:
        ip("link", "add", link.port, "type", "veth", "peer", "name", link.device, "netns", str(self.pid))
        ip("link", "set", link.port, "master", link.bridge, "up")
        self.run("ip", "address", "add", f"{link.address}/24", "dev", link.device)
        self.run("ip", "link", "set", link.device, "up")

    @property
    def prefix(self) -> list[str]:
        """What makes a command run there."""
        return ["nsenter", "--target", str(self.pid), "--net", "--uts", "--ipc", "--mount", "--pid", "--"]

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self.pid}/root")

    def run(self, *command: str | Path) -> str:
        done = subprocess.run([*self.prefix, *map(str, command)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{self.name}: {command}: {done.stdout}{done.stderr}"
        return done.stdout

    def popen(self, *command: object) -> "subprocess.Popen[str]":
        pipe = subprocess.PIPE
        return subprocess.Popen([*self.prefix, *map(str, command)], stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def cut(self) -> None:
        """Nothing goes over the first link any more, and nobody is told."""
        self.links[0].cut()

    def mend(self) -> None:
        self.links[0].mend()

    def kill(self) -> None:
        """Every process on it, at once, and with them its mounts and its link."""
        if self._first.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        for link in self.links:  # the kernel takes its time
            subprocess.run(["ip", "link", "delete", link.port], check=False, capture_output=True)
        for stream in (self._first.stdin, self._first.stdout):
            if stream is not None:
                stream.close()
        self._first.wait(30)


class HostMount(Mount):
    """A mount on a host. `top` is where the tests reach it from outside."""

    def __init__(self, host: Host, volume: Volume, path: Path, *options: str) -> None:
        super().__init__(volume, path, "channel", *options)
        self.host = host
        self.prefix = host.prefix
        self.top = Path(f"{host.root}{path}")


class Network:
    """Hosts with links to one bridge, at whose `address` this process and its servers are."""

    def __init__(self) -> None:
        pid = os.getpid()
        self.bridge = f"cairn{pid}"
        self._subnet = f"10.{64 + (pid >> 8) % 128}.{pid % 256}"
        self.address = f"{self._subnet}.1"
        self._storage: str | None = None
        self.hosts: list[Host] = []
        # An address of its own: else it has that of a port, and when this goes, nobody finds the bridge for half a minute.
        self._make_bridge(self.bridge, "02:00:00:00:00:01", self.address)

    def _make_bridge(self, name: str, ether: str, address: str) -> None:
        ip("link", "add", name, "address", ether, "type", "bridge")
        ip("address", "add", f"{address}/24", "dev", name)
        ip("link", "set", name, "up")

    def storage(self) -> str:
        """Another network, for the object store; hosts made from now on have a link to it, too. Returns this side's address."""
        self._storage = f"{self.bridge}s"
        address = self._storage_address(1)
        self._make_bridge(self._storage, "02:00:00:00:00:02", address)
        return address

    def _storage_address(self, number: int) -> str:
        return f"10.{192 + (os.getpid() >> 8) % 64}.{os.getpid() % 256}.{number}"

    def host(self, name: str) -> Host:
        number = len(self.hosts) + 2
        links = [Link(self.bridge, f"c{os.getpid()}.{number}", "eth0", f"{self._subnet}.{number}")]
        if self._storage is not None:
            links.append(Link(self._storage, f"s{os.getpid()}.{number}", "eth1", self._storage_address(number)))
        host = Host(name, *links)
        self.hosts.append(host)
        return host

    def redis(self, folder: Path, *options: str, config: Path | None = None, env: Mapping[str, str] | None = None) -> RedisServer:
        """A server that the hosts reach, too."""
        reached = ["--bind", "127.0.0.1", self.address, "--protected-mode", "no"]
        return RedisServer(folder, *reached, *options, config=config, env=env)

    def url(self, server: RedisServer, db: int = 0) -> str:
        return f"redis://{self.address}:{server.port}/{db}"

    def mount(
        self, mounts: MountFactory, host: Host, volume: Volume, *options: str, clock: ShiftedClock | None = None
    ) -> HostMount:
        """`clock`: what it has for a wall clock."""
        mount = HostMount(host, volume, mounts.root / f"mnt{len(mounts.mounts)}", *options)
        if clock is not None:
            mount.prefix = [*host.prefix, *clock.prefix]
        mounts.mounts.append(mount)
        mount.start()
        return mount

    def close(self) -> None:
        for host in self.hosts:
            host.kill()
        for bridge in filter(None, (self.bridge, self._storage)):
            ip("link", "delete", bridge)


def sweep() -> None:
    """Bridges of runs that were killed."""
    for name in os.listdir("/sys/class/net"):
        found = BRIDGE.fullmatch(name)
        if found is not None and not Path(f"/proc/{found[1]}").exists():
            subprocess.run(["ip", "link", "delete", name], check=False, capture_output=True)


@contextmanager
def network() -> Iterator[Network]:
    sweep()
    made = Network()
    try:
        yield made
    finally:
        made.close()
