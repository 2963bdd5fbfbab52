"""Many processes doing everything at once: no error, no wrong byte, no leak, a clean volume afterwards."""

import hashlib
import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path

import pytest

from support.mounts import Mount

pytestmark = [pytest.mark.fuse, pytest.mark.slow]


def worker(top: Path, seed: int, seconds: float, failures: "multiprocessing.Queue[str]") -> None:
    rng = random.Random(seed)
    mine = top / f"w{seed}"
    shared = top / "shared"
    contents: dict[Path, str] = {}
    try:
        mine.mkdir()
        end = time.monotonic() + seconds
        n = 0
        while time.monotonic() < end:
            n += 1
            roll = rng.random()
            if roll < 0.4 or not contents:
                path = mine / f"f{n}"
                data = rng.randbytes(rng.choice([0, 10, 1000, 60_000, 200_000]))
                path.write_bytes(data)
                contents[path] = hashlib.sha256(data).hexdigest()
            elif roll < 0.7:
                path = rng.choice(list(contents))
                if hashlib.sha256(path.read_bytes()).hexdigest() != contents[path]:
                    failures.put(f"{path} has wrong bytes")
            elif roll < 0.8:
                path = rng.choice(list(contents))
                target = mine / f"r{n}"
                os.rename(path, target)
                contents[target] = contents.pop(path)
            elif roll < 0.9:
                path = rng.choice(list(contents))
                del contents[path]
                path.unlink()
            else:
                name = shared / f"s{rng.randrange(20)}"
                try:
                    name.write_bytes(rng.randbytes(100))
                    os.listdir(shared)
                    name.unlink()
                except FileNotFoundError:
                    pass
    except Exception as error:
        failures.put(f"worker {seed}: {error!r}")


def test_many_processes_at_once(mount: Mount) -> None:
    (mount.path / "shared").mkdir()
    context = multiprocessing.get_context("fork")
    failures = context.Queue()
    workers = [context.Process(target=worker, args=(mount.path, seed, 8.0, failures)) for seed in range(6)]
    for process in workers:
        process.start()
    for process in workers:
        process.join(120)
        assert process.exitcode == 0
    found = []
    while not failures.empty():
        found.append(failures.get())
    failures.close()
    failures.join_thread()
    assert not found
    shutil.rmtree(mount.path / "shared")
    mount.restart()
    for seed in range(6):
        for path in (mount.path / f"w{seed}").iterdir():
            path.read_bytes()
    descriptors = {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in mount.pids}
    assert all(n < 200 for n in descriptors.values()), descriptors
