"""What one transaction owes the volume's counters: usage, and the live bytes of packs.

Layout changes and deletions enter what they reference and free; `settle` turns the sums into effects, so that a pack or the
usage row appears once in a commit however many records were touched. Counters are changed by the same commit as the layouts
they count, so they are exact at every position.

Invariants, which `cairnfs.check.fsck` verifies
  (1) live_bytes of a pack = sum of `length` over every slice record, in inode and chunk rows, that names it
  (2) used_bytes = sum of alloc_bytes over inode rows; `z` rows are not in it, their space was given back at the deletion
  (3) a pack whose live bytes reached zero has a `g` row
A live count of zero is final: references are only copied from layouts that are a condition of the commit.
"""

import errno
from collections.abc import Iterable

from cairnfs.errors import CorruptError, FsError
from cairnfs.meta.records import (
    LIVE_BYTES_AT,
    USAGE_KEY,
    USED_BYTES_AT,
    USED_INODES_AT,
    PackInfo,
    decode_pack,
    encode_pack,
    garbage_key,
    pack_key,
)
from cairnfs.meta.txn import Txn
from cairnfs.types import PackId

NewPack = tuple[PackId, int, int]  # pack, plain bytes, bytes of the stored object


class Ledger:
    """Sums for one transaction; `settle` must be called once, last."""

    __slots__ = ("_new", "_packs", "used_bytes", "used_inodes")

    def __init__(self) -> None:
        self.used_bytes = 0
        self.used_inodes = 0
        self._packs: dict[PackId, int] = {}
        self._new: dict[PackId, PackInfo] = {}

    def referenced(self, pack: PackId, n_bytes: int) -> None:
        """A record of `n_bytes` now names `pack`."""
        self._packs[pack] = self._packs.get(pack, 0) + n_bytes

    def freed(self, pairs: Iterable[tuple[int, int]]) -> int:
        """Records no longer name these (pack, bytes); how many bytes that is."""
        n_freed = 0
        for pack, n_bytes in pairs:
            self.referenced(PackId(pack), -n_bytes)
            n_freed += n_bytes
        return n_freed

    def admit(self, txn: Txn, packs: Iterable[PackId], new_packs: Iterable[NewPack]) -> None:
        """Take in packs that pieces name: new ones get a row, others must have one with live bytes left.

        A new pack that has a row already is one whose commit was acknowledged to nobody and is now made again.
        Raises CorruptError (EIO) for a pack that has been, or may be about to be, deleted.
        """
        new = {pack: PackInfo(0, plain_bytes, object_bytes) for pack, plain_bytes, object_bytes in new_packs}
        wanted = sorted({*packs, *new})
        for pack, row in zip(wanted, txn.get_many([pack_key(pack) for pack in wanted]), strict=True):
            if row is not None and decode_pack(pack, row.value).live_bytes > 0:
                txn.unchanged(pack_key(pack))
            elif row is None and pack in new:
                txn.absent(pack_key(pack))
                self._new[pack] = new[pack]
            else:
                state = "gone" if row is None else "being deleted"
                raise CorruptError(f"pack {pack:016x} is {state}: its bytes must be stored again")

    def settle(self, txn: Txn, capacity_bytes: int = 0) -> None:
        """Add the effects. With a capacity, growth beyond it fails the commit with ENOSPC."""
        if self.used_bytes > 0 and capacity_bytes:
            txn.at_most(USAGE_KEY, USED_BYTES_AT, self.used_bytes, capacity_bytes, FsError(errno.ENOSPC))
        if self.used_bytes:
            txn.add(USAGE_KEY, USED_BYTES_AT, self.used_bytes)
        if self.used_inodes:
            txn.add(USAGE_KEY, USED_INODES_AT, self.used_inodes)
        for pack in sorted({*self._packs, *self._new}):
            self._settle_pack(txn, pack, self._packs.get(pack, 0))

    def _settle_pack(self, txn: Txn, pack: PackId, n_bytes: int) -> None:
        new = self._new.get(pack)
        if new is not None:
            txn.put(pack_key(pack), encode_pack(PackInfo(n_bytes, new.plain_bytes, new.object_bytes)))
        elif n_bytes:
            txn.add(pack_key(pack), LIVE_BYTES_AT, n_bytes)
        if n_bytes < 0 or (new is not None and n_bytes == 0):
            txn.put(garbage_key(pack), b"")
