"""The volume check finds every kind of damage made on purpose, mends what can be mended, and a collection finds leftovers."""

import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cairnfs.check import fsck, gc, packs
from cairnfs.check.report import Report
from cairnfs.const import CHUNK_BYTES, CODEC_NONE, ROOT_INO
from cairnfs.data.pack import PlainSlice, build_pack, pack_name
from cairnfs.errors import ObjectError
from cairnfs.ext import slicer
from cairnfs.meta import Meta, records
from cairnfs.meta.records import PackInfo, Usage
from cairnfs.meta.stores.base import Add, Delete, Effect, Put
from cairnfs.meta.stores.memory import MemoryStore
from cairnfs.meta.volume import VolumeFormat, create_volume
from cairnfs.objects import ObjectStore, create_bucket, open_objects
from cairnfs.types import Attr, Buffer, Caller, Inode, PackId, SliceRef
from support.faulty import FaultyObjects

ROOT = Inode(ROOT_INO)
NOBODY_HAS = 987_654_321


def stored_plain(plain: Buffer) -> tuple[int, Buffer]:
    return CODEC_NONE, plain


class Small:
    """A small volume with something of everything: directories, files, links, a file of two chunks, attributes."""

    def __init__(self, bucket: Path) -> None:
        fmt = VolumeFormat("testing", bucket=str(bucket))
        self.store = MemoryStore()
        create_volume(self.store, fmt, 1)
        create_bucket(fmt)
        self.meta = Meta(self.store)
        self.objects: ObjectStore = open_objects(fmt, 1.0)
        self.uuid = uuid.UUID(fmt.uuid).bytes
        self.folder = bucket / "testing"
        self.sub = self.make(ROOT, b"sub", stat.S_IFDIR | 0o755)
        self.deep = self.make(self.sub, b"deep", stat.S_IFDIR | 0o755)
        self.file = self.make(self.deep, b"file")
        self.ref = self.write(self.file, 0, b"hello world" * 100)
        self.big = self.make(ROOT, b"big")
        self.write(self.big, CHUNK_BYTES - 50, b"x" * 100)
        self.linked = self.make(ROOT, b"one")
        self.meta.names.link(self.linked, self.sub, b"two")
        self.meta.xattrs.set(self.file, b"user.colour", b"grey", 0)
        self.make(ROOT, b"link", stat.S_IFLNK | 0o777)

    def make(self, parent: Inode, name: bytes, mode: int = stat.S_IFREG | 0o644) -> Inode:
        target = b"target" if stat.S_ISLNK(mode) else b""
        return self.meta.names.create(Caller(), parent, name, mode, target=target).ino

    def write(self, ino: Inode, file_off: int, data: bytes) -> SliceRef:
        pack = self.meta.ids.pack()
        built = build_pack(self.uuid, pack, [PlainSlice(ino, file_off, data)], stored_plain)
        self.objects.put(pack_name(pack), built.parts)
        new_packs = [(pack, built.plain_bytes, built.object_bytes)]
        self.meta.layout.commit_write(ino, [(file_off, len(data), built.refs[0])], mtime_ns=5, new_packs=new_packs)
        return built.refs[0]

    def attr(self, ino: Inode) -> Attr:
        return self.meta.names.get(ino)

    def damage(self, *effects: Effect) -> None:
        self.store.commit([], effects)

    def damage_attr(self, ino: Inode, **fields: Any) -> None:
        self.damage(Put(records.inode_key(ino), records.encode_attr(replace(self.attr(ino), **fields))))

    def object_path(self, pack: PackId) -> Path:
        return self.folder / pack_name(pack)

    def check(self, *, repair: bool = False, verify_data: bool = False) -> Report:
        return fsck.run(self, repair=repair, verify_data=verify_data)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Small]:
    volume = Small(tmp_path)
    yield volume
    volume.objects.close()


def kinds(report: Report) -> set[str]:
    return set(report.found)


