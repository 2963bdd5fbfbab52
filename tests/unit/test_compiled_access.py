"""ACCESS, over a socket (`support.fuse_peer`): what compiled code answers, and what it leaves to Python."""

import errno
import os
import struct

import pytest

from cairnfs.types import Caller, Inode
from cairnfs.vfs import Vfs
from support.compiled import Asking, Node


@pytest.fixture
def by_python(node: Node, monkeypatch: pytest.MonkeyPatch) -> list[Inode]:
    """Inodes that Python was asked about."""
    asked: list[Inode] = []
    call = Vfs.access

    def access(vfs: Vfs, c: Caller, ino: Inode, mask: int) -> None:
        asked.append(ino)
        call(vfs, c, ino, mask)

    monkeypatch.setattr(Vfs, "access", access)
    return asked


def access(kernel: Asking, ino: int, mask: int) -> int:
    return kernel.peer.call("ACCESS", struct.pack("=II", mask, 0), ino).error


def test_access_of_what_is_known_is_answered_without_python(node: Node, by_python: list[Inode]) -> None:
    ino = node.warm("f", b"content")
    with node.asks() as peer:
        peer.init()
        kernel = Asking(peer)
        for n, mask in enumerate((os.F_OK, os.R_OK, os.X_OK, os.R_OK | os.X_OK), 1):
            assert access(kernel, ino, mask) == 0
            assert kernel.answered == {"ACCESS": n}
    assert by_python == []


@pytest.mark.parametrize("what", ["to write", "unknown", "not fresh"])
def test_other_access_is_left_to_python(node: Node, by_python: list[Inode], what: str) -> None:
    ino = node.warm("f", b"content")
    mask = os.R_OK
    if what == "to write":
        mask |= os.W_OK  # a mount may be read-only
    elif what == "unknown":
        node.arena.forget(ino)
    else:
        node.arena.hush(True)
    with node.asks() as peer:
        peer.init()
        kernel = Asking(peer)
        assert access(kernel, ino, mask) == 0
        assert kernel.answered.get("ACCESS", 0) == 0
        assert by_python == [ino]
    if what == "not fresh":
        node.arena.hush(False)


def test_access_of_an_inode_that_is_gone_fails(node: Node, by_python: list[Inode]) -> None:
    ino = node.warm("f", b"content")
    node.files.unlink("f")
    with node.asks() as peer:
        peer.init()
        assert access(Asking(peer), ino, os.R_OK) in (errno.ENOENT, errno.ESTALE)
    assert by_python == [ino]
