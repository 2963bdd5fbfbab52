"""Layout operations one by one: errors, limits, times, privileges, conflicts, and giving space back."""

import errno
import os
import threading
from collections.abc import Callable, Sequence

import pytest

from cairnfs.const import CHUNK_BYTES, MAX_FILE_BYTES
from cairnfs.errors import CorruptError, FsError
from cairnfs.ext import slicer
from cairnfs.meta import records
from cairnfs.meta.free import CHUNKS_PER_COMMIT
from cairnfs.meta.layout_write import MAX_COPY_BYTES
from cairnfs.meta.records import PackInfo
from cairnfs.meta.stores.base import Committed, Condition, Effect
from cairnfs.meta.stores.memory import MemoryStore
from cairnfs.meta.txn import Txn, transact
from cairnfs.types import Extent, Inode, PackId
from support.metavolume import NOW_NS, MetaVolume

LATER_NS = NOW_NS + 10**9


@pytest.fixture
def volume() -> MetaVolume:
    return MetaVolume()


def fails_with(code: int, call: Callable[[], object]) -> None:
    with pytest.raises(FsError) as caught:
        call()
    assert caught.value.errno == code


class Interrupted(MemoryStore):
    """Runs `between` once before the next commit: what another process does between our reads and our commit."""

    between: Callable[[], object] | None = None

    def commit(self, conditions: Sequence[Condition], effects: Sequence[Effect]) -> Committed:
        between, self.between = self.between, None
        if between is not None:
            between()
        return super().commit(conditions, effects)


def test_a_write_over_two_chunks_is_one_commit(volume: MetaVolume) -> None:
    ino = volume.file(b"f")
    ref = volume.slice(1000)
    before = volume.store.position()
    new_packs = [(ref.pack, 1000, 1200)]
    attr = volume.layout.commit_write(ino, [(CHUNK_BYTES - 300, 1000, ref)], mtime_ns=LATER_NS, new_packs=new_packs)
    assert volume.store.position() == attr.version == before + 1
    assert (attr.size, attr.alloc_bytes, attr.data_version, attr.mtime_ns) == (CHUNK_BYTES + 700, 1000, 1, LATER_NS)
    assert volume.attr(ino) == attr
    assert volume.packs() == {ref.pack: PackInfo(1000, 1000, 1200)}
    assert volume.layout.extents(ino, CHUNK_BYTES - 301, 400) == [
        Extent(CHUNK_BYTES - 301, 1, 0, None),
        Extent(CHUNK_BYTES - 300, 300, 0, ref),
        Extent(CHUNK_BYTES, 99, 300, ref),
    ]


def test_without_a_time_a_write_leaves_the_times(volume: MetaVolume) -> None:
    ino = volume.file(b"f")
    ref = volume.slice(10)
    attr = volume.layout.commit_write(ino, [(0, 10, ref)], mtime_ns=None, new_packs=[(ref.pack, 10, 20)])
    assert (attr.mtime_ns, attr.ctime_ns) == (NOW_NS, NOW_NS)


@pytest.mark.parametrize(("mode", "left"), [(0o106755, 0o100755), (0o106745, 0o102745), (0o100644, 0o100644)])
def test_a_write_without_privilege_clears_set_id_bits(volume: MetaVolume, mode: int, left: int) -> None:
    ino = volume.file(b"f", mode)
    ref = volume.slice(10)
    attr = volume.layout.commit_write(ino, [(0, 10, ref)], mtime_ns=1, new_packs=[(ref.pack, 10, 20)], kill_suid=True)
    assert attr.mode == left
    other = volume.file(b"g", mode)
    assert volume.layout.truncate(other, 5, kill_suid=True).mode == left
    assert volume.layout.truncate(volume.file(b"h", mode), 5).mode == mode


def test_a_write_comes_after_a_change_by_a_clock_that_was_ahead(volume: MetaVolume) -> None:
    ino = volume.file(b"f")
    now_ns = volume.core.now_ns()
    for ahead_ns, expected_ns in ((10**8, now_ns + 10**8), (3600 * 10**9, now_ns)):
        attr = volume.attr(ino)
        attr.ctime_ns = now_ns + ahead_ns
        volume.put(records.inode_key(ino), records.encode_attr(attr))
        ref = volume.slice(10)
        attr = volume.layout.commit_write(ino, [(0, 10, ref)], mtime_ns=now_ns, new_packs=[(ref.pack, 10, 20)])
        assert (attr.mtime_ns, attr.ctime_ns) == (now_ns, expected_ns)


