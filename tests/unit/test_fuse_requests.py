"""What the channel makes of each request and each kind of answer, message by message, without a mount."""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator

import pytest
from conftest import ExpectedLogs

from cairnfs.types import DirEntry, Inode, Lock, Opened, SetAttr
from support.fuse_peer import ATTR, ENTRY_OUT, INIT_IN, OPEN_OUT, FusePeer, Reply
from support.memory_handler import MemoryHandler
from support.toy_mount import eventually

NO_FLAGS2 = 0x3FFFFFFF
SETATTR_TIMES = ("atime", "mtime", "ctime", "atimensec", "mtimensec", "ctimensec")
SETATTR_FIELDS = ("fh", "size", "lock_owner", *SETATTR_TIMES, "mode", "", "uid", "gid")
KEEP_CACHE = 2
NOFLUSH = 1 << 5


@pytest.fixture
def handler() -> MemoryHandler:
    return MemoryHandler()


@pytest.fixture
def peer(handler: MemoryHandler) -> Iterator[FusePeer]:
    options = {"attr_timeout_s": 2.5, "entry_timeout_s": 3.0, "dir_entry_timeout_s": 4.25}
    with FusePeer(handler, min_threads=1, max_threads=4, **options) as found:
        found.init()
        yield found


def open_file(peer: FusePeer, ino: int, flags: int = os.O_RDWR) -> int:
    """The handle as the kernel sees it."""
    reply = peer.call("OPEN", struct.pack("=II", flags, 0), ino)
    assert reply.error == 0
    return int(OPEN_OUT.unpack(reply.body)[0])


def read_body(fh: int, offset: int, size: int) -> bytes:
    return struct.pack("=QQIIQII", fh, offset, size, 0, 0, 0, 0)


def write_body(fh: int, offset: int, data: bytes, write_flags: int = 0) -> bytes:
    return struct.pack("=QQIIQII", fh, offset, len(data), write_flags, 0, 0, 0) + data


# INIT


def test_init_agrees_on_what_both_know(handler: MemoryHandler) -> None:
    with FusePeer(handler, max_write_bytes=1 << 20, max_background=40) as peer:
        major, minor, readahead, flags, background, congestion, max_write, gran, pages, _, flags2, _, _ = peer.init()
        assert (major, minor, readahead, background, congestion) == (7, 45, 1 << 20, 40, 30)
        assert (max_write, gran, pages) == (1 << 20, 1, 256)
        assert peer.channel.features == flags | flags2 << 32
        assert flags & 1 << 1 and flags & 1 << 10, "locks of both kinds are remote"
        assert not flags & 1 << 16, "no write-back cache"
        assert not flags & 1 << 12 and flags & 1 << 25, "pages are invalidated explicitly"


def test_init_offers_nothing_the_kernel_does_not(handler: MemoryHandler) -> None:
    with FusePeer(handler) as peer:
        answer = peer.init(minor=31, flags=0, flags2=0xFFFFFFFF)
        assert answer[3] == answer[10] == 0
        assert answer[6] == 32 * 4096, "without MAX_PAGES a request has 32 pages"
        assert peer.channel.minor == 31


def test_second_flags_count_only_when_announced(handler: MemoryHandler) -> None:
    with FusePeer(handler) as peer:
        assert peer.init(flags=NO_FLAGS2)[10] == 0


def test_later_major_is_answered_and_asked_again(handler: MemoryHandler) -> None:
    with FusePeer(handler) as peer:
        assert peer.init(major=8)[:2] == (7, 45)
        assert peer.init()[0] == 7
        assert peer.call("STATFS").error == 0


@pytest.mark.parametrize(("major", "minor"), [(7, 22), (6, 45)])
def test_too_old_a_kernel_is_refused(handler: MemoryHandler, major: int, minor: int) -> None:
    with FusePeer(handler) as peer:
        peer.send("INIT", INIT_IN.pack(major, minor, 0, 0, 0))
        peer.join()
        assert isinstance(peer.failure, OSError) and peer.failure.errno == errno.EPROTONOSUPPORT


