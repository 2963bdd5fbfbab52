"""Steps on rows as a script takes them, against the same in plain Python."""

import struct
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cairnfs.ext.steps import gathered
from cairnfs.meta.stores.base import Key

FIRST_PART = 4


class Check(NamedTuple):
    key: Key
    number: int


class Change(NamedTuple):
    key: Key
    value: bytes
    at: int
    is_new: bool


CODES: dict[type, bytes] = {Check: b"c", Change: b"+"}


def packed(items: list[object]) -> bytes:
    """An array of MessagePack, after its specification."""
    return b"\xdd" + struct.pack(">I", len(items)) + b"".join(map(packed_item, items))


def packed_item(item: object) -> bytes:
    if isinstance(item, bool):
        return b"\xc3" if item else b"\xc2"
    if isinstance(item, int):
        return bytes([item]) if 0 <= item < 128 else b"\xd3" + struct.pack(">q", item)
    assert isinstance(item, bytes)
    n = len(item)
    if n < 32:
        return bytes([0xA0 + n]) + item
    head = b"\xd9" + bytes([n]) if n < 256 else b"\xda" + struct.pack(">H", n) if n < 1 << 16 else b"\xdb" + struct.pack(">I", n)
    return head + item


def reference(
    conditions: list[Check], effects: list[Check | Change]
) -> tuple[list[Key], list[bytes], dict[Key, bytes | None], bytes]:
    keys = list(dict.fromkeys([step.key for step in conditions] + [step.key for step in effects]))
    parts = list(dict.fromkeys(part for part, _ in keys))
    rows: list[object] = [item for part, field in keys for item in (parts.index(part) + FIRST_PART, field)]
    checked, done = (
        [item for step in steps for item in (CODES[type(step)], keys.index(step[0]) + 1, *step[1:])]
        for steps in (conditions, effects)
    )
    changed = {step.key: step.value if type(step) is Change else None for step in effects}
    return keys, parts, changed, packed(rows) + packed(checked) + packed(done)


keys = st.tuples(st.binary(max_size=2), st.binary(max_size=40))
numbers = st.integers(-(2**63), 2**63 - 1)
values = st.binary(max_size=300) | st.sampled_from([b"x" * n for n in (31, 32, 255, 256, 65535, 65536, 100_000)])


checks, changes = st.builds(Check, keys, numbers), st.builds(Change, keys, values, numbers, st.booleans())


@given(st.lists(checks), st.lists(changes | checks))
@example([], [])
@example([Check((b"p", b"%d" % i), 0) for i in range(200)], [])
def test_steps_are_as_in_plain_python(conditions: list[Check], effects: list[Check | Change]) -> None:
    assert gathered(conditions, effects, CODES, Change, FIRST_PART) == reference(conditions, effects)


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ((), TypeError),
        ([(b"p", b"k"), 1], TypeError),
        (((b"p", b"k"), 1), KeyError),  # no type of a step
        (Check((b"p", b"k"), 2**63), OverflowError),
        (Check((b"p", b"k"), "1"), TypeError),  # type: ignore[arg-type]
        (Check((b"p", "k"), 1), TypeError),  # type: ignore[arg-type]
        (Check((b"p", None), 1), TypeError),  # type: ignore[arg-type]
        (Check((b"p", b"k", b"more"), 1), ValueError),  # type: ignore[arg-type]
        (Check([b"p", b"k"], 1), TypeError),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_step_is_refused(step: Check, error: type[Exception]) -> None:
    with pytest.raises(error):
        gathered([step], [], CODES, Change, FIRST_PART)
