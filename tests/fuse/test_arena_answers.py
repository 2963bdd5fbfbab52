"""What compiled code answers from the arena, on real mounts: which requests, that it is what Python would say, and that changes
made elsewhere are seen.
"""

import os
import stat
import struct
import subprocess
import time
from pathlib import Path

import pytest

from support.answers import drop_caches, run_all, served, served_cold, totals, until
from support.mounts import Mount, MountFactory

pytestmark = pytest.mark.fuse

N_FILES = 40
SIZES = (1, 100, 5000, 70_000)
HOT = ("LOOKUP", "GETATTR", "STATX", "OPEN", "READ", "RELEASE", "FLUSH", "FORGET", "BATCH_FORGET")
QUIET = ("--heartbeat", "30")  # no commits but those of the test
NOTHING_KEPT = ("--attr-cache", "0", "--entry-cache", "0", "--dir-entry-cache", "0")


def quiet_mount(mounts: MountFactory, *options: str) -> Mount:
    return mounts.new(None, *QUIET, *options)


def answering_mount(mounts: MountFactory) -> Mount:
    """Where compiled code answers opens, too."""
    volume = mounts.volume()
    return mounts.new(volume, *QUIET, *volume.compiled_opens)


def another(mounts: MountFactory, mount: Mount, *options: str) -> Mount:
    return mounts.new(mount.volume, *QUIET, *options)


def fill(folder: Path, n: int = N_FILES) -> dict[Path, bytes]:
    folder.mkdir()
    contents = {folder / f"f{i}": os.urandom(SIZES[i % len(SIZES)]) for i in range(n)}
    for path, data in contents.items():
        path.write_bytes(data)
    return contents


def use(contents: dict[Path, bytes]) -> None:
    """stat, open, read, close; nothing else."""
    for path, data in contents.items():
        assert os.stat(path).st_size == len(data)
        fd = os.open(path, os.O_RDONLY)
        try:
            assert os.read(fd, 1 << 20) == data
        finally:
            os.close(fd)


def by_python(found: dict[str, int]) -> dict[str, int]:
    return {op: n for op, n in found.items() if op in HOT and n > 0}


# Which requests


def test_warm_files_are_served_without_python_when_the_kernel_knows_nothing(mounts: MountFactory) -> None:
    mount = answering_mount(mounts)
    contents = fill(mount.path / "d")
    use(contents)
    drop_caches()
    use(contents)  # what was not in the arena is now
    found = served_cold(mount, lambda: use(contents))
    assert by_python(found.python) == {}
    assert found.compiled["LOOKUP"] == 1 + N_FILES
    assert found.compiled["OPEN"] == found.compiled["RELEASE"] == N_FILES
    assert found.compiled["READ"] >= N_FILES


def test_so_are_those_of_a_read_only_mount(mounts: MountFactory) -> None:
    one = quiet_mount(mounts)
    two = another(mounts, one, "-o", "ro")
    made = fill(one.path / "d")
    contents = {two.path / "d" / path.name: data for path, data in made.items()}
    use(contents)
    drop_caches()
    use(contents)
    found = served_cold(two, lambda: use(contents))
    assert by_python(found.python) == {}
    assert found.compiled["LOOKUP"] == 1 + N_FILES
    assert found.compiled["READ"] >= N_FILES
    assert found.compiled["OPEN"] == 0, "the kernel does not send it"


def test_what_this_mount_has_just_made_is_known(mounts: MountFactory) -> None:
    mount = answering_mount(mounts)
    contents = fill(mount.path / "d")
    found = served_cold(mount, lambda: [os.close(os.open(path, os.O_RDONLY)) for path in contents if os.stat(path)])
    assert by_python(found.python) == {}
    assert (found.compiled["LOOKUP"], found.compiled["OPEN"]) == (1 + N_FILES, N_FILES)
    (mount.path / "d" / "f0").rename(mount.path / "d" / "g")
    os.link(mount.path / "d" / "f1", mount.path / "d" / "h")
    os.symlink("g", mount.path / "d" / "s")
    (mount.path / "d" / "sub").mkdir()
    names = [mount.path / "d" / name for name in ("g", "h", "s", "sub", "f1")]
    found = served_cold(mount, lambda: [os.lstat(path) for path in names])
    assert by_python(found.python) == {}
    assert found.compiled["LOOKUP"] == 1 + len(names)