def test_a_write_without_privilege_takes_capabilities_away(volume: MetaVolume) -> None:
    ino = volume.file(b"f")
    attr = volume.attr(ino)
    attr.flags |= records.FLAG_XATTR
    volume.put(records.inode_key(ino), records.encode_attr(attr))
    for name in (b"security.capability", b"user.kept"):
        volume.put(records.xattr_key(ino, name), b"x")
    volume.layout.truncate(ino, 5, kill_suid=True)
    assert [key for key, _ in volume.store.scan(records.inode_part(ino), None, 10, prefix=b"x")] == [b"xuser.kept"]


def test_sizes_beyond_the_largest_file_are_refused(volume: MetaVolume) -> None:
    ino, other = volume.file(b"f"), volume.file(b"g")
    volume.write(other, 0, 10)
    layout, end = volume.layout, MAX_FILE_BYTES
    ref = volume.slice(10)
    fails_with(errno.EFBIG, lambda: layout.commit_write(ino, [(end - 9, 10, ref)], mtime_ns=1, new_packs=[(ref.pack, 10, 10)]))
    fails_with(errno.EFBIG, lambda: layout.truncate(ino, end + 1))
    fails_with(errno.EFBIG, lambda: layout.zero(ino, end, 1))
    fails_with(errno.EFBIG, lambda: layout.allocate(ino, end, 1))
    fails_with(errno.EFBIG, lambda: layout.copy_range(other, 0, ino, end - 9, 10))
    assert layout.commit_write(ino, [(end - 10, 10, ref)], mtime_ns=1, new_packs=[(ref.pack, 10, 10)]).size == end
    assert layout.seek(ino, 0, os.SEEK_DATA) == end - 10
    assert layout.extents(ino, 0, end) == [Extent(0, end - 10, 0, None), Extent(end - 10, 10, 0, ref)]
    assert layout.truncate(ino, 0).alloc_bytes == 0


def test_ranges_that_make_no_sense_are_refused(volume: MetaVolume) -> None:
    ino, layout = volume.file(b"f"), volume.layout
    fails_with(errno.EINVAL, lambda: layout.truncate(ino, -1))
    for change in (layout.punch, layout.zero, layout.allocate):
        fails_with(errno.EINVAL, lambda change=change: change(ino, 0, 0))  # type: ignore[misc]
        fails_with(errno.EINVAL, lambda change=change: change(ino, -1, 5))  # type: ignore[misc]
    fails_with(errno.EINVAL, lambda: layout.copy_range(ino, -1, ino, 0, 1))
    fails_with(errno.EINVAL, lambda: layout.seek(ino, 0, os.SEEK_SET))
    fails_with(errno.ENXIO, lambda: layout.seek(ino, 0, os.SEEK_HOLE))
    fails_with(errno.ENXIO, lambda: layout.seek(ino, -1, os.SEEK_DATA))


@pytest.mark.parametrize(("mode", "code"), [(0o040755, errno.EISDIR), (0o120777, errno.EINVAL), (None, errno.ENOENT)])
def test_only_regular_files_have_layouts(volume: MetaVolume, mode: int | None, code: int) -> None:
    ino, layout = Inode(999) if mode is None else volume.file(b"x", mode), volume.layout
    fails_with(code, lambda: layout.read(ino, 0))
    fails_with(code, lambda: layout.extents(ino, 0, 1))
    fails_with(code, lambda: layout.truncate(ino, 1))
    fails_with(code, lambda: layout.copy_range(ino, 0, volume.file(b"f"), 0, 1))


