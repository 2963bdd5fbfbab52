"""Collecting what takes space although no file uses it: packs without live bytes, objects nobody knows, deleted files' chunks.

Mounts delete what they free themselves; a collection finds what killed processes left. An object is stored before the commit
that names it, so one that no pack row knows may be about to be named: it stays until it is older than the grace period, and as
long as it may be of a session that is there, which its number tells, whatever clocks say.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

from cairnfs.check.findings import CheckedVolume
from cairnfs.check.report import GcReport, Progress, Stage, no_progress
from cairnfs.data.pack import pack_id_of, pack_name
from cairnfs.errors import CorruptError, ObjectError
from cairnfs.meta import records
from cairnfs.meta.records import PackInfo
from cairnfs.objects import ObjectInfo
from cairnfs.objects.base import Delete
from cairnfs.types import PackId

DEFAULT_GRACE_S = 3600.0
SCAN_ROWS = 1000
FREE_CHUNKS = 256


def run(
    volume: CheckedVolume, *, delete: bool = False, grace_s: float = DEFAULT_GRACE_S, progress: Progress = no_progress
) -> GcReport:
    """Look what can be collected in a volume, in use or not; with `delete`, delete it. StoreError, ObjectError."""
    collection = _Collection(volume, delete, grace_s)
    with progress("Deleted files", None) as stage:
        collection.deleted_files(stage)
    with progress("Packs", None) as stage:
        collection.packs(stage)
    with progress("Objects", None) as stage:
        collection.objects(stage)
    return collection.report


class _Collection:
    def __init__(self, volume: CheckedVolume, delete: bool, grace_s: float) -> None:
        self.report = GcReport(delete=delete)
        self._meta = volume.meta
        self._objects = volume.objects
        shared_ns = volume.meta.store.now_ns()
        local_ns = volume.meta.clock.now_ns()
        now_ns = local_ns if shared_ns is None else min(local_ns, shared_ns)  # one of the clocks may be ahead
        self._young_from_s = now_ns / 1e9 - grace_s

    def deleted_files(self, stage: Stage) -> None:
        """Large files that were deleted, and whose chunks still refer to packs."""
        after: bytes | None = None
        while page := self._meta.store.scan(records.DELETED_PART, after, SCAN_ROWS):
            self.report.deleted_files += len(page)
            stage.advance(len(page))
            after = page[-1][0]
        if self.report.delete:
            while self._meta.layout.free_deleted(FREE_CHUNKS):
                pass

    def packs(self, stage: Stage) -> None:
        """Packs without live bytes, listed for deletion or not."""
        rows = self._pack_rows()
        while batch := list(islice(rows, SCAN_ROWS)):
            self._garbage([pack for pack, info in batch if not self._is_live(info)])
            stage.advance(len(batch))

    def objects(self, stage: Stage) -> None:
        """Objects that no pack row knows."""
        found = self._objects.list("packs/")
        while batch := list(islice(found, SCAN_ROWS)):
            packs = [(info, pack) for info in batch if (pack := pack_id_of(info.name)) is not None]
            self.report.foreign_objects += len(batch) - len(packs)
            if unknown := self._without_row(packs):
                # In this order: whoever has stored one of these is there, or has committed what it ever will.
                first = min((each.first_pack for each in self._meta.sessions.list() if each.first_pack), default=None)
                unknown = self._without_row(unknown)
                for _ in self._delete(
                    [pack for info, pack in unknown if self._is_unknown(info, first is not None and pack >= first)]
                ):
                    pass
            stage.advance(len(batch))

    def _without_row(self, packs: list[tuple[ObjectInfo, PackId]]) -> list[tuple[ObjectInfo, PackId]]:
        rows = self._meta.store.read([records.pack_key(pack) for _, pack in packs]) if packs else []
        return [found for found, row in zip(packs, rows, strict=True) if row is None]

    def _pack_rows(self) -> Iterator[tuple[PackId, PackInfo]]:
        for part in self._meta.store.partitions(records.PACK_PREFIX, None, 256):
            after: bytes | None = None
            while page := self._meta.store.scan(part, after, SCAN_ROWS):
                for key, row in page:
                    pack = PackId(records.number_of(key))
                    try:
                        yield pack, records.decode_pack(pack, row.value)
                    except CorruptError:
                        continue  # the volume check tells
                after = page[-1][0]

    def _is_live(self, info: PackInfo) -> bool:
        """Count a pack; whether it has live bytes."""
        if info.live_bytes == 0:
            self.report.garbage_packs += 1
            self.report.garbage_bytes += info.object_bytes
            return False
        self.report.live_packs += 1
        self.report.live_bytes += info.object_bytes
        if 0 < info.live_bytes < info.plain_bytes:
            self.report.dead_bytes += info.object_bytes * (info.plain_bytes - info.live_bytes) // info.plain_bytes
        return True

    def _garbage(self, packs: list[PackId]) -> None:
        """Delete packs without live bytes, and their rows."""
        if packs and self.report.delete:
            self._objects.sync()
            self._meta.store.sync()  # an object must not go before the commits that freed it are safe, and what these name
        for pack in self._delete(packs):
            self._meta.layout.drop_pack(pack)

    def _is_unknown(self, info: ObjectInfo, may_be_named: bool) -> bool:
        """Count an object that no row knows; whether it may go, by its age and those who are there."""
        if may_be_named or info.mtime_s > self._young_from_s:
            self.report.young_objects += 1
            return False
        self.report.unknown_objects += 1
        self.report.unknown_bytes += info.size
        return True

    def _delete(self, packs: Sequence[PackId]) -> Iterator[PackId]:
        """Delete objects, if that is wanted; those that are gone."""
        if not self.report.delete:
            return
        for i, error in self._objects.many(Delete(pack_name(pack)) for pack in packs):
            if isinstance(error, ObjectError):
                self._objects.check()  # a store that is away ends it: else each that is left would take an io-timeout
                self.report.failed.append(f"{pack_name(packs[i])}: {error}")
            else:
                yield packs[i]