def test_what_is_absent_is_asked_of_python_once(mounts: MountFactory) -> None:
    one = quiet_mount(mounts)
    two = another(mounts, one)
    (one.path / "d").mkdir()
    until((two.path / "d").exists)
    time.sleep(0.5)  # the follower has made the kernel forget the folder
    path = two.path / "d" / "absent"
    assert not path.exists()
    found = served(two, path.exists)
    by_whom = found.python if one.volume.is_shared else found.compiled  # who asks whether others have made it since
    assert by_whom["LOOKUP"] == 1 == found.compiled["LOOKUP"] + found.python["LOOKUP"]
    for i in range(20):
        (one.path / "d" / "absent").write_bytes(b"%d" % i)
        assert path.read_bytes() == b"%d" % i, "created elsewhere: found at once"
        path.unlink()
        assert not path.exists()
        assert not path.exists()


def test_extended_attributes_that_are_not_there(mounts: MountFactory) -> None:
    mount = quiet_mount(mounts)
    path = mount.path / "f"
    path.write_bytes(b"x")

    def look() -> None:
        assert os.listxattr(path) == []
        with pytest.raises(OSError, match="No data"):
            os.getxattr(path, "user.a")

    look()
    found = served(mount, look)
    assert (found.compiled["GETXATTR"], found.compiled["LISTXATTR"]) == (1, 1)
    assert not found.python["GETXATTR"] and not found.python["LISTXATTR"]
    os.setxattr(path, "user.a", b"1")
    assert (os.listxattr(path), os.getxattr(path, "user.a")) == (["user.a"], b"1")
    with pytest.raises(OSError, match="No data"):
        os.getxattr(path, "user.b")
    os.removexattr(path, "user.a")
    look()
    assert os.getxattr(path, "cairnfs.info"), "computed, so never absent"


@pytest.mark.parametrize(
    "name", ["user.a", "user.", "trusted.a", "security.capability", "system.posix_acl_access", "system.a", "a"]
)
def test_extended_attributes_fail_as_python_says(mounts: MountFactory, name: str) -> None:
    """Without a name space EOPNOTSUPP, not ENODATA: tools ask for what the file system knows nothing of."""
    mount = quiet_mount(mounts)
    path = mount.path / "f"
    path.write_bytes(b"x")
    errors = []
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            os.getxattr(path, name)
        errors.append(caught.value.errno)
        os.setxattr(path, "user.x", b"")  # now Python is asked
    assert errors[0] == errors[1]


def acl_of(user: int) -> bytes:
    entries = [(1, 6, -1), (2, 4, user), (4, 4, -1), (16, 4, -1), (32, 0, -1)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)


def test_acls_come_and_go(mounts: MountFactory) -> None:
    one = quiet_mount(mounts)
    two = another(mounts, one)
    path, there = one.path / "f", two.path / "f"
    path.write_bytes(b"x")
    until(there.exists)
    for i in range(5):
        for at in (path, there):
            until(lambda at=at: "system.posix_acl_access" not in os.listxattr(at))
        os.setxattr(path, "system.posix_acl_access", acl_of(1000 + i))
        for at in (path, there):
            until(lambda at=at: "system.posix_acl_access" in os.listxattr(at))
            until(lambda at=at, i=i: os.getxattr(at, "system.posix_acl_access") == acl_of(1000 + i))
        os.removexattr(path, "system.posix_acl_access")


# That it is what Python would say


