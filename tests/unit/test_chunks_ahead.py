"""Which layouts come along with one that is missed."""

import random

import pytest

from cairnfs.vfs.chunks_ahead import BLOCK, LONG_BYTES, MOST, ChunksAhead


def misses(chunks: list[int], n_chunks: int) -> list[range]:
    """What a reader of these chunks asks for, who keeps all that came."""
    ahead = ChunksAhead()
    known: set[int] = set()
    asked = []
    for chunk_no in chunks:
        wanted = ahead.wanted(chunk_no, n_chunks, 640)
        assert chunk_no in wanted and 0 not in wanted
        if chunk_no not in known:
            asked.append(wanted)
            known.update(wanted)
    return asked


def test_who_reads_on_gets_twice_as_many_each_time() -> None:
    assert misses(list(range(1, 40)), 40) == [range(1, 16), range(16, 40)]
    assert misses(list(range(1, 1000)), 1000)[:5] == [
        range(1, 16),
        range(16, 48),
        range(48, 48 + MOST),
        range(112, 112 + MOST),
        range(176, 176 + MOST),
    ]


@pytest.mark.parametrize("n_chunks", [2, 40, 500])
def test_in_any_order_each_block_is_read_once(n_chunks: int) -> None:
    chunks = list(range(1, n_chunks))
    random.Random(1).shuffle(chunks)
    assert len(misses(chunks, n_chunks)) <= -(-n_chunks // BLOCK)


def test_what_is_missed_again_where_others_go_on_does_not_hold_them_up() -> None:
    ahead = ChunksAhead()
    assert ahead.wanted(1, 1000, 0) == range(1, 16)
    assert ahead.wanted(16, 1000, 0) == range(16, 48)
    assert ahead.wanted(17, 1000, 0) == range(16, 32), "under way"
    assert ahead.wanted(40, 1000, 0) == range(32, 48), "it has changed"
    assert ahead.wanted(48, 1000, 0) == range(48, 112)
    assert ahead.wanted(16, 1000, 0) == range(16, 32), "a jump"
    assert ahead.wanted(32, 1000, 0) == range(32, 64)


def test_long_layouts_and_those_beyond_the_end_come_alone() -> None:
    ahead = ChunksAhead()
    assert ahead.wanted(5, 1000, LONG_BYTES + 1) == range(5, 6)
    assert ahead.wanted(1, 1000, LONG_BYTES) == range(1, 16)
    assert ahead.wanted(900, 100, 0) == range(896, 901), "the file was longer when its size was read"
