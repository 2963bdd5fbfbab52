"""The volume format: what a new volume holds, what is refused, what may change."""

import json
import stat
from dataclasses import replace
from typing import Any

import pytest

from cairnfs.const import MIB, ROOT_INO
from cairnfs.errors import CorruptError, UsageError, VolumeError
from cairnfs.meta import Meta, records
from cairnfs.meta.stores.base import Committed, Put
from cairnfs.meta.stores.memory import MemoryStore
from cairnfs.meta.volume import VolumeFormat, create_volume, load_format, update_format, wipe_volume
from cairnfs.types import SessionId

NOW_NS = 1_700_000_000 * 10**9
FORMAT = VolumeFormat("songs", bucket="/data", capacity_bytes=1 << 40, inodes=1000, created=1_700_000_000)


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    create_volume(made, FORMAT, NOW_NS, uid=5, gid=6)
    return made


def stored(store: MemoryStore) -> dict[str, object]:
    row = store.read([records.FORMAT_KEY])[0]
    assert row is not None
    found: dict[str, object] = json.loads(row.value)
    return found


def store_format(store: MemoryStore, **changes: object) -> None:
    store.commit([], [Put(records.FORMAT_KEY, json.dumps(stored(store) | changes).encode())])


def test_format_is_read_back(store: MemoryStore) -> None:
    assert load_format(store) == FORMAT
    assert Meta(store).format == FORMAT


def test_new_volume_is_an_empty_root_directory_and_nothing_else(store: MemoryStore) -> None:
    root, usage = store.read([records.inode_key(ROOT_INO), records.USAGE_KEY])
    assert root is not None
    attr = records.decode_attr(ROOT_INO, root)
    assert (attr.mode, attr.uid, attr.gid, attr.nlink, attr.size) == (stat.S_IFDIR | 0o777, 5, 6, 2, 0)
    assert {attr.atime_ns, attr.mtime_ns, attr.ctime_ns, attr.btime_ns} == {NOW_NS}
    assert records.decode_usage(usage) == (0, 1)
    assert store.partitions(b"", None, 10) == [records.inode_part(ROOT_INO), b"v"]


def test_numbers_begin_after_the_root(store: MemoryStore) -> None:
    ids = Meta(store).ids
    assert (ids.inode(), ids.pack(), ids.session()[0]) == (ROOT_INO + 1, 1, 1)


def test_each_volume_has_a_uuid_of_its_own() -> None:
    assert VolumeFormat("songs").uuid != VolumeFormat("songs").uuid


def test_second_volume_in_a_store_is_refused(store: MemoryStore) -> None:
    with pytest.raises(VolumeError, match="already holds a volume"):
        create_volume(store, VolumeFormat("other"), NOW_NS)
    assert load_format(store) == FORMAT


def test_force_begins_anew(store: MemoryStore) -> None:
    store.commit([], [Put(records.session_key(9), b"{}")])
    other = VolumeFormat("other")
    create_volume(store, other, NOW_NS, force=True)
    assert load_format(store) == other
    assert store.read([records.session_key(9)]) == [None]


@pytest.mark.parametrize("is_destroyed_before", [False, True])
def test_numbers_go_on_in_the_next_volume(store: MemoryStore, is_destroyed_before: bool) -> None:
    """A mount that was not told knows things of the former volume by them, and has some left to give."""
    former = Meta(store).ids
    for _ in range(1500):
        used = former.inode(), former.pack(), former.session()[0]
    left = former.inode() + 1023, former.pack() + 255
    if is_destroyed_before:
        wipe_volume(store, FORMAT)
        assert store.partitions(b"", None, 10) == [b"v"]
    create_volume(store, VolumeFormat("other"), NOW_NS, force=not is_destroyed_before)
    ids = Meta(store).ids
    first = ids.inode(), ids.pack(), ids.session()[0]
    assert first[0] > left[0] and first[1] > left[1] and first[2] > used[2]
    assert store.read([records.FORMER_KEY]) == [None]


def test_a_volume_that_was_made_meanwhile_is_not_wiped(store: MemoryStore) -> None:
    other = VolumeFormat("other")
    create_volume(store, other, NOW_NS, force=True)
    with pytest.raises(VolumeError, match="somebody else"):
        wipe_volume(store, FORMAT)
    assert load_format(store) == other