@pytest.mark.parametrize("opcode", ["STATFS", "INIT"])
def test_anything_but_a_whole_init_at_first_is_refused(handler: MemoryHandler, opcode: str) -> None:
    with FusePeer(handler) as peer:
        peer.send(opcode, bytes(8))
        peer.join()
        assert isinstance(peer.failure, OSError) and peer.failure.errno == errno.EPROTO


def test_hanging_up_before_init_ends_quietly(handler: MemoryHandler) -> None:
    with FusePeer(handler) as peer:
        peer.kernel.close()
        peer.join()
        assert peer.failure is None


# Values


def test_entry_carries_attributes_and_timeouts(peer: FusePeer, handler: MemoryHandler) -> None:
    attr = handler.add(1, b"f", stat.S_IFREG | 0o4755)
    attr.uid, attr.gid, attr.nlink, attr.size, attr.alloc_bytes, attr.rdev = 7, 8, 3, 5000, 513, 0
    attr.atime_ns, attr.mtime_ns, attr.ctime_ns = 1_500_000_001, -1, -2_000_000_001
    reply = peer.call("LOOKUP", b"f\0")
    nodeid, generation, entry_s, attr_s, entry_ns, attr_ns = ENTRY_OUT.unpack_from(reply.body)
    assert (nodeid, generation, entry_s, entry_ns, attr_s, attr_ns) == (attr.ino, 1, 3, 0, 2, 500_000_000)
    ino, size, blocks, atime, mtime, ctime, *rest = ATTR.unpack_from(reply.body, ENTRY_OUT.size)
    assert (ino, size, blocks) == (attr.ino, 5000, 2)
    assert (atime, mtime, ctime) == (1, 2**64 - 1, 2**64 - 3), "seconds are rounded down, also before 1970"
    assert rest == [500_000_001, 999_999_999, 999_999_999, stat.S_IFREG | 0o4755, 3, 7, 8, 0, 4096, 0]


def test_attributes_that_the_kernel_takes_as_they_come_are_valid_for_a_second(peer: FusePeer, handler: MemoryHandler) -> None:
    ino = handler.add(1, b"f", stat.S_IFREG | 0o644).ino
    assert struct.unpack_from("=QI", peer.call("GETATTR", bytes(16), ino).body) == (2, 500_000_000)
    assert struct.unpack_from("=QI", peer.call("SETATTR", bytes(88), ino).body) == (1, 0)
    made = ENTRY_OUT.unpack_from(peer.call("SYMLINK", b"s\0f\0").body)
    assert (made[2], made[3], made[5]) == (3, 1, 0), "the name is protected by the lock of its directory"


def test_attributes_that_others_have_changed_meanwhile_are_to_be_asked_for_again(peer: FusePeer, handler: MemoryHandler) -> None:
    """The kernel may not know the inode yet, so that it was told of the change in vain, or takes the answer as it comes."""
    ino = handler.add(1, b"f", stat.S_IFREG | 0o644).ino
    fh = OPEN_OUT.unpack(peer.call("OPENDIR", bytes(8), 1).body)[0]

    def answers() -> list[tuple[int, int]]:
        """How long names and attributes are valid."""
        listed, found = peer.call("READDIRPLUS", read_body(fh, 2, 4096)), peer.call("LOOKUP", b"f\0")
        made = peer.call("SYMLINK", b"s\0f\0")
        return [ENTRY_OUT.unpack_from(reply.body)[2:4] for reply in (listed, found, made)]

    def change(*_: object, **__: object) -> None:
        peer.channel.leaving(True)
        peer.channel.leaving(False)

    assert answers() == [(3, 2), (3, 2), (3, 1)]
    handler.before = dict.fromkeys(("readdir", "lookup", "symlink", "setattr"), change)
    assert answers() == [(3, 0), (3, 0), (3, 0)]
    assert struct.unpack_from("=QI", peer.call("SETATTR", bytes(88), ino).body) == (0, 0)
    handler.before.clear()
    assert answers() == [(3, 2), (3, 2), (3, 1)]


