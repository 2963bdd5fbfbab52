"""What a metadata URL that cannot be used gets: one line that says what is wrong, and nothing left open."""

import errno
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairnfs.errors import CairnError, CorruptError, StoreError, UsageError, VolumeError
from cairnfs.meta.stores import open_store
from cairnfs.meta.stores.base import Add, Put
from cairnfs.meta.stores.memory import MemoryStore

COUNT = (b"count", b"all")


def refusal(url: str, create: bool = False) -> CairnError:
    with pytest.raises(CairnError) as refused:
        open_store(url, create)
    assert "\n" not in str(refused.value)
    return refused.value


def made(path: Path) -> str:
    url = f"sqlite3://{path}"
    open_store(url, create=True).close()
    return url


# --- URLs ---


@pytest.mark.parametrize("form", ["sqlite3://{}", "sqlite://{}", "SQLITE3://{}", "{}"])
def test_sqlite_file_has_several_names(tmp_path: Path, form: str) -> None:
    url = form.format(tmp_path / "m.db")
    open_store(url, create=True).close()
    open_store(url).close()


def test_memory_stores_of_one_name_are_one() -> None:
    open_store("memory://test-sqlite-errors").commit([], [Put(COUNT, b"1")])
    assert open_store("memory://test-sqlite-errors").read([COUNT]) != [None]
    assert open_store("memory://test-sqlite-other").read([COUNT]) == [None]
    assert MemoryStore().read([COUNT]) == [None]


@pytest.mark.parametrize("url", ["", "nothing", "m.sqlite", "://x", "mysql://host/db", "etcd://host"])
def test_url_of_no_store_is_refused_listing_the_known_ones(url: str) -> None:
    error = refusal(url)
    assert isinstance(error, UsageError)
    assert error.exit_code == 2
    assert "sqlite3://PATH" in str(error)


def test_store_of_a_later_version_is_refused_saying_so() -> None:
    error = refusal("tikv://localhost/1")
    assert isinstance(error, UsageError)
    assert "metadata store 'tikv' is not available in this version; use sqlite3://PATH" in str(error)


@pytest.mark.parametrize("url", ["sqlite3://", "sqlite3:///tmp/"])
def test_sqlite_url_without_a_file_is_refused(url: str) -> None:
    assert isinstance(refusal(url, create=True), UsageError)


# --- files ---


def test_missing_file_says_how_to_make_a_volume_and_is_not_made(tmp_path: Path) -> None:
    url = f"sqlite3://{tmp_path}/m.db"
    error = refusal(url)
    assert isinstance(error, VolumeError)
    assert error.errno == errno.ENOENT
    assert f"no volume at {url}: create it with 'cairnfs format {url} NAME'" in str(error)
    assert os.listdir(tmp_path) == []


def test_empty_file_counts_as_missing(tmp_path: Path) -> None:
    (tmp_path / "m.db").touch()
    assert "cairnfs format" in str(refusal(f"sqlite3://{tmp_path}/m.db"))
    made(tmp_path / "m.db")


@pytest.mark.parametrize("create", [False, True])
def test_missing_folder_is_named(tmp_path: Path, create: bool) -> None:
    error = refusal(f"sqlite3://{tmp_path}/no/m.db", create)
    assert isinstance(error, VolumeError)
    assert f"folder {tmp_path}/no " in str(error)


def test_folder_is_no_file(tmp_path: Path) -> None:
    assert refusal(f"sqlite3://{tmp_path}", create=True).errno == errno.EISDIR


@pytest.mark.parametrize("create", [False, True])
def test_file_that_is_no_database_is_refused_and_kept(tmp_path: Path, create: bool) -> None:
    path = tmp_path / "m.db"
    path.write_bytes(b"my thesis, final version\n" * 100)
    error = refusal(f"sqlite3://{path}", create)
    assert isinstance(error, VolumeError)
    assert "not an SQLite database" in str(error)
    assert path.read_bytes() == b"my thesis, final version\n" * 100


