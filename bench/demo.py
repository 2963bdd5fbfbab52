"""The main job, start to end, on real files: `make demo`.

Formats a volume on the embedded default (SQLite and a local folder), mounts it, copies a real tree of at least 10,000
files, drops every cache, compares every byte and attribute, imports a package from the mount, runs git on it, shows the
rates beside those of the local file system, unmounts and leaves nothing behind.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

MIN_FILES = 10_000
COPIED_XATTR_NAMESPACES = ("user.", "system.posix_acl")
console = Console(width=None if sys.stdout.isatty() else 100)


class DemoError(Exception):
    """The demonstration found something wrong; the message says what."""


def cairnfs(*words: str | Path) -> None:
    """Run the command line as a user would; its one-line error is ours."""
    done = subprocess.run([sys.executable, "-m", "cairnfs.daemon.cli", *map(str, words)], capture_output=True, text=True)
    if done.returncode != 0:
        raise DemoError(done.stderr.strip() or f"cairnfs {words[0]} failed with exit code {done.returncode}")


def sources() -> Iterator[Path]:
    """Real trees of this machine, best first: the environment's packages, the standard library, then more of it."""
    yield Path(sysconfig.get_path("purelib"))
    yield Path(sysconfig.get_path("stdlib"))
    yield Path("/usr/include")
    yield Path("/usr/share")


def plan(min_files: int) -> list[tuple[Path, Path]]:
    """(source, path below the target) of everything to copy, directories before what they hold."""
    found: list[tuple[Path, Path]] = []
    n_files = 0
    for n, root in enumerate(sources()):
        if n_files >= min_files or not root.is_dir():
            continue
        found.append((root, Path(f"tree{n}")))
        for folder, dirs, files in os.walk(root):
            at = Path(f"tree{n}") / Path(folder).relative_to(root)
            found += [(Path(folder) / name, at / name) for name in dirs]
            readable = [name for name in files if copyable(Path(folder) / name)]
            found += [(Path(folder) / name, at / name) for name in readable]
            n_files += len(readable)
            if n > 0 and n_files >= min_files:
                break  # the first tree is copied whole, because a package is imported from it
    if n_files < min_files:
        raise DemoError(f"this machine has only {n_files} files to copy; at least {min_files} are wanted")
    return found


def copyable(path: Path) -> bool:
    return path.is_symlink() or (path.is_file() and os.access(path, os.R_OK))


def copy_one(source: Path, target: Path) -> int:
    """Copy one entry with its attributes; the bytes copied."""
    if source.is_symlink():
        os.symlink(os.readlink(source), target)
        shutil.copystat(source, target, follow_symlinks=False)
        return 0
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return 0
    shutil.copyfile(source, target)
    shutil.copystat(source, target)
    return target.stat().st_size


def compare_one(source: Path, target: Path) -> None:
    theirs, ours = os.lstat(source), os.lstat(target)
    if source.is_symlink():
        same = os.readlink(source) == os.readlink(target) and theirs.st_mtime_ns == ours.st_mtime_ns
    elif source.is_dir():
        same = target.is_dir() and theirs.st_mode == ours.st_mode and theirs.st_mtime_ns == ours.st_mtime_ns
    else:
        same = (theirs.st_mode, theirs.st_size, theirs.st_mtime_ns) == (ours.st_mode, ours.st_size, ours.st_mtime_ns)
        same = same and source.read_bytes() == target.read_bytes() and xattrs(source) == xattrs(target)
    if not same:
        raise DemoError(f"{target} differs from {source}")


def xattrs(path: Path) -> dict[str, bytes]:
    return {key: os.getxattr(path, key) for key in os.listxattr(path) if key.startswith(COPIED_XATTR_NAMESPACES)}


class Timed:
    """Runs steps with a progress bar and keeps their rates per second."""

    def __init__(self) -> None:
        self.rates: dict[str, dict[str, float]] = {}

    def over(self, where: str, step: str, items: list[Path], act: Callable[[Path], object]) -> None:
        """Do `act` on each item, showing progress, and note how many went through a second."""
        columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(f"{step}, {where}", total=len(items))
            start = time.perf_counter()
            for n, item in enumerate(items):
                act(item)
                if n % 100 == 99:
                    progress.update(task, completed=n)
            elapsed = time.perf_counter() - start
            progress.update(task, completed=len(items))
        self.rates.setdefault(step, {})[where] = len(items) / elapsed

    def table(self, places: list[str]) -> Table:
        table = Table(title="files a second, one process, names in the order of the tree")
        table.add_column("step")
        for place in places:
            table.add_column(place, justify="right")
        table.add_column(f"{places[0]} / {places[1]}", justify="right")
        for step, rates in self.rates.items():
            ratio = rates[places[0]] / rates[places[1]]
            table.add_row(step, *(f"{rates[place]:,.0f}" for place in places), f"{ratio:.2f}")
        return table


