"""The invariants of a mount's memory are looked at where it serves, and one wrong word of it is found."""

import os
from pathlib import Path

import pytest

from support.invariants import Live, check_invariants, live, quiet
from support.mounts import Mount, MountFactory

pytestmark = pytest.mark.fuse

HEAD, TAIL = 2, 3  # words of the journal's header
LOW_BIT = 1


@pytest.fixture
def mount(mounts: MountFactory) -> Mount:
    if os.geteuid() != 0:
        pytest.skip("only root may look at the memory of other processes")
    made = mounts.new(None, "--workers", "2", "-o", "cache-memory=8M")
    fill(made.path)
    return made


def fill(folder: Path) -> None:
    for i in range(20):
        (folder / f"file{i}").write_bytes(b"%d" % i * 1000)
        assert (folder / f"file{i}").read_bytes() == b"%d" % i * 1000


def is_found(shared: Live, words: memoryview, at: int, wrong: int) -> bool:
    """Whether the check fails while a word has a wrong value."""
    right, words[at] = words[at], wrong
    try:
        shared.check()
    except ValueError:
        return True
    finally:
        words[at] = right
    return False


def test_a_wrong_word_of_the_arena_is_found(mount: Mount) -> None:
    check_invariants(mount)
    shared, ino = live(mount), os.stat(mount.path / "file7").st_ino
    with quiet(mount):
        places = [at for at, word in enumerate(shared.arena_words.tolist()) if word == ino]
        assert any(is_found(shared, shared.arena_words, at, ino ^ LOW_BIT) for at in places), "an entry in the wrong bucket"
        shared.check()
    fill(mount.path)


@pytest.mark.parametrize("place", [HEAD, TAIL])
def test_a_wrong_word_of_the_journal_is_found(mount: Mount, place: int) -> None:
    check_invariants(mount)
    shared = live(mount)
    with quiet(mount):
        assert is_found(shared, shared.journal_words, place, shared.journal_words[place] ^ LOW_BIT)
        shared.check()
    fill(mount.path)


def test_checking_a_mount_does_not_replace_its_workers(mount: Mount) -> None:
    before = mount.pids
    for _ in range(3):
        check_invariants(mount)
    fill(mount.path)
    assert mount.pids == before
