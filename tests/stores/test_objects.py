"""The object store contract: every store, and every wrapper, passes all of this."""

import errno
import itertools
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cairnfs.clock import SystemClock
from cairnfs.data.old_names import OldNames
from cairnfs.errors import ObjectError, ObjectMissing
from cairnfs.objects import MARKER
from cairnfs.objects.base import Delete, Get, ObjectStore, Put, Request
from cairnfs.objects.file import FileStore
from cairnfs.objects.rados import RadosStore
from cairnfs.objects.retry import Retrying
from cairnfs.objects.s3 import S3Objects
from support.failing_calls import SHORT, build, outcome_of
from support.folders import file_system, is_placing_apart
from support.gateway import Gateway

_names = itertools.count()
UUID = b"11111111-2222-3333-4444-555555555555\n"


def folder_store(folder: Path) -> FileStore:
    folder.mkdir()
    (folder / MARKER).write_bytes(UUID)
    return FileStore(str(folder))


def folder_without_unnamed_files(folder: Path) -> FileStore:
    store = folder_store(folder)
    store._unnamed_files = False
    return store


def folder_synced_by_fsync(folder: Path) -> FileStore:
    return FileStore(folder_store(folder).root, "fsync")


def folder_with_old_names(folder: Path) -> OldNames:
    return OldNames(folder_store(folder))


def retrying_folder(folder: Path) -> Retrying:
    return Retrying(folder_store(folder), 1.0, SystemClock(), random.Random(1))


def s3_store(gateway: Gateway) -> S3Objects:
    store = S3Objects(f"{gateway.url}/contract", f"volume-{next(_names)}", None, 20.0)
    store.prepare()
    store.put(MARKER, [UUID])
    return store


STORES: dict[str, Callable[[Path], ObjectStore]] = {
    "file": folder_store,
    "file without O_TMPFILE": folder_without_unnamed_files,
    "file, synced by fsync": folder_synced_by_fsync,
    "file, names of format 1": folder_with_old_names,
    "retrying file": retrying_folder,
}


POOLS = {"rados": "open_pool", "rados with cephx and a namespace": "guarded_pool"}


@pytest.fixture(params=[*STORES, "s3", *POOLS])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    if request.param == "s3":
        made: ObjectStore = s3_store(request.getfixturevalue("gateway"))
    elif request.param in POOLS:
        made = RadosStore(request.getfixturevalue(POOLS[request.param]), f"volume-{next(_names)}", 20.0)
        made.put(MARKER, [UUID])
    else:
        made = STORES[request.param](tmp_path / "objects")
    yield made
    made.close()


def test_what_was_put_is_read_back(store: ObjectStore) -> None:
    store.put("packs/00/one", [b"first", bytearray(b" second"), memoryview(b" third")])
    store.sync()
    assert store.get("packs/00/one") == b"first second third"


def test_an_empty_object_can_be_stored(store: ObjectStore) -> None:
    store.put("empty", [])
    assert store.get("empty") == b""
    assert store.head("empty").size == 0


def test_more_parts_than_one_system_call_takes(store: ObjectStore) -> None:
    parts = [i.to_bytes(4, "big") for i in range(3000)]
    store.put("many", parts)
    assert store.get("many") == b"".join(parts)


@pytest.mark.parametrize(("offset", "length"), [(0, 0), (0, 4), (3, 4), (9, 100), (10, 5), (50, 5), (4, None), (50, None)])
def test_a_range_is_what_it_would_be_of_the_bytes(store: ObjectStore, offset: int, length: int | None) -> None:
    data = b"0123456789"
    store.put("ranged", [data])
    end = None if length is None else offset + length
    assert store.get("ranged", offset, length) == data[offset:end]


def test_a_name_is_used_once(store: ObjectStore) -> None:
    store.put("packs/00/taken", [b"old"])
    with pytest.raises(ObjectError) as caught:
        store.put("packs/00/taken", [b"new"])
    assert caught.value.errno == errno.EEXIST
    assert store.get("packs/00/taken") == b"old"


def test_a_missing_object_is_told_from_a_failure(store: ObjectStore) -> None:
    store.put("packs/00/there", [b"x"])
    for missing in ("nothing", "packs/00/nothing", "packs/ff/nothing"):
        with pytest.raises(ObjectMissing):
            store.get(missing)
        with pytest.raises(ObjectMissing):
            store.head(missing)


