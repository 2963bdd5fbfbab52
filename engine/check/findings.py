"""A doubt about a volume while it is checked: what is wrong, which rows say so, and how it could be mended.

Rows are read one after another, not as of one moment, so on a volume in use two of them may contradict each other only
because one was changed between. A finding therefore names the rows it depends on; when the change log shows that one of
them was touched during the check, the finding is unsettled and proves nothing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from cairnfs.check.report import Problem
from cairnfs.meta import Meta
from cairnfs.meta.records import DENTRY_PREFIX, INODE_PREFIX, dentry_part, inode_part, pack_key
from cairnfs.meta.stores.base import Key, LogTrimmed, Store
from cairnfs.objects import ObjectStore
from cairnfs.types import PackId, Position

LOG_PAGE = 1000

Witness = bytes | Key  # the partition of an inode or a directory, or the key of another row
Mend = Callable[[], bool]  # False when the rows are no longer as they were seen


class CheckedVolume(Protocol):
    """What a check needs of a volume; `cairnfs.volume.Volume` fits."""

    @property
    def meta(self) -> Meta: ...
    @property
    def objects(self) -> ObjectStore: ...


@dataclass(frozen=True)
class Finding:
    """One contradiction. `witnesses` are the rows it rests on, `mend` removes it, None when nothing can."""

    kind: str
    subject: str
    detail: str
    witnesses: tuple[Witness, ...] = ()
    mend: Mend | None = field(default=None, compare=False)

    def problem(self, repaired: bool = False) -> Problem:
        """The finding as it is reported."""
        return Problem(self.kind, self.subject, self.detail, self.mend is not None, repaired)


def about_inodes(*inos: int) -> tuple[Witness, ...]:
    """Witnesses: everything that belongs to these inodes, entries of directories included."""
    return tuple(part(ino) for ino in inos for part in (inode_part, dentry_part))


def about_pack(pack: int) -> tuple[Witness, ...]:
    """Witness: the counters of a pack, which every change of a layout that names it touches."""
    return (pack_key(PackId(pack)),)


class Touched:
    """What commits after a position have touched; everything, when the log does not reach back that far."""

    def __init__(self, witnesses: set[Witness] | None) -> None:
        self._witnesses = witnesses

    @classmethod
    def since(cls, store: Store, position: Position) -> "Touched":
        """Read the change log from a position to its end."""
        witnesses: set[Witness] = set()
        while True:
            try:
                page = store.log(position, LOG_PAGE)
            except LogTrimmed:
                return cls(None)
            for record in page:
                witnesses.update(_witnesses_of(record.keys))
                position = record.position
            if len(page) < LOG_PAGE:
                return cls(witnesses)

    def unsettles(self, finding: Finding) -> bool:
        """Whether a finding may only show that a row changed during the check."""
        if self._witnesses is None:
            return bool(finding.witnesses)
        return not self._witnesses.isdisjoint(finding.witnesses)


def _witnesses_of(keys: Iterable[Key]) -> Iterable[Witness]:
    return (key[0] if key[0][:1] in (INODE_PREFIX, DENTRY_PREFIX) else key for key in keys)
