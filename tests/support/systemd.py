"""A systemd of the test's own: process 1 of a PID namespace, with units of one folder only, on a machine that it can't change.

Everything but that folder and /run is read-only there, so nothing of what systemd does when a machine starts happens to this one.
Whatever it has started and mounted ends with it. Needs root, and a cgroup2 hierarchy.
"""

import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path

PROGRAM = Path("/lib/systemd/systemd")
# What units ask for by themselves, or by what is written in ours.
TARGETS = ("idle", "sysinit", "basic", "shutdown", "umount", "local-fs", "network-online", "remote-fs", "multi-user")
START = """
set -e
umount --all --lazy --types fuse.cairnfs
mount --bind "$0" "$0"
mount -o remount,bind,ro /
mount -t tmpfs tmpfs /run
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec env -i PATH="$PATH" container=cairnfs-tests SYSTEMD_UNIT_PATH="$0/units" SYSTEMD_GENERATOR_PATH="$0/none" "$1" --system \
    --unit=idle.target --show-status=0 --log-target=console --default-standard-output=null
"""  # copies of others' mounts would keep these in use


def cgroups() -> Path | None:
    """Where the cgroup2 hierarchy is mounted for writing."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split(" ")
        if kind == "cgroup2" and "rw" in options.split(","):
            return Path(place)
    return None


class Systemd:
    """`folder` is the same path there and here; its units go to `folder`/units."""

    def __init__(self, folder: Path) -> None:
        self.units = folder / "units"
        self.units.mkdir()
        (folder / "none").mkdir()
        for target in TARGETS:
            (self.units / f"{target}.target").write_text(f"[Unit]\nDescription={target}\nDefaultDependencies=no\n")
        self.log = folder / "systemd.log"
        within = cgroups()
        assert within is not None
        self._cgroup = within / f"cairnfs-tests-{os.getpid()}"
        self._cgroup.mkdir()
        unshared = ["unshare", "--mount", "--uts", "--ipc", "--cgroup", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = [*unshared, "sh", "-c", START, str(folder), str(PROGRAM)]
        joined = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self._cgroup), *command]
        with self.log.open("w") as log:
            self._first = subprocess.Popen(joined, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.pid = self._started()
        except BaseException:
            self.close()
            raise

    def _started(self) -> int:
        children = Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children")
        deadline = time.monotonic() + 30
        while self._first.poll() is None and time.monotonic() < deadline:
            with suppress(OSError, ValueError):
                self.pid = int(children.read_text())
                if Path(f"/proc/{self.pid}/comm").read_text() == "systemd\n" and self.systemctl("is-system-running") == "running":
                    return self.pid
            time.sleep(0.05)
        raise AssertionError(f"systemd does not start: {self.log.read_text()}")

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self.pid}/root")

    def run(self, *command: object, check: bool = True) -> str:
        prefix = ["nsenter", "--target", str(self.pid), "--mount", "--uts", "--ipc", "--cgroup", "--pid", "--"]
        done = subprocess.run([*prefix, *map(str, command)], capture_output=True, text=True, timeout=180)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self.log.read_text()}"
        return done.stdout.strip()

    def systemctl(self, *words: str) -> str:
        """What it prints; whether it succeeds is often part of the answer."""
        return self.run("systemctl", *words, check=False)

    def start(self, unit: str) -> None:
        self.run("systemctl", "start", unit)

    def stop(self, unit: str) -> None:
        self.run("systemctl", "stop", unit)

    def property(self, unit: str, name: str) -> str:
        return self.systemctl("show", "--value", f"--property={name}", unit)

    def close(self) -> None:
        self._first.kill()  # and process 1 with it, and everything there
        self._first.wait(30)
        deadline = time.monotonic() + 30
        while self._cgroup.exists():
            try:
                for folder in sorted(self._cgroup.rglob("*/"), reverse=True):
                    folder.rmdir()
                self._cgroup.rmdir()
            except OSError:  # processes take a moment to be gone
                assert time.monotonic() < deadline, "processes that systemd started are left"
                time.sleep(0.05)
