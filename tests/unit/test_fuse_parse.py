"""The channel's parser against bytes no kernel sends: whatever comes, it answers with an errno and goes on serving."""

import errno
import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from support.fuse_peer import IN_HEADER, NO_REPLY, OPCODE, FusePeer
from support.memory_handler import MemoryHandler

# The smallest whole body of each opcode that has one: fixed part, then names.
FIXED_BYTES = {
    "LOOKUP": 2,
    "GETATTR": 16,
    "SETATTR": 88,
    "SYMLINK": 4,
    "MKNOD": 18,
    "MKDIR": 10,
    "UNLINK": 2,
    "RMDIR": 2,
    "RENAME": 12,
    "LINK": 10,
    "OPEN": 8,
    "READ": 40,
    "WRITE": 40,
    "RELEASE": 24,
    "FSYNC": 16,
    "SETXATTR": 18,
    "GETXATTR": 10,
    "LISTXATTR": 8,
    "REMOVEXATTR": 2,
    "FLUSH": 24,
    "OPENDIR": 8,
    "READDIR": 40,
    "RELEASEDIR": 24,
    "FSYNCDIR": 16,
    "GETLK": 48,
    "SETLK": 48,
    "SETLKW": 48,
    "ACCESS": 8,
    "CREATE": 18,
    "FALLOCATE": 32,
    "READDIRPLUS": 40,
    "RENAME2": 20,
    "LSEEK": 24,
    "COPY_FILE_RANGE": 56,
    "COPY_FILE_RANGE_64": 56,
    "STATX": 24,
}
ANSWERED = sorted(set(OPCODE) - set(NO_REPLY) - {"INIT"})


