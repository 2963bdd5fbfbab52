"""An open by path sees what another mount has done to any name on the way, if that was over before the open began."""

import ctypes
import errno
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cairnfs.vfs.moved import GRACE_S
from support.mounts import Mount, MountFactory
from support.redis_server import RedisServer

pytestmark = pytest.mark.fuse

ROUNDS = 40
RENAME_EXCHANGE = 2
AT_FDCWD = -100

Two = tuple[Path, Path]


@pytest.fixture(params=["redis", "sqlite"])
def two(request: pytest.FixtureRequest, mounts: MountFactory) -> Two:
    """The roots of two mounts: in the first names are changed, in the second files are opened by path."""
    url = f"{request.getfixturevalue('redis_server').url}/6" if request.param == "redis" else None
    volume = mounts.volume(url=url)
    return mounts.new(volume).path, mounts.new(volume).path


def exchange(one: Path, other: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), "renameat2")


def made(folder: Path, content: str) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "f").write_text(content)
    (folder / "sub" / content).touch()
    (folder / "sub" / "e").mkdir()
    return folder


def pauses() -> list[float]:
    """Between a change and the open: none, and as long as the other mount may take to hear of it by itself."""
    chosen = random.Random(1)
    return [chosen.choice((0, 0, 0.003, chosen.uniform(0, 0.12))) for _ in range(ROUNDS)]


def replace_directory(root: Path, n: int) -> None:
    made(root / "new", str(n))
    (root / "d").rename(root / f"old{n}")
    (root / "new").rename(root / "d")


def exchange_directories(root: Path, n: int) -> None:
    exchange(made(root / f"other{n}", str(n)), root / "d")


def replace_file(root: Path, n: int) -> None:
    (root / "new").write_text(str(n))
    (root / "new").rename(root / "d" / "sub" / "f")


def move_file_away(root: Path, n: int) -> None:
    (root / "d" / "sub" / "f").rename(root / f"old{n}")
    (root / "d" / "sub" / "f").write_text(str(n))


def write_again(root: Path, n: int) -> None:
    (root / "d" / "sub" / "f").write_text(str(n))


def replace_link(root: Path, n: int) -> None:
    """`d` is a link here, as a dataset's newest version often is."""
    made(root / f"version{n}", str(n))
    (root / "link").symlink_to(f"version{n}")
    (root / "link").rename(root / "d")


def move_link_away(root: Path, n: int) -> None:
    made(root / f"version{n}", str(n))
    (root / "d").rename(root / f"link{n}")
    (root / "d").symlink_to(f"version{n}")


CHANGES = [replace_directory, exchange_directories, replace_file, move_file_away, write_again]
LINKS = [replace_link, move_link_away]


def test_an_open_sees_what_was_put_on_the_way(two: Two) -> None:
    for change in [*CHANGES, *LINKS]:
        for root in two:
            (root / change.__name__).mkdir(exist_ok=True)
        see(change, two[0] / change.__name__, two[1] / change.__name__)


def begin(change: Callable[[Path, int], None], writer: Path) -> None:
    """What the first change finds: `d`, or a link of that name."""
    if change in LINKS:
        made(writer / "first", "first")
        (writer / "d").symlink_to("first")
    else:
        made(writer / "d", "first")


def see(change: Callable[[Path, int], None], writer: Path, reader: Path) -> None:
    begin(change, writer)
    for n, pause_s in enumerate(pauses()):
        (reader / "d" / "sub" / "f").read_text()  # the kernel has the whole path
        change(writer, n)
        time.sleep(pause_s)
        assert (reader / "d" / "sub" / "f").read_text() == str(n), change.__name__


def add_name(root: Path, n: int) -> None:
    (root / "d" / "sub" / str(n)).touch()


