"""Retries: what passes is a delay, what does not pass is an error in time, and nothing is done twice."""

import errno
import random
from pathlib import Path
from typing import Any

import pytest

from cairnfs.errors import ObjectError, ObjectMissing, UsageError, VolumeError
from cairnfs.meta.volume import VolumeFormat
from cairnfs.objects import MARKER, create_bucket, destroy_bucket, open_objects
from cairnfs.objects.file import FileStore
from cairnfs.objects.retry import FULL_STORE_S, Retrying
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
