"""Packs against objects: what layouts refer to must be stored, whole and, when asked for, with the right bytes.

The list of objects is read after the rows, and bytes are stored before the rows that name them: so an object that is not in
the list is missing, unless its pack was given up in between, which the change log tells.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

from cairnfs.check.findings import CheckedVolume, Finding, about_pack
from cairnfs.check.index import Index, storable
from cairnfs.check.mend import Mender
from cairnfs.check.report import Stage
from cairnfs.check.verify import Used, verify_pack
from cairnfs.data.pack import HEADER_BYTES, pack_id_of, pack_name
from cairnfs.types import PackId, SliceRef

NAMED_FILES = 5  # of the files a missing pack belongs to, in a message
READERS = 4
PACKS_AT_ONCE = 16  # in memory while they are verified


def list_objects(volume: CheckedVolume, index: Index, stage: Stage) -> int:
    """Note every stored pack; how many objects there are that no pack row knows."""
    n_objects = 0
    for info in volume.objects.list("packs/"):
        pack = pack_id_of(info.name)
        if pack is not None and storable(pack):
            index.add("object", pack, info.size)
        n_objects += 1
        stage.advance()
    return n_objects - index.number("SELECT COUNT(*) FROM object WHERE pack IN (SELECT pack FROM pack)")


class PackRules:
    """What must hold between packs, what refers to them, and objects."""

    def __init__(self, volume: CheckedVolume, index: Index, mender: Mender) -> None:
        self._volume = volume
        self._index = index
        self._mender = mender

    def findings(self) -> Iterator[Finding]:
        """Packs without row, without object, or with the wrong one."""
        yield from self._without_row()
        yield from self._missing()
        yield from self._wrong_size()
        yield from self._too_short()

    def _without_row(self) -> Iterator[Finding]:
        query = """SELECT r.pack, SUM(r.bytes), o.pack IS NOT NULL FROM ref r LEFT JOIN object o ON o.pack = r.pack
        WHERE r.pack NOT IN (SELECT pack FROM pack) GROUP BY r.pack"""
        for pack, n_bytes, is_stored in self._index.ask(query):
            mend = partial(self._mender.restore_pack, pack, n_bytes) if is_stored else None
            detail = f"{self._users(pack)} refer to it, but it has no row"
            yield Finding("pack-without-row", f"pack {pack:016x}", detail, about_pack(pack), mend)

    def _missing(self) -> Iterator[Finding]:
        query = "SELECT DISTINCT pack FROM ref WHERE pack NOT IN (SELECT pack FROM object)"
        for (pack,) in self._index.ask(query):
            detail = f"the object does not exist; {self._users(pack)} need it"
            yield Finding("missing-object", pack_name(pack), detail, about_pack(pack))

    def _wrong_size(self) -> Iterator[Finding]:
        query = """SELECT p.pack, p.object, o.size FROM pack p JOIN object o ON o.pack = p.pack
        WHERE p.object != o.size"""
        for pack, recorded, size in self._index.ask(query):
            detail = f"the object has {size} bytes, recorded are {recorded}; {self._users(pack)} need it"
            yield Finding("wrong-object-size", pack_name(pack), detail, about_pack(pack))

    def _too_short(self) -> Iterator[Finding]:
        query = """SELECT r.pack, MAX(r.stored_end), MIN(o.size) FROM ref r JOIN object o ON o.pack = r.pack
        GROUP BY r.pack HAVING MAX(r.stored_end) > MIN(o.size) OR MIN(o.size) < ?"""
        for pack, stored_end, size in self._index.ask(query, HEADER_BYTES):
            detail = f"the object ends at {size}, slices of it end at {stored_end}; {self._users(pack)} need it"
            yield Finding("slice-beyond-object", pack_name(pack), detail, about_pack(pack))

    def verify(self, stage: Stage) -> Iterator[Finding]:
        """Read every stored pack that has a row; `stage` advances by bytes."""
        packs = list(self._index.ask("SELECT o.pack, o.size FROM object o JOIN pack p ON p.pack = o.pack ORDER BY o.pack"))
        rest = iter(packs)
        pool = ThreadPoolExecutor(READERS, "cairnfs-verify")
        try:
            while batch := [(PackId(pack), size, self._used(pack)) for pack, size in islice(rest, PACKS_AT_ONCE)]:
                calls = [pool.submit(verify_pack, self._volume, pack, used) for pack, _, used in batch]
                for call, (_, size, _) in zip(calls, batch, strict=True):
                    yield from call.result()
                    stage.advance(size)
        finally:
            pool.shutdown(cancel_futures=True)

    def _used(self, pack: int) -> list[Used]:
        query = "SELECT stored_off, stored_len, plain_len, crc, codec, ino FROM slice WHERE pack = ?"
        return [(SliceRef(PackId(pack), *fields), ino) for *fields, ino in self._index.ask(query, pack)]

    def _users(self, pack: int) -> str:
        n_files, paths = self._index.paths_of_pack(pack, NAMED_FILES)
        more = "" if n_files <= len(paths) else " …"
        return f"{n_files} file{'' if n_files == 1 else 's'} ({', '.join(paths)}{more})"
