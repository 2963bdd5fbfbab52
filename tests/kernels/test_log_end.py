"""Asking a server where the log ends: its answer whole or in pieces, anything else, and nothing; connections that are shared."""

import os
import socket
import threading
from array import array
from contextlib import ExitStack

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cairnfs.ext.log_end import LogEnd
from cairnfs.metrics import Histogram
from support.telling import COMMAND, Teller, bulk

N_LINKS = 8
POSITIONS = st.integers(0, 10**16 - 1)


def asked_of(answer: bytes | list[bytes] | None) -> tuple[int | None, int]:
    """What came of one question, and how many connections are left."""
    end = LogEnd()
    with Teller(lambda: answer) as teller:
        end.add(teller.fd, COMMAND)
        found = end.ask()
        left = end.n_links
        end.close()
    assert end.n_links == 0
    return found, left


@given(POSITIONS, st.integers(1, 30), st.integers(1, 30))
@example(10**16 - 1, 1, 1)
def test_a_position_comes_whole_or_in_pieces(position: int, first: int, second: int) -> None:
    said = bulk(position)
    pieces = [piece for piece in (said[:first], said[first : first + second], said[first + second :]) if piece]
    assert asked_of(pieces) == (position, 1)


NO_POSITIONS = [
    b"$-1\r\n",
    b"_\r\n",
    b":17\r\n",
    b"+OK\r\n",
    b"-LOADING Redis is loading the dataset in memory\r\n",
    b"-NOPERM this user has no permissions to run the 'get' command\r\n",
    b"$2\r\n-1\r\n",
    b"$2\r\n17\n\r",
    b"$3\r\n17\r\n\r\n",
    b"$1\r\n17\r\n",
    b"$2\r\n17\r\n$2\r\n17\r\n",
    b"$17\r\n" + b"1" * 17 + b"\r\n",
    b"$016\r\n" + b"1" * 16 + b"\r\n",
    b"$0\r\n\r\n",
    b"$\r\n17\r\n",
    b"$2 \r\n17\r\n",
    b"\x00" * 100,
    b"$" + b"9" * 100,
    None,
]


@pytest.mark.parametrize("said", NO_POSITIONS)
def test_anything_else_ends_the_connection(said: bytes | None) -> None:
    assert asked_of(said) == (None, 0)


@given(st.binary(max_size=40), POSITIONS)
def test_no_position_is_read_out_of_what_is_none(noise: bytes, position: int) -> None:
    found, left = asked_of([noise + bulk(position)] if noise else bulk(position))
    assert (found, left) == ((None, 0) if noise else (position, 1))


def test_half_an_answer_is_none() -> None:
    for length in range(len(bulk(1234))):
        assert asked_of([bulk(1234)[:length]] if length else []) == (None, 0), length


def test_nobody_waits_for_a_connection_and_those_who_missed_one_are_counted() -> None:
    end = LogEnd()
    assert end.wants_link
    assert end.ask() is None
    go_on = threading.Event()
    waiting = threading.Event()

    def answer() -> bytes:
        waiting.set()
        assert go_on.wait(0.09)
        return bulk(7)

    with Teller(answer) as slow, Teller(lambda: bulk(8)) as other:
        end.add(slow.fd, COMMAND)
        assert not end.wants_link
        found: list[int | None] = []
        asker = threading.Thread(target=lambda: found.append(end.ask()))
        asker.start()
        assert waiting.wait(10)
        assert end.ask() is None
        assert end.wants_link
        end.add(other.fd, COMMAND)
        assert end.ask() == 8
        go_on.set()
        asker.join()
        assert found == [7] or (found == [None] and end.n_links == 1)  # a machine that is busy
        end.close()


def test_there_are_at_most_so_many_connections_and_as_many_ask_at_once() -> None:
    end = LogEnd()
    with ExitStack() as stack:
        tellers = [stack.enter_context(Teller(lambda: bulk(5))) for _ in range(N_LINKS)]
        for teller in tellers:
            end.add(teller.fd, COMMAND)
        surplus = socket.socket()
        with pytest.raises(OSError, match="No space left"):
            end.add(surplus.fileno(), COMMAND)
        surplus.close()
        assert not end.wants_link
        wrong = []

        def ask() -> None:
            wrong.extend(found for _ in range(200) if (found := end.ask()) != 5)

        askers = [threading.Thread(target=ask) for _ in range(N_LINKS)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        assert not wrong
        assert sum(teller.n_asked for teller in tellers) == 200 * N_LINKS
        assert end.n_links == N_LINKS
        end.close()


def test_answers_are_counted_and_timed_and_nothing_else_is() -> None:
    cells = array("q", [0] * (Histogram.N_CELLS + 2))
    histogram = Histogram(cells, 1)
    end = LogEnd(histogram.memory)
    with Teller(lambda: bulk(3)) as teller:
        end.add(teller.fd, COMMAND)
        for _ in range(5):
            assert end.ask() == 3
        end.close()
    end.ask()
    assert histogram.value.n == 5
    assert 0 < histogram.value.sum_s < 5
    assert cells[0] == cells[-1] == 0
    with pytest.raises(ValueError, match="26 counts"):
        LogEnd(histogram.memory[1:])


def test_what_cannot_be_used_is_refused_and_stays_the_callers() -> None:
    end = LogEnd()
    reading, writing = os.pipe()
    with pytest.raises(OSError, match="non-socket"):
        end.add(reading, COMMAND)
    os.close(reading)
    os.close(writing)
    for command in (b"", bytes(257)):
        with pytest.raises(ValueError, match="a command of"):
            end.add(0, command)
    with Teller(lambda: bulk(3)) as teller:
        end.add(teller.fd, COMMAND)
        with pytest.raises(ValueError, match="another command"):
            end.add(teller.fd, COMMAND + b"x")
        assert end.ask() == 3
        end.close()
