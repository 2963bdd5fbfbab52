"""A cairnfs volume mounted for the length of a measurement, and what its processes and counters say."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from cairnfs.errors import CairnError

CAIRNFS = [sys.executable, "-m", "cairnfs.daemon.cli"]


def run(main: Callable[[], int]) -> NoReturn:
    """The end of a program whose `main` this is. What could not be had is one line."""
    try:
        sys.exit(main())
    except CairnError as error:
        sys.exit(f"cairnfs: {error}")


def count(text: str) -> int:
    """For argparse: ValueError unless it is at least 1."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def run_cairnfs(*words: str | Path) -> None:
    """The command line, as a user has it. CairnError with its one line when it fails."""
    done = subprocess.run([*CAIRNFS, *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise CairnError(f"cairnfs {words[0]}: {said[-1].removeprefix('cairnfs: ')}")


@contextmanager
def mounted(root: Path, bucket: Path, *options: str) -> Iterator[Path]:
    """A fresh volume with its metadata below `root` and its objects in `bucket`."""
    with mounted_at(root / "mnt", f"sqlite3://{root}/meta.db", root / "log", ("--bucket", str(bucket)), options) as mountpoint:
        yield mountpoint


@contextmanager
def mounted_at(mountpoint: Path, url: str, log: Path, stores: tuple[str, ...], options: tuple[str, ...] = ()) -> Iterator[Path]:
    """A fresh volume on any stores: `stores` are options of `cairnfs format`, `options` those of `cairnfs mount`."""
    run_cairnfs("format", url, "bench", *stores)
    with mounted_again(mountpoint, url, log, *options):
        yield mountpoint


@contextmanager
def mounted_again(mountpoint: Path, url: str, log: Path, *options: str) -> Iterator[Path]:
    """A volume that is there."""
    mountpoint.mkdir(exist_ok=True)
    run_cairnfs("mount", url, mountpoint, "-d", "--log", log, *options)
    try:
        yield mountpoint
    finally:
        run_cairnfs("umount", mountpoint)


def counters(mountpoint: Path) -> dict[str, float]:
    """Every counter of the mount by its name and label."""
    lines = (mountpoint / ".stats").read_text().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def requests(before: dict[str, float], after: dict[str, float], opcode: str) -> tuple[int, int]:
    """Requests of an opcode between two readings, and how many of them compiled code answered."""
    names = (f'cairnfs_fuse_{what}_total{{opcode="{opcode}"}}' for what in ("requests", "answers"))
    asked, answered = (int(after[name] - before[name]) for name in names)
    return asked, answered


def processes(mountpoint: Path) -> list[int]:
    """The mount's processes: those whose command line is `mount` of this place."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(mountpoint) in words and b"mount" in words:
            found.append(int(entry.name))
    return found


def memory_bytes(mountpoint: Path) -> dict[str, int]:
    """Resident memory of the mount's processes: what is their own, and what they share (the arena, the journal)."""
    own, shared = 0, 0
    for pid in processes(mountpoint):
        try:
            fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        except (OSError, ValueError):
            continue
        own += _kib(fields, "RssAnon")
        shared = max(shared, _kib(fields, "RssShmem"))
    return {"own": own << 10, "shared": shared << 10}


def _kib(fields: dict[str, str], name: str) -> int:
    return int(fields.get(name, "0 kB").split()[0])