def test_a_full_volume_refuses_growth_and_nothing_else() -> None:
    volume = MetaVolume(capacity_bytes=1000)
    ino, layout = volume.file(b"f"), volume.layout
    volume.write(ino, 0, 900)
    fails_with(errno.ENOSPC, lambda: volume.write(ino, 900, 101))
    volume.write(ino, 850, 150)
    assert volume.usage().used_bytes == 1000
    other = volume.file(b"g")
    fails_with(errno.ENOSPC, lambda: layout.copy_range(ino, 0, other, 0, 1))
    fails_with(errno.ENOSPC, lambda: layout.allocate(other, 0, 1))
    assert layout.allocate(ino, 0, 1000).size == 1000
    volume.write(ino, 0, 1000)
    layout.punch(ino, 0, 10)
    assert layout.copy_range(ino, 10, other, 0, 10)[0] == 10
    assert volume.usage().used_bytes == 1000


def test_truncation_removes_the_chunks_beyond(volume: MetaVolume) -> None:
    ino = volume.file(b"f")
    for chunk_no in (0, 1, 2, 70, 100):
        volume.write(ino, chunk_no * CHUNK_BYTES, 100)
    assert set(volume.chunk_rows(ino)) == {1, 2, 70, 100}
    volume.layout.truncate(ino, CHUNK_BYTES + 50)
    assert set(volume.chunk_rows(ino)) == {1}
    assert volume.attr(ino).alloc_bytes == 150
    volume.layout.truncate(ino, CHUNK_BYTES)
    assert set(volume.chunk_rows(ino)) == set()
    attr = volume.layout.truncate(ino, 200 * CHUNK_BYTES, LATER_NS)
    assert (attr.alloc_bytes, attr.size, attr.mtime_ns) == (100, 200 * CHUNK_BYTES, LATER_NS)


def test_truncation_to_the_same_size_is_no_new_content(volume: MetaVolume) -> None:
    ino = volume.file(b"f")
    volume.write(ino, 0, 100)
    attr = volume.layout.truncate(ino, 100, LATER_NS)
    assert (attr.data_version, attr.ctime_ns) == (1, LATER_NS)


def test_a_copy_shares_slices_and_holes(volume: MetaVolume) -> None:
    source, target = volume.file(b"s"), volume.file(b"t")
    ref = volume.write(source, 50, 100)
    old = volume.write(target, 0, 500)
    copied, attr = volume.layout.copy_range(source, 0, target, 100, 1000)
    assert (copied, attr.size, attr.alloc_bytes) == (150, 500, 450)
    assert [e.ref for e in volume.layout.extents(target, 0, 500)] == [old, None, ref, old]
    assert volume.packs()[ref.pack].live_bytes == 200
    assert volume.layout.copy_range(source, 150, target, 0, 10) == (0, volume.attr(target))


def test_a_very_long_copy_is_cut_short(volume: MetaVolume) -> None:
    source, target = volume.file(b"s"), volume.file(b"t")
    volume.layout.truncate(source, 2 * MAX_COPY_BYTES)
    assert volume.layout.copy_range(source, 0, target, 0, 2 * MAX_COPY_BYTES)[0] == MAX_COPY_BYTES


def test_a_copy_holds_on_to_the_source_until_it_is_committed() -> None:
    store = Interrupted()
    volume = MetaVolume(store=store)
    source, target = volume.file(b"s"), volume.file(b"t")
    ref = volume.write(source, 0, 100)

    def empty_the_source() -> None:
        volume.layout.truncate(source, 0)
        assert volume.layout.garbage(10) == [ref.pack]
        assert volume.layout.drop_pack(ref.pack)

    store.between = empty_the_source
    assert volume.layout.copy_range(source, 0, target, 0, 100)[0] == 0
    assert volume.packs() == {}


def test_two_writers_of_one_file_both_get_through() -> None:
    store = Interrupted()
    volume = MetaVolume(store=store)
    ino = volume.file(b"f")
    volume.slice(1)  # takes a batch of pack numbers, which is a commit too
    store.between = lambda: volume.write(ino, CHUNK_BYTES, 10)
    volume.write(ino, CHUNK_BYTES + 5, 10)
    attr = volume.attr(ino)
    assert (attr.size, attr.alloc_bytes, attr.data_version) == (CHUNK_BYTES + 15, 15, 2)
    assert sorted(info.live_bytes for info in volume.packs().values()) == [5, 10]


