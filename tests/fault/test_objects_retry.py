"""Retries: what passes is a delay, what does not pass is an error in time, and nothing is done twice."""

import errno
import random
import re
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from cairnfs.errors import ObjectError, ObjectMissing, UsageError, VolumeError
from cairnfs.meta.volume import VolumeFormat
from cairnfs.objects import MARKER, create_bucket, destroy_bucket, open_objects
from cairnfs.objects.base import Delete, Get, ObjectInfo, Outcome, Put, Request, outcome_of
from cairnfs.objects.file import FileStore
from cairnfs.objects.retry import FULL_STORE_S, NOTED_AGAIN_S, TOLD_AGAIN_S, Retrying
from support.faulty import FaultyObjects


class FakeClock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def now_ns(self) -> int:
        return int(self.at_s * 1e9)

    def monotonic_s(self) -> float:
        return self.at_s

    def sleep(self, seconds: float) -> None:
        self.at_s += max(seconds, 1e-6)


class Deep(FaultyObjects):
    """Takes several requests of a thread at a time, as far as those who use it can tell: three before the first is answered."""

    depth = 3

    def many(self, requests: Iterable[Request]) -> Iterator[tuple[int, Outcome]]:
        under_way: list[tuple[int, Request]] = []
        for numbered in enumerate(requests):
            under_way.append(numbered)
            if len(under_way) == self.depth:
                no, request = under_way.pop(0)
                yield no, outcome_of(self, request)
        yield from ((no, outcome_of(self, request)) for no, request in under_way)


class Setup:
    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / MARKER).write_text("uuid")
        self.clock = FakeClock()
        self.faulty = FaultyObjects(FileStore(str(folder)))
        self.store = Retrying(self.faulty, 60.0, self.clock, random.Random(3))

    def waited_s(self) -> float:
        return self.clock.at_s - 1000.0


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path / "objects")


def test_a_failure_that_passes_is_only_a_delay(setup: Setup, expected_logs: Any) -> None:
    expected_logs.add("trying again")
    setup.faulty.fail_once("put", 1)
    setup.faulty.fail_once("put", 2)
    setup.store.put("x", [b"data"])
    setup.faulty.fail_once("get")
    assert setup.store.get("x") == b"data"
    setup.faulty.fail_once("head")
    assert setup.store.head("x").size == 4
    setup.faulty.fail_once("delete")
    setup.store.delete("x")
    assert 0 < setup.waited_s() < 5


def test_a_failure_that_stays_is_an_error_after_the_io_timeout(setup: Setup, expected_logs: Any) -> None:
    expected_logs.add("trying again")
    setup.faulty.fail_forever("get")
    with pytest.raises(ObjectError) as caught:
        setup.store.get("x")
    assert caught.value.errno == errno.EIO
    assert 60 <= setup.waited_s() < 61
    assert setup.faulty.calls["get"] < 40


def test_a_full_store_is_tried_again_for_a_short_time_only(setup: Setup) -> None:
    setup.faulty.fail_forever("put", error=ObjectError("full", errno.ENOSPC))
    with pytest.raises(ObjectError) as caught:
        setup.store.put("x", [b"data"])
    assert caught.value.errno == errno.ENOSPC
    assert FULL_STORE_S <= setup.waited_s() < FULL_STORE_S + 0.5


@pytest.mark.parametrize("code", [errno.EACCES, errno.EEXIST, errno.EROFS])
def test_what_never_passes_is_reported_at_once(setup: Setup, code: int) -> None:
    setup.faulty.fail_forever("put", error=ObjectError("no", code))
    with pytest.raises(ObjectError) as caught:
        setup.store.put("x", [b"data"])
    assert caught.value.errno == code
    assert setup.faulty.calls["put"] == 1


def test_a_missing_object_is_not_waited_for(setup: Setup) -> None:
    with pytest.raises(ObjectMissing):
        setup.store.get("nothing")
    with pytest.raises(ObjectMissing):
        setup.store.head("nothing")
    assert setup.waited_s() == 0


def test_a_put_that_was_stored_but_reported_as_failed_succeeds(setup: Setup, expected_logs: Any) -> None:
    expected_logs.add("trying again")
    real_put = setup.faulty.store.put

    def store_then_fail(name: str, parts: object) -> None:
        setup.faulty.store.put = real_put  # type: ignore[method-assign]
        real_put(name, parts)  # type: ignore[arg-type]
        raise ObjectError("the answer was lost")

    setup.faulty.store.put = store_then_fail  # type: ignore[method-assign]
    setup.store.put("x", [b"da", b"ta"])
    assert setup.store.get("x") == b"data"


