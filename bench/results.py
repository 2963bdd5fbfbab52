"""What a run has found: in memory, and as JSON that another run can be compared with."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cairnfs.bench import stats
from cairnfs.bench.workload import Line
from cairnfs.errors import CairnError

FORMAT = "cairnfs-bench"
FORMAT_VERSION = 1


@dataclass
class LineResult:
    """One line of a workload: a value of each round for every place that could be measured, in order of the rounds."""

    workload: str
    name: str
    unit: str
    more_is_better: bool
    cost_unit: str
    why_behind: str
    values: dict[str, list[float]] = field(default_factory=dict)
    costs: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    @classmethod
    def of(cls, workload: str, line: Line) -> "LineResult":
        return cls(workload, line.name, line.unit, line.more_is_better, line.cost_unit, line.why_behind)

    def add(self, place: str, value: float | None, costs: dict[str, float]) -> None:
        """One round's; None when the line cannot be measured there."""
        if value is None:
            return
        self.values.setdefault(place, []).append(value)
        for what, cost in costs.items():
            self.costs.setdefault(place, {}).setdefault(what, []).append(cost)

    def median(self, place: str) -> float:
        return stats.median(self.values[place])

    def ratio(self, first: str, other: str) -> float:
        return stats.ratio(self.values[first], self.values[other], self.more_is_better)


@dataclass
class Results:
    """A whole run. `places`: what is known of each directory, by its name; the first is what the others are compared with."""

    suite: str
    settings: dict[str, Any]
    environment: dict[str, Any]
    places: dict[str, dict[str, Any]]
    questions: dict[str, str]  # of the workloads
    lines: list[LineResult]
    notes: list[str]
    seconds: float

    def of_workload(self, title: str) -> list[LineResult]:
        return [line for line in self.lines if line.workload == title and line.values]

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}, indent=1, ensure_ascii=False)


def from_json(text: str) -> Results:
    """ValueError, KeyError or TypeError when it is something else."""
    found = json.loads(text)
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise ValueError("it is something else")
    if (version := found.pop("format_version")) != FORMAT_VERSION:
        raise ValueError(f"its format {version} is not {FORMAT_VERSION}")
    found["lines"] = [LineResult(**line) for line in found["lines"]]
    return Results(**found)


def load(path: Path) -> Results:
    """Results that `--json` has written. CairnError when they cannot be read."""
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError) as error:
        raise CairnError(f"{path} is not a result of `cairnfs bench --json` that this version can read: {error}") from error
