"""Mounts that are taken over, by programs that are changed for a test."""

import json
import subprocess
import sys
import time
from pathlib import Path

from support.mounts import Mount, cairnfs

WAIT_S = 30


def take_over(mount: Mount, *options: str, change: str = "", check: bool = True) -> "subprocess.CompletedProcess[str]":
    """`cairnfs mount -d` over a mount; `change` is Python that runs in the newcomer first.

    Output goes to files: whoever inherits a pipe and lives on would keep it open.
    """
    args = ["mount", "-d", mount.volume.url, str(mount.path), "--log", str(mount.log), *mount.options, *options]
    script = f"{change}\nfrom cairnfs.daemon.cli import main\nmain()"
    out = mount.log.with_suffix(".out")
    with out.open("w+") as file:
        done = subprocess.run(
            [sys.executable, "-c", script, *args],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=60, check=False,
        )  # fmt: skip
    text = out.read_text()
    assert "Traceback" not in text, text
    assert not check or done.returncode == 0, text
    return subprocess.CompletedProcess(done.args, done.returncode, text, text)


def sessions(mount: Mount) -> list[dict[str, object]]:
    found = json.loads(cairnfs("status", mount.volume.url, "--json").stdout)["sessions"]
    assert isinstance(found, list)
    return found


def config(mount: Mount) -> dict[str, object]:
    found = json.loads((mount.path / ".config").read_text())
    assert isinstance(found, dict)
    return found


def wait_for(mount: Mount, text: str) -> None:
    """Until the log says something."""
    deadline = time.monotonic() + WAIT_S
    while text not in mount.log.read_text():
        assert time.monotonic() < deadline, f"the log does not say '{text}':\n{mount.log.read_text()}"
        time.sleep(0.02)


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, f"process {pid} does not end"
        time.sleep(0.02)


def dies_in(module: str, name: str, *, after: bool = False) -> str:
    """A change: the process kills itself when it calls a function, or when that returns."""
    body = "result = call(*a, **k); die(); return result" if after else "die()"
    return f"""
import os, signal
def die(): os.kill(os.getpid(), signal.SIGKILL)
import cairnfs.daemon.{module} as module
owner = module
*path, name = {name!r}.split('.')
for part in path: owner = getattr(owner, part)
call = getattr(owner, name)
def changed(*a, **k):
    {body}
setattr(owner, name, changed)
"""
