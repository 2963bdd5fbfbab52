"""Results as one HTML file that needs nothing else: no script, no style sheet, no network. Plots are SVG inside it.

Each line of a workload is a group of bars, one for each directory: the median, a whisker from the lowest to the highest round, a
dot for every round. Bars begin at zero. Drawn by hand, because a plotting library would weigh more than the suite.
"""

from collections.abc import Iterator, Sequence
from html import escape

from cairnfs.bench.report import closing_note, cost_tables, heading, number, rate_tables
from cairnfs.bench.results import LineResult, Results
from cairnfs.bench.stats import median

COLOURS = ("#2166ac", "#b2182b", "#4d9221", "#8073ac", "#e08214", "#35978f", "#525252", "#c51b7d")
LABEL_PX, BAR_PX, GAP_PX, PLOT_PX, VALUE_PX = 300, 16, 10, 460, 150
STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
td, th { padding: 2px 10px; text-align: right; border-bottom: 1px solid #ddd; vertical-align: bottom }
td:first-child, th:first-child, td:nth-child(2), th:nth-child(2) { text-align: left }
.scroll { overflow-x: auto } svg { max-width: 100%; height: auto } svg text { font: 12px system-ui, sans-serif }
h2 { margin-top: 2em; font-size: 1.15em } .key span { display: inline-block; width: 1em; height: 1em; vertical-align: -2px }
"""


def page(results: Results) -> str:
    """The whole document."""
    parts = [*_head(results)]
    tables = rate_tables(results)
    for (title, question), (_, columns, rows) in zip(results.questions.items(), tables, strict=True):
        parts += [f"<h2>{escape(title)}</h2>", f"<p>{escape(question)}</p>"]
        parts += [plot(results.of_workload(title), list(results.places)), _table(columns, rows)]
    for title, columns, rows in cost_tables(results):
        parts += [f"<h2>{escape(title[0].upper() + title[1:])}</h2>", _table(columns, rows)]
    parts += ["<h2>Environment</h2>", _table(["", ""], [[name, str(value)] for name, value in results.environment.items()])]
    return "\n".join([*parts, "</body></html>\n"])


def _head(results: Results) -> Iterator[str]:
    yield '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>cairnfs bench</title>'
    yield f"<style>{STYLE}</style></head><body><h1>cairnfs bench</h1>"
    yield f"<ul>{_items(heading(results))}</ul>"
    key = (f'<span style="background:{_colour(n)}"></span> {escape(name)}&emsp;' for n, name in enumerate(results.places))
    yield f'<p class="key">{"".join(key)}</p>'
    notes = closing_note(results)
    yield f"<ul>{_items(notes)}</ul>" if notes else ""


def _items(lines: Sequence[str]) -> str:
    return "".join(f"<li>{escape(line)}</li>" for line in lines)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _colour(n: int) -> str:
    return COLOURS[n % len(COLOURS)]


def plot(lines: Sequence[LineResult], places: Sequence[str]) -> str:
    """Groups of bars; every line has a scale of its own, because its unit or its magnitude differ."""
    parts, y = [], GAP_PX
    for line in lines:
        highest = max(max(values) for values in line.values.values())
        said = f"<title>{'more' if line.more_is_better else 'less'} is better</title>{escape(line.name)}"
        middle = y + BAR_PX * len(line.values) / 2 + 4
        parts.append(f'<text x="0" y="{middle:.0f}">{said} <tspan fill="#888">{escape(line.unit)}</tspan></text>')
        for n, place in enumerate(places):
            if place in line.values:
                parts += _bar(y, line.values[place], highest, _colour(n), place)
                y += BAR_PX
        y += GAP_PX
    width = LABEL_PX + PLOT_PX + VALUE_PX
    return f'<svg viewBox="0 0 {width} {y}" width="{width}" height="{y}" role="img">{"".join(parts)}</svg>'


def _bar(y: int, values: Sequence[float], highest: float, colour: str, place: str) -> Iterator[str]:
    def at(value: float) -> float:
        return LABEL_PX + (value / highest if highest else 0) * PLOT_PX

    middle, rows = median(values), BAR_PX - 3
    said = f"{place}: {number(middle)} ({', '.join(map(number, values))})"
    yield f'<g><title>{escape(said)}</title><rect x="{LABEL_PX}" y="{y}" width="{at(middle) - LABEL_PX:.1f}"'
    yield f' height="{rows}" fill="{colour}" fill-opacity="0.75"/>'
    centre = y + rows / 2
    yield f'<line x1="{at(min(values)):.1f}" x2="{at(max(values)):.1f}" y1="{centre}" y2="{centre}" stroke="#222"/>'
    yield from (f'<circle cx="{at(value):.1f}" cy="{centre}" r="1.8" fill="#222"/>' for value in values)
    yield f'<text x="{at(max(values)) + 6:.1f}" y="{y + rows - 2}">{number(middle)}</text></g>'
