"""Volumes of format version 1, whose packs have other names."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cairnfs.check import fsck, gc
from cairnfs.data.old_names import OldNames, old_name
from cairnfs.data.pack import pack_name
from cairnfs.types import PackId
from cairnfs.volume import format_volume, new_format
from support.engine import Engine


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite3://{tmp_path}/meta.db"
    format_volume(url, replace(new_format("volume", bucket=str(tmp_path / "bucket")), format_version=1))
    return url


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    with Engine(url) as engine:
        yield engine


def stored(engine: Engine) -> set[str]:
    """Objects by what they are called in the folder."""
    root = Path(engine.volume.format.bucket) / "volume"
    return {str(path.relative_to(root)) for path in root.glob("packs/*/*")}


def test_names_are_those_that_format_1_had() -> None:
    assert old_name(PackId(0x1F41)) == "packs/21/0000000000001f41"
    assert old_name(PackId(0x1F42)) == "packs/db/0000000000001f42"


def test_files_are_written_read_checked_and_deleted(engine: Engine, url: str) -> None:
    for i in range(5):
        engine.files.write(f"f{i}", b"%d" % i * 1000)
    packs = [PackId(i) for i in range(1, 6)]
    assert stored(engine) == {old_name(pack) for pack in packs} != {pack_name(pack) for pack in packs}
    with Engine(url) as other:
        assert [other.files.read(f"f{i}") for i in range(5)] == [b"%d" % i * 1000 for i in range(5)]
        listed = {info.name for info in other.volume.objects.list("packs/")}
        assert listed == {pack_name(pack) for pack in packs}
        assert other.volume.objects.head(pack_name(packs[0])).name == pack_name(packs[0])
        assert fsck.run(other.volume, verify_data=True).ok
        assert gc.run(other.volume, grace_s=0).foreign_objects == 0
    engine.files.unlink("f0")
    engine.files.unlink("f1")
    engine.volume.data.deleter.run_once()
    assert stored(engine) == {old_name(pack) for pack in packs[2:]}
    assert engine.volume.format.format_version == 1


def test_volumes_of_this_format_have_no_other_names(tmp_path: Path) -> None:
    url = f"sqlite3://{tmp_path}/meta.db"
    format_volume(url, new_format("volume", bucket=str(tmp_path / "bucket")))
    with Engine(url) as engine:
        engine.files.write("f", b"content")
        assert stored(engine) == {pack_name(PackId(1))}
        assert not isinstance(engine.volume.objects, OldNames)