def test_a_sound_volume_has_no_problems(small: Small) -> None:
    small.meta.names.unlink(ROOT, b"big", lambda ino: False)
    open_file = small.make(ROOT, b"open")
    small.meta.names.unlink(ROOT, b"open", lambda ino: True)
    assert small.attr(open_file).nlink == 0
    small.damage(Put(records.session_key(small.meta.core.session), b"{}"))
    report = small.check(verify_data=True)
    assert report.problems == []
    assert report.ok and report.unsettled == 0
    assert report.checked["inodes"] == small.meta.attrs.statfs().used_inodes
    assert report.checked["deleted_files"] == 1


Damage = Callable[[Small], None]


def entry(small: Small, parent: Inode, name: bytes, ino: int, mode: int = stat.S_IFREG) -> list[Effect]:
    """Effects of a name that is counted in its directory as it should be."""
    home = records.inode_key(parent)
    effects: list[Effect] = [
        Put(records.dentry_key(parent, name), records.dentry_value(ino, mode)),
        Add(home, records.SIZE_AT, 1),
    ]
    return effects + ([Add(home, records.NLINK_AT, 1)] if stat.S_ISDIR(mode) else [])


def name_row(parent: int, name: bytes, ino: int, mode: int = stat.S_IFREG) -> Put:
    """A name that is not counted in its directory."""
    return Put(records.dentry_key(parent, name), records.dentry_value(ino, mode))


def unname(small: Small, parent: Inode, name: bytes, *, is_dir: bool = False) -> None:
    """Remove a name, but nothing else of what it named."""
    home = records.inode_key(parent)
    small.damage(Delete(records.dentry_key(parent, name)), Add(home, records.SIZE_AT, -1), Add(home, records.NLINK_AT, -is_dir))


def delete_by_half(small: Small) -> None:
    unname(small, small.deep, b"file")
    small.damage_attr(small.file, nlink=0)


def lose_an_inode(small: Small) -> None:
    small.damage(Delete(records.inode_key(small.linked)))
    small.damage(Add(records.USAGE_KEY, records.USED_INODES_AT, -1))


def map_beyond_size(small: Small) -> None:
    small.damage_attr(small.big, size=CHUNK_BYTES - 40)


def put_no_inode(small: Small) -> None:
    key, _ = records.chunk_key(NOBODY_HAS, 3)
    small.damage(Put((key, b"xuser.a"), b"1"), Put(records.chunk_key(NOBODY_HAS, 3), small.attr(small.file).tail))
    small.damage(Put(records.NEXT_KEY, records.encode_numbers(NOBODY_HAS + 9, 1000, 1000)))


def forget_pack_row(small: Small) -> None:
    small.damage(Delete(records.pack_key(small.ref.pack)))


def hold_by_nobody(small: Small) -> None:
    ino = small.make(ROOT, b"held")
    small.meta.names.unlink(ROOT, b"held", lambda ino: True)
    small.damage(Delete(records.sustained_key(0, ino)), Put(records.sustained_key(77, ino), b""))


def mark_nothing(small: Small) -> None:
    small.damage(Put(records.pack_key(500), records.encode_pack(PackInfo(0, 10, 10))))
    small.damage(Put(records.NEXT_KEY, records.encode_numbers(5000, 5000, 5000)))


def label_untold(small: Small) -> None:
    """As a node of an older version does it."""
    small.meta.xattrs.set(small.file, b"security.selinux", b"label")
    small.damage(Put(records.SECURITY_KEY, records.NEVER_GIVEN))


def empty_pack_row(small: Small) -> None:
    small.damage(Put(records.pack_key(small.ref.pack), bytes(24)))


