"""How much longer things take on a machine because of what else it does, so that a limit of time means the same on a busy one."""

import os
import time
from pathlib import Path

WORK_S = 0.1  # of processor time; about what a worker needs to take over


class Machine:
    """Does by itself what a mount does while somebody waits for it: sleeps, works, and has the disk write."""

    def __init__(self, folder: Path) -> None:
        """`folder`: an ordinary one, on the disk that has the volume."""
        self._path = folder / "busy"
        self._sleep_s = self._work_s = self._write_s = 0.0  # the longest that each was held up

    def sleep(self, seconds: float) -> None:
        began_s = time.monotonic()
        time.sleep(seconds)
        self._sleep_s = max(self._sleep_s, time.monotonic() - began_s - seconds)

    def work(self) -> None:
        began_s, used_s = time.monotonic(), time.process_time()
        while time.process_time() - used_s < WORK_S:
            pass
        self._work_s = max(self._work_s, time.monotonic() - began_s - WORK_S)
        began_s = time.monotonic()
        with self._path.open("wb") as file:
            file.write(os.urandom(4096))
            file.flush()
            os.fsync(file.fileno())
        self._write_s = max(self._write_s, time.monotonic() - began_s)

    @property
    def held_up_s(self) -> float:
        """What one call may have had to wait for others, and not for the mount."""
        return self._sleep_s + self._work_s + self._write_s

    def __str__(self) -> str:
        late = f"woke {self._sleep_s:.3f} s late, worked {self._work_s:.3f} s longer"
        return f"the machine {late}, wrote within {self._write_s:.3f} s"
