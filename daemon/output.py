"""What commands show: aligned fields and tables for people, JSON for programs, progress on stderr.

Results go to stdout, everything else to stderr. rich is imported when something is drawn, so that quick commands stay
quick. Without a terminal a progress bar becomes a plain line every few seconds, fit for a log.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from cairnfs.units import format_size

PLAIN_INTERVAL_S = 10.0


def print_json(value: object) -> None:
    """One JSON document on stdout, indented, keys in the order they were made."""
    print(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def print_fields(fields: Mapping[str, object]) -> None:
    """Aligned `name  value` lines; a plain text, so that long values are never cut."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        print(f"{name:<{width}}  {value}")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table fitted to the terminal, or of natural width when stdout is not one."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console = Console(markup=False, highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 10_000)
    console.print(table)


def note(message: str) -> None:
    """One line for people, on stderr, after any result printed before it."""
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)


class Progress(Protocol):
    """How far a long work is. `total` may become known later; `in_bytes` work counts bytes."""

    def advance(self, n: int = 1) -> None: ...

    def set_total(self, total: int) -> None: ...


@contextmanager
def progress(label: str, total: int | None = None, *, in_bytes: bool = False) -> Iterator[Progress]:
    """Shows the progress of a long work on stderr while the block runs."""
    if sys.stderr.isatty():
        with _drawn(label, total, in_bytes) as drawn:
            yield drawn
    else:
        plain = PlainProgress(label, total, in_bytes=in_bytes)
        yield plain
        plain.finish()


@contextmanager
def _drawn(label: str, total: int | None, in_bytes: bool) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    amount: ProgressColumn = DownloadColumn(binary_units=True) if in_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeElapsedColumn())
    with RichProgress(*columns, console=Console(stderr=True)) as bars:
        yield DrawnProgress(bars, bars.add_task(label, total=total))


class DrawnProgress:
    """A bar of rich on a terminal."""

    def __init__(self, bars: Any, task: Any) -> None:
        self._bars = bars
        self._task = task

    def advance(self, n: int = 1) -> None:
        self._bars.advance(self._task, n)

    def set_total(self, total: int) -> None:
        self._bars.update(self._task, total=total)


class PlainProgress:
    """A line on stderr every PLAIN_INTERVAL_S; nothing at all for work that ends before the first."""

    def __init__(self, label: str, total: int | None, *, in_bytes: bool = False, interval_s: float = PLAIN_INTERVAL_S) -> None:
        self.label = label
        self.total = total
        self.done = 0
        self._in_bytes = in_bytes
        self._interval_s = interval_s
        self._next_s = time.monotonic() + interval_s
        self._spoke = False

    def advance(self, n: int = 1) -> None:
        self.done += n
        if time.monotonic() >= self._next_s:
            self._say()

    def set_total(self, total: int) -> None:
        self.total = total

    def finish(self) -> None:
        """The last line, only when lines were printed before it."""
        if self._spoke:
            self._say()

    def _say(self) -> None:
        of = "" if self.total is None else f" of {self._amount(self.total)}"
        note(f"{self.label}: {self._amount(self.done)}{of}")
        self._spoke = True
        self._next_s = time.monotonic() + self._interval_s

    def _amount(self, n: int) -> str:
        return format_size(n) if self._in_bytes else f"{n:,}"
