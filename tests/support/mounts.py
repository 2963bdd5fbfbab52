"""Real volumes and real mounts for tests, through the command line as a user has it."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cairnfs.objects.base import ObjectInfo
from cairnfs.volume import open_volume
from support.forked import forked
from support.uring import as_it_is, switched

CAIRNFS = [sys.executable, "-m", "cairnfs.daemon.cli"]
WORKERS = os.environ.get("CAIRN_TEST_WORKERS", "")  # that every mount of the channel gets
URING = os.environ.get("CAIRN_TEST_URING", "") == "1"  # every mount of the channel gets its requests through io_uring
N_DATABASES = 1000  # of a Redis server for many volumes
_namespaces = itertools.count()
# By libfuse: nobody waits for the last RELEASEs, and the kernel may have unmounted before it takes the answer.
UNHEARD = r"fuse_release\(\): fuse_reply_\* failed"
LOST_EARLIER = "lost earlier"  # said at the end of a mount; a test that has not announced what was lost fails by that
BAD_LOG = re.compile(r"traceback|\berror\b|\bwarning\b|\bcritical\b", re.IGNORECASE)


@dataclass
class Stores:
    """Where volumes are whose tests do not say it themselves: `meta` is a Redis server, redis://HOST:PORT, whose databases are
    overwritten; empty: SQLite. `storage` is options of `cairnfs format`; empty: a folder for each volume.
    """

    meta: str
    storage: list[str]

    def format_options(self, said: Sequence[str]) -> list[str]:
        """What to add to the options that a test has given."""
        if not self.storage or "--storage" in said:
            return []
        namespace = ["--namespace", f"v{os.getpid()}-{next(_namespaces)}"] if "rados" in self.storage else []
        return [*self.storage, *namespace]


def rados_options(pool: str) -> list[str]:
    """Of `cairnfs format`, for a pool of the cluster that CEPH_CONF names."""
    return ["--storage", "rados", "--bucket", pool]


def named_stores(meta: str, storage: str) -> Stores:
    """By CAIRN_TEST_META and CAIRN_TEST_STORAGE, which may be empty, or rados:POOL."""
    return Stores(meta, rados_options(storage.removeprefix("rados:")) if storage else [])


stores = named_stores(os.environ.get("CAIRN_TEST_META", ""), os.environ.get("CAIRN_TEST_STORAGE", ""))


def cairnfs_mounts() -> list[str]:
    """Mountpoints of every cairnfs mount of this machine."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, source = line.partition(" - ")
        if source.startswith("fuse.cairnfs "):
            found.append(re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), fields.split()[4]))
    return found


