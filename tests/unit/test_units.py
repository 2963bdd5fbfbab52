"""Sizes, counts and durations: what is read, what is refused, what is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnfs.const import GIB, KIB, MIB
from cairnfs.errors import UsageError
from cairnfs.units import format_duration, format_size, parse_count, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("0", 0), ("300", 300), ("300B", 300), ("4K", 4 * KIB), ("4k", 4 * KIB), ("4M", 4 * MIB), ("4MB", 4 * MIB)]
    + [("4MiB", 4 * MIB), ("4 mib", 4 * MIB), (" 1.5G ", 3 * GIB // 2), ("2T", 2048 * GIB), ("7E", 7 << 60)],
)
def test_sizes_are_read_with_binary_suffixes(text: str, n_bytes: int) -> None:
    assert parse_size(text) == n_bytes


def test_a_bare_number_is_in_the_unit_of_the_option_and_a_suffix_overrides_it() -> None:
    assert parse_size("300", bare_unit_bytes=MIB) == 300 * MIB
    assert parse_size("300B", bare_unit_bytes=MIB) == 300
    assert parse_size("300K", bare_unit_bytes=MIB) == 300 * KIB


@pytest.mark.parametrize("text", ["", "M", "-1", "4X", "4MM", "1e6", "0x10", "1.00001K", "8E", "٣M", "1 2", "nan"])
def test_what_is_no_size_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size") as caught:
        parse_size(text)
    assert caught.value.exit_code == 2


@given(st.integers(0, (1 << 63) - 1))
def test_a_plain_number_of_bytes_is_read_exactly(n_bytes: int) -> None:
    assert parse_size(str(n_bytes)) == n_bytes


@given(st.integers(0, (1 << 63) - 1))
def test_a_shown_size_is_short_and_within_one_percent(n_bytes: int) -> None:
    shown = format_size(n_bytes)
    assert len(shown) <= 9
    number, unit = shown.split()
    factor = 1 if unit == "B" else 1 << 10 * ("KMGTPE".index(unit[0]) + 1)
    assert abs(float(number) * factor - n_bytes) <= n_bytes * 0.01


def test_sizes_are_shown_with_a_unit() -> None:
    assert [format_size(n) for n in (0, 1023, KIB, 1536, 300 * MIB, MIB - 1, 4 * MIB)] == [
        "0 B",
        "1023 B",
        "1 KiB",
        "1.5 KiB",
        "300 MiB",
        "1 MiB",
        "4 MiB",
    ]


def test_counts_have_decimal_suffixes() -> None:
    assert [parse_count(text) for text in ("0", "12", "1K", "1.5M", "2g")] == [0, 12, 1000, 1_500_000, 2_000_000_000]


@pytest.mark.parametrize("text", ["", "-1", "1.5", "many", "1T"])
def test_what_is_no_count_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="is not a count"):
        parse_count(text)


def test_durations_are_seconds_unless_they_have_a_unit() -> None:
    assert [parse_duration(text) for text in ("0", "0.5", "90s", "10m", "1h", "7d", "2w")] == [
        0,
        0.5,
        90,
        600,
        3600,
        604800,
        1209600,
    ]


@pytest.mark.parametrize("text", ["", "1y", "-1", "1h30m"])
def test_what_is_no_duration_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="is not a duration"):
        parse_duration(text)


def test_durations_are_shown_in_their_two_largest_units() -> None:
    assert [format_duration(s) for s in (0, 3.2, 320, 7200, 187_000)] == ["0s", "3s", "5m 20s", "2h", "2d 3h"]
