"""Objects as files: what one call does. Failing calls: tests/stores/test_objects.py."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from cairnfs.ext import file_io
from support.folders import file_system, is_placing_apart


@pytest.mark.parametrize(
    "parts",
    [[], [b""], [b"one"], [b"", b"a", b"", b"bc", b""], [bytearray(b"x"), memoryview(b"yz")], [b"%04d" % i for i in range(1500)]],
    ids=["none", "an empty one", "one", "empty ones between", "other buffers", "more than one call takes"],
)
def test_what_was_put_is_got(tmp_path: Path, parts: Sequence[bytes]) -> None:
    path = str(tmp_path / "object")
    whole = b"".join(parts)
    assert file_io.put(str(tmp_path), path, parts)
    assert os.listdir(tmp_path) == ["object"] and os.stat(path).st_mode & 0o7777 == 0o644
    for offset in {0, 1, len(whole) // 2, len(whole), len(whole) + 5}:
        for n_bytes in (0, 1, len(whole), len(whole) + 9):
            assert file_io.get(path, offset, n_bytes) == whole[offset : offset + n_bytes]


def test_errors_say_what_and_leave_everything(tmp_path: Path) -> None:
    path = str(tmp_path / "object")
    file_io.put(str(tmp_path), path, [b"first"])
    before = len(os.listdir("/proc/self/fd"))
    for folder, name, code in ((str(tmp_path), path, errno.EEXIST), (str(tmp_path / "none"), path, errno.ENOENT)):
        with pytest.raises(OSError) as caught:
            file_io.put(folder, name, [b"second"])
        assert (caught.value.errno, caught.value.filename) == (code, name)
    with pytest.raises(FileNotFoundError):
        file_io.get(str(tmp_path / "none"), 0, 1)
    with pytest.raises(IsADirectoryError):
        file_io.get(str(tmp_path), 0, 1)
    assert file_io.get(path, 0, 99) == b"first" and os.listdir(tmp_path) == ["object"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_where_there_are_no_unnamed_files_nothing_is_done(tmp_path: Path) -> None:
    assert not file_io.put("/proc", str(tmp_path / "object"), [b"x"])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("offset", "n_bytes"), [(0, -1), (2**63, 0), (2**63 - 1, 1), (1, 2**63 - 1)])
def test_senseless_ranges_are_refused(tmp_path: Path, offset: int, n_bytes: int) -> None:
    with pytest.raises(ValueError):
        file_io.get(str(tmp_path / "none"), offset, n_bytes)


def test_senseless_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        file_io.put(str(tmp_path), str(tmp_path / "x"), ["text"])  # type: ignore[list-item]
    for folder, path in ((str(tmp_path), "a\0b"), ("a\0b", str(tmp_path / "x"))):
        with pytest.raises(ValueError):
            file_io.put(folder, path, [b""])
    with pytest.raises(ValueError):
        file_io.get("a\0b", 0, 1)
    assert os.listdir(tmp_path) == []


def test_folders_are_placed_apart_where_the_file_system_can(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    can = file_io.spread(str(tmp_path))
    assert can or file_system(tmp_path) != "ext2/ext3"
    assert is_placing_apart(tmp_path) == can
    assert file_io.spread(str(tmp_path)) == can
    assert not file_io.spread("/proc")
    with pytest.raises(FileNotFoundError):
        file_io.spread(str(tmp_path / "none"))
    with pytest.raises(NotADirectoryError):
        file_io.spread("/proc/self/status")
    assert len(os.listdir("/proc/self/fd")) == before
