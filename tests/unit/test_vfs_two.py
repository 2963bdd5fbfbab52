"""Two Vfs on one SQLite volume: what each sees of the other at opens, after invalidation, and when files vanish."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairnfs.const import MIB
from cairnfs.data.pack import pack_name
from cairnfs.errors import CairnError
from cairnfs.types import Caller, SetAttr
from support.engine import ME, ROOT, Engine, new_volume

NOBODY = (1 << 22) + 100  # more than the number of any thread


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Engine, Engine]]:
    url = new_volume(tmp_path, "sqlite")
    with Engine(url) as one, Engine(url) as two:
        yield one, two


Pair = tuple[Engine, Engine]


def test_an_open_sees_what_was_closed_before_it(pair: Pair) -> None:
    one, two = pair
    for i in range(5):
        data = os.urandom(1000 + i)
        one.files.write("f", data)
        assert two.files.read("f") == data


def test_names_made_by_one_are_seen_by_the_other(pair: Pair) -> None:
    one, two = pair
    one.files.mkdir("d")
    for i in range(50):
        (one, two)[i % 2].files.write(f"d/f{i}", b"%d" % i)
    assert one.files.names("d") == two.files.names("d") == {f"f{i}" for i in range(50)}
    one.files.rename("d", "e")
    assert two.files.read("e/f7") == b"7"
    with pytest.raises(CairnError) as error:
        two.files.attr("d")
    assert error.value.errno == errno.ENOENT


def test_an_open_handle_sees_foreign_content_after_invalidation(pair: Pair) -> None:
    one, two = pair
    one.files.write("f", b"old")
    with two.files.opened("f", os.O_RDONLY) as fh:
        assert two.files.pread(fh, 0, 10) == b"old"
        one.files.write("f", b"changed")
        two.vfs.invalidate([two.files.ino("f")], [])
        assert two.files.pread(fh, 0, 10) == b"changed"
        one.files.write("f", b"again")
        two.vfs.invalidate_all()
        assert two.files.pread(fh, 0, 10) == b"again"


def test_own_writes_and_foreign_writes_to_other_parts_are_merged(pair: Pair) -> None:
    one, two = pair
    one.files.write("f", b"." * 30)
    with one.files.opened("f") as a, two.files.opened("f") as b:
        one.files.pwrite(a, 0, b"A" * 10)
        two.files.pwrite(b, 20, b"B" * 10)
    assert one.files.read("f") == two.files.read("f") == b"A" * 10 + b"." * 10 + b"B" * 10


def test_pages_are_not_kept_across_a_foreign_write(pair: Pair) -> None:
    one, two = pair
    one.files.write("f", b"one")
    two.files.write("f", b"two")
    opened = one.vfs.open(ME, one.files.ino("f"), os.O_RDONLY)
    assert not opened.keep_cache
    one.files.close(opened.fh)


def test_a_handle_whose_file_was_deleted_elsewhere_is_stale(pair: Pair) -> None:
    one, two = pair
    one.files.write("f", b"data")
    fh = one.files.open("f")
    ino = one.files.ino("f")
    two.files.unlink("f")
    one.vfs.invalidate([ino], [(ROOT, b"f")])
    for call in (
        lambda: one.vfs.read(ME, fh, 0, 4),
        lambda: one.vfs.getattr(ME, ino),
        lambda: one.vfs.setattr(ME, ino, SetAttr(mode=0o600)),
        lambda: one.vfs.setattr(ME, ino, SetAttr(size=0)),
        lambda: one.vfs.open(ME, ino, os.O_RDONLY),
    ):
        with pytest.raises(CairnError) as error:
            call()
        assert error.value.errno == errno.ESTALE
    one.files.close(fh)


def test_dirty_data_of_a_file_deleted_elsewhere_is_refused_and_leaves_nothing(pair: Pair) -> None:
    one, two = pair
    fh = one.files.create("f")
    one.files.pwrite(fh, 0, b"data")
    two.files.unlink("f")
    with pytest.raises(CairnError) as error:
        one.vfs.flush(ME, fh)
    assert error.value.errno == errno.ESTALE


def test_reading_goes_on_when_the_packs_it_knew_are_gone(pair: Pair) -> None:
    one, two = pair
    one.files.write("f", b"first" * 1000)
    with one.files.opened("f", os.O_RDONLY) as fh:
        assert one.files.pread(fh, 0, 5) == b"first"
        two.files.write("f", b"second" * 1000)
        for pack in one.meta.layout.garbage(10):
            one.volume.objects.delete(pack_name(pack))
            one.meta.layout.drop_pack(pack)
        one.volume.data.cache.clear()
        assert one.files.pread(fh, 0, 6) == b"second"


def test_large_files_cross_over(pair: Pair) -> None:
    one, two = pair
    data = os.urandom(9 * MIB + 17)
    one.files.write("big", data)
    assert two.files.read("big") == data
    with two.files.opened("big") as fh:
        two.vfs.setattr(ME, two.files.ino("big"), SetAttr(size=5 * MIB), fh)
    assert one.files.read("big") == data[: 5 * MIB]


@pytest.mark.parametrize("asked", ["readlink", "getattr", "access"])
def test_who_meets_a_link_that_others_have_replaced_is_not_refused_a_second_time(pair: Pair, asked: str) -> None:
    """The kernel answers ESTALE by one more try alone, whatever request it was that got it."""
    one, two = pair
    one.files.write("f", b"content")
    link = one.vfs.symlink(ME, ROOT, b"link", b"f").ino
    walker = Caller(0, 0, NOBODY, 0)
    assert two.vfs.readlink(walker, link) == b"f"
    two.vfs.moved.note({ROOT: True})
    one.vfs.unlink(ME, ROOT, b"link")
    requests = {
        "readlink": lambda: two.vfs.readlink(walker, link),
        "getattr": lambda: two.vfs.getattr(walker, link),
        "access": lambda: two.vfs.access(walker, link, os.R_OK),
    }
    with pytest.raises(CairnError) as error:
        requests[asked]()
    assert error.value.errno == errno.ESTALE
    two.vfs.fence(walker, two.files.ino("f"))
    with pytest.raises(CairnError) as error:  # another walk
        two.vfs.fence(walker, two.files.ino("f"))
    assert error.value.errno == errno.ESTALE