def test_another_object_under_the_name_is_not_taken_for_ours(setup: Setup, expected_logs: Any) -> None:
    expected_logs.add("trying again")
    setup.faulty.store.put("x", [b"other"])
    setup.faulty.fail_once("put")
    with pytest.raises(ObjectError) as caught:
        setup.store.put("x", [b"data"])
    assert caught.value.errno == errno.EEXIST


def test_a_listing_goes_on_where_it_failed(setup: Setup, expected_logs: Any) -> None:
    expected_logs.add("trying again")
    names = [f"packs/00/{i:03d}" for i in range(10)]
    for name in names:
        setup.store.put(name, [b"x"])
    setup.faulty.fail_once("list_next", 4)
    setup.faulty.fail_once("list", 2)
    assert [info.name for info in setup.store.list("packs/")] == names


def test_a_listing_on_which_every_third_answer_fails_goes_on(setup: Setup, expected_logs: Any, monkeypatch: Any) -> None:
    """Whoever began it anew would never see the end of it: so a server that says to slow down does with one of many pages."""
    expected_logs.add("trying again")
    names = [f"packs/00/{i:03d}" for i in range(20)]
    for name in names:
        setup.store.put(name, [b"x"])
    n_asked = count(1)

    def listed(prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        for info in setup.faulty.store.list(prefix, after):
            if next(n_asked) % 3 == 0:
                raise ObjectError("slow down")
            yield info

    monkeypatch.setattr(setup.faulty, "list", listed)
    assert [info.name for info in setup.store.list("packs/")] == names
    assert next(n_asked) <= len(names) * 3 // 2 + 1
    assert setup.waited_s() < 1


def test_a_server_that_says_to_slow_down_does_not_fill_the_log(setup: Setup, caplog: Any, expected_logs: Any) -> None:
    expected_logs.add("trying again")
    setup.store.put("x", [b"data"])
    for _ in range(40):
        setup.faulty.fail_once("get")
        assert setup.store.get("x") == b"data"
    first, *others = caplog.messages
    assert first == "cannot read object x yet, trying again: injected failure"
    assert 1 <= len(others) <= setup.waited_s() / NOTED_AGAIN_S
    assert all(re.fullmatch(re.escape(first) + r" \(\d+ more before this\)", line) for line in others)


def test_what_is_refused_is_told_once_in_a_while(setup: Setup, caplog: Any, expected_logs: Any) -> None:
    expected_logs.add("keys")
    store = Retrying(setup.faulty, 60.0, setup.clock, random.Random(3), tells=True)
    setup.faulty.fail_forever("get", error=ObjectError("check the keys", errno.EACCES))
    for n_told in (1, 2):
        for _ in range(3):
            with pytest.raises(ObjectError):
                store.get("x")
        assert caplog.messages == ["check the keys"] * n_told
        setup.clock.sleep(TOLD_AGAIN_S)


def test_closing_ends_the_waiting(setup: Setup) -> None:
    setup.store.close()
    setup.faulty.fail_forever("get")
    with pytest.raises(ObjectError):
        setup.store.get("x")
    assert setup.faulty.calls["get"] <= 2


# Places


def new_format(bucket: Path, **changed: str) -> VolumeFormat:
    return VolumeFormat("volume", bucket=str(bucket), **changed)


def test_a_bucket_is_made_used_and_destroyed(tmp_path: Path) -> None:
    fmt = new_format(tmp_path / "bucket")
    create_bucket(fmt)
    create_bucket(fmt)
    store = open_objects(fmt, 1.0)
    store.put("packs/00/x", [b"x"])
    store.close()
    assert destroy_bucket(fmt) == 1
    assert not (tmp_path / "bucket" / "volume").exists()


def test_the_bucket_of_another_volume_is_refused(tmp_path: Path) -> None:
    fmt = new_format(tmp_path)
    create_bucket(fmt)
    with pytest.raises(VolumeError, match="another volume"):
        create_bucket(new_format(tmp_path))
    with pytest.raises(VolumeError, match="another volume"):
        open_objects(new_format(tmp_path), 1.0)


def test_only_ones_own_objects_are_destroyed(tmp_path: Path) -> None:
    fmt = new_format(tmp_path)
    create_bucket(fmt)
    with pytest.raises(VolumeError, match="nothing was deleted"):
        destroy_bucket(new_format(tmp_path))
    (tmp_path / "volume" / MARKER).rename(tmp_path / "volume" / "moved")
    with pytest.raises(ObjectError):
        destroy_bucket(fmt)
    assert (tmp_path / "volume" / "moved").exists()
    (tmp_path / "volume" / "moved").unlink()
    assert destroy_bucket(fmt) == 0
    assert destroy_bucket(fmt) == 0


def test_a_missing_bucket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="are not at"):
        open_objects(new_format(tmp_path / "nowhere"), 1.0)
    assert not (tmp_path / "nowhere").exists()