def everything(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for name in sorted(os.listdir(root)):
        st = os.lstat(root / name)
        found[name] = (*(getattr(st, field) for field in dir(st) if field.startswith("st_")), statx(root / name))
    return found


def statx(path: Path) -> str:
    """All that statx(1) knows, the time of birth too."""
    form = "%A %b %B %F %g %h %i %o %s %t %T %u %W %w %x %X %y %Y %z %Z"
    return subprocess.run(["stat", "-c", form, path], check=True, capture_output=True, text=True).stdout


def test_attributes_are_those_that_python_would_give(mounts: MountFactory) -> None:
    """The access log makes compiled code silent, so that the same question is answered by the other side."""
    if os.geteuid() != 0:
        pytest.skip("device nodes need root")
    mount = quiet_mount(mounts, *NOTHING_KEPT)
    top = mount.path / "d"
    top.mkdir()
    (top / "dir").mkdir()
    (top / "dir" / "sub").mkdir()
    (top / "empty").touch()
    (top / "file").write_bytes(b"x" * 12_345)
    os.symlink("some/where", top / "link")
    os.mkfifo(top / "fifo")
    os.mknod(top / "device", stat.S_IFBLK | 0o640, os.makedev(4000, 99_999))
    os.link(top / "file", top / "other")
    for name, times in {"old": (-5_000_000_001, -1), "ancient": (-(2**62), 0), "late": (2**62, 2**63 - 10**9)}.items():
        (top / name).write_bytes(b"x")
        os.utime(top / name, ns=times)
    (top / "set").write_bytes(b"x")
    os.chmod(top / "set", 0o6755)
    os.chown(top / "set", 4_000_000_000, 65_534)
    (top / "sparse").touch()
    os.truncate(top / "sparse", 1 << 40)
    os.listdir(top)
    time.sleep(0.5)  # the follower has seen all of that, too
    compiled: list[object] = []
    found = served(mount, lambda: compiled.append(everything(top)))
    assert found.compiled["LOOKUP"] >= 13 and not found.python["LOOKUP"]
    log = os.open(mount.path / ".accesslog", os.O_RDONLY)
    try:
        asked: list[object] = []
        found = served(mount, lambda: asked.append(everything(top)))
        assert not found.compiled["LOOKUP"] and found.python["LOOKUP"] >= 13
    finally:
        os.close(log)
    assert compiled == asked


def test_the_access_log_shows_what_compiled_code_would_have_answered(mounts: MountFactory) -> None:
    mount = answering_mount(mounts)
    contents = fill(mount.path / "d", 4)
    use(contents)
    drop_caches()
    reader = subprocess.Popen(["cat", mount.path / ".accesslog"], stdout=subprocess.PIPE)
    assert reader.stdout is not None
    os.set_blocking(reader.stdout.fileno(), False)
    said = bytearray()

    def says(what: bytes) -> bool:
        os.path.exists(mount.path / "absent")
        said.extend(reader.stdout.read() or b"")
        return what in said

    until(lambda: says(b"absent"))
    use(contents)
    os.getxattr(next(iter(contents)), "cairnfs.info")
    until(lambda: says(b"cairnfs.info"))
    text = said.decode()
    for name in ("f0", "f1", "f2", "f3"):
        assert f",{name}): OK" in text
    for op in (" lookup ", " open ", " read "):
        assert text.count(op) >= 4, text
    reader.kill()
    reader.communicate()
    found = served_cold(mount, lambda: use(contents))
    assert by_python(found.python) == {}, "nobody reads the log any more"


def test_debugging_shows_every_request(mounts: MountFactory) -> None:
    mount = quiet_mount(mounts, "-o", "debug")
    contents = fill(mount.path / "d", 4)
    for _ in range(2):
        drop_caches()
        use(contents)
    found = served_cold(mount, lambda: use(contents))
    assert not found.compiled - found.compiled.__class__(FLUSH=found.compiled["FLUSH"])
    assert found.python["OPEN"] == 4
    assert "OPEN of inode" in mount.log.read_text()


# What others change


@pytest.fixture
def pair(mounts: MountFactory) -> tuple[Path, Path]:
    """The same folder on two mounts; the second has used what is in it."""
    one = quiet_mount(mounts)
    two = another(mounts, one)
    contents = fill(one.path / "d", 8)
    until((two.path / "d").exists)
    for _ in range(2):
        use({two.path / "d" / path.name: data for path, data in contents.items()})
    return one.path / "d", two.path / "d"


def missing(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except FileNotFoundError:
        return True
    return False


def test_an_open_sees_what_others_have_written(pair: tuple[Path, Path]) -> None:
    here, there = pair
    for i in range(100):
        data = os.urandom(1 + i * 37)
        (here / "f0").write_bytes(data)
        assert (there / "f0").read_bytes() == data
        assert os.stat(there / "f0").st_size == len(data), "attributes came with the open"


def test_a_name_that_others_put_in_place_is_seen(pair: tuple[Path, Path]) -> None:
    here, there = pair
    for i in range(30):
        (here / "new").write_bytes(b"%d" % i)
        os.rename(here / "new", here / "f1")
        until(lambda i=i: (there / "f1").read_bytes() == b"%d" % i)
        (here / "f1").chmod(0o600 + i % 8)
        until(lambda i=i: os.stat(there / "f1").st_mode & 0o777 == 0o600 + i % 8)
    (here / "f2").unlink()
    until(lambda: missing(there / "f2"))
    os.rename(here / "f3", here / "g3")
    until(lambda: missing(there / "f3"))
    assert (there / "g3").exists()


def test_what_the_kernel_forgot_is_answered_as_of_now(pair: tuple[Path, Path]) -> None:
    """Nothing but compiled code could still know the old state."""
    here, there = pair
    for i in range(3):
        (here / "f0").write_bytes(b"x" * (i + 1))
        (here / "f1").chmod(0o600 + i)
        (here / f"f{4 + i}").unlink()
        os.rename(here / "f2", here / "f3") if i == 0 else (here / "f3").rename(here / f"f3{i}")
        drop_caches()
        assert os.stat(there / "f0").st_size == i + 1
        assert stat.S_IMODE(os.stat(there / "f1").st_mode) == 0o600 + i
        assert not (there / f"f{4 + i}").exists()
        assert not (there / "f2").exists()
        assert sorted(os.listdir(there)) == sorted(os.listdir(here))
        (here / f"f3{i}").rename(here / "f3") if i else None


def test_what_python_answers_while_others_commit_is_not_kept_for_later(mounts: MountFactory) -> None:
    """Rows that were read before a commit and noted after it, as two busy mounts do all the time."""
    one = quiet_mount(mounts, *NOTHING_KEPT)
    two = another(mounts, one, *NOTHING_KEPT)
    (one.path / "n").write_bytes(b"")
    until((two.path / "n").exists)
    script = """
import os, sys, time
path, act, end = sys.argv[1], sys.argv[2], time.monotonic() + 4
n = last = 0
while time.monotonic() < end:
    if act == "change":
        n += 1
        os.truncate(path, n)
    elif act == "chmod":
        n += 1
        os.chmod(path, 0o600 + n % 64)
    else:
        size = os.stat(path).st_size
        assert size >= last, f"{size} after {last}"
        last = size
"""
    paths = [(one.path / "n", "change"), (two.path / "n", "chmod"), (one.path / "n", "look"), (two.path / "n", "look")]
    run_all(script, paths)
    for mount in (one, two):
        assert totals(mount).compiled["LOOKUP"] > 0


def test_no_open_keeps_pages_that_another_open_is_about_to_drop(mounts: MountFactory, tmp_path: Path) -> None:
    """Readers on one mount, all at once, of what is written on another: none may get less than was promised before it opened."""
    one = quiet_mount(mounts)
    two = another(mounts, one)
    for i in range(4):
        (one.path / f"n{i}").write_bytes(bytes(800))
    until((two.path / "n3").exists)
    promised = tmp_path / "promised"
    promised.write_bytes(bytes(32))
    script = """
import mmap, os, random, struct, sys, time
top, act, end = sys.argv[1], sys.argv[2], time.monotonic() + 5
with open(sys.argv[3], "r+b") as file:
    promised = memoryview(mmap.mmap(file.fileno(), 32)).cast("Q")
while time.monotonic() < end:
    i = random.randrange(4)
    least = promised[i]
    fd = os.open(f"{top}/n{i}", os.O_WRONLY if act == "write" else os.O_RDONLY)
    if act == "write":
        os.pwrite(fd, struct.pack("=Q", least + 1) * 100, 0)
        os.close(fd)
        promised[i] = least + 1
    else:
        found = struct.unpack_from("=Q", os.read(fd, 1000))[0]
        os.close(fd)
        assert found >= least, f"{found} of {least}"
"""
    run_all(script, [(one.path, "write", promised), *[(two.path, "read", promised)] * 4])