@pytest.mark.parametrize("create", [False, True])
def test_database_of_another_program_is_refused_and_kept(tmp_path: Path, create: bool) -> None:
    path = tmp_path / "m.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE jfs_node(inode INTEGER)")
    connection.close()
    before = path.read_bytes()
    assert "another program" in str(refusal(f"sqlite3://{path}", create))
    assert path.read_bytes() == before


def test_newer_schema_is_refused_naming_both_versions(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    url = made(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    error = refusal(url)
    assert isinstance(error, VolumeError)
    assert "schema 99" in str(error)
    assert "knows schema 1: upgrade cairnfs" in str(error)


def test_damaged_file_is_an_io_error(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    url = made(path)
    store = open_store(url)
    store.commit([], [Put((b"p", b"%d" % n), b"x" * 1000) for n in range(1000)])
    store.close()
    with open(path, "r+b") as file:
        file.seek(8192)
        file.write(b"\xa5" * 500_000)
    store = open_store(url)
    with pytest.raises(CorruptError, match="damaged") as raised:
        store.scan(b"p", None, 10_000)
    assert raised.value.errno == errno.EIO
    store.close()


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that other users can reach, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="cairnfs-test-") as folder:
        yield Path(folder)


AS_NOBODY = """
import os, sys
from cairnfs.errors import CairnError
from cairnfs.meta.stores import open_store
os.setuid(65534)
try:
    open_store(sys.argv[1], create=True).close()
except CairnError as error:
    print(type(error).__name__, error.errno, error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("locked", ["folder", "file"])
def test_file_of_another_user_is_refused(public_folder: Path, locked: str) -> None:
    folder = public_folder
    made(folder / "m.db")
    os.chmod(folder, 0o755 if locked == "folder" else 0o777)
    os.chmod(folder / "m.db", 0o666 if locked == "folder" else 0o644)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-c", AS_NOBODY, f"sqlite3://{folder}/m.db"]
    found = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=True)
    named = folder if locked == "folder" else folder / "m.db"
    assert found.stdout.startswith(f"VolumeError {errno.EACCES} {named} cannot be written by this user")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounts a file system")
    mountpoint = tmp_path / "small"
    mountpoint.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mountpoint)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this container may not mount")
    yield mountpoint
    subprocess.run(["umount", str(mountpoint)], check=True)


def test_full_disk_is_enospc_loses_nothing_and_can_be_mended(small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(1_000_000))
    url = f"sqlite3://{small_disk}/m.db"
    store = open_store(url, create=True)
    n_done = 0
    with pytest.raises(StoreError, match="no space left for the metadata") as raised:
        for n in range(1000):
            store.commit([], [Put((b"p", n.to_bytes(8, "big")), bytes(4000)), Add(COUNT, 0, 1)])
            n_done = n + 1
    assert raised.value.errno == errno.ENOSPC
    assert n_done > 0
    assert len(store.scan(b"p", None, 10_000)) == n_done
    filler.unlink()
    assert store.commit([], [Add(COUNT, 0, 1)]).added == [n_done + 1]
    store.close()
    store = open_store(url)
    assert len(store.scan(b"p", None, 10_000)) == n_done
    store.close()


def free_bytes(folder: Path) -> int:
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize


def test_new_store_on_a_full_disk_is_enospc(small_disk: Path) -> None:
    with open(small_disk / "filler", "wb", buffering=0) as filler:
        while free_bytes(small_disk):
            filler.write(bytes(4096))
    error = refusal(f"sqlite3://{small_disk}/m.db", create=True)
    assert isinstance(error, StoreError)
    assert error.errno == errno.ENOSPC


def test_file_system_mounted_read_only_is_refused(small_disk: Path) -> None:
    url = made(small_disk / "m.db")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    error = refusal(url)
    assert isinstance(error, VolumeError)
    assert "cannot be written" in str(error)