def test_while_nobody_follows_changes_everything_is_valid_for_a_second(peer: FusePeer, handler: MemoryHandler) -> None:
    ino = handler.add(1, b"f", stat.S_IFREG | 0o644).ino
    for follows, valid in ((False, (1, 1)), (True, (3, 2))):
        peer.channel.follows = follows
        assert peer.channel.follows == follows
        assert ENTRY_OUT.unpack_from(peer.call("LOOKUP", b"f\0").body)[2:4] == valid
        assert struct.unpack_from("=Q", peer.call("GETATTR", bytes(16), ino).body) == (valid[1],)


def test_everything_the_kernel_was_given_can_be_taken_back(peer: FusePeer, handler: MemoryHandler) -> None:
    inos = [handler.add(1, b"f%d" % i, stat.S_IFREG | 0o644).ino for i in range(3)]
    for i in (0, 1, 1, 2):
        peer.call("LOOKUP", b"f%d\0" % i)
    peer.send("FORGET", struct.pack("=Q", 1), inos[1])
    peer.send("FORGET", struct.pack("=Q", 1), inos[2])
    assert peer.call("STATFS").error == 0
    eventually(lambda: peer.channel.n_known == 2)
    for pages, offset in ((False, -1), (True, 0)):
        peer.channel.inval_known(pages=pages)
        told = [peer.receive() for _ in range(3)]
        assert {struct.unpack("=Qqq", reply.body)[:2] for reply in told} == {(1, offset), (inos[0], offset), (inos[1], offset)}


def test_where_open_is_refused_files_are_read_by_inode(handler: MemoryHandler) -> None:
    ino = handler.add(1, b"f", stat.S_IFREG | 0o644).ino
    handler.hooks["read"] = lambda c, fh, offset, size: [b"%d" % fh]
    handler.hooks["lseek"] = lambda c, fh, offset, whence: -fh
    with FusePeer(handler, no_open=True) as peer:
        features = peer.init()[3]
        assert not features & (1 << 1 | 1 << 10), "locks are the kernel's"
        for opcode, body in (("OPEN", bytes(8)), ("FLUSH", bytes(24)), ("FSYNC", bytes(16))):
            assert peer.call(opcode, body, ino).error == errno.ENOSYS
        assert peer.call("READ", struct.pack("=QQIIQII", 0, 0, 100, 0, 0, 0, 0), ino).body == b"-%d" % ino
        assert peer.call("LSEEK", struct.pack("=QQII", 0, 0, 3, 0), ino).body == struct.pack("=Q", ino)


def test_directory_has_its_own_timeout_and_a_size_of_one_block(peer: FusePeer, handler: MemoryHandler) -> None:
    handler.add(1, b"d", stat.S_IFDIR | 0o755).size = 12345
    body = peer.call("LOOKUP", b"d\0").body
    assert ENTRY_OUT.unpack_from(body)[2:6:2] == (4, 250_000_000)
    assert ATTR.unpack_from(body, ENTRY_OUT.size)[1] == 4096


def test_missing_name_is_plain_enoent(peer: FusePeer) -> None:
    assert peer.call("LOOKUP", b"none\0") == Reply(errno.ENOENT, 4, b"")


def test_missing_name_is_kept_when_asked_to(handler: MemoryHandler) -> None:
    with FusePeer(handler, negative_timeout_s=1.5) as peer:
        peer.init()
        reply = peer.call("LOOKUP", b"none\0")
        assert reply.error == 0
        assert ENTRY_OUT.unpack_from(reply.body) == (0, 0, 1, 0, 500_000_000, 0)
        peer.channel.follows = False
        assert peer.call("LOOKUP", b"none\0").error == errno.ENOENT, "nobody tells when it appears"


def test_missing_name_is_not_kept_by_kernels_that_cannot_forget_all(handler: MemoryHandler) -> None:
    with FusePeer(handler, negative_timeout_s=1.5) as peer:
        peer.init(minor=43)
        assert peer.call("LOOKUP", b"none\0").error == errno.ENOENT