def test_empty_store_says_how_to_make_a_volume() -> None:
    with pytest.raises(VolumeError, match="cairnfs format"):
        load_format(MemoryStore())


def test_newer_format_is_refused_naming_both_versions(store: MemoryStore) -> None:
    store_format(store, format_version=3)
    with pytest.raises(VolumeError, match="format version 3.* versions 1 to 2.*upgrade cairnfs"):
        load_format(store)


def test_a_format_from_before_there_were_storage_options_is_read(store: MemoryStore) -> None:
    stored = json.loads(FORMAT.encode())
    del stored["storage_options"]
    store.commit([], [Put(records.FORMAT_KEY, json.dumps(stored).encode())])
    assert load_format(store) == FORMAT


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"{}", b'{"format_version": "x"}', b'{"format_version": 1}', b"\xff"])
def test_damaged_format_is_refused(store: MemoryStore, value: bytes) -> None:
    store.commit([], [Put(records.FORMAT_KEY, value)])
    with pytest.raises(CorruptError):
        load_format(store)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("block_bytes", 5),
        ("block_bytes", "4M"),
        ("inodes", -1),
        ("name", ""),
        ("uuid", 5),
        ("storage_options", []),
        ("storage_options", {"a": 1}),
    ],
)
def test_format_with_an_impossible_field_is_refused(store: MemoryStore, field: str, value: object) -> None:
    store_format(store, **{field: value})
    with pytest.raises(CorruptError):
        load_format(store)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "a"},
        {"name": "Songs"},
        {"name": "-songs"},
        {"name": "songs-"},
        {"name": "so/ngs"},
        {"name": "s" * 64},
        {"block_bytes": 0},
        {"block_bytes": 32 << 10},
        {"block_bytes": 32 * MIB},
        {"block_bytes": 3 * MIB},
        {"compression": "lz77"},
        {"compression": "zstd:0"},
        {"capacity_bytes": -1},
        {"inodes": -1},
    ],
)
def test_format_that_cannot_be_is_refused(change: dict[str, object]) -> None:
    store = MemoryStore()
    with pytest.raises(UsageError) as refused:
        create_volume(store, replace(FORMAT, **change), NOW_NS)  # type: ignore[arg-type]
    assert refused.value.exit_code == 2
    assert store.position() == 0


def test_limits_and_bucket_may_change_and_unknown_fields_stay(store: MemoryStore) -> None:
    store_format(store, colour="blue")
    changes: dict[str, Any] = {"capacity_bytes": 5, "inodes": 7, "bucket": "/elsewhere", "compression": "zstd"}
    changed = update_format(store, **changes)
    assert load_format(store) == changed == replace(FORMAT, **changes)
    assert stored(store)["colour"] == "blue"


@pytest.mark.parametrize("change", [{"name": "other"}, {"uuid": "other"}, {"block_bytes": 8 * MIB}])
def test_what_stored_data_depends_on_may_not_change(store: MemoryStore, change: dict[str, object]) -> None:
    with pytest.raises(VolumeError, match="cannot be changed"):
        update_format(store, **change)
    assert load_format(store) == FORMAT


def test_a_change_leaves_what_somebody_else_changes_meanwhile(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = store.commit

    def overtaken(*args: Any) -> Committed:
        monkeypatch.undo()
        update_format(store, inodes=7)
        return commit(*args)

    monkeypatch.setattr(store, "commit", overtaken)
    assert update_format(store, capacity_bytes=5) == load_format(store) == replace(FORMAT, capacity_bytes=5, inodes=7)


def test_format_of_an_empty_store_cannot_be_changed() -> None:
    with pytest.raises(VolumeError, match="no volume"):
        update_format(MemoryStore(), inodes=7)


def test_numbers_of_two_processes_never_meet(store: MemoryStore) -> None:
    one, other = Meta(store).ids, Meta(store).ids
    inodes = [ids.inode() for _ in range(3000) for ids in (one, other)]
    packs = [ids.pack() for _ in range(600) for ids in (one, other)]
    sessions: list[SessionId] = [ids.session()[0] for _ in range(3) for ids in (one, other)]
    for numbers in (inodes, packs, sessions):
        assert len(set(numbers)) == len(numbers)
    assert store.position() < 20  # numbers come in batches
