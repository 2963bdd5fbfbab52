"""Builds the compiled kernels of `ext/` and the link tree that gives the folders their import names.

Profiles, chosen by CAIRN_PROFILE: `release` (default), `debug` (bounds checks, CAIRN_CHECK assertions) and `asan`.
Each kernel is `ext/NAME.pyx` plus every C file called `ext/NAME_*.c`.
"""

import os
import tomllib
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent
TREE = Path("build/tree")
PROFILE = os.environ.get("CAIRN_PROFILE", "release")

COMPILE_ARGS = {
    "release": ["-O2", "-g1"],
    "debug": ["-O1", "-g", "-DCAIRN_CHECK=1"],
    "asan": ["-O1", "-g", "-DCAIRN_CHECK=1", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"],
}
LINK_ARGS = {"asan": ["-fsanitize=address,undefined"]}


# C files of one kernel that another calls, too; they keep nothing outside of the memory they are given.
ALSO = {
    "arena": ["shm_impl.c", "slicer_impl.c"],
    "fuse_chan": [
        "arena_*.c",
        "listing_impl.c",
        "shm_impl.c",
        "slicer_impl.c",
        "ino_map_impl.c",
        "journal_impl.c",
        "busy_poll_impl.c",
        "log_end_impl.c",
    ],
    "log_end": ["busy_poll_impl.c"],
    "listing": ["arena_*.c", "page_impl.c", "shm_impl.c", "slicer_impl.c"],
    "page": ["arena_*.c", "shm_impl.c", "slicer_impl.c"],
}


def link(at: Path, to: Path) -> None:
    """Make `at` a link to `to`, replacing a link that points elsewhere."""
    at.parent.mkdir(parents=True, exist_ok=True)
    if at.is_symlink():
        if os.readlink(at) == str(to):
            return
        at.unlink()
    at.symlink_to(to)


def link_tree() -> None:
    """Lay out build/tree/cairnfs so that Cython, mypy and uninstalled runs see dotted names (a .pxd is found by them)."""
    folders = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
    package = ROOT / TREE / "cairnfs"
    package.mkdir(parents=True, exist_ok=True)
    for stale in package.iterdir():
        if not stale.exists():
            stale.unlink()
    for item in (ROOT / folders["cairnfs"]).iterdir():
        if item.name != "__pycache__":
            link(package / item.name, item)
    for dotted, folder in folders.items():
        if dotted != "cairnfs":
            link(package / dotted.removeprefix("cairnfs."), ROOT / folder)


def kernels() -> list[Extension]:
    headers = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "ext").glob("*.h"))
    found = []
    for pyx in sorted((ROOT / "ext").glob("*.pyx")):
        patterns = [f"{pyx.stem}_*.c", *ALSO.get(pyx.stem, [])]
        sources = [pyx, *(path for pattern in patterns for path in sorted((ROOT / "ext").glob(pattern)))]
        found.append(
            Extension(
                f"cairnfs.ext.{pyx.stem}",
                [str(p.relative_to(ROOT)) for p in sources],
                include_dirs=["ext"],
                depends=headers,
                extra_compile_args=["-std=gnu11", "-Wall", "-Wno-unreachable-code", *COMPILE_ARGS[PROFILE]],
                extra_link_args=LINK_ARGS.get(PROFILE, []),
            )
        )
    return found


link_tree()
setup(
    ext_modules=cythonize(
        kernels(),
        include_path=[str(TREE)],
        build_dir=f"build/cython-{PROFILE}",
        compiler_directives={
            "language_level": 3,
            "boundscheck": PROFILE != "release",
            "wraparound": False,
            "auto_pickle": False,
            "autotestdict": False,
            "binding": False,
        },
    )
)
