"""Checks that repair, on Redis, beside others who remove large files."""

from pathlib import Path
from typing import Any

import pytest

from cairnfs.check import fsck, gc
from cairnfs.const import CHUNK_BYTES
from cairnfs.meta import records
from cairnfs.types import Position
from cairnfs.volume import format_volume, new_format
from support.engine import ME, Engine
from support.redis_server import RedisServer

DATA = b"shared by two files;" * 1000


def test_a_large_file_that_is_removed_meanwhile_leaves_what_it_shares(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its inode is gone when it is looked at, and the row that says why was made after the check had listed where rows are."""
    url = f"{redis_server.url}/4"
    format_volume(url, new_format("checked", bucket=str(tmp_path / "bucket")))
    with Engine(url) as other, Engine(url) as checking:
        with other.files.created("big") as fh:
            other.files.pwrite(fh, CHUNK_BYTES, DATA)
        with other.files.opened("big") as source, other.files.created("copy") as target:
            assert other.vfs.copy_file_range(ME, source, CHUNK_BYTES, target, 0, len(DATA)) == len(DATA)
        store = checking.volume.store
        scan, position = store.scan, store.position
        removed: list[str] = []
        begun: list[Position] = []

        def busy(partition: bytes, *args: Any, **options: Any) -> Any:
            if partition[:1] == records.INODE_PREFIX and not removed:
                removed.append("big")
                other.files.unlink("big")
            return scan(partition, *args, **options)

        def another_pass() -> Position:
            begun.append(position())
            if len(begun) == 2:
                gc.run(other.volume, delete=True)
            return position()

        monkeypatch.setattr(store, "scan", busy)
        monkeypatch.setattr(store, "position", another_pass)
        report = fsck.run(checking.volume, repair=True)
        assert removed and report.ok and not report.found
        gc.run(other.volume, delete=True)
    with Engine(url) as later:
        assert later.files.read("copy") == DATA
        assert fsck.run(later.volume, verify_data=True).ok
