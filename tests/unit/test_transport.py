"""Which transport a mount tries, and what it says when that is not io_uring."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cairnfs.daemon import transport
from cairnfs.daemon.transport import choose
from cairnfs.options import FuseOptions


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four possible CPUs, all online, io_uring switched on."""
    monkeypatch.setattr(transport, "ENABLED", tmp_path / "enable_uring")
    monkeypatch.setattr(transport, "CPUS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    for name, text in {"enable_uring": "Y", "possible": "0-3", "online": "0-3"}.items():
        (tmp_path / name).write_text(text + "\n")
    return tmp_path


def reason(options: FuseOptions | None = None, *, outlives: bool = False) -> str | None:
    chosen, n_queues = choose(options or FuseOptions(), outlives)
    assert (chosen.name == "io_uring") == (chosen.reason is None) == (n_queues > 0)
    return chosen.reason


def test_each_possible_cpu_has_a_queue(machine: Path) -> None:
    assert choose(FuseOptions(), outlives=False)[1] == 4
    (machine / "online").write_text("0,2-3\n")
    assert choose(FuseOptions(), outlives=False)[1] == 4


def test_every_reason_is_said() -> None:
    assert reason() is None
    assert "--workers 0" in str(reason(outlives=True))
    assert "--no-io-uring" in str(reason(replace(FuseOptions(), io_uring=False)))
    assert "--threads is 7" in str(reason(replace(FuseOptions(), max_threads=7)))
    assert "4096 bytes" in str(reason(replace(FuseOptions(), max_write_bytes=4096)))


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("enable_uring", "N", "is N"),
        ("possible", "0-128", "at most 128 CPUs"),
        ("possible", "0-2,4", "every CPU"),
        ("online", "0-4", "every CPU"),
    ],
)
def test_what_the_machine_lacks(machine: Path, file: str, text: str, expected: str) -> None:
    (machine / file).write_text(text + "\n")
    assert expected in str(reason(replace(FuseOptions(), max_threads=1024)))


def test_a_kernel_without_it(machine: Path) -> None:
    (machine / "enable_uring").unlink()
    assert "this kernel has no" in str(reason())
