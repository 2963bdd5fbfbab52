"""What whoever mounts a volume is told of a Redis server that may lose metadata."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.mounts import CAIRNFS, Mount, MountFactory
from support.redis_server import RedisServer

pytestmark = pytest.mark.fuse

LOSING = ("--appendonly", "no", "--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru")
HIDING = ("--rename-command", "CONFIG", "")


@pytest.fixture
def mounted(tmp_path: Path, shared_redis: RedisServer, mounts: MountFactory) -> Iterator[Callable[..., Mount]]:
    """Makes a mount on a server with the options given, of which one is made in a test."""
    servers = []

    def make(server_options: tuple[str, ...], front: str, *options: str) -> Mount:
        servers.append(RedisServer(tmp_path / "redis", *server_options))
        return mounts.new(mounts.volume(url=f"{servers[0].url}/1"), *options, front=front)

    yield make
    mounts.finish()
    mounts.mounts, mounts.volumes = [], []
    servers[0].kill()


def lines_of(mount: Mount, words: str) -> list[str]:
    return [line for line in mount.log.read_text().splitlines() if words in line]


@pytest.mark.parametrize(("front", "options"), [("channel", ()), ("channel", ("--workers", "0")), ("pyfuse3", ())])
def test_hazards_are_said_to_whoever_mounts_and_logged(
    mounted: Callable[..., Mount], front: str, options: tuple[str, ...]
) -> None:
    mount = mounted(LOSING, front, *options)
    words = ["Redis keeps nothing on disk", "Redis may drop metadata"]
    mount.expected_log += words
    nothing, eviction = mount.said.splitlines()
    assert nothing.startswith(f"cairnfs: warning: {mount.path}: Redis keeps nothing on disk")
    assert eviction.startswith(f"cairnfs: warning: {mount.path}: Redis may drop metadata")
    assert [len(lines_of(mount, word)) for word in (" WARNING ", *words)] == [2, 1, 1]


def test_a_mount_in_the_foreground_says_them_once(mounted: Callable[..., Mount], tmp_path: Path) -> None:
    mount = mounted(LOSING, "channel")
    mount.expected_log.append("Redis ")
    mount.stop()
    for options, last in (([], ": mounted redis"), (["--log", str(tmp_path / "log")], "Redis may drop")):
        command = [*CAIRNFS, "mount", mount.volume.url, str(mount.path), *options]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if last in line:
                    process.terminate()
        assert process.returncode == 0
        assert [sum(words in line for line in said) for words in ("Redis keeps nothing on disk", "Redis may drop")] == [1, 1]


def test_settings_that_are_not_shown_are_said_and_are_no_warning(mounted: Callable[..., Mount]) -> None:
    mount = mounted(HIDING, "channel")
    assert mount.said.startswith(f"cairnfs: {mount.path}: Redis does not show its settings") and mount.said.count("\n") == 1
    assert len(lines_of(mount, " INFO cairnfs.daemon.session: " + f"{mount.path}: Redis does not show its settings")) == 1


def test_nothing_is_said_of_a_server_that_keeps_metadata(mounted: Callable[..., Mount]) -> None:
    mount = mounted(("--maxmemory", "1gb"), "channel")
    assert mount.said == ""
    assert lines_of(mount, " WARNING ") == lines_of(mount, "Redis keeps") == []
