"""What `ext.resp` sends, and what it makes of replies in any pieces, whole and broken."""

import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from cairnfs.ext.resp import ReplyError, exchange

LIMIT_S = 0.2

REPLIES: dict[bytes, Any] = {
    b"$5\r\na\r\nbc\r\n": b"a\r\nbc",
    b"$0\r\n\r\n": b"",
    b"$-1\r\n": None,
    b"_\r\n": None,
    b":-9223372036854775\r\n": -9223372036854775,
    b"+OK\r\n": b"OK",
    b"#t\r\n": True,
    b",1.5\r\n": 1.5,
    b"*-1\r\n": None,
    b"*0\r\n": [],
    b"*3\r\n:1\r\n*2\r\n$1\r\nx\r\n_\r\n$-1\r\n": [1, [b"x", None], None],
    b"%1\r\n$1\r\nk\r\n:7\r\n": [b"k", 7],
    b">2\r\n+invalidate\r\n*1\r\n+x\r\n:3\r\n": 3,  # what is pushed is passed over
    b"$100000\r\n" + 100_000 * b"z" + b"\r\n": 100_000 * b"z",
    b"*10000\r\n" + 10_000 * b"$2\r\nab\r\n": 10_000 * [b"ab"],
}


class Peer:
    """The server's end of a connection."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        limit = struct.pack("@ll", 0, int(LIMIT_S * 1e6))
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)

    def answer(self, reply: bytes, pieces: int) -> None:
        for at in range(0, len(reply), pieces):
            self.theirs.sendall(reply[at : at + pieces])


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    with peer.ours, peer.theirs:
        yield peer


def test_a_command_is_sent_as_the_protocol_has_it(peer: Peer) -> None:
    peer.answer(b":1\r\n", 100)
    assert exchange(peer.ours.fileno(), [b"SET", b"k\r\n", 2**63 - 1, -5, b"", True]) == 1
    sent = peer.theirs.recv(1000)
    assert sent == b"*6\r\n$3\r\nSET\r\n$3\r\nk\r\n\r\n$19\r\n9223372036854775807\r\n$2\r\n-5\r\n$0\r\n\r\n$1\r\n1\r\n"


def test_a_command_that_is_longer_than_the_socket_takes_at_once(peer: Peer) -> None:
    got = bytearray()

    def serve() -> None:
        while len(got) < 5_000_000:
            got.extend(peer.theirs.recv(1 << 16))
        peer.theirs.sendall(b"+OK\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    assert exchange(peer.ours.fileno(), [b"x" * 5_000_000]) == b"OK"
    thread.join()


@pytest.mark.parametrize("pieces", [1, 3, 1 << 20])
@pytest.mark.parametrize("reply", [pytest.param(reply, id=repr(reply[:12])) for reply in REPLIES])
def test_replies_in_pieces(peer: Peer, reply: bytes, pieces: int) -> None:
    thread = threading.Thread(target=peer.answer, args=(reply, pieces if len(reply) < 1000 else 1000 * pieces))
    thread.start()
    found = exchange(peer.ours.fileno(), [b"GET"])
    thread.join()
    assert found == REPLIES[reply]
    assert type(found) is type(REPLIES[reply])


def test_errors_of_the_server_leave_the_connection_in_order(peer: Peer) -> None:
    peer.answer(b"-WRONGTYPE it is a list\r\n", 100)
    with pytest.raises(ReplyError, match="WRONGTYPE it is a list"):
        exchange(peer.ours.fileno(), [b"GET"])
    peer.answer(b":1\r\n", 100)
    assert exchange(peer.ours.fileno(), [b"GET"]) == 1


@pytest.mark.parametrize(
    "reply", [b"?1\r\n", b"$5\r\nabcdeXX", b"HTTP/1.1 400\r\n", b"$-2\r\n", b":1\rX", 9 * b"*1\r\n" + b":1\r\n"]
)
def test_what_is_no_reply(peer: Peer, reply: bytes) -> None:
    peer.answer(reply, 100)
    with pytest.raises(ValueError, match="Redis"):
        exchange(peer.ours.fileno(), [b"GET"])


def test_two_replies_to_one_command_are_wrong(peer: Peer) -> None:
    peer.answer(b":1\r\n:2\r\n", 100)
    with pytest.raises(ValueError, match="more than one reply"):
        exchange(peer.ours.fileno(), [b"GET"])


def test_silence_and_the_end(peer: Peer) -> None:
    peer.answer(b"$5\r\nab", 100)
    with pytest.raises(TimeoutError):
        exchange(peer.ours.fileno(), [b"GET"])
    peer.theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionResetError):
        exchange(peer.ours.fileno(), [b"GET"])
    peer.theirs.close()
    with pytest.raises(BrokenPipeError):
        exchange(peer.ours.fileno(), [b"GET"])


def test_arguments_of_other_types_are_refused_before_anything_is_sent(peer: Peer) -> None:
    with pytest.raises(TypeError, match="str where bytes"):
        exchange(peer.ours.fileno(), [b"GET", "key"])  # type: ignore[list-item]
    peer.theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        peer.theirs.recv(10)
