"""`mount -t` for tests: a mount helper of this source tree, installed where mount(8) looks and taken away again."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.alone import alone


@contextmanager
def installed(place: Path, module: str, folder: Path) -> Iterator[None]:
    """`place` runs `module` while the block runs. Skips without root, and where something is installed already."""
    if os.geteuid() != 0:
        pytest.skip("mount(8) of a new type needs root")
    with alone("mount-type"):
        if place.exists() or not Path("/sbin/mount.fuse3").exists():
            pytest.skip(f"{place} is installed on this machine, or mount.fuse3 is not")
        script = program(module, folder)
        place.symlink_to(script)
        try:
            yield
        finally:
            place.unlink()


def program(module: str, folder: Path) -> Path:
    """A program in `folder` that runs `module`."""
    script = folder / module.rpartition(".")[2]
    paths = ":".join(os.path.abspath(path) for path in sys.path if path)
    script.write_text(f"#!/bin/sh\nPYTHONPATH='{paths}' exec '{sys.executable}' -P -m {module} \"$@\"\n")
    script.chmod(0o755)
    return script
