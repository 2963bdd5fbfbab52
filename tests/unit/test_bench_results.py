"""Results of the bench: JSON there and back, what `compare` finds and how it exits, what reports show."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cairnfs.bench import html, report
from cairnfs.bench.compare import compare
from cairnfs.bench.environment import environment
from cairnfs.bench.results import LineResult, Results, from_json
from support.mounts import cairnfs

RATE = ("small files", "create", "files/s", True, "files", "it commits")
TIME = ("package tree", "import", "s", False, "run", "it asks")
SETTINGS = {"n_files": 10, "sizes": "64 KiB", "n_procs": 2, "n_rounds": 2, "large_bytes": 0}
PLACES = {
    "/mnt": {"path": "/mnt", "fstype": "fuse.cairnfs", "options": "rw"},
    "/local": {"path": "/local", "fstype": "ext4", "options": "rw"},
}


def results(rates: tuple[float, float] = (100, 1000), times: tuple[float, float] = (2, 1)) -> Results:
    """Two lines, two places, two rounds."""
    lines = [LineResult(*RATE), LineResult(*TIME)]
    for line, values in zip(lines, (rates, times), strict=True):
        for place, value in zip(PLACES, values, strict=True):
            line.add(place, value, {"client CPU µs": 5, "FUSE requests": 2} if place == "/mnt" else {"client CPU µs": 4})
            line.add(place, value * 1.1, {"client CPU µs": 7, "FUSE requests": 2} if place == "/mnt" else {"client CPU µs": 4})
    questions = {"small files": "How fast?", "package tree": "How long?"}
    return Results("quick", SETTINGS, environment(), PLACES, questions, lines, ["fio is left out"], 12.5)


def written(path: Path, found: Results) -> Path:
    path.write_text(found.to_json())
    return path


def test_json_gives_back_what_was_written() -> None:
    found = results()
    again = from_json(found.to_json())
    assert again == found
    assert again.to_json() == found.to_json()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "cairnfs-bench"}', '{"format": "cairnfs-bench", "format_version": 2}', "\0"]
)
def test_something_else_is_refused_with_one_line(tmp_path: Path, text: str) -> None:
    good, bad = written(tmp_path / "good.json", results()), tmp_path / "bad.json"
    bad.write_text(text)
    done = cairnfs("bench", "compare", good, bad, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and "bad.json is not a result of `cairnfs bench --json`" in done.stderr


@pytest.mark.parametrize(
    ("after", "limit", "code"),
    [
        (results(), "10%", 0),
        (results(rates=(91, 1000)), "10%", 0),
        (results(rates=(89, 1000)), "10%", 1),
        (results(rates=(100, 890)), "10", 1),
        (results(rates=(89, 1000)), "15%", 0),
        (results(times=(2.3, 1)), "10%", 1),
        (results(times=(1, 0.5)), "10%", 0),
        (results(rates=(500, 5000)), "10%", 0),
    ],
)
def test_compare_exits_with_1_only_above_the_limit(tmp_path: Path, after: Results, limit: str, code: int) -> None:
    paths = written(tmp_path / "a.json", results()), written(tmp_path / "b.json", after)
    done = cairnfs("bench", "compare", *paths, "--fail-above", limit, check=False)
    assert done.returncode == code, done
    assert (done.stderr == "") == (code == 0)
    assert cairnfs("bench", "compare", *paths).returncode == 0  # without a limit it only shows


def test_a_line_that_is_gone_fails_whatever_the_limit(tmp_path: Path) -> None:
    before, after = results(), results()
    after.lines.pop()
    done = cairnfs(
        *("bench", "compare", written(tmp_path / "a.json", before), written(tmp_path / "b.json", after)),
        *("--fail-above", "500%", "--json"),
        check=False,
    )
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert [change["fails"] for change in found] == [False, False, True, True]
    assert found[2]["after"] is None


def test_places_with_other_names_are_compared_in_their_order() -> None:
    before, after = results(), results(rates=(50, 1000))
    names = dict(zip(PLACES, ("/x", "/y"), strict=True))
    for line in after.lines:
        line.values = {names[place]: values for place, values in line.values.items()}
    after = replace(after, places={names[place]: about for place, about in PLACES.items()})
    parts = [change.part for change in compare(before, after)]
    assert parts == pytest.approx([-0.5, 0, 0, 0])


def test_runs_of_other_places_cannot_be_compared(tmp_path: Path) -> None:
    after = replace(results(), places={"/x": PLACES["/mnt"]})
    paths = written(tmp_path / "a.json", results()), written(tmp_path / "b.json", after)
    done = cairnfs("bench", "compare", *paths, check=False)
    assert done.returncode == 1 and "no directory in common" in done.stderr and len(done.stderr.splitlines()) == 1


def test_runs_that_did_different_work_are_told_apart(tmp_path: Path) -> None:
    after = replace(results(), settings={**SETTINGS, "n_files": 20})
    done = cairnfs("bench", "compare", written(tmp_path / "a.json", results()), written(tmp_path / "b.json", after))
    assert "the runs did different work: n_files is 10 in " in done.stderr


def test_limits_that_are_none_are_wrong_usage(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", results())
    for limit in ("lots", "-5%", "nan"):
        done = cairnfs("bench", "compare", path, path, "--fail-above", limit, check=False)
        assert done.returncode == 2 and "is not a percentage" in done.stderr


# Reports


def test_ratios_above_1_are_better_than_the_first() -> None:
    tables = {title: rows for title, _, rows in report.rate_tables(results())}
    assert tables["small files: How fast?"] == [["create", "files/s", "105 ±5%", "1,050 ±5% 10.00x"]]
    assert tables["package tree: How long?"] == [["import", "s", "2.10 ±5%", "1.05 ±5% 2.00x"]]


def test_costs_are_shown_where_more_is_known_than_the_workers_own() -> None:
    ((title, columns, rows),) = report.cost_tables(results())
    assert title.endswith("in /mnt")
    assert columns == ["", "of each", "FUSE requests", "client CPU µs"]
    assert rows[0] == ["small files: create", "files", "2.00", "6.00"]


def test_the_note_at_the_end_says_where_cairnfs_is_behind_and_why() -> None:
    assert report.closing_note(results()) == [
        "/mnt is behind, because it commits: small files: create (0.10 of /local).",
        "/mnt is behind, because it asks: package tree: import (0.50 of /local).",
    ]
    assert report.closing_note(results(rates=(100, 90), times=(1, 2))) == ["No line has cairnfs behind another directory."]
    nobody = replace(results(), places=dict.fromkeys(PLACES, PLACES["/local"]))
    assert report.closing_note(nobody) == []


class Tags(HTMLParser):
    """Checks that tags are closed in order, and collects what a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[tuple[str, str | None]] = []
        self.n_bars = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.n_bars += tag == "rect"
        self.fetched += [(name, value) for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.n_bars += tag == "rect"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_html_report_needs_nothing_else_and_is_well_formed() -> None:
    found = results()
    found.notes.append("<script>&")
    text = html.page(found)
    tags = Tags()
    tags.feed(text)
    assert (tags.open, tags.fetched) == ([], [])
    assert "url(" not in text and "@import" not in text and "<script" not in text
    assert tags.n_bars == len(found.lines) * len(PLACES)
    assert all(line.name in text for line in found.lines) and "1,050" in text


def test_markdown_has_every_line() -> None:
    text = report.markdown(results())
    assert "| create | files/s | 105 ±5% | 1,050 ±5% 10.00x |" in text
    assert "- fio is left out" in text


def test_the_environment_is_recorded_without_the_name_of_the_machine() -> None:
    import socket

    found = environment()
    assert found["kernels"]["checksum"] in ("scalar", "sse42", "armv8")
    assert found["CPUs"] >= 1 and found["kernel"].startswith("Linux ")
    assert socket.gethostname() not in (value for value in found.values() if isinstance(value, str))