def test_deleting_is_final_and_repeatable(store: ObjectStore) -> None:
    store.put("packs/00/gone", [b"x"])
    store.delete("packs/00/gone")
    store.delete("packs/00/gone")
    store.delete("packs/01/never-was")
    with pytest.raises(ObjectMissing):
        store.get("packs/00/gone")


def test_head_tells_size_and_time(store: ObjectStore) -> None:
    store.put("sized", [b"12345"])
    info = store.head("sized")
    assert (info.name, info.size) == ("sized", 5)
    assert info.mtime_s > 1_600_000_000


def test_a_listing_is_in_order_of_name_and_whole(store: ObjectStore) -> None:
    names = [f"packs/{a:02x}/{b:016x}" for a, b in itertools.product((0, 9, 255), range(4))]
    names += ["packs.d", "packs-1", "other/deep/er/object"]
    for name in random.Random(7).sample(names, len(names)):
        store.put(name, [name.encode()])
    assert [info.name for info in store.list()] == sorted([*names, MARKER])
    assert [info.name for info in store.list("packs/09/")] == [n for n in sorted(names) if n.startswith("packs/09/")]
    assert [info.name for info in store.list("packs/0")] == [n for n in sorted(names) if n.startswith("packs/0")]
    assert [info.name for info in store.list("nothing/")] == []
    for after in ("packs/09/0000000000000001", "packs/09/000000000000000", "packs-1", MARKER, "zz"):
        assert [info.name for info in store.list("packs", after)] == [
            n for n in sorted(names) if n.startswith("packs") and n > after
        ]
    assert all(info.size == len(info.name) for info in store.list("packs/"))


def test_a_listing_survives_deletions_on_the_way(store: ObjectStore) -> None:
    names = [f"packs/00/{i:04d}" for i in range(20)]
    for name in names:
        store.put(name, [b"x"])
    found = []
    for info in store.list("packs/"):
        found.append(info.name)
        store.delete(names[-1])
    assert found[: len(names) - 1] == names[:-1]  # a store may have listed the last one before it was deleted
    assert len(found) <= len(names)


@pytest.mark.parametrize("name", ["", "/x", "x/", "a//b", "../x", "a/../b", ".hidden", "a/.b", "UPPER", "a b", "a\0b"])
def test_a_name_outside_the_contract_is_refused(store: ObjectStore, name: str) -> None:
    with pytest.raises(ObjectError) as caught:
        store.put(name, [b"x"])
    assert caught.value.errno == errno.EINVAL


