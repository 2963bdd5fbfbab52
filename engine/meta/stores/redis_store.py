"""The store of clusters: one Redis server (with Sentinel, Cluster or TLS, or a Valkey), for any number of nodes.

A partition is a hash: field -> version (8 bytes) and value. Partitions of more than INDEX_FROM rows have an index beside them, a
sorted set of their fields, so that small directories, which most are, cost nothing for being listed in order. All keys of a
volume begin with `{cairnfs:DB}`, so that a Cluster keeps them together. Every commit is one script, and so is every read of more
than one partition: one round trip each.

A commit carries its number: a client that got no answer asks again, and is told what came of it the first time. Whether
commits survive a power failure is a matter of the server's settings (`hazards`).
"""

import hashlib
import logging
import os
import struct
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import redis

from cairnfs.errors import StoreError
from cairnfs.ext.arena import Watch
from cairnfs.ext.busy_poll import packed
from cairnfs.ext.page import Page
from cairnfs.ext.steps import gathered
from cairnfs.meta.stores.base import (
    NO_SESSION,
    NOTHING,
    Absent,
    Add,
    Along,
    AtMost,
    Committed,
    Condition,
    ConditionFailed,
    Delete,
    Effect,
    EndLink,
    Exists,
    Hazard,
    Key,
    LogRecord,
    LogTrimmed,
    Max,
    NotSince,
    Put,
    Row,
    Scanned,
    Unchanged,
    Via,
)
from cairnfs.meta.stores.log_keys import decode_record, encode_record, prefix_end
from cairnfs.meta.stores.redis_link import FAILURES, Address, Link
from cairnfs.meta.stores.redis_wire import Argument
from cairnfs.types import Position, SessionId

log = logging.getLogger(__name__)

LOG_RECORDS = 1_000_000  # and an eighth: 87 MB of the server's memory when files are made and written, 136 MB when renamed
INDEX_FROM = 128
SCAN_COUNT = 5000
LISTEN_S = 0.5  # how long the end of listening may take
MAX_REMEMBERED = 64  # records whose place in the log is known
MAX_ROWS = 0xFFFFFFFF  # of a page: all of them
RUN_BYTES = 24  # of the latest run of commits, before the first session that may commit
FIRST_PART = 4  # of a commit, among the keys of the script
UNSEEN = "Redis does not show its settings (CONFIG GET): whether it keeps metadata through a restart is not known"
UNAWARE = "a failover loses commits that no replica had yet: with two replicas or more, add ?wait-replicas=1 to the URL"
DAMAGED = "a row of the volume in Redis is damaged: something else has written to it"
DAMAGED_LOG = "the change log in Redis is damaged: something else has written to it"

_VERSION = struct.Struct(">Q")
_ORIGIN = struct.Struct(">Q")
_RECORD = struct.Struct(">Q8s")  # origin, what tells it from any other record at the same position
_RECORD_HEAD = struct.Struct(">Q4sHH")  # the same: origin, client, slot, number of the commit in it
# What redis_commit.lua calls the steps of a commit.
CODES: dict[type, bytes] = {Exists: b"e", Absent: b"a", Unchanged: b"u", NotSince: b"s", AtMost: b"m"} | {
    Put: b"p",
    Delete: b"d",
    Add: b"+",
    Max: b">",
}


class Script:
    """A Lua script (of several files, one after the other), sent once and then called by its hash."""

    def __init__(self, *names: str) -> None:
        self.text = b"".join([Path(__file__).with_name(f"redis_{name}.lua").read_bytes() for name in names])
        self._sha = b""

    def run(self, link: Link, keys: Sequence[bytes], arguments: Sequence[Argument], *, is_commit: bool = False) -> Any:
        if self._sha:
            try:
                return link.ask("EVALSHA", self._sha, len(keys), *keys, *arguments, is_commit=is_commit)
            except StoreError as error:
                if not isinstance(error.__cause__, redis.exceptions.NoScriptError):
                    raise  # else the server has been restarted
        found = link.ask("EVAL", self.text, len(keys), *keys, *arguments, is_commit=is_commit)  # which keeps it
        self._sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()
        return found