MENDABLE: dict[str, tuple[Damage, set[str]]] = {
    "dangling-entry": (lambda s: s.damage(*entry(s, s.sub, b"ghost", 12345)), {"wrong-numbers"}),
    "dangling-entry of directory": (lambda s: s.damage(*entry(s, s.sub, b"ghost", 500, stat.S_IFDIR)), set()),
    "dangling-entry after a lost inode": (lose_an_inode, set()),
    "entry-without-directory": (lambda s: s.damage(name_row(s.big, b"a", s.file)), {"wrong-nlink", "wrong-parent"}),
    "lost-directory": (lambda s: s.damage(Delete(records.inode_key(s.deep))), {"wrong-usage"}),
    "lost-directory without a name": (lambda s: s.damage(name_row(777, b"a", s.file)), {"wrong-nlink", "wrong-parent"}),
    "wrong-entry-type": (lambda s: s.damage(name_row(s.deep, b"file", s.file, stat.S_IFCHR)), set()),
    "orphan file": (lambda s: unname(s, s.deep, b"file"), set()),
    "orphan directory": (lambda s: unname(s, ROOT, b"sub", is_dir=True), set()),
    "unfreed-inode": (delete_by_half, set()),
    "wrong-nlink": (lambda s: s.damage_attr(s.linked, nlink=3), set()),
    "wrong-nlink of directory": (lambda s: s.damage_attr(s.sub, nlink=2), set()),
    "wrong-nlink zero": (lambda s: s.damage_attr(s.file, nlink=0), set()),
    "wrong-entry-count": (lambda s: s.damage_attr(s.sub, size=7), set()),
    "wrong-parent": (lambda s: s.damage_attr(s.file, parent=s.sub), set()),
    "wrong-parent of directory": (lambda s: s.damage_attr(s.deep, parent=0), set()),
    "wrong-parent with two names": (lambda s: s.damage_attr(s.linked, parent=ROOT), set()),
    "wrong-security": (label_untold, set()),
    "wrong-flags": (lambda s: s.damage_attr(s.file, flags=0), set()),
    "wrong-flags of an ACL": (lambda s: s.damage_attr(s.file, flags=records.FLAG_XATTR | records.FLAG_ACCESS_ACL), set()),
    "stray-rows": (put_no_inode, set()),
    "stale-sustained": (hold_by_nobody, {"wrong-numbers"}),
    "wrong-alloc-bytes": (lambda s: s.damage_attr(s.file, alloc_bytes=1), {"wrong-usage"}),
    "beyond-size": (map_beyond_size, set()),
    "wrong-live-bytes": (lambda s: s.damage(Add(records.pack_key(s.ref.pack), records.LIVE_BYTES_AT, 5)), set()),
    "wrong-live-bytes zero": (empty_pack_row, {"unmarked-garbage", "wrong-object-size"}),
    "unmarked-garbage": (mark_nothing, set()),
    "pack-without-row": (forget_pack_row, set()),
    "wrong-usage": (lambda s: s.damage(Put(records.USAGE_KEY, records.encode_usage(Usage(1, 2)))), set()),
    "wrong-usage missing": (lambda s: s.damage(Delete(records.USAGE_KEY)), set()),
    "wrong-numbers": (lambda s: s.damage(Put(records.NEXT_KEY, records.encode_numbers(2, 1, 1))), set()),
    "wrong-numbers missing": (lambda s: s.damage(Delete(records.NEXT_KEY)), set()),
}  # fmt: skip


@pytest.mark.parametrize("name", MENDABLE)
def test_damage_is_found_and_mended(small: Small, name: str) -> None:
    kind = name.split(" ")[0]
    do_damage, side_effects = MENDABLE[name]
    do_damage(small)
    report = small.check()
    assert kind in kinds(report)
    assert kinds(report) <= {kind, *side_effects}
    assert not report.ok and report.n_repaired == 0
    repaired = small.check(repair=True)
    assert kinds(report) <= kinds(repaired)
    left = small.check(verify_data=True)
    assert kinds(left) <= {"wrong-object-size"}
    assert repaired.ok == left.ok


