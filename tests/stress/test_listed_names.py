"""Two mounts, names that come, go and move on both: listings and opens on each see all that had happened before.

Directories have fewer names than fill a page of the kernel's, as many as come in one round trip, or more. On SQLite and Redis,
for CAIRN_LISTED_SECONDS.
"""

import mmap
import multiprocessing
import os
from pathlib import Path

import pytest

from support.answers import until
from support.listed import N_DIRS, N_NAMES, Lister, words_at_first
from support.mounts import MountFactory

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

SECONDS = float(os.environ.get("CAIRN_LISTED_SECONDS", "3"))


@pytest.fixture(params=["sqlite", "redis"])
def tops(request: pytest.FixtureRequest, mounts: MountFactory) -> list[Path]:
    server = request.getfixturevalue("redis_server") if request.param == "redis" else None
    one = mounts.new(mounts.volume(url=None if server is None else f"{server.url}/5"), "--heartbeat", "30")
    two = mounts.new(one.volume, "--heartbeat", "30")
    return [one.path, two.path]


@pytest.mark.parametrize("n_others", [0, 600, 1500])
def test_listings_have_what_had_happened_before(tops: list[Path], n_others: int) -> None:
    for i in range(N_DIRS):
        (tops[0] / f"d{i}").mkdir()
        for n in range(n_others):
            (tops[0] / f"d{i}" / f"other{n}").touch()
    until((tops[1] / f"d{N_DIRS - 1}").exists)
    with mmap.mmap(-1, 8 * N_NAMES) as memory, memoryview(memory) as view, view.cast("q") as words:
        for name, word in enumerate(words_at_first()):
            words[name] = word
        listers = [Lister(tops[i % 2], i, list(range(i, N_NAMES, 2)) if i < 2 else [], words, n_others) for i in range(4)]
        processes = [multiprocessing.get_context("fork").Process(target=each.run, args=(SECONDS,)) for each in listers]
        for process in processes:
            process.start()
        for process in processes:
            process.join(SECONDS + 50)
        assert [process.exitcode for process in processes] == [0] * len(processes)
