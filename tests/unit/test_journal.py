"""The journal: what lives in it is found by a successor, in order, and nothing else is."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnfs.data.journal import Journal, Written
from cairnfs.types import Inode

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 4), st.integers(0, 300)),
        st.tuples(st.just("free"), st.integers(1, 4), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS)
def test_a_successor_finds_what_lives_in_the_order_it_was_written(steps: list[tuple[str, int, int]]) -> None:
    journal, model = Journal(2048), list[Written]()
    for number, (step, ino, n_bytes) in enumerate(steps):
        if step == "free":
            journal.free(Inode(ino))
            model = [written for written in model if written.ino != ino]
        elif journal.add(Inode(ino), number, data := os.urandom(n_bytes)):
            model.append(Written(Inode(ino), number, data))
        else:
            assert model or n_bytes > journal.longest_bytes, "empty, and refused"
        assert journal.oldest() == (model[0].ino if model else None)
    assert journal.resume() == model
    for ino in range(1, 5):
        journal.free(Inode(ino))
    assert journal.resume() == []
    assert journal.add(Inode(1), 0, bytes(journal.longest_bytes))


def test_it_goes_round_for_ever() -> None:
    journal = Journal(4096)
    for number in range(1000):
        assert journal.add(Inode(number + 1), 7, b"x" * (number % 1000))
        assert journal.resume() == [Written(Inode(number + 1), 7, b"x" * (number % 1000))]
        journal.free(Inode(number + 1))


def test_a_write_that_is_longer_than_the_ring_is_refused() -> None:
    journal = Journal(1024)
    assert not journal.add(Inode(1), 0, bytes(2000))
    assert journal.resume() == []


def test_appends_are_remembered_after_their_records_are_gone() -> None:
    journal = Journal(4096)
    journal.add(Inode(1), 0, b"a", request=42)
    journal.free(Inode(1))
    assert journal.appended(42)
    assert not journal.appended(43)


@pytest.mark.parametrize("request_number", range(1, 3))
def test_another_process_finds_it(request_number: int) -> None:
    journal = Journal(4096)
    pid = os.fork()
    if pid == 0:
        journal.add(Inode(5), 10, b"from a child", request_number)
        os._exit(0)
    os.waitpid(pid, 0)
    assert journal.resume() == [Written(Inode(5), 10, b"from a child")]
    assert journal.appended(request_number)
