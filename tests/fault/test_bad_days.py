"""Design section 8 through a real mount: stores that vanish and return, damage, full disks, unusable volumes."""

import errno
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.mounts import Mount, MountFactory, cairnfs
from support.storing import failure

pytestmark = pytest.mark.fuse


def one_line_failure(*args: str | Path, code: int = 1) -> str:
    done = cairnfs(*args, check=False)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    lines = done.stderr.strip().splitlines()
    if code == 1:
        assert len(lines) == 1, done.stderr
    return done.stderr


def test_unusable_volumes_and_mountpoints_get_one_line(mounts: MountFactory, tmp_path: Path) -> None:
    mount = mounts.new()
    missing = f"sqlite3://{tmp_path}/none.db"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "cairnfs format" in one_line_failure("mount", missing, empty)
    one_line_failure("mount", "nonsense://x", empty, code=2)
    assert "no-such" in one_line_failure("mount", mount.volume.url, tmp_path / "no-such", "-d")
    assert "mount" in one_line_failure("mount", mounts.volume().url, mount.path, "-d")
    (tmp_path / "file").touch()
    one_line_failure("mount", mount.volume.url, tmp_path / "file", "-d")
    (tmp_path / "text.db").write_text("this is not a database, " * 100)
    one_line_failure("status", f"sqlite3://{tmp_path}/text.db")
    one_line_failure("format", mount.volume.url, "other-name", "--bucket", tmp_path / "b2")
    one_line_failure("format", missing, "Bad Name!", "--bucket", tmp_path / "b2", code=2)
    one_line_failure("umount", empty)


def test_a_newer_volume_is_refused(mounts: MountFactory) -> None:
    import sqlite3

    volume = mounts.volume()
    db = sqlite3.connect(volume.db)
    (value,) = db.execute("select value from rows where part = x'76' and key = ?", (b"format",)).fetchone()
    newer = re.sub(rb'("format_version":\s*)\d+', rb"\g<1>99", value)
    assert newer != value
    with db:
        db.execute("update rows set value = ? where part = x'76' and key = ?", (newer, b"format"))
    db.close()
    assert "99" in one_line_failure("status", volume.url)
    mounts.expect_damage(volume)