def test_setattr_says_what_is_set_and_nothing_else(peer: FusePeer, handler: MemoryHandler) -> None:
    ino = handler.add(1, b"f", stat.S_IFREG | 0o644).ino
    handle = open_file(peer, ino)

    def setattr_(valid: int, **values: int) -> SetAttr:
        body = struct.pack("=IIQQQQQQIIIIIIII", valid, 0, *(values.get(name, 0) for name in SETATTR_FIELDS), 0)
        assert peer.call("SETATTR", body, ino).error == 0
        change = handler.called("setattr")[-1][2]
        assert isinstance(change, SetAttr)
        return change

    assert setattr_(0) == SetAttr()
    assert setattr_(1 << 0, mode=stat.S_IFREG | 0o2600) == SetAttr(mode=0o2600)
    assert setattr_(1 << 1 | 1 << 2, uid=5, gid=0xFFFFFFFE) == SetAttr(uid=5, gid=0xFFFFFFFE)
    assert setattr_(1 << 3 | 1 << 6, size=9, fh=handle) == SetAttr(size=9)
    assert handler.called("setattr")[-1][3] == handle >> 1
    assert setattr_(1 << 4, atime=2**64 - 1, atimensec=5) == SetAttr(atime_ns=-999_999_995)
    assert setattr_(1 << 5, mtime=2**63 - 1, mtimensec=0xFFFFFFFF) == SetAttr(mtime_ns=9_223_372_035_999_999_999)
    assert setattr_(1 << 10, ctime=3) == SetAttr(ctime_ns=3_000_000_000)
    assert setattr_(1 << 11) == SetAttr(kill_suidgid=True)
    now = setattr_(1 << 4 | 1 << 7 | 1 << 5 | 1 << 8)
    assert now.atime_ns is not None and now.atime_ns > 10**18 and now.mtime_ns is not None


def test_getattr_passes_the_handle_it_is_asked_with(peer: FusePeer, handler: MemoryHandler) -> None:
    ino = handler.add(1, b"f", stat.S_IFREG | 0o644).ino
    handle = open_file(peer, ino)
    peer.call("GETATTR", struct.pack("=IIQ", 1, 0, handle), ino)
    peer.call("GETATTR", struct.pack("=IIQ", 0, 0, handle), ino)
    assert [args[2] for args in handler.called("getattr")] == [handle >> 1, None]


def test_statx_has_time_of_birth_and_device_numbers(peer: FusePeer, handler: MemoryHandler) -> None:
    attr = handler.add(1, b"dev", stat.S_IFCHR | 0o600)
    attr.rdev, attr.btime_ns = os.makedev(0x123, 0x45678), 1_000_000_007
    body = peer.call("STATX", bytes(24), attr.ino).body
    assert len(body) == 288
    assert struct.unpack_from("=qI", body, 112) == (1, 7)
    assert struct.unpack_from("=II", body, 160) == (0x123, 0x45678)


def test_umask_reaches_the_handler(peer: FusePeer, handler: MemoryHandler) -> None:
    seen: list[int] = []
    for method in ("mkdir", "mknod", "create"):
        handler.before[method] = lambda c, *args: seen.append(c.umask)
    assert peer.call("MKDIR", struct.pack("=II", 0o777, 0o027) + b"d\0").error == 0
    assert peer.call("MKNOD", struct.pack("=IIII", stat.S_IFIFO | 0o666, 0, 0o022, 0) + b"p\0").error == 0
    assert peer.call("CREATE", struct.pack("=IIII", os.O_RDWR, 0o666, 0o077, 0) + b"f\0").error == 0
    assert seen == [0o027, 0o022, 0o077]


def test_caller_is_who_the_header_says(peer: FusePeer, handler: MemoryHandler) -> None:
    seen: list[tuple[int, ...]] = []
    handler.before["statfs"] = lambda c: seen.append((c.uid, c.gid, c.pid, c.umask))
    peer.call("STATFS", uid=1234)
    assert seen == [(1234, 100, 4242, 0)]


def test_statfs_counts_blocks(peer: FusePeer) -> None:
    blocks = 1 << 28
    found = struct.unpack_from("=5Q3I", peer.call("STATFS").body)
    assert found == (blocks, blocks - 2, blocks - 2, 1000, 993, 4096, 255, 4096)


# Reading and writing


