"""The directories that are compared, and what this machine says about each."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cairnfs.bench import sense
from cairnfs.bench.mounted import processes
from cairnfs.daemon.mountpoint import FSTYPE, Mounted, mounts
from cairnfs.errors import UsageError

RECORDED = ("version", "front", "transport", "workers", "consistency", "engine", "fuse")  # of a mount's .config
IN_MEMORY = ("tmpfs", "ramfs")


@dataclass(frozen=True)
class Place:
    """One directory. `served_by`: processes that do its work, besides those that a cairnfs mount is known to have; `redis`: URL
    of the Redis server that has its metadata, if that is to be asked how many round trips the work took.
    """

    name: str
    top: Path
    mount: Mounted
    served_by: tuple[str, ...] = ()  # process numbers or names of programs
    redis: str | None = None

    @property
    def cairnfs(self) -> Path | None:
        """The root of the cairnfs mount that it is in."""
        return Path(self.mount.mountpoint) if self.mount.fstype == FSTYPE else None

    @property
    def can_be_cold(self) -> bool:
        return self.mount.fstype not in IN_MEMORY and sense.can_drop_caches()

    @property
    def on_device(self) -> bool:
        """Do those who read it read from a block device themselves?"""
        return not self.mount.device.startswith("0:")

    def pids(self) -> list[int]:
        found = [int(word) for word in self.served_by if word.isdigit()]
        names = {word for word in self.served_by if not word.isdigit()}
        if names:
            found += [pid for pid, name in _programs() if name in names]
        if self.cairnfs:
            found += processes(self.cairnfs)
        return sorted(set(found))

    def describe(self) -> dict[str, Any]:
        """What the results record about it; of a cairnfs mount its settings and stores, too."""
        known: dict[str, Any] = {"path": str(self.top), "fstype": self.mount.fstype, "options": self.mount.super_options}
        if self.cairnfs:
            config = json.loads((self.cairnfs / ".config").read_text())
            known["cairnfs"] = {name: config[name] for name in RECORDED}
            known["metadata"] = config["meta_url"].partition(":")[0]
            known["storage"] = config["format"]["storage"]
        return known


def _programs() -> Iterable[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), (entry / "comm").read_text().rstrip("\n")
            except OSError:
                continue


def mount_of(path: Path) -> Mounted:
    """The mount that a path is in."""
    known = {mounted.mountpoint: mounted for mounted in mounts()}
    at = Path(os.path.realpath(path))
    return next(known[str(folder)] for folder in (at, *at.parents) if str(folder) in known)


def places_of(directories: Sequence[Path], served_by: tuple[str, ...] = ()) -> list[Place]:
    """The directories a user names; the same one may be named several times. UsageError when one cannot be used."""
    found: list[Place] = []
    for path in directories:
        if not path.is_dir():
            raise UsageError(f"{path} is not a directory")
        if not os.access(path, os.W_OK | os.X_OK):
            raise UsageError(f"{path} cannot be written to: the work is done in a new folder inside")
        n_same = sum(place.top == path for place in found)
        name = f"{path} ({n_same + 1})" if n_same else str(path)
        found.append(Place(name, path, mount_of(path), served_by))
    return found