class Quiet:
    """A handler whose every method refuses, so that only parsing decides what happens."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("_") or name == "forget":
            raise AttributeError(name)

        def refuse(*args: object) -> None:
            raise OSError(errno.EPERM, "refused")

        return refuse


@pytest.fixture(scope="module")
def module_peer() -> Iterator[FusePeer]:
    with FusePeer(Quiet(), min_threads=1, max_threads=1) as found:
        found.init()
        yield found


@pytest.fixture
def peer() -> Iterator[FusePeer]:
    with FusePeer(MemoryHandler(), min_threads=1, max_threads=1) as found:
        found.init()
        yield found


def assert_serving(peer: FusePeer) -> None:
    """The channel is in step: the next reply is that of the next request."""
    assert peer.call("BMAP").error == errno.ENOSYS


@pytest.mark.parametrize("opcode", sorted(FIXED_BYTES))
def test_body_that_ends_early_is_einval(module_peer: FusePeer, opcode: str) -> None:
    for n in range(FIXED_BYTES[opcode]):
        assert module_peer.call(opcode, b"\x01" * n).error == errno.EINVAL, n


@pytest.mark.parametrize("opcode", ["LOOKUP", "UNLINK", "RMDIR", "REMOVEXATTR", "SYMLINK"])
def test_name_without_its_end_is_einval(module_peer: FusePeer, opcode: str) -> None:
    assert module_peer.call(opcode, b"x" * 300).error == errno.EINVAL


def test_second_name_without_its_end_is_einval(module_peer: FusePeer) -> None:
    assert module_peer.call("RENAME", struct.pack("=Q", 1) + b"old\0new").error == errno.EINVAL


def test_write_with_less_data_than_it_says_is_einval(module_peer: FusePeer) -> None:
    for said, given_ in ((1, 0), (100, 99), (0xFFFFFFFF, 100)):
        body = struct.pack("=QQIIQII", 2, 0, said, 0, 0, 0, 0) + bytes(given_)
        assert module_peer.call("WRITE", body).error == errno.EINVAL


def test_xattr_with_less_value_than_it_says_is_einval(module_peer: FusePeer) -> None:
    body = struct.pack("=IIII", 0x7FFFFFFF, 0, 0, 0) + b"user.a\0value"
    assert module_peer.call("SETXATTR", body).error == errno.EINVAL


def test_forgets_beyond_the_message_are_not_read() -> None:
    handler = MemoryHandler()
    with FusePeer(handler, min_threads=1, max_threads=1) as peer:
        peer.init()
        for count in (0xFFFFFFFF, 1 << 28, 3):
            peer.send("BATCH_FORGET", struct.pack("=II", count, 0) + bytes(32))
        peer.send("BATCH_FORGET", struct.pack("=IIQQQQ", 2, 0, 5, 1, 6, 2))
        assert_serving(peer)
    assert handler.called("forget") == [(5, 1), (6, 2)]


def test_message_shorter_than_its_header_is_ignored(module_peer: FusePeer) -> None:
    for n in (1, 16, 39):
        module_peer.kernel.send(b"\xff" * n)
    assert_serving(module_peer)
    assert module_peer.channel.counts()["MALFORMED"] >= 3


@pytest.mark.parametrize("length", [0, 39, 41, 0xFFFFFFFF])
def test_message_of_another_length_than_it_says_is_eio(module_peer: FusePeer, length: int) -> None:
    module_peer.kernel.send(IN_HEADER.pack(length, OPCODE["STATFS"], 77, 1, 0, 0, 0, 0, 0))
    reply = module_peer.receive()
    assert (reply.unique, reply.error) == (77, errno.EIO)


def test_extensions_longer_than_the_message_are_eio(module_peer: FusePeer) -> None:
    module_peer.kernel.send(IN_HEADER.pack(48, OPCODE["LOOKUP"], 78, 1, 0, 0, 0, 2, 0) + b"a\0\0\0\0\0\0\0")
    assert module_peer.receive().error == errno.EIO


def test_extensions_are_not_taken_for_the_body(module_peer: FusePeer) -> None:
    module_peer.kernel.send(IN_HEADER.pack(56, OPCODE["LOOKUP"], 80, 1, 0, 0, 0, 2, 0) + b"a\0\0\0\0\0\0\0" * 2)
    assert module_peer.receive().error == errno.EINVAL  # all 16 bytes are extensions: there is no name


def test_unknown_opcodes_are_enosys(module_peer: FusePeer) -> None:
    known = set(OPCODE.values())
    for opcode in [n for n in range(64) if n not in known] + [64, 4096, 1 << 20, 0xFFFFFFFF]:
        assert module_peer.call(opcode, bytes(64)).error == errno.ENOSYS
    assert module_peer.channel.counts()["UNKNOWN"] >= 4


def test_request_without_a_number_gets_no_reply(module_peer: FusePeer) -> None:
    module_peer.send("STATFS", unique=0)
    assert_serving(module_peer)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400, deadline=None)
@given(opcode=st.sampled_from(ANSWERED), body=st.binary(max_size=200), nodeid=st.integers(0, 2**64 - 1))
@example(opcode="SETATTR", body=b"\xff" * 88, nodeid=1)
@example(opcode="SETLKW", body=b"\xff" * 48, nodeid=1)
@example(opcode="READDIRPLUS", body=b"\xff" * 40, nodeid=1)
def test_every_request_gets_exactly_one_answer(module_peer: FusePeer, opcode: str, body: bytes, nodeid: int) -> None:
    module_peer.call(opcode, body, nodeid)
    assert module_peer.is_silent()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(message=st.binary(min_size=1, max_size=300), opcode=st.integers(0, 70))
def test_arbitrary_messages_leave_the_channel_serving(module_peer: FusePeer, message: bytes, opcode: int) -> None:
    if len(message) >= IN_HEADER.size:  # most random bytes fail at the length already; let half of them get past it
        message = struct.pack("=II", len(message), opcode) + message[8:]
        message = message[:36] + bytes([message[36] & 3, 0]) + message[38:]
    if opcode == OPCODE["INIT"]:
        return
    module_peer.kernel.send(message)
    unique = module_peer.send("BMAP")
    while module_peer.receive().unique != unique:
        pass
    assert module_peer.is_silent()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ANSWERED), st.binary(max_size=120), st.integers(0, 6)), max_size=12))
def test_a_working_handler_survives_garbage(requests: list[tuple[str, bytes, int]]) -> None:
    """With real values coming back: replies of any kind must be laid out, or refused, without harm."""
    handler = MemoryHandler()
    for method in ("fallocate", "copy_file_range", "setattr", "write"):
        handler.hooks[method] = lambda *args, **kwargs: (_ for _ in ()).throw(OSError(errno.EFBIG, os.strerror(errno.EFBIG)))
    handler.add(1, b"f", 0o100644)
    handler.add(1, b"d", 0o040755)
    with FusePeer(handler, min_threads=1, max_threads=1) as peer:
        peer.init()
        for opcode, body, nodeid in requests:
            peer.call(opcode, body, nodeid)
        assert_serving(peer)
