"""Names that are absent: where the kernel may keep that, it is asked for once, and withdrawn when somebody makes the name."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from support.answers import served_cold
from support.mounts import Mount, MountFactory, Volume
from support.requests import sent
from support.takeovers import take_over
from support.toy_mount import eventually

pytestmark = [pytest.mark.fuse, pytest.mark.usefixtures("kernel_caches")]

KEEPING = {"ro": ("-o", "ro"), "push": ("--consistency", "push")}
NAMES = [f"absent{i}" for i in range(20)]

# A follower that reads the log once, and not again unless it is asked to.
DEAF = """
from cairnfs.daemon import invalidate, lease
follow, done = invalidate.Follower.catch_up, []
invalidate.Follower.catch_up = lambda self: bool(done) or done.append(follow(self))
"""
LASTING = "lease.LEASE_S = invalidate.LEASE_S = 1e6"

# A log that is found trimmed when the first name has come, as after a long time without reading it.
TRIMMED = f"""
from cairnfs.daemon import invalidate
from cairnfs.meta.stores.base import LogTrimmed
changes = invalidate.changes
def trimmed(records):
    found = changes(records)
    if any(name == {NAMES[0].encode()!r} for _, name in found[1]):
        invalidate.changes = changes
        raise LogTrimmed
    return found
invalidate.changes = trimmed
"""


@pytest.fixture(params=["sqlite", "redis"])
def volume(request: pytest.FixtureRequest, mounts: MountFactory) -> Volume:
    server = request.getfixturevalue("redis_server") if request.param == "redis" else None
    return mounts.volume(url=None if server is None else f"{server.url}/6")


@pytest.fixture
def other(mounts: MountFactory, volume: Volume) -> Mount:
    """The mount that makes names."""
    mount = mounts.new(volume, "--heartbeat", "30", front="channel")
    (mount.path / "d").mkdir()
    (mount.path / "d" / "f").write_bytes(b"here")
    return mount


def keeping(mounts: MountFactory, volume: Volume, mode: str, *more: str) -> Mount:
    mount = mounts.new(volume, *KEEPING[mode], "--heartbeat", "30", *more, front="channel")
    eventually((mount.path / "d" / "f").exists)
    return mount


def probe(folder: Path) -> None:
    for name in NAMES:
        assert not os.path.lexists(folder / name)


@pytest.mark.parametrize("mode", KEEPING)
def test_a_name_known_to_be_absent_is_asked_for_once(mounts: MountFactory, volume: Volume, other: Mount, mode: str) -> None:
    mount = keeping(mounts, volume, mode)
    assert sent(mount, lambda: probe(mount.path / "d")) == {"LOOKUP": len(NAMES)}
    assert sent(mount, lambda: probe(mount.path / "d")) == {}


def test_creating_a_name_made_elsewhere_is_opening_it(mounts: MountFactory, volume: Volume, other: Mount) -> None:
    """The kernel holds it to be absent, and so asks nobody whether this caller may open it: it must be sent to look again."""
    if os.geteuid() != 0:
        pytest.skip("only root may become others")
    (other.path / "d").chmod(0o777)
    mount = keeping(mounts, volume, "push", "-o", "allow_other", "--workers", "1")
    take_over(mount, change=DEAF + LASTING)
    probe(mount.path / "d")
    for name in NAMES[:2]:
        (other.path / "d" / name).write_bytes(b"secret")
        (other.path / "d" / name).chmod(0o600)
    assert sent(mount, lambda: probe(mount.path / "d")) == {}, "nobody has told the kernel"
    script = "import os, sys; os.chdir(sys.argv[1]); os.setuid(65534); os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)"
    command = [sys.executable, "-c", script, str(mount.path / "d"), NAMES[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "PermissionError" in done.stderr, done
    assert (mount.path / "d" / NAMES[0]).read_bytes() == b"secret"
    with open(mount.path / "d" / NAMES[1], "a") as file:
        assert os.fstat(file.fileno()).st_size == len(b"secret")


@pytest.mark.parametrize("mode", KEEPING)
def test_compiled_code_lets_it_be_kept_too(mounts: MountFactory, volume: Volume, other: Mount, mode: str) -> None:
    mount = keeping(mounts, volume, mode)
    probe(mount.path / "d")
    assert served_cold(mount, lambda: probe(mount.path / "d")).compiled["LOOKUP"] >= len(NAMES)
    assert sent(mount, lambda: probe(mount.path / "d")) == {}


def makers(top: Path) -> list[Callable[[], object]]:
    """Every way in which a name appears in "d": that of the same number."""
    d = top / "d"
    (top / "elsewhere").write_bytes(b"")
    return [
        lambda: (d / NAMES[0]).write_bytes(b""),
        lambda: (d / NAMES[1]).mkdir(),
        lambda: (d / NAMES[2]).symlink_to("nowhere"),
        lambda: os.link(d / "f", d / NAMES[3]),
        lambda: os.rename(top / "elsewhere", d / NAMES[4]),
    ]


@pytest.mark.parametrize("mode", KEEPING)
def test_a_name_that_appears_elsewhere_is_seen(mounts: MountFactory, volume: Volume, other: Mount, mode: str) -> None:
    mount = keeping(mounts, volume, mode)
    probe(mount.path / "d")
    probe(mount.path / "d")
    for name, make in zip(NAMES, makers(other.path), strict=False):
        make()
        eventually(partial(os.path.lexists, mount.path / "d" / name))
    (other.path / "d" / NAMES[0]).unlink()
    eventually(lambda: not os.path.lexists(mount.path / "d" / NAMES[0]))
    (other.path / "d" / NAMES[0]).write_bytes(b"")
    eventually(lambda: os.path.lexists(mount.path / "d" / NAMES[0]))


@pytest.mark.parametrize(
    ("change", "said"), [(TRIMMED, "no longer reaches back"), (DEAF, "could not be followed")], ids=["gap", "not-followed"]
)
@pytest.mark.parametrize("mode", KEEPING)
def test_a_name_made_while_nobody_tells_is_seen(
    mounts: MountFactory, volume: Volume, other: Mount, mode: str, change: str, said: str
) -> None:
    """In a gap of the log, and while it is not followed."""
    mount = keeping(mounts, volume, mode, "--workers", "1")
    mount.expected_log.append(said)
    take_over(mount, change=change)
    probe(mount.path / "d")
    (other.path / "d" / NAMES[0]).write_bytes(b"")
    eventually(lambda: os.path.lexists(mount.path / "d" / NAMES[0]))


def test_names_made_through_the_mount_itself_are_there_at_once(mounts: MountFactory, volume: Volume, other: Mount) -> None:
    mount = keeping(mounts, volume, "push")
    probe(mount.path / "d")
    for name, make in zip(NAMES, makers(mount.path), strict=False):
        make()
        assert os.path.lexists(mount.path / "d" / name)


def test_with_opens_that_ask_every_look_does(mounts: MountFactory, volume: Volume, other: Mount) -> None:
    for _ in range(3):
        assert sent(other, lambda: probe(other.path / "d"))["LOOKUP"] == len(NAMES)


def test_a_takeover_by_a_mount_whose_opens_ask_drops_names(mounts: MountFactory, volume: Volume, other: Mount) -> None:
    mount = keeping(mounts, volume, "push", "--workers", "1")
    probe(mount.path / "d")
    take_over(mount, "--consistency", "close-to-open")
    probe(mount.path / "d")
    for name in NAMES:
        (other.path / "d" / name).write_bytes(b"")
        assert os.path.lexists(mount.path / "d" / name)
