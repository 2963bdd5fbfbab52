"""What the change log is told as: kinds of changes and their paths, one by one and in batches."""

import stat

import pytest

from cairnfs.meta import Meta
from cairnfs.meta import changes as changes_module
from cairnfs.meta.changes import ChangeReader
from cairnfs.meta.records import ATIME_AT, inode_key, time_field
from cairnfs.meta.stores.base import LogTrimmed, Max
from cairnfs.meta.stores.memory import MemoryStore
from cairnfs.meta.volume import VolumeFormat, create_volume
from cairnfs.types import Caller, Inode, Lock, SessionId, SetAttr

ROOT = Inode(1)
FILE, DIR, LINK = 0o100644, 0o40755, stat.S_IFLNK | 0o777
EXCHANGE = 2


class World:
    """A volume in memory; every operation is another `now`."""

    def __init__(self, name: str, log_records: int = 1000) -> None:
        create_volume(MemoryStore(name, log_records), VolumeFormat("testing"), 1, force=True)
        self.now = 10**18
        self.meta = Meta(MemoryStore(name, log_records), self)
        self.meta.sessions.open("/mnt", "0")
        self.told: list[str] = []
        self.reader = ChangeReader(Meta(MemoryStore(name, log_records)))

    def now_ns(self) -> int:
        self.now += 1000
        return self.now

    def monotonic_s(self) -> float:
        return self.now / 1e9

    def sleep(self, seconds: float) -> None:
        self.now += int(seconds * 1e9)

    def make(self, path: str, mode: int = FILE) -> Inode:
        parent, name = self.at(path)
        return self.meta.names.create(Caller(), parent, name, mode, target=b"target" if stat.S_ISLNK(mode) else b"").ino

    def at(self, path: str) -> tuple[Inode, bytes]:
        *above, name = path.strip("/").split("/")
        parent = ROOT
        for part in above:
            parent = self.meta.names.lookup(parent, part.encode()).ino
        return parent, name.encode()

    def ino(self, path: str) -> Inode:
        return self.meta.names.lookup(*self.at(path)).ino

    def remove(self, path: str) -> None:
        self.meta.names.unlink(*self.at(path), lambda ino: False)

    def rmdir(self, path: str) -> None:
        self.meta.names.rmdir(*self.at(path))

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        self.meta.names.rename(*self.at(old), *self.at(new), flags, lambda ino: False)

    def chmod(self, path: str, mode: int) -> None:
        self.meta.attrs.set(Caller(), self.ino(path), SetAttr(mode=mode))

    def truncate(self, path: str, size: int) -> None:
        self.meta.layout.truncate(self.ino(path), size)

    def news(self) -> list[str]:
        """What is told since the last time: kind, path, and the new path of what was moved."""
        found = []
        while changes := self.reader.read():
            for change in changes:
                path = "?" if change.path is None else change.path.decode()
                found.append(f"{change.what} {path}" + (f" {change.new_path.decode()}" if change.new_path else ""))
                assert change.session == SessionId(1)
        return found


@pytest.fixture
def world(request: pytest.FixtureRequest) -> World:
    return World(f"changes-{request.node.name}")


def test_each_kind_of_change_is_told_with_its_path(world: World) -> None:
    world.make("/d", DIR)
    assert world.news() == ["mkdir /d"]
    world.make("/d/f")
    assert world.news() == ["create /d/f"]
    world.make("/d/s", LINK)
    world.make("/d/p", stat.S_IFIFO | 0o644)
    assert world.news() == ["symlink /d/s", "mknod /d/p"]
    world.truncate("/d/f", 100)
    assert world.news() == ["write /d/f"]
    world.chmod("/d/f", 0o600)
    assert world.news() == ["attributes /d/f"]
    world.chmod("/d", 0o700)
    assert world.news() == ["attributes /d"]
    world.meta.xattrs.set(world.ino("/d/f"), b"user.x", b"1", 0)
    assert world.news() == ["xattr /d/f"]
    world.meta.names.link(world.ino("/d/f"), ROOT, b"l")
    assert world.news() == ["link /l"]
    world.remove("/l")
    assert world.news() == ["remove /l"]
    world.rename("/d/f", "/g")
    assert world.news() == ["rename /d/f /g"]
    world.rename("/d", "/e")
    world.rename("/e/s", "/e/p")
    assert world.news() == ["rename /d /e", "rename /e/s /e/p"]
    world.rename("/e", "/g", EXCHANGE)
    assert world.news() == ["exchange /e /g"]
    world.chmod("/g/p", 0o600)
    assert world.news() == ["attributes /g/p"]
    world.remove("/e")
    world.remove("/g/p")
    world.rmdir("/g")
    assert world.news() == ["remove /e", "remove /g/p", "rmdir /g"]
    assert world.news() == []


def test_what_was_there_before_is_found_by_its_directories(world: World) -> None:
    world.make("/d", DIR)
    world.make("/d/e", DIR)
    world.make("/d/e/f")
    world.reader.skip()
    world.chmod("/d/e/f", 0o600)
    world.make("/d/e/g")
    world.remove("/d/e/f")
    assert world.news() == ["attributes /d/e/f", "create /d/e/g", "remove /d/e/f"]


def test_a_tree_that_came_and_went_before_anybody_looked_is_told_in_order(world: World) -> None:
    world.make("/old", DIR)
    world.make("/old/f")
    world.reader.skip()
    world.remove("/old/f")
    world.rmdir("/old")
    world.make("/d", DIR)
    world.make("/d/f")
    world.rename("/d", "/e")
    world.remove("/e/f")
    world.rmdir("/e")
    world.make("/d")
    told = ["remove /old/f", "rmdir /old", "mkdir /d", "create /d/f", "rename /d /e", "remove /e/f", "rmdir /e", "create /d"]
    assert world.news() == told


def test_what_changes_nothing_that_anybody_sees_is_not_told(world: World) -> None:
    ino = world.make("/f")
    world.news()
    before = world.reader.position
    world.meta.sessions.heartbeat()
    world.meta.locks.setlk(ino, Lock(1, 0, 9, 1, 1))
    world.meta.store.commit([], [Max(inode_key(ino), ATIME_AT, time_field(2 * 10**18))])
    assert world.news() == []
    assert world.reader.position == before + 3


def test_more_than_is_remembered_is_found_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes_module, "MAX_KNOWN", 3)
    monkeypatch.setattr(changes_module, "BATCH", 2)
    monkeypatch.setattr(changes_module, "SCAN_NAMES", 3)
    world.make("/d", DIR)
    for n in range(20):
        world.make(f"/d/{n}")
    assert world.news() == ["mkdir /d", *(f"create /d/{n}" for n in range(20))]
    for n in range(20):
        world.chmod(f"/d/{n}", 0o600)
    assert world.news() == [f"attributes /d/{n}" for n in range(20)]


def test_after_a_gap_it_goes_on_from_now(request: pytest.FixtureRequest) -> None:
    world = World(f"changes-{request.node.name}", log_records=5)
    for n in range(20):
        world.make(f"/{n}")
    with pytest.raises(LogTrimmed):
        world.reader.read()
    assert world.reader.skip() == world.meta.store.position()
    world.make("/after")
    assert world.news() == ["create /after"]
