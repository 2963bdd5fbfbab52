"""Results for people: tables on a terminal, the same as Markdown, and the note that says where cairnfs is behind, and why."""

from collections.abc import Iterator, Sequence
from typing import Any

from cairnfs.bench.costs import COSTS
from cairnfs.bench.results import LineResult, Results
from cairnfs.bench.stats import median, spread
from cairnfs.daemon.mountpoint import FSTYPE
from cairnfs.units import format_duration

BEHIND = 0.95  # of what another place does: nearer is the same, as far as such a run can tell
Table = tuple[str, list[str], list[list[str]]]  # title, columns, rows


def number(value: float) -> str:
    """About three digits that mean something, and no exponent."""
    if value >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def rate_tables(results: Results) -> Iterator[Table]:
    """One table for each workload: medians with their spread, and how many times as good as the first the others are."""
    places = list(results.places)
    for title, question in results.questions.items():
        rows = [
            [line.name, line.unit, *(_value(line, places[0], place) for place in places)] for line in results.of_workload(title)
        ]
        yield f"{title}: {question}", ["", "unit", *places], rows


def _value(line: LineResult, first: str, place: str) -> str:
    if place not in line.values:
        return "-"
    shown = f"{number(median(line.values[place]))} ±{spread(line.values[place]):.0%}"
    return f"{shown} {line.ratio(first, place):.2f}x" if place != first and first in line.values else shown


def cost_tables(results: Results) -> Iterator[Table]:
    """One table for each place where more is known than what the processes of the run themselves used."""
    for place in results.places:
        lines = [line for line in results.lines if len(line.costs.get(place, {})) > 1]
        known = [what for what in COSTS if any(what in line.costs[place] for line in lines)]
        if known:
            rows = [[f"{line.workload}: {line.name}", line.cost_unit, *_costs(line, place, known)] for line in lines]
            yield f"costs of each file, name, record, MiB, ... in {place}", ["", "of each", *known], rows


def _costs(line: LineResult, place: str, known: Sequence[str]) -> list[str]:
    costs = line.costs[place]
    return [number(median(costs[what])) if what in costs else "-" for what in known]


def heading(results: Results) -> list[str]:
    """What was run, where, and what was left out."""
    about, settings = results.environment, results.settings
    done = f"suite {results.suite}: {settings['n_files']:,} files, sizes {settings['sizes']}, {settings['n_procs']} processes"
    variants = ", ".join(f"{name} {variant}" for name, variant in about["kernels"].items())
    machine = f"{about['CPU']}, {about['CPUs']} CPUs, {about['memory MiB']:,} MiB, {about['kernel']}, Python {about['Python']}"
    return [
        f"{done}; {format_duration(results.seconds)} in all",
        f"medians of {settings['n_rounds']} rounds ± the farthest; 2.00x: twice as good as {next(iter(results.places))}",
        f"{machine}; cairnfs {about['cairnfs']} ({variants}); load at the start {about['load at the start']}",
        *(f"{name}: {_about(place)}" for name, place in results.places.items()),
        *results.notes,
    ]


def _about(place: dict[str, Any]) -> str:
    stores = f", metadata in {place['metadata']}, objects in {place['storage']}" if "metadata" in place else ""
    return f"{place['fstype']} ({place['options']}){stores}"


def closing_note(results: Results) -> list[str]:
    """Every line in which a cairnfs mount is behind another directory, by the reason."""
    behind: dict[tuple[str, str], list[str]] = {}
    ours = [name for name, place in results.places.items() if place["fstype"] == FSTYPE]
    for place in ours:
        for line in results.lines:
            others = [other for other in line.values if other not in ours and place in line.values]
            ratios = {other: 1 / ratio for other in others if (ratio := line.ratio(place, other)) > 1 / BEHIND}
            if ratios:
                worst = min(ratios, key=lambda other: ratios[other])
                behind.setdefault((place, line.why_behind), []).append(
                    f"{line.workload}: {line.name} ({ratios[worst]:.2f} of {worst})"
                )
    if ours and not behind:
        return ["No line has cairnfs behind another directory."]
    return [f"{place} is behind, because {why}: {'; '.join(lines)}." for (place, why), lines in behind.items()]


def markdown(results: Results) -> str:
    """Everything, fit for a README."""
    parts = ["\n".join(f"- {line}" for line in heading(results))]
    for title, columns, rows in (*rate_tables(results), *cost_tables(results)):
        aligned = "|---|---|" + "---:|" * (len(columns) - 2)
        table = [f"| {' | '.join(row)} |" for row in (columns, *rows)]
        parts.append("\n".join([f"**{title}**", "", table[0], aligned, *table[1:]]))
    parts.append("\n".join(f"- {line}" for line in closing_note(results)))
    return "\n\n".join(parts) + "\n"
