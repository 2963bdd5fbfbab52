"""Directories that were listed before are listed by compiled code: how many requests reach Python, and that nothing is lost."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.mounts import Mount, MountFactory
from support.syscalls import RENAME_EXCHANGE, DirStream, renameat2

pytestmark = [pytest.mark.fuse, pytest.mark.usefixtures("kernel_caches")]

N = 1000
LISTING = ("OPENDIR", "READDIR", "READDIRPLUS", "RELEASEDIR")

Counts = tuple[dict[str, int], dict[str, int]]


def counts(mount: Mount) -> Counts:
    """Requests to a mount, and how many of them were answered without Python, by opcode."""
    found: Counts = ({}, {})
    for line in (mount.path / ".stats").read_text().splitlines():
        for of, metric in zip(found, ("requests", "answers"), strict=True):
            if line.startswith(f"cairnfs_fuse_{metric}_total{{"):
                of[line.split('"')[1]] = int(float(line.split(" ")[1]))
    return found


def sent(mount: Mount, act: Callable[[], object]) -> Counts:
    """Requests about directories that an act causes, and those of them that were answered without Python."""
    before, _ = settled(mount)
    act()
    after, _ = settled(mount)
    return tuple(  # type: ignore[return-value]
        {op: new.get(op, 0) - old.get(op, 0) for op in LISTING if new.get(op, 0) > old.get(op, 0)}
        for old, new in zip(before, after, strict=True)
    )


def settled(mount: Mount) -> tuple[Counts, int]:
    """The counts once nothing comes any more (nobody waits for a RELEASEDIR), and how often they were read."""
    deadline = time.monotonic() + 10
    last, n_looks = counts(mount), 1
    while time.monotonic() < deadline:
        time.sleep(0.01)
        found = counts(mount)
        n_looks += 1
        if all(old.get(op) == new.get(op) for old, new in zip(last, found, strict=True) for op in LISTING):
            return found, n_looks
        last = found
    raise AssertionError("requests go on and on")


def fill(folder: Path, n: int = N) -> list[str]:
    folder.mkdir()
    names = [f"file-{i:05}" for i in range(n)]
    for name in names:
        os.mknod(folder / name, 0o100644)
    return names


def names_of(found: list[tuple[str, int, int]]) -> list[str]:
    return [name for name, _, _ in found]


@contextmanager
def access_log(mount: Mount) -> Iterator[list[str]]:
    """Lines of the access log, complete when the block has ended."""
    lines: list[str] = []
    stop = threading.Event()
    opened = open(mount.path / ".accesslog", "rb", buffering=0)

    def read() -> None:
        with opened:
            while not stop.is_set():
                lines.extend(opened.read(1 << 16).decode().splitlines())

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield lines
    finally:
        stop.set()
        os.stat(mount.path)
        thread.join()


def test_a_warm_listing_enters_python_not_at_all(channel_mount: Mount) -> None:
    folder = channel_mount.path / "d"
    names = fill(folder)
    assert sorted(os.listdir(folder)) == names
    asked, answered = sent(channel_mount, lambda: os.listdir(folder))
    assert asked == answered
    assert asked["OPENDIR"] == asked["RELEASEDIR"] == 1
    assert asked.get("READDIR", 0) + asked.get("READDIRPLUS", 0) <= 1 + N / 100
    assert os.listdir(folder) == names, "in order of name"


def test_a_warm_walk_with_attributes_enters_python_not_at_all(channel_mount: Mount) -> None:
    folder = channel_mount.path / "d"
    fill(folder)

    def walk() -> None:
        with os.scandir(folder) as entries:
            assert sum(entry.stat().st_nlink for entry in entries) == N

    walk()
    before, _ = settled(channel_mount)
    walk()
    after, n_looks = settled(channel_mount)
    for op in (*LISTING, "LOOKUP", "GETATTR"):
        in_python = after[0].get(op, 0) - before[0].get(op, 0) - (after[1].get(op, 0) - before[1].get(op, 0))
        assert in_python <= (n_looks if op == "LOOKUP" else 0), f"{op}: that of .stats is Python's, as often as it is read"


def test_an_empty_directory_and_the_root_are_listed_too(channel_mount: Mount) -> None:
    folder = channel_mount.path / "d"
    folder.mkdir()
    for path, inside in ((folder, []), (channel_mount.path, ["d"])):
        assert os.listdir(path) == inside
        for _ in range(2):
            found = listed(path)
            assert names_of(found) == [".", "..", *inside]
            assert found[0][1] == os.stat(path).st_ino
            if path == folder:
                assert found[1][1] == os.stat(channel_mount.path).st_ino
        asked, answered = sent(channel_mount, lambda path=path: os.listdir(path))
        assert asked == answered


def test_every_change_of_names_is_in_the_next_listing(channel_mount: Mount) -> None:
    top = channel_mount.path
    (top / "d").mkdir()
    (top / "e").mkdir()
    (top / "d" / "a").touch()

    def check(d: set[str], e: set[str]) -> None:
        for _ in range(3):
            assert (set(os.listdir(top / "d")), set(os.listdir(top / "e"))) == (d, e)

    check({"a"}, set())
    (top / "d" / "b").touch()
    check({"a", "b"}, set())
    os.link(top / "d" / "b", top / "d" / "c")
    check({"a", "b", "c"}, set())
    os.rename(top / "d" / "c", top / "d" / "x")
    check({"a", "b", "x"}, set())
    os.rename(top / "d" / "a", top / "e" / "a")
    check({"b", "x"}, {"a"})
    (top / "d" / "sub").mkdir()
    check({"b", "x", "sub"}, {"a"})
    renameat2(top / "d" / "sub", top / "e" / "a", RENAME_EXCHANGE)
    check({"b", "x", "sub"}, {"a"})
    assert (top / "d" / "sub").is_file() and (top / "e" / "a").is_dir()
    with os.scandir(top / "e") as found:
        assert {entry.name: entry.is_dir() for entry in found} == {"a": True}
    (top / "e" / "a").rmdir()
    (top / "d" / "x").unlink()
    check({"b", "sub"}, set())
    renameat2(top / "d" / "b", top / "d" / "sub", RENAME_EXCHANGE)
    inos = {name: ino for name, ino, _ in listed(top / "d")}
    assert inos["b"] == os.stat(top / "d" / "b").st_ino and inos["sub"] == os.stat(top / "d" / "sub").st_ino
    os.symlink("x", top / "e" / "link")
    os.mkfifo(top / "e" / "fifo")
    check({"b", "sub"}, {"link", "fifo"})
    with os.scandir(top / "e") as found:
        assert {entry.name for entry in found if entry.is_symlink()} == {"link"}


def listed(path: Path) -> list[tuple[str, int, int]]:
    with DirStream(path) as stream:
        return stream.rest()


@pytest.mark.parametrize("hushed", [False, True])
def test_changes_during_a_listing_lose_and_double_nothing_that_stays(channel_mount: Mount, hushed: bool) -> None:
    """With somebody reading the access log from the middle on, Python goes on where compiled code has begun."""
    folder = channel_mount.path / "d"
    stay = set(fill(folder, 3000))
    for i in range(0, 3000, 7):
        os.mknod(folder / f"file-{i:05}-go", 0o100644)
    os.listdir(folder)
    rng = random.Random(3)
    with DirStream(folder) as stream:
        found: list[str] = []
        log: list[object] = []
        while entries := stream.read(2048):
            found += names_of(entries)
            change(folder, rng)
            if hushed and not log and len(found) > 1000:
                log.append(open(channel_mount.path / ".accesslog", "rb", buffering=0))
        for file in log:
            file.close()  # type: ignore[attr-defined]
    staying = [name for name in found if name in stay]
    assert len(staying) == len(stay) and set(staying) == stay
    assert len(found) == len(set(found))
    with_new = set(os.listdir(folder))
    assert stay <= with_new and {os.fsdecode(name) for name in os.listdir(os.fsencode(folder))} == with_new


def change(folder: Path, rng: random.Random) -> None:
    """Create, remove and rename what need not stay."""
    os.mknod(folder / f"file-{rng.randrange(3000):05}-{rng.randrange(1 << 30)}", 0o100644)
    going = folder / f"file-{rng.randrange(429) * 7:05}-go"
    if going.exists():
        if rng.random() < 0.5:
            going.unlink()
        else:
            going.rename(folder / f"file-{rng.randrange(3000):05}-{rng.randrange(1 << 30)}")


def test_removing_what_was_listed_removes_everything(channel_mount: Mount) -> None:
    folder = channel_mount.path / "d"
    fill(folder, 2000)
    os.listdir(folder)
    with DirStream(folder) as stream:
        while entries := stream.read(4096):
            for name in names_of(entries):
                if name not in (".", ".."):
                    os.unlink(folder / name)
    folder.rmdir()


def test_an_old_listing_brings_no_removed_name_back(channel_mount: Mount) -> None:
    """A reader in a listing of the past is given names, which the kernel must not take for what is there now."""
    folder = channel_mount.path / "d"
    names = fill(folder, 3000)
    gone, replaced = names[-1], names[-2]
    os.link(folder / gone, channel_mount.path / "kept")
    os.mknod(folder / "new", 0o100644)
    new_ino = os.stat(folder / "new").st_ino
    os.listdir(folder)
    try:  # names that the kernel has to look up make it ask for attributes in listings
        Path("/proc/sys/vm/drop_caches").write_text("2")
    except PermissionError:
        pytest.skip("only root may make the kernel forget names")

    def read() -> None:
        with DirStream(folder) as stream:
            found = names_of(stream.read())
            os.unlink(folder / gone)
            os.rename(folder / "new", folder / replaced)
            while entries := stream.read():
                found += names_of(entries)
                os.stat(folder / entries[0][0])
            assert found == [".", "..", *names, "new"], "it is the listing of the past"

    asked, answered = sent(channel_mount, read)
    assert asked == answered and asked["READDIRPLUS"] > 2 * asked.get("READDIR", 0)
    assert not (folder / gone).exists()
    assert os.stat(folder / replaced).st_ino == new_ino
    assert os.stat(channel_mount.path / "kept").st_nlink == 1


def test_rewinding_shows_what_is_there_now(channel_mount: Mount) -> None:
    folder = channel_mount.path / "d"
    names = fill(folder)
    os.listdir(folder)
    with DirStream(folder) as stream:
        stream.read()
        os.mknod(folder / "zzz", 0o100644)
        assert names_of(stream.rest())[-1] == names[-1], "it goes on in the listing it has begun"
        stream.seek(0)
        assert names_of(stream.rest()) == [".", "..", *names, "zzz"]
        os.unlink(folder / names[500])
        os.mknod(folder / "zzzz", 0o100644)
        os.listdir(folder)
        stream.seek(0)
        assert names_of(stream.rest(512)) == [".", "..", *names[:500], *names[501:], "zzz", "zzzz"]


def test_seeking_goes_back_to_where_a_cookie_was(channel_mount: Mount) -> None:
    folder = channel_mount.path / "d"
    names = fill(folder)
    os.listdir(folder)
    with DirStream(folder) as stream:
        whole = stream.rest()
        assert names_of(whole) == [".", "..", *names]
        for at in (0, 1, 2, 129, 130, 131, 500, 1000, 128, 1001):
            stream.seek(whole[at][2])
            assert names_of(stream.rest(1024)) == names_of(whole[at + 1 :])
        for cookie in (3, 7 << 31 | 5, (1 << 62) - 1, 1 << 30, 1 << 31):
            stream.seek(cookie)
            assert set(names_of(stream.rest())) <= set(names), "an invented cookie harms nobody"


def test_huge_names(channel_mount: Mount) -> None:
    folder = channel_mount.path / "d"
    folder.mkdir()
    names = [f"{i:0255}" for i in range(300)] + ["x" * n for n in range(1, 256)]
    for name in names:
        os.mknod(folder / name, 0o100644)
    assert sorted(os.listdir(folder)) == sorted(names)
    asked, answered = sent(channel_mount, lambda: os.listdir(folder))
    assert asked == answered
    with DirStream(folder) as stream:
        assert names_of(stream.rest(300)) == [".", "..", *sorted(names)]


def test_two_mounts_see_each_others_changes_at_once(mounts: MountFactory) -> None:
    one = mounts.new(front="channel")
    two = mounts.new(one.volume, front="channel")
    fill(one.path / "d", 300)
    for i in range(30):
        for mount in (one, two):
            assert set(os.listdir(mount.path / "d")) == {f"file-{n:05}" for n in range(i, 300)} | {f"new-{n}" for n in range(i)}
            os.listdir(mount.path / "d")
        maker, remover = (one, two) if i % 2 else (two, one)
        os.mknod(maker.path / "d" / f"new-{i}", 0o100644)
        os.unlink(remover.path / "d" / f"file-{i:05}")
    time.sleep(0.5)
    os.listdir(two.path / "d")
    asked, answered = sent(two, lambda: os.listdir(two.path / "d"))
    assert asked == answered | {"OPENDIR": 1}, "which Python looks at while others have changed names lately"
    assert "READDIR" in answered


def test_a_read_only_mount_lists_without_python(mounts: MountFactory) -> None:
    one = mounts.new(None, "--heartbeat", "30", front="channel")
    two = mounts.new(one.volume, "-o", "ro", "--heartbeat", "30", front="channel")
    names = fill(one.path / "d")
    assert sorted(os.listdir(two.path / "d")) == names
    time.sleep(0.5)  # until it has heard of everything: before that, Python asks the store
    for _ in range(2):
        assert os.listdir(two.path / "d") == names
    asked, answered = sent(two, lambda: os.listdir(two.path / "d"))
    assert asked == answered and asked["OPENDIR"] == 1


def test_a_removed_directory_has_nothing_in_it(mounts: MountFactory) -> None:
    one = mounts.new(front="channel")
    two = mounts.new(one.volume, front="channel")
    folder = one.path / "d"
    folder.mkdir()
    os.listdir(folder)
    with DirStream(folder) as here, DirStream(two.path / "d") as there:
        folder.rmdir()
        for stream in (here, there):
            try:
                assert stream.rest() == []
            except FileNotFoundError:
                pass  # the kernel knows by itself
        os.fsync(here.fd)
    assert os.listdir(one.path) == []


def test_the_access_log_sees_listings(channel_mount: Mount) -> None:
    folder = channel_mount.path / "d"
    names = fill(folder, 400)
    os.listdir(folder)
    with DirStream(folder) as stream:
        begun = names_of(stream.read(2048))
        with access_log(channel_mount) as lines:
            assert [*begun, *names_of(stream.rest(2048))] == [".", "..", *names]
            os.listdir(folder)
            os.fsync(stream.fd)
    operations = [line.split()[3] for line in lines if line.startswith("2")]
    assert operations.count("readdir") >= 4 and "opendir" in operations and "fsyncdir" in operations
    asked, answered = sent(channel_mount, lambda: os.listdir(folder))
    assert asked == answered, "nobody reads the log any more"


def test_files_being_written_show_their_size_in_listings(channel_mount: Mount) -> None:
    folder = channel_mount.path / "d"
    names = fill(folder, 300)
    os.listdir(folder)
    with open(folder / names[150], "wb", buffering=0) as file:
        file.write(b"x" * 12345)
        for _ in range(2):
            with os.scandir(folder) as entries:
                sizes = {entry.name: entry.stat().st_size for entry in entries}
            assert sizes.pop(names[150]) == 12345 and set(sizes.values()) == {0}
