"""Names in order by runs: what comes out is what went in, whatever the runs."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnfs.errors import ObjectError
from cairnfs.objects import ordering
from cairnfs.objects.ordering import in_order

BATCHES = st.lists(st.lists(st.binary(min_size=1, max_size=4).map(bytes.hex).map(str.encode), min_size=1, max_size=9), max_size=9)


@given(batches=BATCHES, run_names=st.integers(1, 30))
def test_every_name_comes_once_and_in_order(batches: list[list[bytes]], run_names: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordering, "RUN_NAMES", run_names)
        assert list(in_order(batches)) == sorted({name for batch in batches for name in batch})


def test_no_room_for_runs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering, "RUN_NAMES", 1)
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with pytest.raises(ObjectError, match="cannot sort names of objects in /nowhere") as caught:
        list(in_order([[b"a"], [b"b"]]))
    assert caught.value.errno == errno.EIO
