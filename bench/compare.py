"""One run against an earlier one: what has become slower, and by how much."""

from typing import NamedTuple

from cairnfs.bench import stats
from cairnfs.bench.results import LineResult, Results
from cairnfs.errors import CairnError


class Change(NamedTuple):
    """One line in one place. `part`: by what part it is better, negative when worse; None: the later run does not have it."""

    workload: str
    line: str
    unit: str
    place: str
    before: float
    after: float | None
    part: float | None
    spread: float  # the larger one of the two runs

    def is_worse_than(self, limit: float) -> bool:
        """Slower by more than `limit`, or gone: what is not measured any more may be arbitrarily slow."""
        return self.part is None or self.part < -limit


def compare(before: Results, after: Results) -> list[Change]:
    """Every line of the earlier run. CairnError when they have no place in common."""
    later = {(line.workload, line.name): line for line in after.lines}
    pairs = matched(list(before.places), list(after.places))
    return [
        _change(line, place, later.get((line.workload, line.name)), pairs.get(place))
        for line in before.lines
        for place in line.values
    ]


def matched(before: list[str], after: list[str]) -> dict[str, str]:
    """Places of two runs: by name; when no name is the same, as with mounts in temporary folders, by their order."""
    same = {name: name for name in before if name in after}
    if same:
        return same
    if len(before) != len(after):
        raise CairnError(f"the runs have no directory in common: {', '.join(before)}; {', '.join(after)}")
    return dict(zip(before, after, strict=True))


def _change(line: LineResult, place: str, later: LineResult | None, later_place: str | None) -> Change:
    old = line.values[place]
    new = later.values.get(later_place) if later is not None and later_place is not None else None
    head = (line.workload, line.name, line.unit, place, stats.median(old))
    if new is None:
        return Change(*head, None, None, stats.spread(old))
    part = stats.change(old, new, line.more_is_better)
    return Change(*head, stats.median(new), part, max(stats.spread(old), stats.spread(new)))
