"""pjdfstest, the independent POSIX suite: `make pjdfstest PJDFSTEST=DIR` with a built source tree of it."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from support.mounts import Mount

pytestmark = [pytest.mark.fuse, pytest.mark.slow, pytest.mark.timeout(3000)]


@pytest.fixture
def suite(request: pytest.FixtureRequest) -> Path:
    """Asked for before `mount`, which costs a second."""
    named = request.config.getoption("--pjdfstest")
    if not named:
        pytest.skip("no --pjdfstest=DIR: pjdfstest is not part of this project")
    return Path(named)


@pytest.mark.skipif(os.geteuid() != 0, reason="pjdfstest needs root")
def test_every_assertion_passes(suite: Path, mount: Mount) -> None:
    mount.path.chmod(0o755)
    for parent in mount.path.parents:
        if "pytest" in str(parent):
            parent.chmod(0o755)
    work = mount.path / "work"
    work.mkdir(mode=0o755)
    done = subprocess.run(
        ["prove", "-r", str(suite / "tests")],
        cwd=work,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=2900,
    )
    print(done.stdout[-6000:])
    failed = re.findall(r"^(\S+\.t)\s+\(Wstat.*", done.stdout, re.MULTILINE)
    assert done.returncode == 0 and not failed, done.stdout[-6000:] + done.stderr[-3000:]