def test_many_writers_of_one_file_lose_nothing(volume: MetaVolume) -> None:
    ino = volume.file(b"f")

    def write(first: int) -> None:
        for i in range(20):
            volume.write(ino, (first + 4 * i) * 10, 10)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    attr = volume.attr(ino)
    assert (attr.size, attr.alloc_bytes, attr.data_version) == (800, 800, 80)
    assert volume.usage().used_bytes == 800


def test_a_commit_made_again_counts_once(volume: MetaVolume) -> None:
    ino = volume.file(b"f")
    ref = volume.slice(100)
    for _ in range(2):
        volume.layout.commit_write(ino, [(0, 100, ref)], mtime_ns=1, new_packs=[(ref.pack, 100, 120)])
    assert volume.packs() == {ref.pack: PackInfo(100, 100, 120)}
    assert volume.usage().used_bytes == 100


def test_packs_that_are_gone_or_going_are_not_referred_to(volume: MetaVolume) -> None:
    ino = volume.file(b"f")
    ref = volume.slice(100)
    with pytest.raises(CorruptError, match="gone"):
        volume.layout.commit_write(ino, [(0, 100, ref)], mtime_ns=1, new_packs=[])
    volume.layout.commit_write(ino, [(0, 100, ref)], mtime_ns=1, new_packs=[(ref.pack, 100, 120)])
    volume.layout.truncate(ino, 0)
    with pytest.raises(CorruptError, match="being deleted"):
        volume.layout.commit_write(ino, [(0, 100, ref)], mtime_ns=1, new_packs=[(ref.pack, 100, 120)])
    assert volume.attr(ino).alloc_bytes == 0


def test_compaction_of_a_chunk_that_changed_is_refused(volume: MetaVolume) -> None:
    ino = volume.file(b"f")
    volume.write(ino, CHUNK_BYTES, 100)
    old = volume.layout.read(ino, 1)
    ref = volume.slice(100)
    new = slicer.pack_record(0, 100, 0, 100, ref.pack, 64, 100, 1, 0)
    packs = [(ref.pack, 100, 120)]
    volume.write(ino, CHUNK_BYTES + 10, 10)
    assert not volume.layout.replace(ino, 1, old, new, packs)
    volume.layout.truncate(ino, 0)
    assert not volume.layout.replace(ino, 1, old, new, packs)
    volume.remove(ino, b"f")
    assert not volume.layout.replace(ino, 1, old, new, packs)
    assert ref.pack not in volume.packs()


def test_compaction_must_keep_what_is_mapped(volume: MetaVolume) -> None:
    ino = volume.file(b"f")
    ref = volume.write(ino, 10, 100)
    old = volume.layout.read(ino, 0)
    with pytest.raises(ValueError, match="does not map"):
        volume.layout.replace(ino, 0, old, slicer.pack_record(10, 99, 0, 100, ref.pack, 64, 100, 1, 0))
    with pytest.raises(ValueError, match="record"):
        volume.layout.replace(ino, 0, old, old[:-1])


def test_a_malformed_layout_is_an_error_but_the_file_can_be_deleted(volume: MetaVolume) -> None:
    ino = volume.file(b"f")
    volume.write(ino, 0, 100)
    attr = volume.attr(ino)
    attr.tail = attr.tail[:-1]
    volume.put(records.inode_key(ino), records.encode_attr(attr))
    for call in (lambda: volume.layout.extents(ino, 0, 10), lambda: volume.layout.truncate(ino, 50)):
        with pytest.raises(CorruptError, match=f"inode {ino}: the layout of chunk 0 is malformed"):
            call()
    volume.remove(ino, b"f")
    assert volume.usage() == (0, 1)


def test_deletion_frees_everything_of_an_inode(volume: MetaVolume) -> None:
    ino = volume.file(b"f")
    volume.write(ino, 0, 100)
    attr = volume.attr(ino)
    attr.flags |= records.FLAG_XATTR
    volume.put(records.inode_key(ino), records.encode_attr(attr))
    volume.put(records.xattr_key(ino, b"user.a"), b"1")
    volume.put(records.locks_key(ino), b"?")
    volume.remove(ino, b"f")
    assert volume.store.scan(records.inode_part(ino), None, 10) == []
    assert volume.store.scan(records.DELETED_PART, None, 10) == []
    assert volume.usage() == (0, 1)


