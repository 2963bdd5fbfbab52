"""`ls -lR` of many files that were listed before: a request for about a hundred entries, and Python serves none of them.

20,000 files by default; `--full` makes it 100,000. Extended attributes are counted, too: ls(1) of coreutils asks for
`security.selinux` until it is told that there is none (test_security), and for `system.posix_acl_access`, which the kernel keeps,
but for directories, whose time of access a listing changes (test_left_out_attributes).
"""

import collections
import subprocess
import sys
from pathlib import Path

import pytest

from support.mounts import Mount, MountFactory

pytestmark = [pytest.mark.fuse, pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.usefixtures("kernel_caches")]

PER_FOLDER = 1000
PLACES_PER_MIB = 512  # for attributes, of `--cache-memory`; with so many for each file that none is pushed out by others
PLACES_PER_FILE = 10
N_PROCS = 4
MAKE = """
import os, sys
top, (first, end, step, n) = sys.argv[1], map(int, sys.argv[2:])
for number in range(first, end, step):
    os.mkdir(f"{top}/d{number}")
    fd = os.open(f"{top}/d{number}", os.O_RDONLY)
    for i in range(n):
        os.mknod(f"f{i}", 0o100644, dir_fd=fd)
    os.close(fd)
"""
WITHOUT_REPLY = ("FORGET", "BATCH_FORGET")
Counts = collections.Counter[str]


def fill(top: Path, n_folders: int) -> None:
    """By several processes, each of which makes every N_PROCS-th folder."""
    makers = [
        subprocess.Popen([sys.executable, "-c", MAKE, top, *map(str, (i, n_folders, N_PROCS, PER_FOLDER))])
        for i in range(N_PROCS)
    ]
    assert [maker.wait() for maker in makers] == [0] * N_PROCS


def asked(mount: Mount) -> tuple[Counts, Counts]:
    """Requests by opcode: all, and those that compiled code has answered."""
    found = Counts(), Counts()
    for line in (mount.path / ".stats").read_text().splitlines():
        name, label, value = (*line.replace("{", '"').split('"'), "")[0], line.split('"')[1:2], line.rpartition(" ")[2]
        for counts, family in zip(found, ("cairnfs_fuse_requests_total", "cairnfs_fuse_answers_total"), strict=True):
            if name == family:
                counts[label[0]] = int(float(value))
    return found


def listed(mount: Mount, n_entries: int) -> tuple[Counts, Counts]:
    """What `ls -lR` makes the kernel ask, and of that what Python serves; without what looking costs."""
    first = asked(mount)
    before = asked(mount)
    out = subprocess.run(["ls", "-lR", mount.path / "top"], check=True, capture_output=True, text=True).stdout
    after = asked(mount)
    assert sum(line[:1] in ("-", "d") for line in out.splitlines()) == n_entries
    every, compiled = (after[i] - before[i] - (before[i] - first[i]) for i in range(2))
    for op in WITHOUT_REPLY:
        every.pop(op, 0)
    return every, every - compiled


def test_a_warm_listing_takes_a_request_for_a_hundred_entries_and_no_python(
    mounts: MountFactory, request: pytest.FixtureRequest
) -> None:
    n_folders = 100 if request.config.getoption("--full") else 20
    n_files = n_folders * PER_FOLDER
    mebibytes = n_files * PLACES_PER_FILE // PLACES_PER_MIB
    mount = mounts.new(None, "--workers", "1", "--cache-memory", f"{mebibytes}M")
    top = mount.path / "top"
    top.mkdir()
    fill(top, n_folders)
    cold, _ = listed(mount, n_files + n_folders)
    for _ in range(3):  # the kernel may forget inodes meanwhile, where others need memory
        every, python = listed(mount, n_files + n_folders)
        print(f"\n{n_files} files, cold: {dict(cold)}\nwarm: {dict(every)}, of these in Python: {dict(python)}")
        if not python and every.total() <= n_files / 100:
            break
    assert every.total() <= n_files / 100, every
    assert not python, f"served by Python: {python}"
