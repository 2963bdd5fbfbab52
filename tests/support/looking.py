"""Readers on a host that look at one thing each, again and again, and note when and what they saw.

python looking.py TOP KIND:NAME...: one thread for each; it ends at a line of input. Kinds: `held` (a file that is open), `opened`
(it is opened each time), both up to the first semicolon; `mode`, `names` (of a directory), `there` (yes or no).
"""

import errno
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from support.hosts import HostMount
from support.programs import says

PAUSE_S = 0.05


class Seen(NamedTuple):
    """One look: when it began and ended, and what it found, or the name of an errno."""

    began_s: float
    ended_s: float
    what: str


class Readers:
    """Threads on a host. What they `stop` with is what each has seen, by its KIND:NAME."""

    def __init__(self, mount: HostMount, *things: str) -> None:
        self._process = mount.host.popen(
            "env", f"PYTHONPATH={Path(__file__).parents[1]}", sys.executable, __file__, mount.path, *things
        )
        self._things = things
        assert says(self._process)

    def stop(self) -> dict[str, list[Seen]]:
        out, err = self._process.communicate("\n", timeout=60)
        assert not err, err
        found: dict[str, list[Seen]] = {thing: [] for thing in self._things}
        for line in out.splitlines():
            thing, began, ended, what = line.split()
            found[thing].append(Seen(float(began), float(ended), what))
        return found


def between(seen: list[Seen], begin_s: float, end_s: float) -> list[Seen]:
    """Looks that began then."""
    return [each for each in seen if begin_s <= each.began_s < end_s]


def _version(data: bytes) -> str:
    return data.split(b";")[0].decode()


def _looker(kind: str, path: Path) -> Callable[[], str]:
    if kind == "held":
        held = os.open(path, os.O_RDONLY)
        return lambda: _version(os.pread(held, 100, 0))
    return {
        "opened": lambda: _version(path.read_bytes()),
        "mode": lambda: f"{path.stat().st_mode & 0o777:o}",
        "names": lambda: ",".join(sorted(os.listdir(path))),
        "there": lambda: "yes" if _is_there(path) else "no",
    }[kind]


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def _look(thing: str, look: Callable[[], str], lock: threading.Lock, done: threading.Event) -> None:
    while not done.is_set():
        began_s = time.monotonic()
        try:
            what = look()
        except OSError as error:
            what = errno.errorcode[error.errno or 0]
        with lock:
            print(thing, began_s, time.monotonic(), what, flush=True)
        time.sleep(PAUSE_S)


def main(top: Path, things: list[str]) -> None:
    lock, done = threading.Lock(), threading.Event()
    lookers = [(thing, _looker(thing.partition(":")[0], top / thing.partition(":")[2])) for thing in things]
    threads = [threading.Thread(target=_look, args=(thing, look, lock, done)) for thing, look in lookers]
    for thread in threads:
        thread.start()
    sys.stdin.readline()
    done.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
