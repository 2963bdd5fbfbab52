"""The bench of compiled kernels times each of them, and every variant; suites are complete and documented."""

import json
from pathlib import Path

import pytest

from cairnfs.bench.cli import SUITE_NAMES
from cairnfs.bench.content import parse_sizes
from cairnfs.bench.kernels import NOT_ALONE, measure
from cairnfs.bench.suites import SUITES
from cairnfs.bench.workload import Settings
from cairnfs.ext import KERNELS, checksum
from support.mounts import cairnfs

BENCH = Path(__file__).parents[2] / "bench"


def test_every_kernel_is_timed_or_said_not_to_be() -> None:
    found = measure(0.001)
    assert sorted({timing.kernel for timing in found} | set(NOT_ALONE)) == sorted(KERNELS)
    assert not {timing.kernel for timing in found} & set(NOT_ALONE)
    assert {timing.variant for timing in found if timing.kernel == "checksum"} == set(checksum.available())
    assert all(timing.ns > 0 for timing in found)
    assert all(timing.gb_per_s > 0 for timing in found if "KiB" in timing.operation)


def test_the_command_prints_them() -> None:
    found = json.loads(cairnfs("bench", "kernels", "--seconds", "0.001", "--json").stdout)
    assert {"kernel", "variant", "operation", "ns", "gb_per_s"} == set(found[0])
    assert "CRC32C of 64 KiB" in cairnfs("bench", "kernels", "--seconds", "0.001").stdout


@pytest.mark.parametrize("suite", SUITE_NAMES)
def test_suites_have_lines_of_their_own(suite: str) -> None:
    workloads = SUITES[suite].workloads(Settings(100, 3, 1))
    titles = [workload.title for workload in workloads]
    assert len(set(titles)) == len(titles)
    for workload in workloads:
        names = [line.name for line in workload.lines]
        assert names and len(set(names)) == len(names)
        assert workload.question.endswith("?") and all(line.why_behind for line in workload.lines)


def test_suites_are_those_of_the_command() -> None:
    assert tuple(SUITES) == SUITE_NAMES


def test_every_workload_is_documented() -> None:
    text = (BENCH / "README.md").read_text()
    files = {path.stem for path in (BENCH / "workloads").glob("*.py")} - {"__init__"}
    assert [name for name in files if f"`{name}`" not in text] == []
    used = {type(workload).__module__.rpartition(".")[2] for workload in SUITES["all"].workloads(Settings(100, 2, 1))}
    assert used == files


def test_sizes_of_speech_are_below_100_kb_and_always_the_same() -> None:
    sizes = parse_sizes("wav").first(2000)
    assert sizes == parse_sizes("wav").first(2000)
    assert min(sizes) >= 8_000 and max(sizes) <= 100_000
    assert 40_000 < sorted(sizes)[1000] < 50_000
    assert parse_sizes("64K").first(3) == [65536] * 3