def test_a_large_deleted_file_is_freed_in_steps(volume: MetaVolume) -> None:
    ino = volume.file(b"f")
    n_chunks = CHUNKS_PER_COMMIT + 6
    for chunk_no in range(n_chunks):
        volume.write(ino, chunk_no * CHUNK_BYTES, 10)
    volume.remove(ino, b"f")
    assert volume.usage() == (0, 1), "the space is given back at once"
    assert volume.layout.free_deleted(4) == 4
    assert len(volume.chunk_rows(ino)) == n_chunks - 1 - 4
    assert volume.layout.free_deleted(1000) == n_chunks - 1 - 4
    assert volume.store.scan(records.DELETED_PART, None, 10) == []
    assert {info.live_bytes for info in volume.packs().values()} == {0}
    assert len(volume.layout.garbage(1000)) == n_chunks


def test_two_processes_that_free_one_file_count_once() -> None:
    store = Interrupted()
    volume = MetaVolume(store=store)
    ino = volume.file(b"f")
    shared = volume.file(b"g")
    volume.write(ino, CHUNK_BYTES, 10)
    volume.layout.copy_range(ino, CHUNK_BYTES, shared, 0, 10)
    volume.remove(ino, b"f")
    store.between = lambda: volume.layout.free_deleted(10)
    volume.layout.free_deleted(10)
    assert [info.live_bytes for info in volume.packs().values()] == [10]
    assert volume.chunk_rows(ino) == {}


def test_packs_with_live_bytes_are_taken_off_the_list(volume: MetaVolume) -> None:
    ino = volume.file(b"f")
    kept, dead = volume.write(ino, 0, 100), volume.write(ino, 200, 100)
    volume.layout.punch(ino, 50, 300)
    assert volume.marked() == {kept.pack, dead.pack}
    assert volume.layout.garbage(10) == [dead.pack]
    assert volume.layout.garbage(10, after=dead.pack) == []
    assert volume.marked() == {dead.pack}
    assert not volume.layout.drop_pack(kept.pack)
    assert volume.layout.drop_pack(dead.pack) and not volume.layout.drop_pack(dead.pack)
    assert volume.marked() == set() and set(volume.packs()) == {kept.pack}


def test_many_packs_are_dropped_by_one_commit(volume: MetaVolume) -> None:
    ino = volume.file(b"f")
    kept = volume.write(ino, 0, 100)
    dead = [volume.write(ino, 1000 * i, 100).pack for i in range(1, 70)]
    volume.layout.punch(ino, 1000, 70_000)
    before = volume.store.position()
    assert volume.layout.drop_packs([kept.pack, *dead, PackId(777)]) == len(dead)
    assert volume.store.position() == before + 1
    assert volume.marked() == set() and set(volume.packs()) == {kept.pack}
    assert volume.layout.drop_packs(dead) == 0 and volume.store.position() == before + 1


def test_a_pack_that_dies_while_it_is_looked_at_stays_listed() -> None:
    store = Interrupted()
    volume = MetaVolume(store=store)
    ino = volume.file(b"f")
    ref = volume.write(ino, 0, 100)
    volume.layout.punch(ino, 0, 50)
    store.between = lambda: volume.layout.truncate(ino, 0)
    assert volume.layout.garbage(10) == []
    assert volume.layout.garbage(10) == [ref.pack]


def test_marks_without_a_pack_disappear(volume: MetaVolume) -> None:
    volume.put(records.garbage_key(77), b"")
    assert volume.layout.garbage(10) == []
    assert volume.marked() == set()
    assert not volume.layout.drop_pack(PackId(77))


def test_a_removed_file_with_an_extended_attribute_set_meanwhile_leaves_no_row() -> None:
    store = Interrupted()
    volume = MetaVolume(store=store)
    ino = volume.file(b"f")

    def set_attribute() -> None:
        def build(txn: Txn) -> None:
            attr = volume.attr(ino)
            attr.flags |= records.FLAG_XATTR
            txn.put(records.xattr_key(ino, b"user.late"), b"1")
            txn.put(records.inode_key(ino), records.encode_attr(attr))

        transact(volume.store, build)

    store.between = set_attribute
    volume.remove(ino, b"f")
    assert volume.store.scan(records.inode_part(ino), None, 10) == []
