"""Random operations on a mount and on a native directory side by side: results and whole trees must be equal.

Each counterexample that was ever found is kept below as a test of its own.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.mounts import MountFactory
from support.side_by_side import Pair, allocate, stay_equal
from support.syscalls import FALLOC_KEEP_SIZE

pytestmark = [pytest.mark.fuse, pytest.mark.slow]


@pytest.fixture
def pair(mounts: MountFactory, tmp_path: Path) -> Iterator[Pair]:
    native = tmp_path / "native"
    native.mkdir()
    yield Pair(mounts.new().path, native)


def test_regression_allocating_within_the_size_moves_the_modification_time(pair: Pair) -> None:
    pair.both(lambda top: os.close(os.open(top / "a", os.O_CREAT, 0o600)))
    pair.both(lambda top: os.utime(top / "a", ns=(0, 0)))
    pair.both(lambda top: allocate(top / "a", FALLOC_KEEP_SIZE, 0, 1))
    pair.compare()


def test_mount_and_native_directory_stay_equal(pair: Pair) -> None:
    stay_equal(pair)
