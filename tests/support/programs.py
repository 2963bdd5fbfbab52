"""Programs on other hosts that tests talk to, a line at a time."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

from support.answers import until
from support.load import data_of

N_CHANGES = 10  # of a load, at least


def says(process: "Popen[str]") -> str:
    """Its next line."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        assert process.stderr is not None
        raise AssertionError(f"the program has ended: {process.stderr.read()}")
    return line.strip()


@contextmanager
def ended(*processes: "Popen[str]") -> Iterator[None]:
    """At the end of the block they get the end of their input, and must end."""
    try:
        yield
    except BaseException:
        for process in processes:
            process.kill()
        raise
    finally:
        for process in processes:
            process.communicate(timeout=30)


class Load:
    """`load.py` on a host, or here: it runs until `stop`; then what is there can be compared with what it was promised.

    It has made some changes when this returns, and may make few where things get slow.
    """

    def __init__(self, prefix: list[str], folder: Path, name: str) -> None:
        command = [*prefix, sys.executable, str(Path(__file__).with_name("load.py")), str(folder), name]
        self._said = tempfile.TemporaryFile("w+")
        self._process = Popen(command, stdin=subprocess.PIPE, stdout=self._said, text=True)
        self.slowest_s = 0.0
        self.failures: list[str] = []
        self.versions: dict[str, int | None] = {}
        self.n_changes = 0
        try:
            until(lambda: self._n_lines() > N_CHANGES, "the load has not begun", 30)
        except AssertionError:
            self.kill()
            raise

    def _n_lines(self) -> int:
        return os.pread(self._said.fileno(), 1 << 16, 0).count(b"\n")  # leaves the offset, which the load writes at, alone

    def stop(self, timeout_s: float = 60) -> None:
        """What it was promised is known afterwards."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(timeout_s) == 0
        self._said.seek(0)
        for line in self._said:
            kind, *words = line.split()
            if kind == "+":
                self.versions[words[0]] = int(words[1])
            elif kind == "-":
                self.versions[words[0]] = None
            elif kind == "!":
                self.failures.append(line.strip())
            else:
                self.slowest_s = float(words[0])
            self.n_changes += kind in "+-"
        self._said.close()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._said.close()

    def check(self, folder: Path) -> None:
        """Every file that was promised is there, with the version of the last promise, and no other is."""
        assert self.n_changes > N_CHANGES
        for file, version in self.versions.items():
            if version is not None:
                assert (folder / file).read_bytes() == data_of(file, version), file
        there = {name for name in os.listdir(folder) if not name.endswith(".new")}
        assert there == {file for file, version in self.versions.items() if version is not None}