def test_one_of_many_putting_the_same_name_wins_whole(store: ObjectStore) -> None:
    outcomes: list[int | None] = []

    def put(i: int) -> None:
        try:
            store.put("packs/00/race", [bytes([i]) * 100_000])
            outcomes.append(None)
        except ObjectError as e:
            outcomes.append(e.errno)

    threads = [threading.Thread(target=put, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(outcomes, key=str) == [errno.EEXIST] * 5 + [None]
    data = store.get("packs/00/race")
    assert len(data) == 100_000
    assert len(set(data)) == 1


def test_check_passes_while_the_store_is_usable(store: ObjectStore) -> None:
    store.check()


def test_many_requests_come_to_what_each_would(store: ObjectStore) -> None:
    data = {f"packs/{i % 5:02x}/{i:04d}": bytes([i]) * (1 + i * 37) for i in range(150)}
    asked: list[Request] = [Put(name, [memoryview(value)[:1], value[1:]]) for name, value in data.items()]
    assert sorted(store.many(asked)) == [(i, None) for i in range(150)]
    first, *others = data
    asked = [Get(name, 0, 10_000) for name in data]
    asked += [
        Get(first, 0, 1),
        Get("packs/00/nothing", 0, 1),
        Put(others[0], [b"new"]),
        Delete(others[1]),
        Delete("packs/00/nothing"),
    ]
    outcomes = dict(store.many(iter(asked)))
    assert [outcomes.pop(i) for i in range(150)] == [value[:10_000] for value in data.values()]
    assert outcomes.pop(150) == data[first][:1]
    assert isinstance(outcomes.pop(151), ObjectMissing)
    taken = outcomes.pop(152)
    assert isinstance(taken, ObjectError) and taken.errno == errno.EEXIST
    assert outcomes == {153: None, 154: None}
    assert store.get(others[0]) == data[others[0]]
    assert others[1] not in [info.name for info in store.list("packs/")]


def test_many_requests_are_taken_when_they_can_be_made(store: ObjectStore) -> None:
    taken = 0

    def asked() -> Iterator[Request]:
        nonlocal taken
        for i in range(200):
            taken += 1
            yield Put(f"packs/00/{i:04d}", [b"x" * 100])

    for answered, _ in enumerate(store.many(asked()), 1):
        assert taken - answered <= store.depth
        if answered == 120:
            break
    assert taken < 200
    names = [info.name for info in store.list("packs/")]
    assert names == [f"packs/00/{i:04d}" for i in range(taken)]  # what was under way has ended


# What only a folder can do


@pytest.fixture(params=[folder_store, folder_without_unnamed_files])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> FileStore:
    made: FileStore = request.param(tmp_path / "objects")
    return made


def test_a_vanished_folder_is_an_error_and_stays_vanished(folder: FileStore) -> None:
    os.rename(folder.root, folder.root + ".away")
    for use in (
        lambda: folder.put("packs/00/x", [b"x"]),
        lambda: folder.get("packs/00/x"),
        lambda: folder.head("packs/00/x"),
        lambda: folder.delete("packs/00/x"),
        lambda: list(folder.list()),
        folder.check,
    ):
        with pytest.raises(ObjectError) as caught:
            use()
        assert not isinstance(caught.value, ObjectMissing)
        assert caught.value.errno == errno.EIO
    assert not os.path.exists(folder.root)


def test_a_folder_without_the_marker_is_not_written_to(folder: FileStore) -> None:
    os.unlink(os.path.join(folder.root, MARKER))
    with pytest.raises(ObjectError):
        folder.put("packs/00/x", [b"x"])
    assert os.listdir(folder.root) == []


def test_a_put_leaves_nothing_but_the_object(folder: FileStore) -> None:
    folder.put("packs/00/x", [b"x"])
    with pytest.raises(ObjectError):
        folder.put("packs/00/x", [b"y"])
    assert os.listdir(os.path.join(folder.root, "packs/00")) == ["x"]


def test_hidden_names_are_not_objects(folder: FileStore) -> None:
    folder.put("packs/00/x", [b"x"])
    Path(folder.root, "packs/00/.123-0-y").write_bytes(b"half")
    assert [info.name for info in folder.list("packs/")] == ["packs/00/x"]


def test_folders_of_objects_lie_apart_on_the_disk_where_they_can(folder: FileStore) -> None:
    folder.put("packs/00/x", [b"x"])
    root = Path(folder.root)
    can = is_placing_apart(root / "packs")
    assert can or file_system(root) != "ext2/ext3"
    assert not is_placing_apart(root)  # the user's own folder is left as it is
    folder.put("top", [b"x"])
    folder.put("one/x", [b"x"])
    assert not is_placing_apart(root)


# Puts an object beside another one, reads it, and says what came of it: the errno (0: none), what is there, what was read.
PUT_AND_GET = """
import json, os, sys
from cairnfs.errors import ObjectError
from cairnfs.objects.file import FileStore
store = FileStore(sys.argv[1])
store._unnamed_files = sys.argv[2] == "True"
code, read = 0, []
try:
    store.put("packs/00/x", [b"01234", b"", bytearray(b"56789")])
    read = [store.get("packs/00/x").decode(), store.get("packs/00/x", 2, 6).decode()]
except ObjectError as error:
    code = error.errno
print(json.dumps([code, sorted(os.listdir(store.root + "/packs/00")), read]))
"""


@pytest.fixture(scope="module")
def failing_calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("failing-calls"))


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ({"writev": errno.ENOSPC}, [errno.ENOSPC, ["before"], []]),
        ({"writev": errno.EFBIG}, [errno.EFBIG, ["before"], []]),
        ({"fsync": errno.EIO}, [errno.EIO, ["before"], []]),
        ({"fsync": errno.ENOSPC}, [errno.ENOSPC, ["before"], []]),
        ({"pread": errno.EIO}, [errno.EIO, ["before", "x"], []]),
        ({"writev": SHORT, "pread": SHORT}, [0, ["before", "x"], ["0123456789", "234567"]]),
    ],
)
def test_calls_that_fail_leave_nothing_and_short_ones_are_gone_on_with(
    folder: FileStore, failing_calls: Path, calls: dict[str, int], expected: object
) -> None:
    folder.put("packs/00/before", [b"x"])
    assert outcome_of(failing_calls, PUT_AND_GET, [folder.root, str(folder._unnamed_files)], **calls) == expected
