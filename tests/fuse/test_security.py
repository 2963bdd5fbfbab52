"""While a volume was never given an attribute in security., programs that look for one on every file are told once that there are
none, and stop asking; from the first one on, on any mount, they are told of each file. `ls -l` of coreutils is such a program.
"""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cairnfs.meta.records import SECURITY_KEY
from cairnfs.meta.stores.base import Delete
from cairnfs.volume import open_volume
from support.answers import served, until
from support.mounts import Mount, MountFactory, Volume
from support.redis_server import RedisServer
from support.requests import sent
from support.takeovers import take_over

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may give attributes in security."),
]

N_FILES = 300
FEW = 10  # requests that are not one for each file
LABEL, OTHER = "security.selinux", "security.capability"
QUIET = ("--heartbeat", "30")
WAYS = {"4 workers": ("channel", "4"), "1 process": ("channel", "0"), "pyfuse3": ("pyfuse3", "")}
CAPABLE = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service, effective and permitted


@pytest.fixture(params=["sqlite", "redis"])
def volume(request: pytest.FixtureRequest, mounts: MountFactory) -> Volume:
    if request.param == "sqlite":
        return mounts.volume()
    server: RedisServer = request.getfixturevalue("redis_server")
    return mounts.volume(url=f"{server.url}/6")


@pytest.fixture(params=WAYS)
def new_mount(request: pytest.FixtureRequest, mounts: MountFactory) -> Callable[[Volume], Mount]:
    front, n_workers = WAYS[request.param]
    if front == "pyfuse3":
        pytest.importorskip("pyfuse3")
    options = (*QUIET, "--workers", n_workers) if n_workers else QUIET
    return lambda volume: mounts.new(volume, *options, front=front)


@pytest.fixture
def channel_mount(mounts: MountFactory) -> Mount:
    return mounts.new(None, *QUIET)


def asked(path: Path, name: str = LABEL) -> str:
    """What comes of asking for an attribute that is not there."""
    try:
        return str(os.getxattr(path, name))
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def opened(path: Path) -> str:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.getxattr(fd, LABEL)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    finally:
        os.close(fd)
    return "found"


def fill(folder: Path) -> None:
    folder.mkdir()
    for i in range(N_FILES):
        (folder / f"f{i}").touch()


def list_all(folder: Path) -> None:
    listed = subprocess.run(["ls", "-l", "--color=always", folder], check=True, capture_output=True, text=True)
    assert len(listed.stdout.splitlines()) == 1 + N_FILES


def asked_for(mount: Mount, act: Callable[[], object]) -> int:
    """How often an act asks for an attribute in security.; as the access log tells, which makes Python answer."""
    with (mount.path / ".accesslog").open("rb", buffering=0) as log:
        act()
        (mount.path / "marker-of-the-end").mkdir()
        told = b""
        while b"marker-of-the-end" not in told:
            told += log.read(1 << 16)
    (mount.path / "marker-of-the-end").rmdir()
    return sum(b"getxattr" in line and b"security." in line for line in told.splitlines())


@pytest.mark.usefixtures("kernel_caches")
def test_a_listing_asks_once(new_mount: Callable[[Volume], Mount], volume: Volume) -> None:
    mount = new_mount(volume)
    folder = mount.path / "d"
    fill(folder)
    list_all(folder)
    if mount.front == "pyfuse3":
        assert asked(folder) == "ENODATA", "it cannot say that there are none"
        return
    assert sent(mount, lambda: list_all(folder)).get("GETXATTR", 0) <= N_FILES + FEW, "ACLs are asked for, too"
    assert asked_for(mount, lambda: list_all(folder)) <= FEW
    os.setxattr(folder / "f7", LABEL, b"label")
    every = sent(mount, lambda: list_all(folder)).get("GETXATTR", 0)
    assert asked_for(mount, lambda: list_all(folder)) >= N_FILES or every <= FEW, "or this ls knows of no labels"


def test_the_first_attribute_counts_on_every_mount(new_mount: Callable[[Volume], Mount], volume: Volume) -> None:
    one, two = new_mount(volume), new_mount(volume)
    for name in "fgh":
        (one.path / name).touch()
    here, there = one.path / "f", two.path / "f"
    until(there.exists)
    never = "ENODATA" if one.front == "pyfuse3" else "ENOTSUP"
    for path in (here, there, one.path, two.path) * 2:
        assert asked(path) == asked(path, OTHER) == never
        assert asked(path, "user.a") == asked(path, "trusted.a") == "ENODATA"
    with pytest.raises(OSError, match="No data"):
        os.setxattr(here, LABEL, b"", os.XATTR_REPLACE)
    os.setxattr(here, "user.a", b"")
    assert asked(here) == never

    os.setxattr(here, LABEL, b"label", os.XATTR_CREATE)
    assert os.getxattr(here, LABEL) == b"label"
    assert [asked(one.path / name) for name in "gh"] == [asked(here, OTHER), asked(one.path)] == ["ENODATA"] * 2
    assert opened(two.path / "g") == "ENODATA", "an open sees all that was there before"
    until(lambda: asked(there) == str(b"label"), seconds=20)
    assert [asked(two.path / name) for name in "gh"] == [asked(there, OTHER), asked(two.path)] == ["ENODATA"] * 2
    assert os.listxattr(there) == os.listxattr(here) == [LABEL, "user.a"]

    os.removexattr(there, LABEL)
    until(lambda: asked(here) == "ENODATA", seconds=20)
    assert asked(there) == asked(two.path / "h") == "ENODATA"
    two.restart()
    assert asked(there) == asked(two.path / "h") == "ENODATA"