class RedisStore:
    """The store contract over a Redis server."""

    def __init__(self, address: Address, io_timeout_s: float = 60.0, log_records: int = LOG_RECORDS) -> None:
        """Connect. StoreError when the server cannot be reached or used within `io_timeout_s`."""
        self.origin = SessionId(0)
        self._log_records = log_records
        self._link = Link(address, io_timeout_s)
        tag = address.tag
        self._rows, self._indexes = tag + b"r", tag + b"x"
        self._position, self._log_key = tag + b"position", tag + b"log"
        self._bell, self._streak, self._givers = tag + b"bell", tag + b"streak", tag + b"givers"
        self._tag = tag
        self._client_id = os.urandom(8)
        self._done = tag + b"done:" + self._client_id.hex().encode()
        self._commit, self._read_log, self._scan = Script("giver", "commit"), Script("log"), Script("scan")
        self._wipe = Script("wipe")
        self._read, self._via = Script("read"), Script("newest", "page", "via")
        self._scan_via = Script("newest", "page", "scan_via")
        self._link.greet(Script("giver", "settle").text, (self._position, self._log_key, *self._others()))
        self._slots: list[list[int]] = []  # [slot, commits so far], when not in use
        self._n_slots = 0
        self._lock = threading.Lock()
        self._seen: OrderedDict[int, bytes] = OrderedDict()  # position -> record
        self._listed: tuple[bytes, list[bytes]] = (b"", [])

    # --- reading ---

    def read(self, keys: Sequence[Key]) -> list[Row | None]:
        if not keys:
            return []
        parts = list(dict.fromkeys(part for part, _ in keys))
        if len(parts) == 1:
            found = self._link.ask("HMGET", self._rows + parts[0], *(key for _, key in keys))
        else:
            numbers = {part: i for i, part in enumerate(parts, 1)}
            arguments: list[Argument] = [argument for part, key in keys for argument in (numbers[part], key)]
            found = self._run(self._read, [self._rows + part for part in parts], arguments)
        return [_row(raw) for raw in found]

    def read_via(self, key: Key, prefix: bytes, subkey: bytes, along: Along = NOTHING) -> Via:
        part, field = key
        keys = [self._rows + part, self._indexes + part, self._position, self._streak]
        arguments: list[Argument] = [field, self._rows + prefix, subkey, along.whole, along.limit, _beyond(along.after)]
        row, named, position, n_rows, page = self._run(self._via, keys, [*arguments, self._own])
        return Via(_row(row or None), _row(named or None), Position(position), n_rows, _page(page))

    def scan_via(
        self, partition: bytes, after: bytes | None, limit: int, prefix: bytes, subkey: bytes, *, with_named: bool = True
    ) -> Scanned:
        keys = [self._rows + partition, self._indexes + partition, self._rows + prefix + partition[1:]]
        arguments: list[Argument] = [_beyond(after), limit, self._rows + prefix, subkey, int(with_named), self._own]
        owner, page, position = self._run(self._scan_via, [*keys, self._position, self._streak], arguments)
        return Scanned(_row(owner or None), _page(page, after, limit), Position(position))

    def scan(self, partition: bytes, after: bytes | None, limit: int, *, prefix: bytes = b"") -> list[tuple[bytes, Row]]:
        first = b"(" + after if after is not None and after >= prefix else b"[" + prefix
        end = prefix_end(prefix)
        keys = [self._rows + partition, self._indexes + partition]
        flat = self._run(self._scan, keys, [first, b"+" if end is None else b"(" + end, limit])
        pairs = sorted(zip(flat[::2], flat[1::2], strict=True))
        found = []
        for key, raw in pairs:
            row = _row(raw)
            if row is not None and key.startswith(prefix) and (after is None or key > after):
                found.append((key, row))
        return found[:limit]

    def partitions(self, prefix: bytes, after: bytes | None, limit: int) -> list[bytes]:
        if after is None or self._listed[0] != prefix:
            cut = len(self._rows)
            self._listed = (prefix, sorted(name[cut:] for name in self._names(self._rows + prefix)))
        names = self._listed[1]
        first = 0 if after is None else bisect_right(names, after)
        return names[first : first + limit]

    def position(self) -> Position:
        return Position(int(self._link.ask("GET", self._position) or 0))

    def log(self, after: Position, limit: int, *, rings: bool = False) -> list[LogRecord]:
        keys = [self._position, self._log_key, self._bell]
        newest, *found = self._run(self._read_log, keys, [int(after), limit, int(rings)])
        if not found:
            raise LogTrimmed(after)
        at, records = found
        if at is not None and self._seen.get(after, at) != at:
            raise LogTrimmed(after)  # a replica that lacked some commits has taken over, and others have taken their places
        self._remember({after + i: record for i, record in enumerate(records, 1)})
        return [_log_record(after + i, record) for i, record in enumerate(records, 1)]

    @property
    def _own(self) -> bytes:
        return _ORIGIN.pack(self.origin) if self.origin else b""

    def _remember(self, records: dict[int, bytes]) -> None:
        with self._lock:
            self._seen.update(records)
            while len(self._seen) > MAX_REMEMBERED:
                self._seen.popitem(last=False)

    # --- writing ---

    def commit(self, conditions: Sequence[Condition], effects: Sequence[Effect]) -> Committed:
        rows, parts, changed, steps = gathered(conditions, effects, CODES, Put, FIRST_PART)
        rows_of = self._rows
        keys = [self._position, self._log_key, self._done, *[rows_of + part for part in parts]]
        if self._link.is_cluster:
            keys += self._others(parts)
        slot = self._take_slot()
        try:
            slot[1] += 1
            head = _RECORD_HEAD.pack(self.origin, self._client_id[:4], slot[0] & 0xFFFF, slot[1] & 0xFFFF)
            record = head + encode_record(changed, conditions, effects)
            arguments: list[Argument] = [slot[0], slot[1], record, self._log_records, INDEX_FROM, steps]
            reply = self._run(self._commit, keys, arguments, is_commit=True)
        finally:
            self._slots.append(slot)
        if reply[0] == 0:
            _, number, raw = reply
            failed = [*conditions, *effects][number - 1]
            raise ConditionFailed(failed.key, _row(raw), failed)
        _, position, totals, present = reply
        for number, value in zip(present[::2], present[1::2], strict=True):
            changed[rows[number - 1]] = value
        return Committed(Position(position), totals, changed)

    def _others(self, parts: Iterable[bytes] = ()) -> list[bytes]:
        """Keys that scripts find by themselves. A Cluster has to be told: while it moves keys to another node, a script that
        comes to one that is gone would be ended halfway.
        """
        return [self._givers, self._streak, self._bell, *(self._indexes + part for part in parts)]

    def _take_slot(self) -> list[int]:
        """A place for one commit at a time, to be given back: within it, numbers grow."""
        try:
            return self._slots.pop()  # in one step, as append is
        except IndexError:
            with self._lock:
                self._n_slots += 1
                return [self._n_slots - 1, 0]

    def listen(self, rung: Callable[[], None], ended: threading.Event) -> None:
        while not ended.is_set():
            try:
                with self._link.client.pubsub(ignore_subscribe_messages=True) as channel:
                    channel.subscribe(self._bell)
                    rung()  # nobody was heard until now
                    while not ended.is_set():
                        if channel.get_message(timeout=LISTEN_S) is not None:
                            rung()
            except redis.exceptions.NoPermissionError:
                log.info("the Redis user may not listen to the channel %s: others' changes are seen late", self._bell.decode())
                return
            except FAILURES:
                ended.wait(LISTEN_S)  # whoever asks for something is told what is wrong

    def now_ns(self) -> int | None:
        seconds, microseconds = self._link.call(_time)
        return int(seconds) * 10**9 + int(microseconds) * 1000

    def watch(self) -> Watch | None:
        return None

    def mark(self) -> bytes | None:
        return None

    def end_link(self) -> EndLink | None:
        fd = self._link.new_socket()
        return None if fd is None else EndLink(fd, packed(("GETEX", self._position)))  # as GET, but a replica refuses it

    def sync(self) -> None:
        if tuple(int(n) for n in str(self._link.server["redis_version"]).split(".")[:2]) >= (7, 2):
            self._link.wait_for_disk()

    def wipe(self, first: SessionId = NO_SESSION) -> None:
        if first:  # before anything goes: nothing may be put in the place of what is gone
            self._run(self._wipe, [self._streak], [bytes(RUN_BYTES) + _ORIGIN.pack(first)])
        for at in range(0, len(names := self._names(self._tag)), SCAN_COUNT):
            kept = (self._position, self._log_key, self._streak, self._givers)
            page = [name for name in names[at : at + SCAN_COUNT] if name not in kept]
            if page:
                self._link.call(partial(_unlink, page))
        self._run(self._wipe, [self._log_key, self._position], [_RECORD.pack(self.origin, os.urandom(8))])

    def close(self) -> None:
        try:
            self._link.client.delete(self._done)
        except FAILURES:
            pass  # it expires by itself
        self._link.close()

    # --- the server ---

    def hazards(self) -> list[Hazard]:
        """Settings of the server by which metadata could be lost."""
        address = self._link.address
        fails_over = bool(address.master)
        try:
            settings = self._link.settings("appendonly", "appendfsync", "save", "maxmemory", "maxmemory-policy")
            fails_over = fails_over or (self._link.is_cluster and self._link.has_replicas())
        except FAILURES:
            settings = {}
        found = [Hazard(UNAWARE)] if fails_over and not address.wait_replicas else []
        if "appendonly" not in settings:
            return [*found, Hazard(UNSEEN, is_known=False)]
        return found + [Hazard(text) for text in self._losses(settings)]

    def _losses(self, settings: dict[str, str]) -> list[str]:
        found = []
        if settings["appendonly"] != "yes":
            how = "keeps only snapshots" if settings.get("save") else "keeps nothing on disk"
            found.append(f"Redis {how}: a restart loses metadata; set appendonly yes")
        elif settings.get("appendfsync") == "no":
            found.append("Redis never syncs its log: a loss of power loses metadata, fsynced or not; set appendfsync everysec")
        if settings.get("maxmemory-policy", "noeviction") != "noeviction" and settings.get("maxmemory", "0") != "0":
            found.append("Redis may drop metadata when memory is short: set maxmemory-policy noeviction")
        return found

    def _run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[Argument], *, is_commit: bool = False) -> Any:
        try:
            return script.run(self._link, keys, arguments, is_commit=is_commit)
        except StoreError as error:
            if str(error.__cause__ or "").startswith("RANGE"):
                raise StoreError("a counter would become greater than 2**53") from error
            raise

    def _names(self, prefix: bytes) -> list[bytes]:
        """All keys that begin with `prefix`. Looks at every key of the server: for checks, not for requests."""
        pattern = b"".join(b"\\" + bytes([c]) if c in b"*?[]\\^-" else bytes([c]) for c in prefix) + b"*"
        options = {"target_nodes": "primaries"} if self._link.is_cluster else {}
        return list(set(self._link.call(lambda client: list(client.scan_iter(match=pattern, count=SCAN_COUNT, **options)))))


def _time(client: Any) -> tuple[int, int]:
    found = client.time()
    if isinstance(found, dict):  # a Cluster's answers by node
        found = next(iter(found.values()))
    return found[0], found[1]


def _unlink(names: list[bytes], client: Any) -> None:
    client.unlink(*names)


def _row(raw: bytes | None) -> Row | None:
    if raw is None:
        return None
    if len(raw) < _VERSION.size:
        raise StoreError(DAMAGED)
    return Row(raw[_VERSION.size :], Position(_VERSION.unpack_from(raw)[0]))


def _beyond(after: bytes | None) -> bytes:
    return b"-" if after is None else b"(" + after


def _page(packed: bytes, after: bytes | None = None, limit: int = MAX_ROWS) -> Page:
    """What redis_page.lua has put together."""
    try:
        return Page(packed, after, limit)
    except ValueError as error:
        raise StoreError(DAMAGED) from error


def _log_record(position: int, raw: bytes) -> LogRecord:
    try:
        origin, _ = _RECORD.unpack_from(raw)
        return LogRecord(Position(position), SessionId(origin), *decode_record(raw, _RECORD.size))
    except (struct.error, ValueError) as error:
        raise StoreError(DAMAGED_LOG) from error
