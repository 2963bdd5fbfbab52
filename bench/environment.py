"""What a run was made on: everything that numbers depend on and that a reader of them cannot see."""

import importlib
import os
import platform
import shutil
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from cairnfs.ext import KERNELS
from cairnfs.version import VERSION

LIBRARIES = ("lmdb", "torch", "pyfuse3")
PROGRAMS = ("git", "fio", "redis-server")


def environment() -> dict[str, Any]:
    """By name; without the name of the machine."""
    return {
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "kernel": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "CPU": _cpu(),
        "CPUs": len(os.sched_getaffinity(0)),
        "memory MiB": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "load at the start": round(os.getloadavg()[0], 2),
        "Python": platform.python_version(),
        "cairnfs": VERSION,
        "kernels": variants(),
        "libraries": {name: version for name in LIBRARIES if (version := _library(name))},
        "programs": {name: _first_line([name, "--version"]) for name in PROGRAMS if shutil.which(name)},
        "FUSE over io_uring": _text(Path("/sys/module/fuse/parameters/enable_uring")) or "not known",
    }


def variants() -> dict[str, str]:
    """The variant in use of each compiled kernel that has several."""
    modules = {name: importlib.import_module(f"cairnfs.ext.{name}") for name in KERNELS}
    return {name: module.kernel for name, module in modules.items() if hasattr(module, "kernel")}


def _cpu() -> str:
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "CPU part"):
            return value.strip()
    return platform.processor() or "not known"


def _library(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout.splitlines() or ["not known"])[0]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
