"""Making, showing, changing and destroying volumes through the command line."""

import json
import os
import re
import stat
from pathlib import Path

import pytest

from cairnfs.const import ROOT_INO
from cairnfs.errors import StoreError
from cairnfs.types import Caller, Inode
from cairnfs.volume import open_volume
from support.mounts import Volume, cairnfs


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "v", "photos", "--capacity", "2", "--inodes", "1K")


def shown(volume: Volume) -> dict[str, object]:
    status = json.loads(cairnfs("status", volume.url, "--json").stdout)
    assert isinstance(status, dict)
    return status


def test_status_shows_what_was_formatted(volume: Volume) -> None:
    status = shown(volume)
    assert isinstance(status["format"], dict)
    uuid = status["format"].pop("uuid")
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", uuid)
    assert status["format"].pop("created") > 1_600_000_000
    assert status == {
        "format": {
            "name": "photos",
            "format_version": 2,
            "storage": "file",
            "bucket": str(volume.bucket),
            "storage_options": {},
            "block_bytes": 4 << 20,
            "compression": "none",
            "capacity_bytes": 2 << 30,
            "inodes": 1000,
        },
        "usage": {"used_bytes": 0, "used_inodes": 1},
        "sessions": [],
    }
    text = cairnfs("status", volume.url).stdout
    assert uuid in text and "2 GiB" in text


def test_the_bucket_is_marked_with_the_volume(volume: Volume) -> None:
    uuid = shown(volume)["format"]["uuid"]  # type: ignore[index]
    assert (volume.bucket / "photos" / "cairnfs_uuid").read_text().strip() == uuid


def test_formatting_again_is_refused(volume: Volume) -> None:
    before = shown(volume)
    again = cairnfs("format", volume.url, "photos", "--bucket", volume.bucket, check=False)
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1 and "--force" in again.stderr
    assert shown(volume) == before


def test_formatting_by_force_replaces_the_volume_and_its_objects(volume: Volume) -> None:
    pack = volume.bucket / "photos" / "packs" / "00" / ("0" * 16)
    pack.parent.mkdir(parents=True)
    pack.write_bytes(b"old")
    before = shown(volume)
    cairnfs("format", volume.url, "photos", "--bucket", volume.bucket, "--force")
    assert not pack.exists()
    assert shown(volume)["format"]["uuid"] != before["format"]["uuid"]  # type: ignore[index]


def test_a_folder_with_another_volumes_objects_is_refused_and_left_alone(volume: Volume, tmp_path: Path) -> None:
    other = f"sqlite3://{tmp_path}/other.db"
    done = cairnfs("format", other, "photos", "--bucket", volume.bucket, check=False)
    assert done.returncode == 1
    assert "another volume" in done.stderr
    assert (volume.bucket / "photos" / "cairnfs_uuid").exists()
    cairnfs("format", other, "photos2", "--bucket", volume.bucket)


def test_a_failed_format_does_not_block_the_next(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    url = f"sqlite3://{tmp_path}/m.db"
    assert cairnfs("format", url, "photos", "--bucket", tmp_path / "file", check=False).returncode == 1
    cairnfs("format", url, "photos", "--bucket", tmp_path / "bucket")


def test_config_changes_limits_and_nothing_else(volume: Volume) -> None:
    before = json.loads(cairnfs("config", volume.url, "--json").stdout)
    after = json.loads(cairnfs("config", volume.url, "--capacity", "512M", "--json").stdout)
    assert after == before | {"capacity_bytes": 512 << 20}
    assert json.loads(cairnfs("config", volume.url, "--inodes", "0", "--json").stdout) == after | {"inodes": 0}
    assert "no limit" in cairnfs("config", volume.url).stdout


def test_destroy_wants_the_right_uuid_and_deletes_everything(volume: Volume) -> None:
    wrong = cairnfs("destroy", volume.url, "00000000-0000-0000-0000-000000000000", "--yes", check=False)
    assert wrong.returncode == 1 and "uuid" in wrong.stderr
    uuid = str(shown(volume)["format"]["uuid"])  # type: ignore[index]
    unconfirmed = cairnfs("destroy", volume.url, uuid, check=False)
    assert unconfirmed.returncode == 130
    cairnfs("destroy", volume.url, uuid, "--yes")
    assert not (volume.bucket / "photos").exists()
    gone = cairnfs("status", volume.url, check=False)
    assert gone.returncode == 1 and "cairnfs format" in gone.stderr
    cairnfs("format", volume.url, "photos", "--bucket", volume.bucket)


@pytest.mark.parametrize("is_replaced", [False, True])
def test_who_has_a_destroyed_volume_open_has_nothing_to_do_with_the_next(volume: Volume, is_replaced: bool) -> None:
    with open_volume(volume.url, data=False) as opened:
        root, left = Inode(ROOT_INO), opened.meta.ids.inode()
        cairnfs("destroy", volume.url, opened.format.uuid, "--yes", fork=True)
        if is_replaced:
            cairnfs("format", volume.url, "photos", "--bucket", volume.bucket, fork=True)
            with open_volume(volume.url, data=False) as another:
                assert another.meta.names.create(Caller(), root, b"f", stat.S_IFREG).ino > left + 1024
        with pytest.raises(StoreError, match="was destroyed"):
            opened.refresh_format()
        for call in (opened.meta.names.get, lambda ino: opened.meta.names.create(Caller(), ino, b"g", stat.S_IFREG)):
            with pytest.raises(StoreError, match="was destroyed"):
                call(root)


def test_destroy_leaves_what_may_not_be_its_own_and_goes_on_only_by_force(volume: Volume) -> None:
    uuid = str(shown(volume)["format"]["uuid"])  # type: ignore[index]
    (volume.bucket / "photos" / "cairnfs_uuid").rename(volume.bucket / "photos" / "other")
    refused = cairnfs("destroy", volume.url, uuid, "--yes", check=False)
    assert refused.returncode == 1 and str(volume.bucket) in refused.stderr
    forced = cairnfs("destroy", volume.url, uuid, "--yes", "--force")
    assert "left behind" in forced.stderr
    assert (volume.bucket / "photos" / "other").exists()
    assert cairnfs("status", volume.url, check=False).returncode == 1


def test_info_outside_a_mount_is_refused(tmp_path: Path) -> None:
    done = cairnfs("info", tmp_path, check=False)
    assert done.returncode == 1 and "not in a cairnfs mount" in done.stderr
    assert cairnfs("info", tmp_path / "none", check=False).returncode == 1


def test_fsck_and_gc_find_nothing_in_a_new_volume(volume: Volume) -> None:
    volume.assert_clean("--verify-data")
    found = json.loads(cairnfs("gc", volume.url, "--json").stdout)
    assert found["unknown_objects"] == found["garbage_packs"] == 0
    assert "add --delete" in cairnfs("gc", volume.url).stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_bucket_without_permission_is_one_line(tmp_path: Path) -> None:
    done = cairnfs("format", f"sqlite3://{tmp_path}/m.db", "photos", "--bucket", "/proc/none", check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1


def test_destroy_does_not_take_an_unmounted_disk_for_an_empty_one(volume: Volume) -> None:
    uuid = str(shown(volume)["format"]["uuid"])  # type: ignore[index]
    volume.bucket.rename(volume.root / "elsewhere")
    refused = cairnfs("destroy", volume.url, uuid, "--yes", check=False)
    assert refused.returncode == 1 and "mount its disk first" in refused.stderr
    cairnfs("status", volume.url)
    (volume.root / "elsewhere").rename(volume.bucket)
    cairnfs("destroy", volume.url, uuid, "--yes")
