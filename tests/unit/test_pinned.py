"""What a thread finds on its second try along a path is there when it opens it, whoever removes it, and is freed if it does not.

Requests come as a kernel's do (`support.compiled`), one after the other; "others" are requests of no thread that is known.
"""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cairnfs.check import fsck
from cairnfs.errors import FsError
from cairnfs.meta.links import Unlinked
from cairnfs.types import Caller, Inode
from cairnfs.vfs import pinned
from cairnfs.vfs.openfile import OpenFile
from cairnfs.vfs.openfiles import Removal
from support.compiled import Asking, Node
from support.engine import ME, ROOT, Engine, new_volume
from support.toy_mount import eventually

HIM = Caller(pid=(1 << 22) + 100)  # more than the number of any thread


def send_back(node: Node, kernel: Asking, name: str = "f") -> Inode:
    """The thread has looked the name up, and others have replaced the file before it was opened. The inode of the new one."""
    before = node.warm(name, b"before")
    assert kernel.lookup(name.encode()) == before
    node.files.unlink(name)
    after = node.warm(name, b"after")
    assert kernel.open(before) == 0
    return after


def assert_freed(node: Node, inos: list[Inode]) -> None:
    node.assert_nothing_is_open(inos)
    assert len(node.vfs._state.pinned) == 0
    assert fsck.run(node.engine.volume, verify_data=True).problems == []


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC])
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_what_is_found_on_the_second_try_is_opened(node: Node, kernel: Asking, how: str, flags: int) -> None:
    ino = send_back(node, kernel)
    assert kernel.lookup(b"f") == ino
    if how == "removed":
        node.files.unlink("f")
    else:
        node.files.write("new", b"new")
        node.files.rename("new", "f")
    fh = kernel.open(ino, flags)
    assert fh, "ESTALE for the second time: the kernel has no third try"
    assert len(node.vfs._state.pinned) == 0, "the handle holds it"
    if flags != os.O_RDONLY:
        kernel.write(ino, fh, b"wrote")
    assert kernel.nlink_and_size(ino) == (0, 5)
    if flags & os.O_ACCMODE != os.O_WRONLY:
        assert kernel.read(ino, fh) == (b"after" if flags == os.O_RDONLY else b"wrote")
    kernel.release(ino, fh)
    assert_freed(node, [ino])


def test_who_was_not_sent_back_holds_nothing(node: Node, kernel: Asking) -> None:
    ino = node.warm("f", b"content")
    assert kernel.lookup(b"f") == ino
    node.files.unlink("f")
    assert_freed(node, [ino])
    assert kernel.open(ino) == 0


def test_compiled_code_answers_lookups_again_when_the_thread_has_opened_something(node: Node, kernel: Asking) -> None:
    ino = send_back(node, kernel)
    before = kernel.answered["LOOKUP"]
    kernel.lookup(b"f")
    kernel.lookup(b"f")
    assert kernel.answered["LOOKUP"] == before
    kernel.release(ino, kernel.open(ino))
    kernel.lookup(b"f")
    assert kernel.answered["LOOKUP"] == before + 1


def test_a_file_whose_open_never_comes_is_given_back(node: Node, kernel: Asking) -> None:
    ino = send_back(node, kernel)
    kernel.lookup(b"f")
    node.files.unlink("f")
    assert len(node.sustained()) == 1
    assert fsck.run(node.engine.volume, verify_data=True).problems == []
    eventually(lambda: node.sustained() == [])
    assert kernel.open(ino) == 0
    eventually(lambda: len(node.vfs._state.files) == 0)
    assert_freed(node, [ino])


def test_the_next_lookup_of_the_thread_gives_back_what_the_one_before_has_found(node: Node, kernel: Asking) -> None:
    ino = send_back(node, kernel)
    other = node.warm("g", b"other")
    kernel.lookup(b"f")
    kernel.lookup(b"g")
    assert [file.ino for file in node.vfs._state.files.all()] == [other]
    node.files.unlink("f")
    assert node.sustained() == []
    assert kernel.lookup(b"f") == 0
    assert len(node.vfs._state.files) == 0
    assert_freed(node, [ino, other])


def test_a_name_that_was_absent_for_a_moment_may_be_found(node: Node, kernel: Asking) -> None:
    """The kernel asks twice on its second try where the name stands for another inode than before."""
    send_back(node, kernel)
    node.files.unlink("f")
    assert kernel.lookup(b"f") == 0
    ino = node.warm("f", b"again")
    assert kernel.lookup(b"f") == ino
    node.files.unlink("f")
    fh = kernel.open(ino)
    assert fh
    kernel.release(ino, fh)
    assert_freed(node, [ino])