def test_read_reply_is_the_pieces_in_a_row(peer: FusePeer, handler: MemoryHandler) -> None:
    ino = handler.add(1, b"f", stat.S_IFREG | 0o644).ino
    handle = open_file(peer, ino)
    pieces = [os.urandom(n) for n in (1, 300, 0, 7)] * 400  # more than one writev takes
    handler.hooks["read"] = lambda c, fh, offset, size: pieces
    assert peer.call("READ", read_body(handle, 0, 1 << 20), ino).body == b"".join(pieces)
    handler.hooks["read"] = lambda c, fh, offset, size: []
    assert peer.call("READ", read_body(handle, 0, 100), ino) == Reply(0, 8, b"")


def test_buffers_of_a_read_are_let_go(peer: FusePeer, handler: MemoryHandler) -> None:
    ino = handler.add(1, b"f", stat.S_IFREG | 0o644).ino
    handle = open_file(peer, ino)
    buffer = bytearray(b"abc")
    handler.hooks["read"] = lambda c, fh, offset, size: [buffer]
    assert peer.call("READ", read_body(handle, 0, 100), ino).body == b"abc"

    def is_cleared() -> bool:
        try:
            buffer.clear()
        except BufferError:  # it is still exported
            return False
        return True

    eventually(is_cleared)


