"""What checks say: problems of a volume, and what a collection found and deleted. Plain data, for people and as JSON.

Kinds of problems are stable words that scripts may compare; details are sentences for people and may change.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

MAX_LISTED = 10_000  # problems kept with their details; all are counted


class Stage(Protocol):
    """One stage of a long work, in items or bytes."""

    def advance(self, n: int = 1) -> None: ...


class Progress(Protocol):
    """Shows a stage while a block runs; `total` is None when nobody knows it."""

    def __call__(self, label: str, total: int | None = None, *, in_bytes: bool = False) -> AbstractContextManager[Stage]: ...


class _Silent:
    def advance(self, n: int = 1) -> None:
        """Nobody watches."""


@contextmanager
def no_progress(label: str, total: int | None = None, *, in_bytes: bool = False) -> Iterator[Stage]:
    """A Progress that tells nobody."""
    yield _Silent()


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: its kind, what it is about, and what exactly is wrong there."""

    kind: str
    subject: str
    detail: str
    repairable: bool
    repaired: bool = False

    def __str__(self) -> str:
        state = " (repaired)" if self.repaired else ""
        return f"{self.kind}: {self.subject}: {self.detail}{state}"


@dataclass
class Report:
    """The outcome of a volume check.

    `checked` counts what was looked at, `found` problems by kind. `unsettled` counts doubts about rows that other
    processes changed while they were being compared: run the check again, or when the volume is idle, to settle them.
    """

    problems: list[Problem] = field(default_factory=list)
    found: dict[str, int] = field(default_factory=dict)
    checked: dict[str, int] = field(default_factory=dict)
    n_repaired: int = 0
    unsettled: int = 0

    @property
    def n_problems(self) -> int:
        """All problems found, repaired ones included."""
        return sum(self.found.values())

    @property
    def n_left(self) -> int:
        """Problems that are still there."""
        return self.n_problems - self.n_repaired

    @property
    def ok(self) -> bool:
        """Nothing is wrong, or nothing any more."""
        return self.n_left == 0

    def add(self, problem: Problem) -> None:
        """Count a problem, and list it while the list is not too long."""
        self.found[problem.kind] = self.found.get(problem.kind, 0) + 1
        self.n_repaired += problem.repaired
        if len(self.problems) < MAX_LISTED:
            self.problems.append(problem)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self) | {"ok": self.ok, "n_problems": self.n_problems, "n_left": self.n_left}


@dataclass
class GcReport:
    """What a collection found, and with `delete` deleted.

    `garbage_packs`: packs without live bytes. `unknown_objects`: stored packs of which no row knows, `young_objects` of them
    younger than the grace period: perhaps their commit is on its way, so they stay. `foreign_objects` are no packs, and stay.
    `deleted_files`: large files whose chunks are still to be freed. `*_bytes` are bytes of stored objects; `dead_bytes` is
    what live packs store but no file refers to, compaction brings it back. `failed` says what could not be deleted.
    """

    delete: bool
    garbage_packs: int = 0
    garbage_bytes: int = 0
    unknown_objects: int = 0
    unknown_bytes: int = 0
    young_objects: int = 0
    foreign_objects: int = 0
    deleted_files: int = 0
    live_packs: int = 0
    live_bytes: int = 0
    dead_bytes: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Nothing that should have been deleted resisted."""
        return not self.failed

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self) | {"ok": self.ok}