def cairnfs(
    *args: str | Path, check: bool = True, timeout: float = 120, prefix: Sequence[str] = (), fork: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run the command line; fails with its output when it fails, and whenever it prints a traceback. `prefix`: what runs it;
    `fork`: in a copy of this process.
    """
    words = list(map(str, args))
    if fork:
        done = forked(words)
    else:
        command = [*prefix, *CAIRNFS, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    assert "Traceback" not in done.stderr, done.stderr
    if check:
        assert done.returncode == 0, f"cairnfs {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


class Volume:
    """A formatted volume on SQLite, or what `url` says, and a folder below one test's temporary directory."""

    n_made = 0

    def __init__(self, root: Path, name: str = "test-volume", *format_options: str, url: str | None = None) -> None:
        self.root = root
        self.name = name
        root.mkdir(parents=True, exist_ok=True)
        self.bucket = root / "bucket"
        self.db = root / "meta.db"
        self.url = url or (f"{stores.meta}/{Volume.n_made % N_DATABASES}" if stores.meta else f"sqlite3://{self.db}")
        if stores.meta and url is None:
            Volume.n_made += 1
            format_options += ("--force",)
        self.format_options = ["--bucket", str(self.bucket), *format_options, *stores.format_options(format_options)]
        self.fork = "--storage" not in self.format_options
        cairnfs("format", self.url, name, *self.format_options, fork=self.fork)

    @property
    def is_shared(self) -> bool:
        """Whether other machines may commit to it: opens ask for the end of the log, and changes of others take a moment."""
        return not self.url.startswith("sqlite3:")

    @property
    def compiled_opens(self) -> list[str]:
        """Options of a mount whose opens compiled code answers, without asking."""
        return ["--consistency", "push"] if self.is_shared else []

    @property
    def packs(self) -> list[Path]:
        """Where the objects are a folder."""
        return sorted(p for p in (self.bucket / self.name / "packs").rglob("*") if p.is_file())

    def stored(self) -> list[ObjectInfo]:
        """Every pack, as the object store lists it."""
        with open_volume(self.url, data=False) as volume:
            return list(volume.objects.list("packs/"))

    def fsck(self, *options: str) -> dict[str, object]:
        done = cairnfs("fsck", self.url, "--json", *options, check=False, fork=self.fork)
        report = json.loads(done.stdout)
        assert isinstance(report, dict)
        return report

    def assert_clean(self, *options: str) -> None:
        done = cairnfs("fsck", self.url, "--json", *options, check=False, fork=self.fork)
        assert done.returncode == 0, f"fsck found damage: {done.stdout}\n{done.stderr}"


class Mount:
    """One mount of a volume by a real process."""

    def __init__(self, volume: Volume, path: Path, front: str, *options: str) -> None:
        self.volume = volume
        self.path = path
        self.front = front
        self.options = options
        self.log = path.with_name(path.name + ".log")
        self.expected_log = [UNHEARD] if front == "pyfuse3" else []
        self.said = ""  # on stderr by the command that mounted it
        self.mounted = False
        self.prefix: list[str] = []  # of the commands that mount and unmount it
        path.mkdir(parents=True, exist_ok=True)

    def start(self) -> "Mount":
        args = ["mount", self.volume.url, str(self.path), "-d", "--front", self.front, "--log", str(self.log), *self.options]
        if WORKERS and self.front == "channel" and "--workers" not in self.options:
            args += ["--workers", WORKERS]
        if URING and self.front == "channel" and "--workers" not in args:
            args += ["--workers", "0"]
        with switched(on=True) if URING else as_it_is():
            self.said = cairnfs(*args, prefix=self.prefix).stderr
        self.mounted = True
        return self

    def stop(self) -> None:
        done = cairnfs("umount", self.path, prefix=self.prefix, fork=not self.prefix, check=False)
        assert done.returncode == 0 or LOST_EARLIER in done.stderr, done
        self.mounted = False

    def restart(self) -> None:
        self.stop()
        self.start()

    @property
    def pids(self) -> list[int]:
        """Processes of this mount, the first one before its workers: those whose command line names its mountpoint."""
        found: dict[int, tuple[int, int]] = {}  # -> parent, when it was started: numbers of processes begin again at the greatest
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if str(self.path).encode() in words and b"mount" in words and b"umount" not in words:
                found[int(entry.name)] = int(fields[1]), int(fields[19])
        return sorted(found, key=lambda pid: (found[pid][0] in found, found[pid][1], pid))

    def kill(self) -> None:
        """kill -9 every process of the mount, and clear the dead mountpoint."""
        self.kill_processes()
        self.clear()

    def clear(self) -> None:
        """Take a dead mount away; until then every call below the mountpoint fails with ENOTCONN."""
        subprocess.run(["umount", "-l", str(self.path)], check=False, capture_output=True)

    def kill_processes(self) -> None:
        """kill -9 every process of the mount, and wait until they are gone."""
        pids = self.pids
        assert pids, "the mount has no process"
        # The first one last, and stopped until then: it would start another worker; and a worker that outlived it would unmount.
        os.kill(pids[0], signal.SIGSTOP)
        for pid in reversed(pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while any(alive(pid) for pid in pids):
            assert time.monotonic() < deadline, "killed processes do not go away"
            time.sleep(0.01)
        self.mounted = False

    def check_log(self) -> None:
        if not self.log.exists():
            return
        bad = [
            line
            for line in self.log.read_text(errors="replace").splitlines()
            if BAD_LOG.search(line) and not any(re.search(p, line) for p in (LOST_EARLIER, *self.expected_log))
        ]
        assert not bad, "the mount's log has lines nobody announced:\n" + "\n".join(bad[:20])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class MountFactory:
    """Makes volumes and mounts of one test, and takes them down."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.volumes: list[Volume] = []
        self.mounts: list[Mount] = []
        self.damaged: set[str] = set()

    def volume(self, *format_options: str, url: str | None = None) -> Volume:
        volume = Volume(self.root / f"v{len(self.volumes)}", "test-volume", *format_options, url=url)
        self.volumes.append(volume)
        return volume

    def new(self, volume: Volume | None = None, *options: str, front: str = "channel") -> Mount:
        mount = Mount(volume or self.volume(), self.root / f"mnt{len(self.mounts)}", front, *options)
        self.mounts.append(mount)
        return mount.start()

    def expect_damage(self, volume: Volume) -> None:
        """The test damages this volume on purpose: do not run fsck on it at the end."""
        self.damaged.add(volume.url)

    def finish(self) -> None:
        problems = []
        for mount in self.mounts:
            for step in (mount.stop if mount.mounted else None, mount.check_log):
                try:
                    if step:
                        step()
                except (AssertionError, subprocess.TimeoutExpired) as error:
                    problems.append(str(error))
            if str(mount.path) in cairnfs_mounts():
                subprocess.run(["umount", "-l", str(mount.path)], check=False)
                problems.append(f"{mount.path} was still mounted")
        for volume in self.volumes:
            if volume.url not in self.damaged:
                try:
                    volume.assert_clean()
                except AssertionError as error:
                    problems.append(str(error))
        assert not problems, "\n".join(problems)
