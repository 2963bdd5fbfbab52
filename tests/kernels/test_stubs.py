"""Kernels, their names and their stubs belong together: what is compiled is named, stubbed, and stubbed as it is."""

import os
import subprocess
import sys
from pathlib import Path

import cairnfs.ext

FOLDER = Path(cairnfs.ext.__file__).parent
ROOT = Path(__file__).parents[2]
TREE = ROOT / "build" / "tree"


def stems(pattern: str) -> list[str]:
    return sorted(path.stem for path in FOLDER.glob(pattern))


def test_every_kernel_is_named_in_order() -> None:
    assert list(cairnfs.ext.KERNELS) == stems("*.pyx")


def test_every_kernel_has_a_stub_and_no_stub_is_without_a_kernel() -> None:
    assert stems("*.pyi") == list(cairnfs.ext.KERNELS)


def test_stubs_say_what_the_kernels_have() -> None:
    path = os.pathsep.join([str(TREE), *filter(None, sys.path)])
    command = [sys.executable, "-m", "mypy.stubtest", *(f"cairnfs.ext.{kernel}" for kernel in cairnfs.ext.KERNELS)]
    here = (
        ROOT / ".mypy_cache" / os.environ.get("PYTEST_XDIST_WORKER", "alone")
    )  # its cache: one that others write to may be locked
    here.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "MYPYPATH": str(TREE), "PYTHONPATH": path}
    done = subprocess.run(command, cwd=here, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