def test_an_unknown_storage_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tape"):
        open_objects(new_format(tmp_path, storage="tape"), 1.0)


# Many requests at a time


@pytest.fixture
def deep(tmp_path: Path) -> Setup:
    made = Setup(tmp_path / "deep")
    made.faulty = Deep(made.faulty.store)
    made.store = Retrying(made.faulty, 60.0, made.clock, random.Random(3))
    return made


def test_of_many_those_that_failed_are_tried_again(deep: Setup, expected_logs: Any) -> None:
    expected_logs.add("trying again")
    deep.faulty.fail_once("put", 2)
    deep.faulty.fail_once("put", 3)
    outcomes = list(deep.store.many(Put(f"x{i}", [b"%d" % i]) for i in range(10)))
    assert outcomes == [(i, None) for i in (0, 3, 1, 2, *range(4, 10))]  # new ones waited for those that had failed
    assert deep.faulty.calls["put"] == 12
    assert 0 < deep.waited_s() < 5
    assert dict(deep.store.many(Get(f"x{i}", 0, 9) for i in range(10))) == {i: b"%d" % i for i in range(10)}


def test_of_many_one_that_was_stored_but_reported_as_failed_succeeds(deep: Setup, expected_logs: Any) -> None:
    expected_logs.add("trying again")
    deep.faulty.store.put("x", [b"data"])
    deep.faulty.store.put("y", [b"other"])
    deep.faulty.fail_once("put", 1)
    deep.faulty.fail_once("put", 2)
    outcomes = dict(deep.store.many([Put("x", [b"da", b"ta"]), Put("y", [b"data"])]))
    assert outcomes[0] is None
    assert isinstance(outcomes[1], ObjectError) and outcomes[1].errno == errno.EEXIST


def test_of_many_what_never_passes_is_reported_and_the_rest_goes_on(deep: Setup) -> None:
    deep.faulty.store.put("taken", [b"old"])
    outcomes = dict(deep.store.many([Put("taken", [b"new"]), Get("nothing", 0, 1), Put("fresh", [b"x"]), Delete("taken")]))
    assert [type(outcomes[i]) for i in range(4)] == [ObjectError, ObjectMissing, type(None), type(None)]
    assert deep.waited_s() == 0


def test_of_many_to_a_store_that_is_away_few_are_begun(deep: Setup, expected_logs: Any) -> None:
    expected_logs.add("trying again")
    deep.faulty.fail_forever("get")
    taken = 0

    def requests() -> Iterator[Request]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield Get("x", 0, 1)

    outcomes = deep.store.many(requests())
    _, first = next(outcomes)
    assert isinstance(first, ObjectError) and first.errno == errno.EIO
    assert 60 <= deep.waited_s() < 66
    assert taken == deep.faulty.depth
    outcomes.close()  # type: ignore[attr-defined]


def test_a_read_that_fails_waits_once_and_not_longer(tmp_path: Path, expected_logs: Any) -> None:
    """Each attempt takes half of the timeout, as where nobody answers."""
    expected_logs.add("trying again")
    setup = Setup(tmp_path / "slow")

    def unanswered(name: str, offset: int = 0, length: int | None = None) -> bytes:
        setup.clock.sleep(30)
        raise ObjectError("nobody answers")

    setup.faulty.store.get = unanswered  # type: ignore[method-assign]
    with pytest.raises(ObjectError):
        setup.store.get("x")
    assert 60 <= setup.waited_s() < 61