def damage(pack: Path, at: int) -> None:
    pack.chmod(0o600)
    with open(pack, "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0x40]))


def told_once(mount: Mount, pack: Path) -> list[str]:
    """The lines of the log about a pack: one of each process that has read it."""
    lines = [line for line in mount.log.read_text().splitlines() if pack.name in line]
    pids = [line.split()[2] for line in lines]
    assert pids and len(set(pids)) == len(pids), lines
    return lines


def test_a_corrupt_pack_is_an_io_error_and_one_log_line(mounts: MountFactory, front: str) -> None:
    mount = mounts.new(front=front)
    (mount.path / "good").write_bytes(os.urandom(50_000))
    (mount.path / "bad").write_bytes(os.urandom(70_000))
    inode = os.stat(mount.path / "bad").st_ino
    mount.stop()
    victim = max(mount.volume.packs, key=lambda p: p.stat().st_size)
    damage(victim, 40_000)
    mount.expected_log.append("corrupt|checksum|CRC")
    mount.start()
    for _ in range(3):
        assert failure((mount.path / "bad").read_bytes) == errno.EIO
    assert len((mount.path / "good").read_bytes()) == 50_000
    lines = told_once(mount, victim)
    assert all(str(inode) in line for line in lines)
    mounts.expect_damage(mount.volume)
    report = mount.volume.fsck("--verify-data")
    assert victim.name in str(report)


def test_a_missing_pack_is_an_io_error(mounts: MountFactory) -> None:
    mount = mounts.new()
    (mount.path / "f").write_bytes(os.urandom(50_000))
    mount.stop()
    victim = mount.volume.packs[0]
    victim.unlink()
    mount.expected_log.append("does not exist in")
    mount.start()
    for _ in range(3):
        assert failure((mount.path / "f").read_bytes) == errno.EIO
    told_once(mount, victim)
    mounts.expect_damage(mount.volume)


def test_writers_wait_while_the_folder_is_gone(mounts: MountFactory) -> None:
    mount = mounts.new(None, "--io-timeout", "30")
    mount.expected_log.append(".")
    (mount.path / "before").write_bytes(b"b" * 1000)
    bucket, aside = mount.volume.bucket, mount.volume.root / "aside"
    os.rename(bucket, aside)
    results: list[object] = []

    def write() -> None:
        try:
            (mount.path / "during").write_bytes(b"d" * 100_000)
            results.append("written")
        except OSError as error:
            results.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(1.5)
    assert not results, f"the writer did not wait: {results}"
    os.rename(aside, bucket)
    writer.join(40)
    assert results == ["written"]
    mount.restart()
    assert (mount.path / "during").read_bytes() == b"d" * 100_000
    assert (mount.path / "before").read_bytes() == b"b" * 1000


def test_writers_get_eio_when_the_folder_stays_away(mounts: MountFactory) -> None:
    mount = mounts.new(None, "--io-timeout", "1")
    mount.expected_log.append(".")
    bucket, aside = mount.volume.bucket, mount.volume.root / "aside"
    os.rename(bucket, aside)
    with pytest.raises(OSError) as caught, open(mount.path / "f", "wb") as file:
        file.write(b"x" * 100_000)
    assert caught.value.errno == errno.EIO
    os.rename(aside, bucket)
    (mount.path / "f").write_bytes(b"works again")
    assert (mount.path / "f").read_bytes() == b"works again"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill_until_full(mount: Mount) -> list[str]:
    """Write files until the disk is full; the names of those whose close succeeded."""
    kept = []
    for i in range(400):
        name = f"f{i}"
        try:
            (mount.path / name).write_bytes(bytes([i % 256]) * 200_000 + os.urandom(50_000))
        except OSError as error:
            assert error.errno in (errno.ENOSPC, errno.EIO), error
            return kept
        kept.append(name)
    raise AssertionError("the disk never filled")


@pytest.mark.parametrize("what", ["bucket", "database"])
def test_a_full_disk_is_reported_and_loses_nothing(mounts: MountFactory, small_disk: Path, tmp_path: Path, what: str) -> None:
    volume = mounts.volume()
    url, bucket = f"sqlite3://{tmp_path}/m.db", small_disk / "b"
    if what == "database":
        url, bucket = f"sqlite3://{small_disk}/m.db", tmp_path / "b"
    cairnfs("format", url, "full-disk", "--bucket", bucket)
    volume.url, volume.bucket, volume.name = url, bucket, "full-disk"
    mounts.expect_damage(volume)  # its disk is gone when the others are checked: checked below
    mount = mounts.new(volume, "--io-timeout", "2")
    mount.expected_log.append(".")
    try:
        if what == "database":
            filler = small_disk / "filler"
            with open(filler, "wb", buffering=0) as file:
                try:
                    while file.write(bytes(1 << 16)) == 1 << 16:
                        pass
                except OSError as error:
                    assert error.errno == errno.ENOSPC
            with pytest.raises(OSError) as caught:
                for i in range(20_000):
                    (mount.path / f"d{i}").mkdir()
            assert caught.value.errno in (errno.ENOSPC, errno.EIO)
            filler.unlink()
        else:
            kept = fill_until_full(mount)
            assert kept
            for i, name in enumerate(kept):
                data = (mount.path / name).read_bytes()
                assert len(data) == 250_000 and data[:200_000] == bytes([i % 256]) * 200_000
            for name in kept[:10]:
                (mount.path / name).unlink()
            time.sleep(3)
        (mount.path / "after").write_bytes(b"there is room again")
        mount.restart()
        assert (mount.path / "after").read_bytes() == b"there is room again"
        mount.stop()
        volume.assert_clean()
    finally:
        if mount.mounted:
            mount.stop()
