"""Writes files on a mount for ever, and notes on a native disk what was acknowledged: what a kill may not undo.

Run as `python manifest_writer.py MOUNT MANIFEST SEED`. A line of the manifest is JSON: what holds from now on. A line
is written before an operation that may or may not happen (`"sure": false`) and after one that must hold.
"""

import hashlib
import json
import os
import random
import sys
from pathlib import Path


class Manifest:
    """Append-only notes, each one write(2), so that a kill tears none."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, **what: object) -> None:
        os.write(self.fd, json.dumps(what).encode() + b"\n")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_file(manifest: Manifest, top: Path, name: str, rng: random.Random) -> None:
    data = rng.randbytes(rng.choice([100, 5000, 60_000, 60_000, 300_000, 5_000_000]))
    manifest.note(name=name, sha=digest(data), sure=False)
    by_fsync = rng.random() < 0.3
    fd = os.open(top / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view[: 1 << 17]) :]
    if by_fsync:
        os.fsync(fd)
        manifest.note(name=name, sha=digest(data), sure=True)
    os.close(fd)
    manifest.note(name=name, sha=digest(data), sure=True)


def main() -> None:
    top, manifest, rng = Path(sys.argv[1]), Manifest(sys.argv[2]), random.Random(sys.argv[3])
    names: list[str] = []
    for i in range(1_000_000):
        roll = rng.random()
        if names and roll < 0.1:
            name = names.pop(rng.randrange(len(names)))
            manifest.note(name=name, sha=None, sure=False)
            os.unlink(top / name)
            manifest.note(name=name, sha=None, sure=True)
        elif names and roll < 0.2:
            old, new = names.pop(rng.randrange(len(names))), f"{sys.argv[3]}-r{i}"
            manifest.note(renaming=old, name=new)
            os.rename(top / old, top / new)
            manifest.note(renamed=old, name=new)
            names.append(new)
        elif names and roll < 0.3:
            write_file(manifest, top, rng.choice(names), rng)
        else:
            name = f"{sys.argv[3]}-{i}"
            write_file(manifest, top, name, rng)
            names.append(name)


if __name__ == "__main__":
    main()
