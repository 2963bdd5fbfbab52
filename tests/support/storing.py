"""A program that stores files while the storage has trouble, and what it was promised."""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

WRITER = Path(__file__).with_name("storing_writer.py")
LIMIT_S = 40  # for what a test waits for; a machine may be busy


class Writing:
    """storing_writer.py on a mount, or on that of a host (`prefix`), where it is `folder` and here `seen`.

    `acknowledged`: digests of what was promised; `failures`: errnos of what was refused.
    """

    def __init__(self, folder: Path, log: Path, prefix: Sequence[str] = (), seen: Path | None = None) -> None:
        self.folder = folder if seen is None else seen
        self.log = log
        with log.open("wb") as out:
            command = [*prefix, sys.executable, WRITER, str(folder), "7"]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out)

    @property
    def outcomes(self) -> list[tuple[str, str, int, float]]:
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    @property
    def acknowledged(self) -> dict[Path, str]:
        return {self.folder / name: digest for name, digest, failed, _ in self.outcomes if not failed}

    @property
    def failures(self) -> list[int]:
        return [failed for _, _, failed, _ in self.outcomes if failed]

    @property
    def longest_s(self) -> float:
        return max(took_s for _, _, _, took_s in self.outcomes)

    def wait_for_more(self, n: int) -> None:
        wanted = len(self.acknowledged) + n
        wait(lambda: len(self.acknowledged) >= wanted, f"nothing is stored any more: {self.failures}")

    def end(self) -> None:
        self.process.communicate(timeout=LIMIT_S)
        assert self.process.returncode == 0


def wait(ready: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not ready():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)


def failure(call: Callable[[], object]) -> int | None:
    """The errno of what a call raises, None when it succeeds."""
    try:
        call()
    except OSError as error:
        return error.errno
    return None


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
