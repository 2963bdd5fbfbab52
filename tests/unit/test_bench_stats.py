"""The arithmetic of the bench: medians, spreads, ratios, percentiles, rounds."""

import pytest

from cairnfs.bench import stats
from cairnfs.bench.places import Place
from cairnfs.bench.report import number
from cairnfs.bench.runner import MAX_ROUNDS, MIN_ROUNDS, Rounds, in_turn
from cairnfs.bench.workloads.tail_latency import percentile


def test_the_spread_is_the_farthest_value_as_a_part_of_the_median() -> None:
    assert stats.median([3, 1, 2]) == 2
    assert stats.spread([100, 90, 130]) == pytest.approx(0.3)
    assert stats.spread([5.0]) == 0
    assert stats.spread([0.0, 0.0]) == 0


def test_ratios_are_of_each_round_so_that_drift_cancels_out() -> None:
    first, other = [100, 50, 10], [200, 100, 20]  # the machine becomes ten times slower; the other is always twice as fast
    assert stats.ratio(first, other, more_is_better=True) == 2
    assert stats.ratio(first, other, more_is_better=False) == 0.5


def test_a_change_is_negative_when_it_is_worse_in_either_direction() -> None:
    assert stats.change([100], [80], more_is_better=True) == pytest.approx(-0.2)
    assert stats.change([100], [125], more_is_better=False) == pytest.approx(-0.2)
    assert stats.change([100], [80], more_is_better=False) == pytest.approx(0.25)


@pytest.mark.parametrize(("part", "expected"), [(0.5, 50), (0.99, 99), (0.999, 100), (1.0, 100), (0.001, 1)])
def test_a_percentile_is_a_value_that_was_seen(part: float, expected: int) -> None:
    assert percentile(list(range(1, 101)), part) == expected


def test_numbers_keep_about_three_digits() -> None:
    assert [number(value) for value in (0, 0.0123, 0.5, 12.34, 123.4, 1234567)] == [
        "0",
        "0.012",
        "0.50",
        "12.3",
        "123",
        "1,234,567",
    ]


def rounds_done(n_rounds: int, budget_s: float, round_s: float) -> int:
    now_s = 0.0
    rounds = Rounds(n_rounds, budget_s, lambda: now_s)
    n_done = 0
    while rounds.go_on():
        n_done += 1
        now_s += round_s
    assert rounds.n == n_done
    return n_done - 1  # the warm-up


@pytest.mark.parametrize(
    ("n_rounds", "budget_s", "round_s", "expected"),
    [
        (2, 0, 100, 2),
        (0, 0, 1, MIN_ROUNDS),
        (0, 200, 1000, MIN_ROUNDS),
        (0, 200, 25, 7),
        (0, 200, 0.1, MAX_ROUNDS),
    ],
)
def test_rounds_are_as_many_as_asked_for_or_fit(n_rounds: int, budget_s: float, round_s: float, expected: int) -> None:
    assert rounds_done(n_rounds, budget_s, round_s) == expected


def test_every_place_begins_a_round_in_its_turn() -> None:
    places: list[Place] = ["a", "b", "c"]  # type: ignore[list-item]
    assert [in_turn(places, n) for n in range(4)] == [list("abc"), list("bca"), list("cab"), list("abc")]
