"""The command line without a mount: exit codes, one-line errors, lazy imports, how options are read."""

import json
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest

from cairnfs.daemon import cli
from support.mounts import CAIRNFS, cairnfs

ROOT = Path(__file__).parents[2]


def fails(*args: str | Path, code: int = 1) -> str:
    """Run a command that must fail with `code` and one line on stderr; returns that line."""
    done = cairnfs(*args, check=False)
    assert done.returncode == code, done
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("cairnfs: "), lines
    return lines[0]


def test_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert cairnfs("version").stdout.startswith(f"cairnfs {project} ")
    assert json.loads(cairnfs("version", "--json").stdout)["version"] == project


def test_version_and_help_do_not_import_the_engine() -> None:
    script = (
        "import sys; from cairnfs.daemon.cli import run; status = run({args!r}); "
        "heavy = [m for m in sys.modules if m.startswith(('cairnfs.meta', 'cairnfs.data', 'cairnfs.vfs', 'rich', 'sqlite3'))]; "
        "assert not heavy, heavy; sys.exit(status)"
    )
    for args in (["version"], ["--help"], ["mount", "--help"]):
        done = subprocess.run([sys.executable, "-c", script.format(args=args)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_help_lists_every_command() -> None:
    listed = cairnfs("--help").stdout
    for command in (
        "format",
        "mount",
        "umount",
        "status",
        "info",
        "stats",
        "watch",
        "config",
        "fsck",
        "gc",
        "destroy",
        "bench",
        "version",
    ):
        assert f"\n  {command} " in listed
        assert cairnfs(command, "--help").stdout.startswith(f"Usage: cairnfs {command} ")


@pytest.mark.parametrize(
    "args",
    [
        ["frobnicate"],
        ["format"],
        ["format", "memory://x"],
        ["version", "--nonsense"],
        ["format", "memory://x", "vol", "--block-size", "4X"],
    ],
)
def test_wrong_usage_ends_with_2_and_says_how_it_is_used(args: list[str]) -> None:
    done = cairnfs(*args, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: cairnfs")


@pytest.mark.parametrize(
    "args",
    [["status", "nonsense"], ["status", "ftp://host/x"], ["status", "sqlite3://"], ["format", "memory://x", "Bad_Name"]]
    + [["format", "memory://x", "ab"], ["format", "memory://x", "vol", "--block-size", "5M"]]
    + [["format", "memory://x", "vol", "--compress", "lzma"], ["mount", "memory://x", "/mnt", "-o", "nonsense"]]
    + [["mount", "memory://x", "/mnt", "--front", "kernel"], ["mount", "memory://x", "/mnt", "-o", "cache-memory=lots"]],
)
def test_values_that_cannot_be_end_with_2_and_one_line(args: list[str]) -> None:
    fails(*args, code=2)


def test_a_missing_volume_is_one_line_that_says_how_to_make_one(tmp_path: Path) -> None:
    for command in ("status", "config", "fsck", "gc"):
        assert "cairnfs format" in fails(command, f"sqlite3://{tmp_path}/none.db")
    assert "cairnfs format" in fails("mount", f"sqlite3://{tmp_path}/none.db", tmp_path)
    assert not (tmp_path / "none.db").exists()


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [*CAIRNFS, "--debug", "status", f"sqlite3://{tmp_path}/none.db"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr and done.stderr.splitlines()[-1].startswith("cairnfs: ")


def test_a_closed_output_ends_quietly() -> None:
    done = subprocess.run(
        ["bash", "-c", '"$@" | true; exit ${PIPESTATUS[0]}', "bash", *CAIRNFS, "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done
    assert done.stderr == ""


@pytest.mark.parametrize("interrupted", [True, False])
def test_an_interrupt_in_the_middle_of_a_lock_is_an_interrupt(monkeypatch: pytest.MonkeyPatch, interrupted: bool) -> None:
    """As `threading` ends it: by complaining that a lock is not locked, while it undoes what it has begun."""

    def main(**_: object) -> int:
        try:
            try:
                raise KeyboardInterrupt if interrupted else ValueError
            finally:
                threading.Lock().release()
        finally:
            threading.Lock().release()

    monkeypatch.setattr(cli.root, "main", main)
    if interrupted:
        assert cli.run(["version"]) == cli.INTERRUPTED == 130
    else:
        with pytest.raises(RuntimeError, match="unlocked"):
            cli.run(["version"])
