"""The table of inodes against a dictionary, and its bounds."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnfs.ext.ino_map import InoMap

INOS = st.one_of(st.integers(1, 40), st.integers(1, 2**64 - 1))
VALUES = st.integers(0, 2**64 - 1)
OPS = st.lists(st.one_of(st.tuples(st.just("put"), INOS, VALUES), st.tuples(st.just("remove"), INOS, st.none())), max_size=400)


@given(OPS)
def test_it_is_a_dictionary(ops: list[tuple[str, int, int | None]]) -> None:
    table, model = InoMap(), dict[int, int]()
    for op, ino, value in ops:
        if op == "put":
            assert value is not None
            table.put(ino, value)
            model[ino] = value
        else:
            assert table.remove(ino) == (model.pop(ino, None) is not None)
        assert len(table) == len(model)
    table.check()
    assert all(table.get(ino) == value for ino, value in model.items())
    assert all(table.get(ino) is None for _, ino, _ in ops if ino not in model)


@given(st.integers(1, 30), st.lists(INOS, max_size=200))
def test_a_full_table_gives_up_one_entry_for_each_new_one(limit: int, inos: list[int]) -> None:
    table = InoMap(limit)
    for n, ino in enumerate(inos):
        table.put(ino, n)
        table.check()
        assert table.get(ino) == n
    assert len(table) == min(limit, len(set(inos)))


def test_a_loop_over_more_than_fits_still_finds_some() -> None:
    table = InoMap(800)
    rng = random.Random(1)
    inos = list(range(1, 1001))
    for ino in inos:
        table.put(ino, 1)
    rng.shuffle(inos)
    assert sum(table.get(ino) is not None for ino in inos) == 800


def test_masks_reach_every_value() -> None:
    table = InoMap()
    for ino in range(1, 1000):
        table.put(ino, ino << 1 | 1)
    table.mask_all(~1 & (2**64 - 1))
    assert all(table.get(ino) == ino << 1 for ino in range(1, 1000))


def test_memory_is_bounded_and_given_back() -> None:
    table = InoMap()
    for ino in range(1, 100_001):
        table.put(ino, 0)
    assert table.n_bytes <= 100_000 * 16 / (7 / 8) * 2
    for ino in range(1, 100_001):
        assert table.remove(ino)
    table.check()
    assert (len(table), table.n_bytes) == (0, 64 * 16)


def test_senseless_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="no entries"):
        InoMap(0)
    with pytest.raises(ValueError, match="no inode 0"):
        InoMap().put(0, 1)
    assert InoMap().get(0) is None
    assert not InoMap().remove(0)
