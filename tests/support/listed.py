"""Names that come, go and move between directories on one mount; listings on others have all of what had happened before.

Each name has one process that changes it. What it is doing is a word in memory that all share: how many changes were begun and
made (odd while one is under way) and the directory the name is in now. A name whose word is the same before and after a listing
was in one place all the time, and the listing must have it once, or not at all.
"""

import errno
import os
import random
import time
from collections import Counter
from pathlib import Path

N_NAMES = 24
N_DIRS = 2
ABSENT = N_DIRS  # where a name is that is in no directory
STATES = N_DIRS + 1


def serial_of(word: int) -> int:
    return word // STATES


def is_still(word: int) -> bool:
    """No change of the name is under way."""
    return serial_of(word) % 2 == 0


def words_at_first() -> list[int]:
    return [ABSENT] * N_NAMES


class Lister:
    """One process: changes its own names, lists and opens all."""

    def __init__(self, top: Path, seed: int, owned: list[int], words: memoryview, n_others: int) -> None:
        """`n_others`: names in each directory that nobody changes."""
        self.dirs = [top / f"d{i}" for i in range(N_DIRS)]
        self.rng = random.Random(seed)
        self.owned = owned
        self.words = words
        self.n_others = n_others
        self.counts: Counter[str] = Counter()

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(self.rng.randrange(4) if self.owned else 0):
                self.change(self.rng.choice(self.owned))
            if self.rng.random() < 0.3:
                self.list(self.rng.randrange(N_DIRS))
            else:
                self.open(self.rng.randrange(N_NAMES), self.rng.randrange(N_DIRS))
        assert self.counts["sure"] > 10 * self.counts["listings"] > 0, self.counts
        assert self.counts["stale"] <= 1 + self.counts["opens"] // 20, self.counts

    def change(self, name: int) -> None:
        state = self.words[name] % STATES
        serial = serial_of(self.words[name]) + 1
        self.words[name] = serial * STATES + state
        state = self.changed(f"n{name}", state, b"%d %d" % (name, serial + 1))
        self.words[name] = (serial + 1) * STATES + state

    def changed(self, name: str, state: int, content: bytes) -> int:
        """Make, remove or move the name, which says what its last change was. Where it is now."""
        fresh = self.dirs[0].parent / f"fresh {name}"
        other = self.rng.randrange(STATES)
        if other == ABSENT and state != ABSENT:
            os.unlink(self.dirs[state] / name)
        elif other == ABSENT:
            return ABSENT
        elif state == ABSENT:
            (self.dirs[other] / name).write_bytes(content)
        else:
            fresh.write_bytes(content)
            os.rename(fresh, self.dirs[state] / name)
            os.rename(self.dirs[state] / name, self.dirs[other] / name)
        return other

    def list(self, which: int) -> None:
        before = list(self.words)
        if self.rng.random() < 0.5:
            found = Counter(os.listdir(self.dirs[which]))
        else:
            with os.scandir(self.dirs[which]) as entries:
                found = Counter(entry.name for entry in entries if is_there(entry))
        after = list(self.words)
        self.counts["listings"] += 1
        for name, (word, later) in enumerate(zip(before, after, strict=True)):
            if word == later and is_still(word):
                self.counts["sure"] += 1
                there = int(word % STATES == which)
                assert found[f"n{name}"] == there, f"d{which}/n{name}: {found[f'n{name}']} times, {there} expected"
        assert all(found[f"other{i}"] == 1 for i in range(self.n_others))

    def open(self, name: int, which: int) -> None:
        word = self.words[name]
        content: bytes | None = None
        try:
            fd = os.open(self.dirs[which] / f"n{name}", os.O_RDONLY)
            content = os.read(fd, 100)
            os.close(fd)
        except OSError as error:
            if error.errno == errno.ESTALE:  # another file twice within one open, once more than the kernel tries
                self.counts["stale"] += 1
                return
            assert error.errno == errno.ENOENT
        self.counts["opens"] += 1
        if word == self.words[name] and is_still(word):
            there = word % STATES == which
            expected = b"%d %d" % (name, serial_of(word)) if there else None
            assert content == expected, f"d{which}/n{name}: {content!r}, {expected!r} expected"


def is_there(entry: os.DirEntry[str]) -> bool:
    """Whether the entry can be asked about, unless it is one that comes and goes."""
    try:
        entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        assert entry.name.startswith("n")
    return True
