"""Keys of rows, one behind the other, against the same in plain Python."""

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cairnfs.ext.log_keys import first_bytes, joined, taken_apart
from cairnfs.meta.stores.base import Key

LENGTHS = struct.Struct(">BH")


def reference(keys: list[Key]) -> bytes:
    return b"".join(LENGTHS.pack(len(part), len(key)) + part + key for part, key in keys)


keys_of_rows = st.lists(st.tuples(st.binary(max_size=255), st.binary(max_size=300)))


@given(keys_of_rows, st.binary(max_size=20))
@example([(b"p" * 255, b"k" * 65535), (b"", b"")], b"head")
def test_keys_are_joined_as_in_plain_python_and_taken_apart_again(keys: list[Key], head: bytes) -> None:
    encoded = joined(keys)
    assert encoded == reference(keys)
    assert taken_apart(head + encoded, len(head)) == keys


@given(keys_of_rows)
def test_the_first_bytes_of_partitions_are_as_in_plain_python(keys: list[Key]) -> None:
    assert first_bytes(keys) == b"".join([part[:1] or b"\0" for part, _ in keys])


@given(keys_of_rows.filter(bool), st.data())
def test_what_ends_within_a_key_is_refused(keys: list[Key], data: st.DataObject) -> None:
    encoded = joined(keys)
    cut = data.draw(st.integers(len(joined(keys[:-1])) + 1, len(encoded) - 1))
    with pytest.raises(ValueError, match="keys end within"):
        taken_apart(encoded[:cut])


def test_what_cannot_be_keys_is_refused() -> None:
    for key in ((b"p" * 256, b"k"), (b"p", b"k" * 65536)):
        with pytest.raises(OverflowError):
            joined([key])
    for part, rest in ((None, b"k"), (b"p", None)):
        with pytest.raises(TypeError):
            joined([(part, rest)])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="before"):
        taken_apart(b"", -1)
