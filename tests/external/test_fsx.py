"""fsx, the file system exerciser: `make fsx FSX=PROGRAM` with a built one (xfstests and LTP carry it)."""

import subprocess

import pytest

from support.mounts import Mount

pytestmark = [pytest.mark.fuse, pytest.mark.slow, pytest.mark.timeout(3000)]

# -I -C -J -B: insert, collapse, clone and dedupe ranges are not offered; -u: nor is unsharing.
COMMON = ["-q", "-u", "-I", "-C", "-J", "-B"]
GEOMETRIES = {
    "small": ["-l", "262144", "-o", "65536"],
    "close-and-open": ["-c", "100", "-l", "600000"],
    "several-blocks": ["-l", "12000000", "-o", "1000000"],
    "page-aligned": ["-r", "4096", "-w", "4096", "-t", "4096", "-l", "1048576"],
    "direct": ["-Z", "-R", "-W", "-r", "4096", "-w", "4096", "-t", "4096", "-l", "1048576"],
}


@pytest.fixture
def program(request: pytest.FixtureRequest) -> str:
    """Asked for before `mount`, which costs a second."""
    named = request.config.getoption("--fsx")
    if not named:
        pytest.skip("no --fsx=PROGRAM: fsx is not part of this project")
    return str(named)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_no_byte_is_ever_wrong(program: str, mount: Mount, geometry: str, request: pytest.FixtureRequest) -> None:
    n = "200000" if request.config.getoption("--full") else "20000"
    command = [program, *COMMON, *GEOMETRIES[geometry], "-N", n, "-S", "7", "-P", str(mount.path.parent), str(mount.path / "fsx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2900)
    assert done.returncode == 0 and "A-OK" in done.stdout, done.stdout[-4000:] + done.stderr[-2000:]
