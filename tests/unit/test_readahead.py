"""The readahead policy: sequential readers are served ahead, others are left alone."""

import random

from hypothesis import given
from hypothesis import strategies as st

from cairnfs.const import KIB, MIB
from cairnfs.data.readahead import FIRST_WINDOW_BYTES, SLACK_BYTES, Readahead

STEP = 128 * KIB


def advised(cursor: Readahead, requests: list[tuple[int, int]]) -> list[tuple[int, int]]:
    found = [cursor.observe(offset, size).ahead for offset, size in requests]
    return [ahead for ahead in found if ahead is not None]


def test_the_head_of_a_file_starts_nothing() -> None:
    cursor = Readahead(8 * MIB)
    assert cursor.observe(0, 64 * KIB) == (False, None)
    assert cursor.observe(64 * KIB, 4 * KIB) == (False, None)


def test_a_sequential_reader_is_served_ahead_in_growing_steps() -> None:
    ranges = advised(Readahead(8 * MIB), [(i * STEP, STEP) for i in range(256)])
    assert ranges[0] == (2 * STEP, 2 * STEP + FIRST_WINDOW_BYTES)
    lengths = [end - start for start, end in ranges]
    assert lengths[0] < max(lengths) <= 8 * MIB
    assert len(ranges) < 40
    assert all(before[1] == after[0] for before, after in zip(ranges, ranges[1:], strict=False))


def test_the_window_never_exceeds_its_bound() -> None:
    cursor = Readahead(2 * MIB)
    for i in range(200):
        ahead = cursor.observe(i * STEP, STEP).ahead
        assert ahead is None or ahead[1] <= (i + 1) * STEP + 2 * MIB


def test_random_reads_start_nothing() -> None:
    rng = random.Random(1)
    cursor = Readahead(8 * MIB)
    for _ in range(500):
        advice = cursor.observe(rng.randrange(1000) * 4 * MIB, 4 * KIB)
        assert advice == (False, None)


def test_a_jump_closes_the_window() -> None:
    cursor = Readahead(8 * MIB)
    advised(cursor, [(i * STEP, STEP) for i in range(64)])
    assert cursor.observe(500 * MIB, STEP) == (False, None)
    assert advised(cursor, [(500 * MIB + i * STEP, STEP) for i in range(1, 4)])[0][0] >= 500 * MIB


def test_the_kernels_disorder_does_not_look_like_jumps() -> None:
    requests = [(i * STEP, STEP) for i in range(128)]
    for i in range(0, 128, 4):
        requests[i : i + 4] = reversed(requests[i : i + 4])
    cursor = Readahead(8 * MIB)
    sequential = [cursor.observe(*request).sequential for request in requests[4:]]
    assert all(sequential[1:])


def test_no_readahead_when_switched_off() -> None:
    assert advised(Readahead(0), [(i * STEP, STEP) for i in range(64)]) == []


@given(st.lists(st.tuples(st.integers(0, 64 * MIB), st.integers(1, 2 * MIB)), max_size=60), st.integers(0, 16 * MIB))
def test_advice_lies_ahead_and_within_bounds(requests: list[tuple[int, int]], max_bytes: int) -> None:
    cursor = Readahead(max_bytes)
    for offset, size in requests:
        ahead = cursor.observe(offset, size).ahead
        if ahead is not None:
            start, end = ahead
            assert offset + size <= start < end <= offset + size + SLACK_BYTES + 2 * MIB + max_bytes