@pytest.mark.usefixtures("kernel_caches")
def test_compiled_code_answers(channel_mount: Mount) -> None:
    paths = [channel_mount.path / name for name in "fgh"]
    for path in paths:
        path.touch()

    def look(expected: str) -> Callable[[], None]:
        def ask() -> None:
            for path in paths:
                os.stat(path)
                assert asked(path) == asked(path, OTHER) == expected

        return ask

    look("ENOTSUP")()
    found = served(channel_mount, look("ENOTSUP"))
    assert (found.compiled["GETXATTR"], found.python["GETXATTR"]) == (6 + 3, 0), "for capabilities the kernel asks twice then"
    os.setxattr(channel_mount.path, LABEL, b"")
    look("ENODATA")()
    found = served(channel_mount, look("ENODATA"))
    assert (found.compiled["GETXATTR"], found.python["GETXATTR"]) == (6, 0)


def test_a_volume_of_an_older_version_may_have_any(new_mount: Callable[[Volume], Mount], volume: Volume) -> None:
    with open_volume(volume.url, data=False) as opened_volume:
        opened_volume.store.commit([], [Delete(SECURITY_KEY)])
    mount = new_mount(volume)
    path = mount.path / "f"
    path.touch()
    for _ in range(2):
        assert asked(path) == "ENODATA"
    os.setxattr(path, LABEL, b"label")
    assert asked(path, OTHER) == asked(mount.path) == "ENODATA"


@pytest.mark.parametrize("given", [False, True])
def test_successors_know_it(mounts: MountFactory, given: bool) -> None:
    """Of a worker that was killed, and of a mount that was taken over."""
    mount = mounts.new(None, *QUIET, "--workers", "2")
    mount.expected_log.append("another one takes over")
    path, expected = mount.path / "f", "ENODATA" if given else "ENOTSUP"
    path.touch()
    asked(path)
    if given:
        os.setxattr(mount.path, LABEL, b"label")
    for pid in mount.pids[1:]:
        os.kill(pid, 9)
        assert asked(path) == asked(path, OTHER) == expected
    take_over(mount)
    assert asked(path) == asked(path, OTHER) == expected


def run(*command: object) -> str:
    done = subprocess.run([*map(str, command)], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


@pytest.mark.skipif(not (shutil.which("setcap") and shutil.which("getcap")), reason="no setcap and getcap")
def test_capabilities_of_a_first_file(volume: Volume, mounts: MountFactory) -> None:
    one, two = mounts.new(volume, *QUIET), mounts.new(volume, *QUIET)
    shutil.copy("/bin/true", one.path / "tool")
    assert opened(two.path / "tool") == "ENOTSUP"
    run("setcap", "cap_net_bind_service=ep", one.path / "tool")
    for mount in (one, two):
        if mount is two:
            assert opened(mount.path / "tool") == "ENODATA"
        assert run("getcap", mount.path / "tool").split()[1] == "cap_net_bind_service=ep"
        assert os.getxattr(mount.path / "tool", OTHER)[:8] == CAPABLE[:8]
        run(mount.path / "tool")
    with (one.path / "tool").open("r+b") as file:
        file.write(b"\x7f")
    assert asked(one.path / "tool", OTHER) == "ENODATA", "whoever writes takes them away"


def test_copies_are_complete(channel_mount: Mount) -> None:
    """`cp -a`, `rsync -X` and `getfattr` before and after the first attribute."""
    top = channel_mount.path
    (top / "a").mkdir()
    (top / "a" / "f").write_bytes(b"x")
    os.setxattr(top / "a" / "f", "user.a", b"1")
    copies = {"cp": ["cp", "-a"], "rsync": ["rsync", "-aX"], "getfattr": []}
    for step in ("without", "with"):
        for program, command in copies.items():
            if shutil.which(program) is None:
                continue
            if not command:
                expected = {"user.a"} | ({LABEL} if step == "with" else set())
                shown = run("getfattr", "-d", "-m", "-", "--absolute-names", top / "a" / "f")
                assert {line.split("=")[0] for line in shown.splitlines() if "=" in line} == expected
                continue
            run(*command, f"{top}/a/", top / f"{program}-{step}")
            copy = top / f"{program}-{step}" / "f"
            assert os.listxattr(copy) == os.listxattr(top / "a" / "f")
            assert copy.read_bytes() == b"x"
        os.setxattr(top / "a" / "f", LABEL, b"label")
