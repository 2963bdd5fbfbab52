"""The access log: a line for every operation, made only while somebody reads it.

A line is `2026.11.24 03:00:00.123456 [uid:0,gid:0,pid:123] open (17,32768): OK (3) <0.000123>`, in local time, as JuiceFS has
it. Each reader has a queue of its own, bounded: a reader that is too slow loses lines and is told how many.
"""

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import astuple

from cairnfs.const import KIB
from cairnfs.errors import FsError
from cairnfs.types import Attr, Caller, DirEntry, Lock, Opened, SetAttr, StatFs

MAX_QUEUED_BYTES = 1024 * KIB  # per reader: about 10,000 lines
WAIT_S = 1.0  # how long a read waits for a line
INTERRUPT_POLL_S = 0.05
CONTENT_AT = {"write": 3, "write_mapped": 3, "setxattr": 3}  # the argument that is users' data: its length is shown
KEEP_ALIVE = b"#\n"  # answers a read when nothing happened: an empty answer would be the end of the file


class LogReader:
    """One open handle of the access log."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._n_bytes = 0
        self._n_lost = 0
        self._arrived = threading.Condition()

    def put(self, line: bytes) -> None:
        with self._arrived:
            if self._n_bytes + len(line) > MAX_QUEUED_BYTES:
                self._n_lost += 1
                return
            self._lines.append(line)
            self._n_bytes += len(line)
            self._arrived.notify()

    def read(self, c: Caller, size: int) -> bytes:
        """What is there, up to `size` bytes; waits up to WAIT_S for a line, then answers KEEP_ALIVE. EINTR."""
        deadline_s = time.monotonic() + WAIT_S
        with self._arrived:
            while not self._lines:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    return KEEP_ALIVE[:size]
                if c.interrupted():
                    raise FsError(errno.EINTR)
                self._arrived.wait(min(left_s, INTERRUPT_POLL_S))
            return self._take(size)

    def _take(self, size: int) -> bytes:
        taken = bytearray()
        while self._lines and len(taken) < size:
            taken += self._lines.popleft()
        self._n_bytes -= len(taken)
        rest = bytes(taken[size:])
        if rest:
            self._lines.appendleft(rest)
            self._n_bytes += len(rest)
        if self._n_lost and not self._lines:
            self._lines.append(b"# %d lines lost: reading is too slow\n" % self._n_lost)
            self._n_bytes += len(self._lines[0])
            self._n_lost = 0
        return bytes(taken[:size])


class AccessLog:
    """Hands lines to the readers. `readers` is empty when nobody reads: then there is nothing to note."""

    def __init__(self, hush: Callable[[bool], None] = lambda on: None) -> None:
        """`hush` is told when a reader comes (True) and goes: compiled code must then leave every operation to be noted."""
        self._hush = hush
        self.readers: tuple[LogReader, ...] = ()
        self._lock = threading.Lock()

    def open(self) -> LogReader:
        reader = LogReader()
        with self._lock:
            self.readers = (*self.readers, reader)
        self._hush(True)
        return reader

    def close(self, reader: LogReader) -> None:
        with self._lock:
            self.readers = tuple(r for r in self.readers if r is not reader)
        self._hush(False)

    def note(self, op: str, args: Sequence[object], outcome: object, took_ns: int) -> None:
        """One operation has ended; `args` are those of the Vfs method, `outcome` what it returned or raised."""
        line = format_line(time.time_ns(), op, args, outcome, took_ns)
        for reader in self.readers:
            reader.put(line)


def format_line(now_ns: int, op: str, args: Sequence[object], outcome: object, took_ns: int) -> bytes:
    """A line of the log. `args[0]` is the Caller."""
    seconds, rest_ns = divmod(now_ns, 10**9)
    when = f"{time.strftime('%Y.%m.%d %H:%M:%S', time.localtime(seconds))}.{rest_ns // 1000:06}"
    c = args[0]
    who = f"[uid:{getattr(c, 'uid', 0)},gid:{getattr(c, 'gid', 0)},pid:{getattr(c, 'pid', 0)}]"
    content_at = CONTENT_AT.get(op, 0)
    shown = ",".join(_argument(value, at == content_at) for at, value in enumerate(args[1:], 1))
    return f"{when} {who} {op} ({shown}): {_outcome(outcome)} <{took_ns / 1e9:.6f}>\n".encode()


def _argument(value: object, is_content: bool) -> str:
    match value:
        case bytes() | bytearray() | memoryview() if is_content:
            return str(len(value))
        case bytes():
            return _name(value)
        case SetAttr():
            return ":".join("" if field is None else str(field) for field in astuple(value))
        case Lock():
            return ":".join(map(str, value))
        case _:
            return str(value)


def _outcome(outcome: object) -> str:
    if isinstance(outcome, OSError):
        return os.strerror(outcome.errno or errno.EIO)
    if isinstance(outcome, BaseException):
        return repr(outcome).replace("\n", "\\n")
    shown = _result(outcome)
    return f"OK ({shown})" if shown else "OK"


def _result(value: object) -> str:
    match value:
        case None:
            return ""
        case Attr():
            return f"{value.ino},0{value.mode:o},{value.size}"
        case Opened():
            return str(value.fh)
        case bytes():
            return str(len(value))
        case Lock() | StatFs():
            return ",".join(map(str, value))
        case tuple():
            return ",".join(map(_result, value))
        case list():
            return str(sum(map(len, value)))  # views of a read, names of attributes
        case DirEntry():
            return _name(value.name)
        case _:
            return str(value)


def _name(name: bytes) -> str:
    """A name on one line, without blanks that would be taken for the line's own."""
    text = name.decode(errors="backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
