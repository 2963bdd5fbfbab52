"""Checking a volume: every row against every other, rows against objects, and, when asked for, every byte.

One pass reads all rows into a temporary database (`index`), queries find what contradicts (`rules`, `packs`), and what other
processes changed meanwhile is set aside (`findings`). Repair mends finding by finding and looks again, until a pass brings
nothing that can be mended: one repair may uncover another. The volume may be in use; a repair then only touches rows that
did not change, and leaves the rest unsettled.
"""

import logging

from cairnfs.check.collect import Collector
from cairnfs.check.findings import CheckedVolume, Finding, Touched
from cairnfs.check.index import Index
from cairnfs.check.mend import Mender
from cairnfs.check.packs import PackRules, list_objects
from cairnfs.check.report import Progress, Report, no_progress
from cairnfs.check.rules import Rules, stored_usage
from cairnfs.errors import CairnError
from cairnfs.meta import records

log = logging.getLogger(__name__)

MAX_ROUNDS = 10  # each uncovers what the one before made visible; two or three are usual
MAX_FINDINGS = 200_000  # kept from one pass; a volume with more is repaired in several, and reported in part

_DAMAGE = frozenset({"undecodable-row", "malformed-layout"})
_COUNTED = {"inodes": "inode", "entries": "dentry", "packs": "pack", "objects": "object", "deleted_files": "deleted"}


def run(volume: CheckedVolume, *, verify_data: bool = False, repair: bool = False, progress: Progress = no_progress) -> Report:
    """Check a volume. With `verify_data`, read every object; with `repair`, mend what can be mended.

    StoreError and ObjectError when a store fails so that the check cannot go on.
    """
    first = _Pass(volume, progress, verify_data)
    seen = {_name(finding): finding for finding in first.findings}
    last = first
    if repair:
        for _ in range(MAX_ROUNDS):
            if not _mend(last.findings, progress):
                break
            last = _Pass(volume, progress, False)
            seen.update((_name(finding), finding) for finding in last.findings)
    left = {_name(finding) for finding in [*last.findings, *first.verified]}
    report = Report(checked=last.checked, unsettled=last.n_unsettled)
    for name, finding in seen.items():
        report.add(finding.problem(repaired=name not in left))
    return report


class _Pass:
    """One look at the whole volume. `verified` are the findings that only reading the objects brings."""

    def __init__(self, volume: CheckedVolume, progress: Progress, verify_data: bool) -> None:
        self.findings: list[Finding] = []
        self.verified: list[Finding] = []
        self.checked: dict[str, int] = {}
        self.n_unsettled = 0
        store = volume.meta.store
        begin = store.position()
        with Index() as index:
            self._look(volume, index, progress, verify_data)
            self.checked |= {what: index.number(f"SELECT COUNT(*) FROM {table}") for what, table in _COUNTED.items()}
        self._settle(Touched.since(store, begin))

    def _look(self, volume: CheckedVolume, index: Index, progress: Progress, verify_data: bool) -> None:
        store, mender = volume.meta.store, Mender(volume)
        n_inodes = stored_usage(store.read([records.USAGE_KEY])[0]).used_inodes
        with progress("Reading metadata", n_inodes) as stage:
            Collector(store, index, self._add, slices=verify_data).collect(stage)
        with progress("Listing objects", index.number("SELECT COUNT(*) FROM pack")) as stage:
            self.checked["unknown_objects"] = list_objects(volume, index, stage)
        n_damaged = sum(finding.kind in _DAMAGE for finding in self.findings)
        packs = PackRules(volume, index, mender)
        with progress("Comparing", None):
            for finding in Rules(store, index, mender, n_damaged).findings():
                self._add(finding)
            for finding in packs.findings():
                self._add(finding)
        if verify_data:
            with progress("Verifying objects", index.number("SELECT SUM(object) FROM pack"), in_bytes=True) as stage:
                self.verified = list(packs.verify(stage))
                self.findings += self.verified

    def _add(self, finding: Finding) -> None:
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(finding)

    def _settle(self, touched: Touched) -> None:
        settled = [finding for finding in self.findings if not touched.unsettles(finding)]
        self.n_unsettled = len(self.findings) - len(settled)
        self.findings = settled
        self.verified = [finding for finding in self.verified if not touched.unsettles(finding)]


def _name(finding: Finding) -> tuple[str, str, str]:
    """What makes two findings the same. Numbers in the detail of one that can be mended may change from pass to pass."""
    return finding.kind, finding.subject, finding.detail if finding.mend is None else ""


def _mend(findings: list[Finding], progress: Progress) -> int:
    """Mend what can be mended; how many were. What fails is found again by the next pass."""
    n_mended = 0
    with progress("Repairing", len(findings)) as stage:
        for finding in findings:
            try:
                n_mended += finding.mend is not None and finding.mend()
            except CairnError as e:
                log.warning("cannot repair %s of %s: %s", finding.kind, finding.subject, e)
            stage.advance()
    return n_mended
