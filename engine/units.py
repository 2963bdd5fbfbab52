"""Sizes, counts and durations as people write and read them.

Size suffixes are powers of 1024, as in JuiceFS: `4M`, `4MB` and `4MiB` are the same. A number without a suffix is in the
unit that the asking option documents.
"""

import re
from fractions import Fraction

from cairnfs.errors import UsageError

SIZE_SUFFIXES = "KMGTPE"
SIZE = re.compile(rf"(\d+(?:\.\d+)?)\s*(?:([{SIZE_SUFFIXES}])(?:i?B)?|(B))?", re.IGNORECASE | re.ASCII)
COUNT_FACTORS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3}
COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?)", re.IGNORECASE | re.ASCII)
DURATION_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", re.IGNORECASE | re.ASCII)


def parse_size(text: str, *, bare_unit_bytes: int = 1) -> int:
    """Bytes meant by `text`; a bare number counts units of `bare_unit_bytes`. UsageError when it is not a size."""
    match = SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"'{text}' is not a size: write a number and one of {', '.join(SIZE_SUFFIXES)}, such as 4M or 1.5G")
    number, suffix, plain_bytes = match.groups()
    unit = 1 if plain_bytes else bare_unit_bytes if suffix is None else 1 << 10 * (SIZE_SUFFIXES.index(suffix.upper()) + 1)
    size = Fraction(number) * unit
    if size.denominator != 1 or size >= 1 << 63:
        raise UsageError(f"'{text}' is not a size: it must come to a whole number of bytes below 8 EiB")
    return int(size)


def parse_count(text: str) -> int:
    """A count such as `1000000` or `1M` (decimal suffixes). UsageError when it is not one."""
    match = COUNT.fullmatch(text.strip())
    count = Fraction(match[1]) * COUNT_FACTORS[match[2].upper()] if match else Fraction(-1)
    if count.denominator != 1 or not 0 <= count < 1 << 53:
        raise UsageError(f"'{text}' is not a count: write a whole number such as 1000000 or 1M")
    return int(count)


def parse_duration(text: str) -> float:
    """Seconds meant by `text`: `90`, `90s`, `10m`, `1h`, `7d`, `2w`. UsageError when it is not a duration."""
    match = DURATION.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"'{text}' is not a duration: write a number and one of s, m, h, d, w, such as 90s or 1h")
    return float(match[1]) * DURATION_S[match[2].lower() or "s"]


def format_size(n_bytes: int) -> str:
    """`n_bytes` with about three significant digits and a binary unit: `0 B`, `1.5 KiB`, `300 MiB`."""
    value, unit = float(n_bytes), "B"
    for suffix in SIZE_SUFFIXES:
        if abs(value) < 1023.5:
            break
        value, unit = value / 1024, f"{suffix}iB"
    if unit == "B" or abs(value) >= 99.95:
        return f"{value:.0f} {unit}"
    return f"{value:.3g} {unit}"


def format_duration(seconds: float) -> str:
    """`seconds` in the one or two largest units: `3s`, `5m 20s`, `2d 4h`."""
    left = max(0, round(seconds))
    parts = []
    for suffix, unit_s in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        n, left = divmod(left, unit_s)
        if n:
            parts.append(f"{n}{suffix}")
    return " ".join(parts[:2]) or "0s"
