"""What is made of the values of several rounds: medians, spreads and ratios. No input, no output, no clock."""

import statistics
from collections.abc import Sequence


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float]) -> float:
    """The farthest value's distance from the median, as a part of the median."""
    middle = median(values)
    return max(abs(value - middle) for value in values) / middle if middle else 0.0


def ratio(first: Sequence[float], other: Sequence[float], more_is_better: bool) -> float:
    """How many times as good as the first the other is: the median over the rounds, each with itself, so that drift cancels out.

    Above 1: the other is better.
    """
    pairs = zip(first, other, strict=True)
    return median([(theirs / ours if more_is_better else ours / theirs) if ours and theirs else 1.0 for ours, theirs in pairs])


def change(before: Sequence[float], after: Sequence[float], more_is_better: bool) -> float:
    """By what part the median has become better; negative: worse. 0.1: 10 % more is done in a time."""
    old, new = median(before), median(after)
    if not old or not new:
        return 0.0
    return (new / old if more_is_better else old / new) - 1