def copy_tree(timed: Timed, where: str, todo: list[tuple[Path, Path]], top: Path) -> None:
    origin = {top / at: source for source, at in todo}
    timed.over(where, "copy", list(origin), lambda target: copy_one(origin[target], target))
    for target in sorted((t for t, s in origin.items() if s.is_dir() and not s.is_symlink()), reverse=True):
        shutil.copystat(origin[target], target)


def drop_kernel_caches() -> None:
    """As root, have the kernel forget names, attributes and pages; the remount drops ours either way."""
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        pass


def measure(timed: Timed, where: str, todo: list[tuple[Path, Path]], top: Path) -> None:
    files = [top / at for source, at in todo if source.is_file() and not source.is_symlink()]
    folders = [top / at for source, at in todo if source.is_dir() and not source.is_symlink()]
    timed.over(where, "stat, first", files, os.stat)
    timed.over(where, "read, first", files, Path.read_bytes)
    timed.over(where, "read, again", files, Path.read_bytes)
    timed.over(where, "list directory", folders, lambda path: [entry.stat(follow_symlinks=False) for entry in os.scandir(path)])


def use_python(top: Path) -> str:
    """Import a package from the mount and let it do something."""
    code = "import rich, rich.table, rich.console; rich.console.Console(quiet=True).print('x'); print(rich.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(top), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    if done.returncode != 0 or not done.stdout.startswith(str(top)):
        raise DemoError(f"importing a package from the mount failed: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def use_git(top: Path) -> str:
    """A repository on the mount: init, add, commit, clone, fsck."""
    git = ["git", "-c", "user.name=demo", "-c", "user.email=demo@example.org", "-c", "safe.directory=*"]
    repo, clone = top / "repository", top / "clone"
    shutil.copytree(Path(sysconfig.get_path("purelib")) / "rich", repo, ignore=shutil.ignore_patterns("__pycache__"))
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "on cairnfs"], ["clone", "-q", ".", str(clone)]):
        subprocess.run([*git, *words], cwd=repo, check=True, capture_output=True)
    subprocess.run([*git, "fsck", "--full", "--strict"], cwd=clone, check=True, capture_output=True)
    shown = subprocess.run([*git, "log", "--oneline"], cwd=clone, check=True, capture_output=True, text=True)
    return shown.stdout.strip()


def work(root: Path, front: str, min_files: int) -> None:
    url, mountpoint, native = f"sqlite3://{root}/demo.db", root / "mnt", root / "native"
    mountpoint.mkdir()
    native.mkdir()
    todo = plan(min_files)
    cairnfs("format", url, "demo", "--bucket", root / "bucket")
    mount = ("mount", url, mountpoint, "-d", "--front", front, "--log", root / "mount.log")
    cairnfs(*mount)
    console.print(f"mounted a new volume on {mountpoint}; copying {len(todo):,} entries to it and to {native}")
    timed = Timed()
    try:
        copy_tree(timed, "local", todo, native / "copy")
        copy_tree(timed, "cairnfs", todo, mountpoint / "copy")
        cairnfs("umount", mountpoint)
        drop_kernel_caches()
        cairnfs(*mount)
        measure(timed, "local", todo, native / "copy")
        measure(timed, "cairnfs", todo, mountpoint / "copy")
        pairs = {mountpoint / "copy" / at: source for source, at in todo}
        timed.over("cairnfs", "compare", list(pairs), lambda target: compare_one(pairs[target], target))
        timed.rates.pop("compare")
        console.print(f"every byte and attribute of {len(pairs):,} entries is the same")
        console.print(f"imported {use_python(mountpoint / 'copy' / 'tree0')}")
        console.print(f"git log of a clone on the mount: {use_git(mountpoint)}")
        files = [target for target, source in pairs.items() if not source.is_dir() or source.is_symlink()]
        timed.over("local", "remove", [native / f.relative_to(mountpoint) for f in files], os.unlink)
        timed.over("cairnfs", "remove", files, os.unlink)
        console.print(timed.table(["cairnfs", "local"]))
    finally:
        cairnfs("umount", mountpoint)
    cairnfs("fsck", url)
    console.print("unmounted; fsck finds the volume clean")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="cairnfs.bench.demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--front", choices=["channel", "pyfuse3"], default="channel")
    parser.add_argument("--files", type=int, default=MIN_FILES, help="copy at least so many files")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="cairnfs-demo-"))
    try:
        work(root, options.front, options.files)
    except (DemoError, OSError, subprocess.CalledProcessError) as error:
        console.print(f"[red]the demo failed:[/red] {error}")
        log = root / "mount.log"
        if log.exists():
            console.print(log.read_text(errors="replace")[-4000:], markup=False)
        return 1
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