HOPELESS: dict[str, Damage] = {
    "undecodable-row inode": lambda s: s.damage(Put(records.inode_key(s.file), b"short")),
    "undecodable-row entry": lambda s: s.damage(Put(records.dentry_key(s.deep, b"file"), b"short")),
    "undecodable-row pack": lambda s: s.damage(Put(records.pack_key(s.ref.pack), b"short")),
    "undecodable-row format": lambda s: s.damage(Put(records.FORMAT_KEY, b"{")),
    "undecodable-row locks": lambda s: s.damage(Put(records.locks_key(s.file), b"short")),
    "undecodable-row session": lambda s: s.damage(Put(records.session_key(4), b"}")),
    "undecodable-row partition": lambda s: s.damage(Put((b"what", b"is"), b"this")),
    "undecodable-row number": lambda s: s.damage(Put((b"g", b"pack"), b"")),
    "undecodable-row part": lambda s: s.damage(Put((records.inode_part(s.file), b"?"), b"")),
    "malformed-layout": lambda s: s.damage_attr(s.file, tail=s.attr(s.file).tail[:-1]),
    "malformed-layout empty": lambda s: s.damage(Put(records.chunk_key(s.big, 7), b"")),
    "several-names": lambda s: s.damage(*entry(s, ROOT, b"again", s.deep, stat.S_IFDIR)),
    "missing-object": lambda s: s.object_path(s.ref.pack).unlink(),
    "wrong-object-size": lambda s: os.truncate(s.object_path(s.ref.pack), 1170),
    "slice-beyond-object": lambda s: os.truncate(s.object_path(s.ref.pack), 1000),
    "no-root": lambda s: s.damage_attr(ROOT, mode=stat.S_IFREG | 0o644),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_damage_that_cannot_be_mended_is_found_and_stays(small: Small, name: str) -> None:
    HOPELESS[name](small)
    report = small.check()
    assert name.split(" ")[0] in kinds(report)
    assert not report.ok
    again = small.check(repair=name != "no-root")
    assert name.split(" ")[0] in {problem.kind for problem in again.problems if not problem.repaired}


def test_directories_that_hold_each_other_are_found(small: Small) -> None:
    unname(small, ROOT, b"sub", is_dir=True)
    small.damage(*entry(small, small.deep, b"sub", small.sub, stat.S_IFDIR))
    small.damage_attr(small.sub, parent=small.deep)
    assert small.check().found == {"unreachable-directory": 2}


def test_a_missing_root_is_made_anew(small: Small) -> None:
    small.damage(Delete(records.inode_key(ROOT)))
    assert "no-root" in kinds(small.check())
    assert small.check(repair=True).ok
    assert small.check().ok
    assert small.attr(ROOT).size == 4
    assert small.meta.names.lookup(small.deep, b"file").ino == small.file


def test_a_lost_directory_keeps_its_names(small: Small) -> None:
    small.damage(Delete(records.inode_key(small.sub)))
    assert small.check(repair=True).ok
    assert small.meta.names.lookup(ROOT, b"sub").ino == small.sub
    assert small.meta.names.lookup(small.sub, b"deep").ino == small.deep
    assert (small.attr(small.sub).size, small.attr(small.sub).nlink) == (2, 3)


def test_orphans_are_put_into_lost_and_found(small: Small) -> None:
    unname(small, ROOT, b"sub", is_dir=True)
    unname(small, ROOT, b"big")
    assert small.check(repair=True).ok
    home = small.meta.names.lookup(ROOT, b"lost+found")
    assert home.size == 2 and home.nlink == 3
    found = small.meta.names.lookup(home.ino, b"#%d" % small.sub)
    assert found.parent == home.ino
    assert small.meta.names.lookup(found.ino, b"deep").ino == small.deep
    assert small.meta.names.lookup(home.ino, b"#%d" % small.big).alloc_bytes == 100


@pytest.mark.parametrize("at", [3, 70, 600, 1170, 1240])
def test_a_changed_byte_of_an_object_is_found_by_reading_it(small: Small, at: int) -> None:
    path = small.object_path(small.ref.pack)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    assert small.check().ok
    report = small.check(verify_data=True)
    assert report.found == {"corrupt-pack": 1}
    assert path.name in report.problems[0].subject


def test_a_layout_that_names_another_slice_is_found_by_reading(small: Small) -> None:
    record = slicer.unpack(small.attr(small.file).tail)[0]
    wrong = slicer.pack_record(*record[:7], record[7] ^ 1, record[8])
    small.damage_attr(small.file, tail=wrong)
    assert small.check().ok
    report = small.check(verify_data=True)
    assert report.found == {"corrupt-pack": 1}
    assert str(small.file) in report.problems[0].detail


def test_a_missing_object_is_reported_with_its_files(small: Small) -> None:
    small.object_path(small.ref.pack).unlink()
    (problem,) = small.check().problems
    assert "/sub/deep/file" in problem.detail and not problem.repairable


def test_live_bytes_are_not_lowered_while_a_layout_cannot_be_read(small: Small) -> None:
    small.damage_attr(small.file, tail=b"?")
    report = small.check(repair=True)
    assert "wrong-live-bytes" not in kinds(report)
    row = small.store.read([records.pack_key(small.ref.pack)])[0]
    assert row is not None and records.decode_pack(small.ref.pack, row.value).live_bytes == 1100


def test_what_changes_during_the_check_is_no_problem(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = small.objects.list

    def busy(prefix: str = "") -> Iterator[Any]:
        """Another process adds a link and removes a file while the check is between rows and objects."""
        small.meta.names.unlink(small.deep, b"file", lambda ino: False)
        for pack in small.meta.layout.garbage(10):
            small.objects.delete(pack_name(pack))
            small.meta.layout.drop_pack(pack)
        return listing(prefix)

    monkeypatch.setattr(small.objects, "list", busy)
    report = small.check()
    assert report.ok and report.unsettled > 0
    monkeypatch.undo()
    assert small.check().ok


def test_a_report_can_be_written_as_json(small: Small) -> None:
    import json

    small.damage_attr(small.linked, nlink=3)
    report = json.loads(json.dumps(small.check().to_json()))
    assert report["found"] == {"wrong-nlink": 1} and not report["ok"]
    assert report["problems"][0]["kind"] == "wrong-nlink"


def backdate(path: Path) -> None:
    os.utime(path, (1, 1))


def test_a_collection_shows_and_deletes_what_nobody_uses(small: Small) -> None:
    small.write(small.file, 0, b"y" * 2000)
    small.meta.names.unlink(ROOT, b"big", lambda ino: False)
    unknown, young = small.meta.ids.pack(), small.meta.ids.pack()
    for pack in (unknown, young):
        small.objects.put(pack_name(pack), [b"?" * 10])
    backdate(small.object_path(unknown))
    small.objects.put("packs/readme", [b"not a pack"])
    before = small.store.position()
    report = gc.run(small)
    assert small.store.position() == before
    assert (report.garbage_packs, report.unknown_objects, report.young_objects) == (1, 1, 1)
    assert (report.foreign_objects, report.deleted_files, report.unknown_bytes) == (1, 1, 10)
    done = gc.run(small, delete=True)
    assert done.ok and done.garbage_packs == 2, "the chunks of the deleted file were freed first"
    left = gc.run(small)
    assert (left.garbage_packs, left.unknown_objects, left.young_objects, left.deleted_files) == (0, 0, 1, 0)
    assert not small.object_path(small.ref.pack).exists() and small.object_path(young).exists()
    assert small.check(verify_data=True).ok


def test_objects_go_after_the_commits_that_freed_them_are_safe(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a loss of power would bring a layout back whose bytes are gone. Others free packs while a collection is under way."""
    partitions, many = small.store.partitions, small.objects.many
    freed: list[int] = []
    safe: list[int] = []
    deleted: list[int] = []

    def busy(prefix: bytes, after: bytes | None, limit: int) -> list[bytes]:
        if prefix == records.PACK_PREFIX:
            small.meta.names.unlink(small.deep, b"file", lambda ino: False)
            freed.append(small.store.position())
        return partitions(prefix, after, limit)

    def deleting(requests: Iterator[Any]) -> Any:
        for number, outcome in many(requests):
            deleted.append(max(safe, default=0))
            yield number, outcome

    monkeypatch.setattr(small.store, "sync", lambda: safe.append(small.store.position()))
    monkeypatch.setattr(small.store, "partitions", busy)
    monkeypatch.setattr(small.objects, "many", deleting)
    assert gc.run(small, delete=True).garbage_packs == 1
    assert len(deleted) == 1 and deleted[0] >= freed[0] > 0


@pytest.mark.parametrize("ahead", ["of this machine", "of the store"])
def test_a_clock_that_is_ahead_makes_no_object_old(small: Small, monkeypatch: pytest.MonkeyPatch, ahead: str) -> None:
    small.objects.put(pack_name(pack := small.meta.ids.pack()), [b"about to be named"])
    now_ns = time.time_ns()
    wrong_ns = now_ns + 10 * int(gc.DEFAULT_GRACE_S) * 10**9
    monkeypatch.setattr(small.store, "now_ns", lambda: wrong_ns if ahead == "of the store" else now_ns)
    monkeypatch.setattr(small.meta, "clock", SimpleNamespace(now_ns=lambda: wrong_ns if ahead == "of this machine" else now_ns))
    report = gc.run(small, delete=True)
    assert (report.unknown_objects, report.young_objects) == (0, 1)
    assert small.object_path(pack).exists()


@pytest.fixture
def away(small: Small) -> FaultyObjects:
    """A store that goes away as soon as packs are read or deleted, of which there are many."""
    for i in range(30):
        small.write(small.file, i * 100, b"%02d" % i * 50)
        small.objects.put(pack_name(small.meta.ids.pack()), [b"?"])
    for path in (small.folder / "packs").rglob("*"):
        backdate(path)
    faulty = FaultyObjects(small.objects)
    small.objects = faulty
    for method in ("get", "delete"):
        faulty.fail_forever(method)
    return faulty


def test_a_store_that_is_away_ends_a_collection_and_a_check(small: Small, away: FaultyObjects) -> None:
    """Each call waits for the io-timeout, and there may be a million."""
    away.fail_forever("check")
    with pytest.raises(ObjectError):
        gc.run(small, delete=True)
    with pytest.raises(ObjectError):
        small.check(verify_data=True)
    assert away.calls["delete"] == 1
    assert away.calls["get"] <= packs.PACKS_AT_ONCE


def test_an_object_that_cannot_be_read_or_deleted_leaves_the_others(small: Small, away: FaultyObjects) -> None:
    assert len(gc.run(small, delete=True).failed) == 30 + 1
    found = small.check(verify_data=True).found
    assert found == {"unreadable-object": 32}


def test_a_collection_leaves_a_sound_volume_alone(small: Small) -> None:
    for path in (small.folder / "packs").rglob("*"):
        backdate(path)
    report = gc.run(small, delete=True)
    assert (report.garbage_packs, report.unknown_objects, report.live_packs) == (0, 0, 2)
    assert report.to_json()["ok"]
    assert small.check(verify_data=True).ok


def test_mending_an_entry_changes_the_row_of_its_directory(small: Small) -> None:
    """Mounts know by it that a listing they have kept is outdated."""
    small.damage(name_row(small.deep, b"file", small.file, stat.S_IFCHR))
    before = small.meta.names.get(small.deep)
    assert small.check(repair=True).ok
    after = small.meta.names.get(small.deep)
    assert after.version > before.version and after.ctime_ns == before.ctime_ns