def test_more_bytes_than_asked_are_eio(peer: FusePeer, handler: MemoryHandler, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("READ of inode")
    ino = handler.add(1, b"f", stat.S_IFREG | 0o644).ino
    handle = open_file(peer, ino)
    handler.hooks["read"] = lambda c, fh, offset, size: [bytes(size), b"x"]
    assert peer.call("READ", read_body(handle, 0, 100), ino).error == errno.EIO


def test_write_passes_flags(peer: FusePeer, handler: MemoryHandler) -> None:
    ino = handler.add(1, b"f", stat.S_IFREG | 0o644).ino
    handle = open_file(peer, ino)
    cached, kill = 1, 4
    for write_flags in (0, kill, cached, cached | kill):
        assert peer.call("WRITE", write_body(handle, 0, b"x", write_flags), ino).body == struct.pack("=II", 1, 0)
    calls = [(name, args[4:]) for name, args in handler.calls if name in ("write", "write_mapped")]
    plain, killing = ("write", (False, False)), ("write", (True, False))
    inner = ("write", ())  # what the handler makes of a page written back
    assert calls == [plain, killing, ("write_mapped", ()), inner, ("write_mapped", (True,)), inner]


def test_view_kept_beyond_its_request_keeps_its_bytes(peer: FusePeer, handler: MemoryHandler) -> None:
    ino = handler.add(1, b"f", stat.S_IFREG | 0o644).ino
    handle = open_file(peer, ino)
    kept: list[memoryview] = []
    handler.before["write"] = lambda c, fh, offset, data, *_: kept.append(data[1:])
    for i in range(4):
        assert peer.call("WRITE", write_body(handle, 0, bytes([i]) * 5000), ino).error == 0
    assert [bytes(view) for view in kept] == [bytes([i]) * 4999 for i in range(4)]
    assert all(view.readonly for view in kept)


def test_more_written_than_given_is_eio(peer: FusePeer, handler: MemoryHandler, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("WRITE of inode")
    ino = handler.add(1, b"f", stat.S_IFREG | 0o644).ino
    handler.hooks["write"] = lambda c, fh, offset, data, *_: len(data) + 1
    assert peer.call("WRITE", write_body(open_file(peer, ino), 0, b"x"), ino).error == errno.EIO


def test_copy_file_range_is_cut_to_what_a_reply_can_say(peer: FusePeer, handler: MemoryHandler) -> None:
    handler.hooks["copy_file_range"] = lambda c, fh_in, off_in, fh_out, off_out, length: length
    body = struct.pack("=QQQQQQQ", 2, 0, 1, 4, 0, 2**63, 0)
    assert struct.unpack("=II", peer.call("COPY_FILE_RANGE", body).body) == (0x7FFFF000, 0)
    assert struct.unpack("=Q", peer.call("COPY_FILE_RANGE_64", body).body) == (0x7FFFF000,)
    assert peer.call("COPY_FILE_RANGE", body[:-8] + struct.pack("=Q", 1)).error == errno.EINVAL


# Handles and locks


def test_open_keeps_pages_only_when_told(peer: FusePeer, handler: MemoryHandler) -> None:
    ino = handler.add(1, b"f", stat.S_IFREG | 0o644).ino
    for keep, flags in ((True, KEEP_CACHE), (False, 0)):
        opened = Opened(99, keep)
        handler.hooks["open"] = lambda c, ino, flags, opened=opened: opened
        assert OPEN_OUT.unpack(peer.call("OPEN", bytes(8), ino).body)[1] & KEEP_CACHE == flags


def test_closing_is_not_announced_by_readers_of_files_without_fcntl_locks(peer: FusePeer, handler: MemoryHandler) -> None:
    ino, other = handler.add(1, b"f", stat.S_IFREG | 0o644).ino, handler.add(1, b"g", stat.S_IFREG | 0o644).ino

    def silent(ino: int, flags: int) -> bool:
        return bool(OPEN_OUT.unpack(peer.call("OPEN", struct.pack("=II", flags, 0), ino).body)[1] & NOFLUSH)

    assert silent(ino, os.O_RDONLY)
    assert not silent(ino, os.O_RDWR) and not silent(ino, os.O_WRONLY)
    assert peer.call("SETLK", lock_body(open_file(peer, ino), fcntl.F_RDLCK), ino).error == 0
    assert not silent(ino, os.O_RDONLY), "a close must be told of, for it may end the lock"
    assert silent(other, os.O_RDONLY)


def lock_body(handle: int, kind: int, flags: int = 0, owner: int = 9) -> bytes:
    return struct.pack("=QQQQIIII", handle, owner, 10, 20, kind, 4242, flags, 0)


def test_flush_of_a_read_only_handle_needs_no_handler_until_the_file_is_locked(peer: FusePeer, handler: MemoryHandler) -> None:
    ino = handler.add(1, b"f", stat.S_IFREG | 0o644).ino
    reader, writer = open_file(peer, ino, os.O_RDONLY), open_file(peer, ino, os.O_WRONLY)

    def flushed(handle: int) -> int:
        before = len(handler.called("flush"))
        assert peer.call("FLUSH", struct.pack("=QIIQ", handle, 0, 0, 9), ino).error == 0
        return len(handler.called("flush")) - before

    assert (flushed(reader), flushed(writer)) == (0, 1)
    assert peer.call("SETLK", lock_body(reader, fcntl.F_RDLCK, flags=1), ino).error == 0
    assert flushed(reader) == 0, "flock is given back by RELEASE"
    assert peer.call("SETLK", lock_body(reader, fcntl.F_RDLCK), ino).error == 0
    assert flushed(reader) == 1
    assert handler.called("flush")[-1][1:] == (reader >> 1, 9)


def test_locks_are_passed_with_owner_and_range(peer: FusePeer, handler: MemoryHandler) -> None:
    ino = handler.add(1, b"f", stat.S_IFREG | 0o644).ino
    handle = open_file(peer, ino)
    assert peer.call("SETLKW", lock_body(handle, fcntl.F_WRLCK), ino).error == 0
    assert handler.called("setlk")[-1][1:] == (ino, handle >> 1, Lock(fcntl.F_WRLCK, 10, 20, 4242, 9, False), True)
    assert struct.unpack("=QQII", peer.call("GETLK", lock_body(handle, fcntl.F_WRLCK), ino).body)[2] == fcntl.F_UNLCK
    handler.hooks["getlk"] = lambda c, ino, fh, lock: Lock(fcntl.F_RDLCK, 1, 2**63 - 1, 77, 1)
    assert struct.unpack("=QQII", peer.call("GETLK", lock_body(handle, fcntl.F_WRLCK), ino).body) == (1, 2**63 - 1, 0, 77)


@pytest.mark.parametrize("release_flags", [0, 2])
def test_release_tells_the_handle_alone(peer: FusePeer, handler: MemoryHandler, release_flags: int) -> None:
    """Locks are known by it, not by the kernel's number of an owner, which may be another's by now."""
    ino = handler.add(1, b"f", stat.S_IFREG | 0o644).ino
    handle = open_file(peer, ino)
    assert peer.call("RELEASE", struct.pack("=QIIQ", handle, 0, release_flags, 9), ino).error == 0
    assert handler.called("release")[-1][1:] == (handle >> 1,)


# Directories


def entries(body: bytes, plus: bool) -> list[tuple[bytes, int, int, int]]:
    found, at = [], 0
    while at < len(body):
        nodeid = struct.unpack_from("=Q", body, at)[0] if plus else -1
        at += 128 if plus else 0
        ino, cookie, n_name, kind = struct.unpack_from("=QQII", body, at)
        found.append((body[at + 24 : at + 24 + n_name], ino, cookie, nodeid))
        at += (24 + n_name + 7) & ~7
    return found


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("room", [512, 4096, 1 << 20])
def test_directory_comes_in_pieces_that_fit(peer: FusePeer, handler: MemoryHandler, plus: bool, room: int) -> None:
    inos = {b"%03d" % i * (1 + i % 80): 0 for i in range(300)}
    for name in inos:
        inos[name] = handler.add(1, name, stat.S_IFREG | 0o644).ino
    handle = OPEN_OUT.unpack(peer.call("OPENDIR", bytes(8)).body)[0]
    found: list[tuple[bytes, int, int, int]] = []
    while body := peer.call("READDIRPLUS" if plus else "READDIR", read_body(handle, found[-1][2] if found else 0, room)).body:
        assert len(body) <= room
        found += entries(body, plus)
    assert [name for name, *_ in found] == [b".", b"..", *sorted(inos)]
    assert {name: ino for name, ino, _, _ in found[2:]} == inos
    if plus:
        assert [nodeid for *_, nodeid in found] == [0, 0, *(inos[name] for name, *_ in found[2:])]


def test_entry_without_attributes_is_a_name_only(peer: FusePeer, handler: MemoryHandler) -> None:
    handler.hooks["readdir"] = lambda c, fh, cookie, plus: iter([DirEntry(b"x", Inode(5), stat.S_IFREG, 3)])
    assert entries(peer.call("READDIRPLUS", read_body(2, 0, 4096)).body, True) == [(b"x", 5, 3, 0)]


def test_room_for_no_entry_is_einval(peer: FusePeer) -> None:
    handle = OPEN_OUT.unpack(peer.call("OPENDIR", bytes(8)).body)[0]
    assert peer.call("READDIR", read_body(handle, 0, 31)).error == errno.EINVAL


# Extended attributes


def test_xattr_sizes_are_probed_and_kept(peer: FusePeer, handler: MemoryHandler) -> None:
    value = bytes(range(256)) * 200
    set_body = struct.pack("=IIII", len(value), os.XATTR_CREATE, 1, 0) + b"user.a\0" + value
    assert peer.call("SETXATTR", set_body).error == 0
    assert handler.called("setxattr")[-1][1:] == (1, b"user.a", value, os.XATTR_CREATE, True)

    def get(opcode: str, size: int, name: bytes = b"") -> Reply:
        return peer.call(opcode, struct.pack("=II", size, 0) + name)

    assert get("GETXATTR", 0, b"user.a\0").body == struct.pack("=II", len(value), 0)
    assert get("GETXATTR", len(value) - 1, b"user.a\0").error == errno.ERANGE
    assert get("GETXATTR", len(value), b"user.a\0").body == value
    assert get("GETXATTR", 10, b"user.b\0").error == errno.ENODATA
    assert get("LISTXATTR", 0).body == struct.pack("=II", 7, 0)
    assert get("LISTXATTR", 6).error == errno.ERANGE
    assert get("LISTXATTR", 100).body == b"user.a\0"


def test_setxattr_without_the_extension_is_shorter(handler: MemoryHandler) -> None:
    with FusePeer(handler) as peer:
        peer.init(flags=0)
        assert peer.call("SETXATTR", struct.pack("=II", 3, 0) + b"user.a\0abc").error == 0
    assert handler.xattrs[1] == {b"user.a": b"abc"}