def test_a_listing_sees_what_was_put_on_the_way(two: Two) -> None:
    for change in [replace_directory, exchange_directories, add_name, *LINKS]:
        writer, reader = (root / change.__name__ for root in two)
        made(writer / "first", "first")
        if change in LINKS:
            (writer / "d").symlink_to("first")
        else:
            (writer / "first").rename(writer / "d")
        time.sleep(0.3)  # the other mount has heard of what was made
        for n, pause_s in enumerate(pauses()[: ROUNDS // 2]):
            for _ in range(2):  # the kernel has the whole path, and compiled code the listing
                os.listdir(reader / "d" / "sub")
            change(writer, n)
            time.sleep(pause_s)
            assert str(n) in os.listdir(reader / "d" / "sub"), change.__name__


def test_an_open_sees_files_that_were_not_there(two: Two) -> None:
    writer, reader = two
    (writer / "d").mkdir()
    for n, pause_s in enumerate(pauses()):
        there = reader / "d" / f"f{n}"
        assert not there.exists()
        (writer / "d" / f"f{n}").write_text(str(n))
        time.sleep(pause_s)
        assert there.read_text() == str(n)
        (writer / "d" / f"f{n}").unlink()
        time.sleep(pause_s)
        with pytest.raises(FileNotFoundError):
            there.read_text()


def test_a_name_is_not_missed_in_a_directory_that_was_replaced(two: Two) -> None:
    writer, reader = two
    (writer / "d").mkdir()
    for n, pause_s in enumerate(pauses()):
        assert not (reader / "d" / f"f{n}").exists()
        (writer / "new").mkdir()
        (writer / "new" / f"f{n}").write_text(str(n))
        exchange(writer / "new", writer / "d")
        (writer / "new").rename(writer / f"old{n}")
        time.sleep(pause_s)
        assert (reader / "d" / f"f{n}").read_text() == str(n)
        assert not (reader / f"old{n}" / f"f{n}").exists()


def test_what_was_moved_is_opened_by_its_new_path_at_once(two: Two) -> None:
    """Whoever comes by the new path is sent back, too, and let pass the second time, as often as it opens it."""
    writer, reader = two
    made(writer / "d0", "content")
    for n in range(ROUNDS):
        (reader / f"d{n}" / "sub" / "f").read_text()
        (writer / f"d{n}").rename(writer / f"d{n + 1}")
        for _ in range(3):
            assert (reader / f"d{n + 1}" / "sub" / "f").read_text() == "content"
        with pytest.raises(FileNotFoundError):
            (reader / f"d{n}" / "sub" / "f").read_text()
        assert not (reader / f"d{n + 1}" / "absent").exists()


def test_directories_in_use_go_on_being_used(two: Two) -> None:
    """Relative to a descriptor nothing on the way has changed, whatever the directory is called now."""
    writer, reader = two
    made(writer / "d0", "content")
    fd = os.open(reader / "d0" / "sub", os.O_RDONLY)
    try:
        for n in range(20):
            (writer / f"d{n}").rename(writer / f"d{n + 1}")
            file = os.open("f", os.O_RDONLY, dir_fd=fd)
            assert os.read(file, 100) == b"content"
            again = os.open(f"/proc/self/fd/{file}", os.O_RDONLY)
            assert os.read(again, 100) == b"content"
            os.close(again)
            os.close(file)
            with pytest.raises(FileNotFoundError):
                os.open("absent", os.O_RDONLY, dir_fd=fd)
    finally:
        os.close(fd)


def test_many_readers_of_a_path_that_is_replaced_all_the_time(two: Two) -> None:
    """No open fails, and none shows what was replaced before it began."""
    writer, reader = two
    made(writer / "d", "0")
    done = threading.Event()
    newest = 0
    problems: list[str] = []

    def read() -> None:
        while not done.is_set():
            before = newest
            try:
                found = int((reader / "d" / "sub" / "f").read_text())
            except OSError as error:
                problems.append(str(error))
                return
            if found < before:
                problems.append(f"{found} was shown after {before}")

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for n in range(1, ROUNDS):
        exchange(made(writer / f"other{n}", str(n)), writer / "d")
        newest = n
    done.set()
    for thread in threads:
        thread.join()
    assert not problems, problems[:5]


def test_a_directory_that_others_have_removed_is_made_again(two: Two) -> None:
    """mkdir has no second try: what it looks up must not be sent back."""
    writer, reader = two
    for _ in range(ROUNDS):
        (reader / "d").mkdir()
        (reader / "link").symlink_to("d")
        while not (writer / "d").exists():
            time.sleep(0.001)
        (writer / "link").unlink()  # below which everything may be
        (writer / "d").rmdir()
        while (reader / "d").exists():
            time.sleep(0.001)


MAKING: dict[str, Callable[[Path], object]] = {
    "mkdir": Path.mkdir,
    "mknod": lambda path: os.mknod(path, 0o100644),
    "symlink": lambda path: path.symlink_to("target"),
    "link": lambda path: os.link(path.parents[2] / "linked", path),
    "create": lambda path: path.write_text("content"),
}


@pytest.mark.parametrize("way", [replace_directory, exchange_directories, replace_link])
def test_names_are_made_where_the_path_leads_now(two: Two, way: Callable[[Path, int], None]) -> None:
    """None of these calls fails because the kernel came to another directory by the names that it had."""
    writer, reader = two
    (writer / "linked").touch()
    begin(way, writer)
    for n, pause_s in enumerate(pauses()):
        making = [*MAKING][n % len(MAKING)]
        for _ in range(2):
            (reader / "d" / "sub" / "f").read_text()
        way(writer, n)
        time.sleep(pause_s)
        MAKING[making](reader / "d" / "sub" / f"new{n}")
        assert (writer / "d" / "sub" / str(n)).exists()
        assert os.path.lexists(writer / "d" / "sub" / f"new{n}"), making


def _replace_by_new(sub: Path) -> None:
    (sub.parents[1] / "new").write_text("new")
    (sub.parents[1] / "new").rename(sub / "f")


CHANGING: dict[str, Callable[[Path], object]] = {  # of names that the kernel has, and has had for something else
    "unlink": lambda sub: (sub / "f").unlink(),
    "rename": lambda sub: (sub / "f").rename(sub / "g"),
    "replace": _replace_by_new,
    "rmdir": lambda sub: (sub / "e").rmdir(),
    "move directory": lambda sub: (sub / "e").rename(sub.parents[1] / "e"),
    "exchange": lambda sub: exchange(sub / "f", sub / "e"),
}


def contents(sub: Path) -> list[tuple[str, str]]:
    return [(path.name, path.read_text() if path.is_file() else "") for path in sorted(sub.iterdir())]


@pytest.mark.parametrize("way", [replace_directory, exchange_directories, replace_link])
def test_names_are_changed_where_the_path_leads_now(two: Two, way: Callable[[Path, int], None]) -> None:
    """What was put away keeps its names, and no call fails."""
    for n, pause_s in enumerate(pauses()):
        changing = [*CHANGING][n % len(CHANGING)]
        for root in two:
            (root / str(n)).mkdir(exist_ok=True)
        writer, reader = (root / str(n) for root in two)
        begin(way, writer)
        for name in ("f", "e"):
            os.stat(reader / "d" / "sub" / name)  # the kernel has the whole path
        before = contents(writer / "d" / "sub")
        way(writer, n)
        put_away = writer / {replace_directory: f"old{n}", exchange_directories: f"other{n}", replace_link: "first"}[way] / "sub"
        assert contents(put_away) == before
        now = contents(writer / "d" / "sub")
        time.sleep(pause_s)
        CHANGING[changing](reader / "d" / "sub")
        assert contents(put_away) == before, f"{changing} was done to what had been put away"
        assert contents(writer / "d" / "sub") != now, f"{changing} has done nothing"


def test_one_of_two_nodes_that_rename_directories_all_the_time_is_not_held_up(two: Two) -> None:
    """Each has to look again when the other has renamed something, and neither fails."""
    problems: list[OSError] = []

    def rename(root: Path, own: str) -> None:
        try:
            (root / own).mkdir()
            (root / own / "d0").mkdir()
            for n in range(ROUNDS):
                (root / own / f"d{n}").rename(root / own / f"d{n + 1}")
                (root / own / f"d{n + 1}" / "f").write_text(str(n))
                (root / own / f"d{n + 1}" / "f").unlink()
        except OSError as error:
            problems.append(error)

    threads = [threading.Thread(target=rename, args=(root, f"{i}-{n}")) for i, root in enumerate(two) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems, problems
    for root in two:
        assert sorted(os.listdir(root)) == ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"]
        assert all(os.listdir(root / own) == [f"d{ROUNDS}"] for own in os.listdir(root))


def requests(mount: Mount, opcode: str) -> int:
    name = f'cairnfs_fuse_requests_total{{opcode="{opcode}"}} '
    return sum(int(line[len(name) :]) for line in (mount.path / ".stats").read_text().splitlines() if line.startswith(name))


@pytest.mark.usefixtures("kernel_caches")
def test_names_that_do_not_exist_are_not_left_with_the_kernel(mounts: MountFactory, redis_server: RedisServer) -> None:
    mount = mounts.new(mounts.volume(url=f"{redis_server.url}/6"))
    absent = mount.path / "absent"
    before = requests(mount, "LOOKUP")
    for _ in range(50):
        with pytest.raises(FileNotFoundError) as refused:
            absent.read_text()
        assert refused.value.errno == errno.ENOENT
    assert requests(mount, "LOOKUP") - before >= 50


@pytest.mark.usefixtures("kernel_caches")
def test_opens_of_a_replaced_path_are_sent_back_only_until_the_kernel_has_dropped_its_names(
    mounts: MountFactory, redis_server: RedisServer
) -> None:
    volume = mounts.volume(url=f"{redis_server.url}/6")
    writer, reader = mounts.new(volume), mounts.new(volume)
    made(writer.path / "d", "0")
    (reader.path / "d" / "sub" / "f").read_text()
    counting, content = 1, ""  # reading the counters is an OPEN as well

    def opens(n_reads: int) -> int:
        before = requests(reader, "OPEN")
        for _ in range(n_reads):
            assert (reader.path / "d" / "sub" / "f").read_text() == content
        return requests(reader, "OPEN") - before - counting

    def are_sent_back_no_more(until_s: float) -> bool:
        while (n_opens := opens(1)) != 1:  # until the kernel has dropped the names, which may take a moment
            assert n_opens == 2
            if time.monotonic() > until_s:
                return False
        return True

    for n in range(1, 6):  # who meets the new directory before its rename was heard of is sent back for GRACE_S, rightly
        content = str(n)
        replace_directory(writer.path, n)
        time.sleep(0.5)
        if are_sent_back_no_more(time.monotonic() + GRACE_S / 2):
            break
    else:
        pytest.fail("every open is sent back for as long as if the kernel knew the new directory by an old name")
    assert opens(20) == 20