@pytest.mark.parametrize("catch_up", [None, lambda: None], ids=["close-to-open", "push"])
def test_whose_creation_was_refused_because_the_name_exists_walks_again(
    tmp_path: Path, catch_up: Callable[[], None] | None
) -> None:
    """The kernel has found it absent, just now or long ago, and so has not checked whether he may open, or truncate, it."""
    with Engine(new_volume(tmp_path, "memory")) as engine:
        engine.vfs.follow(lambda position: None, lambda inos: None, catch_up=catch_up)
        engine.vfs._state.has_kernel = True
        engine.files.write("f", b"content")
        with pytest.raises(FsError) as refused:
            engine.vfs.create(HIM, ROOT, b"f", 0o644, os.O_RDWR | os.O_TRUNC)
        assert refused.value.errno == errno.ESTALE
        assert engine.files.read("f") == b"content"
        ino = engine.vfs.lookup(HIM, ROOT, b"f").ino
        engine.files.unlink("f")
        engine.files.close(engine.vfs.open(HIM, ino, os.O_RDWR).fh)


def test_only_files_are_held(node: Node, kernel: Asking) -> None:
    send_back(node, kernel)
    node.files.mkdir("d")
    assert kernel.lookup(b"d")
    assert len(node.vfs._state.pinned) == 0


def test_what_others_removed_after_it_was_found_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are between the look and the hold of it, as often as they like."""
    with Engine(new_volume(tmp_path, "memory")) as engine:
        refuse(engine)
        found = engine.meta.names.lookup

        def lookup(parent: Inode, name: bytes) -> object:
            attr = found(parent, name)
            engine.vfs.unlink(ME, parent, name)
            engine.files.write("f", b"next")
            return attr

        monkeypatch.setattr(engine.vfs._names._names, "lookup", lookup)
        engine.vfs.lookup(HIM, ROOT, b"f")
        assert len(engine.vfs._state.pinned) == len(engine.vfs._state.files) == 0


def refuse(engine: Engine) -> Inode:
    """He is sent back; the inode that he will find."""
    engine.files.write("f", b"before")
    before = engine.vfs.lookup(HIM, ROOT, b"f").ino
    engine.files.unlink("f")
    engine.files.write("f", b"after")
    with pytest.raises(FsError) as refused:
        engine.vfs.open(HIM, before, os.O_RDONLY)
    assert refused.value.errno == errno.ESTALE
    return engine.files.ino("f")


def test_a_file_that_is_just_being_removed_is_opened_when_that_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The removal is committed, and whoever does it has not yet noted that the file is held."""
    with Engine(new_volume(tmp_path, "sqlite")) as engine:
        ino = refuse(engine)
        engine.vfs.lookup(HIM, ROOT, b"f")
        done, opened = Removal.done, []
        opener = threading.Thread(target=lambda: opened.append(engine.vfs.open(HIM, ino, os.O_RDONLY).fh))
        looked = threading.Event()
        keeps = engine.vfs._state.files.keeps

        def looking(file: OpenFile) -> bool:
            looked.set()
            return keeps(file)

        def late(removal: Removal, unlinked: Unlinked) -> None:
            opener.start()
            assert looked.wait(20)
            done(removal, unlinked)

        monkeypatch.setattr(engine.vfs._state.files, "keeps", looking)
        monkeypatch.setattr(Removal, "done", late)
        engine.files.unlink("f")
        opener.join(20)
        assert len(opened) == 1
        assert engine.files.pread(opened[0], 0, 10) == b"after"
        engine.files.close(opened[0])
        assert engine.meta.sessions.sustained() == []


def test_the_end_of_a_mount_gives_everything_back(tmp_path: Path) -> None:
    url = new_volume(tmp_path, "sqlite")
    with Engine(url) as engine:
        ino = refuse(engine)
        assert engine.vfs.lookup(HIM, ROOT, b"f").ino == ino
        engine.files.unlink("f")
        assert engine.meta.sessions.sustained() == [ino]
    assert len(engine.vfs._state.files) == len(engine.vfs._state.pinned) == 0
    with Engine(url) as engine:
        assert fsck.run(engine.volume, verify_data=True).problems == []


def test_nothing_is_held_for_longer_than_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinned, "HELD_S", 0.01)
    with Engine(new_volume(tmp_path, "memory")) as engine:
        refuse(engine)
        for _ in range(3):  # a timer for each that comes after the one before has ended
            engine.vfs.lookup(HIM, ROOT, b"f")
            engine.files.unlink("f")
            eventually(lambda: len(engine.vfs._state.files) == 0)
            assert engine.meta.sessions.sustained() == []
            engine.files.write("f", b"next")
