"""Objects in a pool of a Ceph cluster, through librados (`cairnfs.ext.rados_io`), without the Python package `rados`.

That package belongs to the system's Python and is invisible to others; and it copies what it reads while it holds the GIL. All
that is needed of librados are thirty functions of its C interface, which has been stable for ten years.

Objects are named NAME/… in the pool, in a namespace if there is one. A put is one operation (create exclusively and write),
so an object is there whole or not at all. RADOS lists a pool in order of hash, with other volumes' objects in between: names
are sorted here (`ordering`), then looked at many at a time. `many` makes requests without waiting for each: librados's threads
wake the one that has made them.

librados sends what was not answered again to whichever OSD has the object now, so an outage shorter than the timeout of a
request is only a delay. A request that has timed out may still be done later: Retrying knows that a put finds its own object.
"""

import argparse
import errno
import logging
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from math import ceil
from typing import Any, NamedTuple, TypeVar

from cairnfs.const import MIB
from cairnfs.errors import ObjectError, ObjectMissing, VolumeError
from cairnfs.ext import rados_io
from cairnfs.objects.base import (
    MARKER,
    Delete,
    Get,
    NotOurs,
    ObjectInfo,
    Outcome,
    Put,
    Request,
    SyncedAtPut,
    checked_name,
    outcome_of,
)
from cairnfs.objects.ordering import in_order
from cairnfs.types import Buffer

log = logging.getLogger(__name__)
T = TypeVar("T")
Batch = list[bytes]

CONNECT_TIMEOUT_S = 10  # librados's own is five minutes
STALE_MAP_S = 2.0
PING_S = 10.0  # librados's own
RENEWAL_S = 5.0  # from one attempt to connect anew to the next: what is wrong may last, and each of many callers meets with it
DEPTH = 64  # requests of one thread under way: what one OSD works on at a time, several times over
UNDER_WAY_BYTES = 64 * MIB  # of them together; librados holds what is written until it is acknowledged
LOOKED_AT = 512  # objects of a listing whose sizes are asked for together
DEFAULT_USER = "client.admin"
INSTALL = "install the package librados2 (Debian, Ubuntu) or librados (others)"
# What the user can act upon keeps its errno; all else is EIO to an application. A pool's quota is a full store.
_TELLING = {errno.EEXIST: errno.EEXIST, errno.EFBIG: errno.EFBIG}
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_BLOCKLISTED = errno.ESHUTDOWN
_DENIED = frozenset({errno.EACCES, errno.EPERM})
_NOTHING_DONE = _DENIED | {errno.ENOENT}  # what may be asked of a new connection, since the old one has done nothing
_DOING = {Get: "read", Put: "store", Delete: "delete"}


class Access(NamedTuple):
    """How to get at a pool. What is empty or None is looked for as `ceph` does: CEPH_ARGS, CEPH_CONF, /etc/ceph."""

    pool: str
    conf: str | None = None
    user: str | None = None
    namespace: str = ""


class RadosStore(SyncedAtPut):
    """The objects NAME/… of a pool. Making one connects. VolumeError says why it cannot be used, and how to mend it."""

    def __init__(self, access: Access, name: str, io_timeout_s: float) -> None:
        self._access = access
        self._prefix = name + "/"
        self._io_timeout_s = io_timeout_s
        self._renewing = threading.Lock()
        self._renewed_s = float("-inf")
        self._said = ""  # why there was no new connection
        self._marker: bytes | None = None  # as it was read: a new connection has to lead to it
        self._closed = False
        self._pool: rados_io.Pool | None = self._connect()

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        self._ask("store", name, lambda pool, oid: pool.put(oid, parts))

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        n_bytes = length if length else self._rest(name, offset, length)
        data = self._ask("read", name, lambda pool, oid: pool.get(oid, offset, n_bytes)) if n_bytes > 0 else b""
        if name == MARKER:
            self._marker = data
        return data

    def head(self, name: str) -> ObjectInfo:
        size, mtime_s = self._ask("look at", name, lambda pool, oid: pool.stat(oid))
        return ObjectInfo(name, size, float(mtime_s))

    def delete(self, name: str) -> None:
        try:
            self._ask("delete", name, lambda pool, oid: pool.remove(oid))
        except ObjectMissing:
            pass

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        listed = (name.decode("ascii")[len(self._prefix) :] for name in in_order(self._names(prefix)))
        names = (name for name in listed if name > after)
        while some := list(islice(names, LOOKED_AT)):
            found: dict[str, Any] = dict(self._answers(some, lambda under_way, name: under_way.stat(name, self._prefix + name)))
            for name in some:
                answer = found[name]
                if not isinstance(answer, OSError):
                    yield ObjectInfo(name, answer[0], float(answer[1]))
                elif answer.errno != errno.ENOENT:  # deleted since it was listed
                    raise self._error(answer, "look at", name)
        if self._marker is not None:
            self.check()  # of a pool that was deleted a listing is empty, or ends

    @property
    def depth(self) -> int:
        return DEPTH

    def many(self, requests: Iterable[Request]) -> Iterator[tuple[int, Outcome]]:
        for (i, request), answer in self._answers(enumerate(requests), self._make, lambda numbered: _data_bytes(numbered[1])):
            yield i, self._outcome(request, answer)

    def check(self) -> None:
        try:
            self.head(MARKER)
        except ObjectMissing as e:
            raise NotOurs(f"{self.where} is not this volume's place now: it has no object {MARKER}") from e

    def close(self) -> None:
        self._closed = True
        self._pool = None  # the connection ends with the last request under way

    @property
    def where(self) -> str:
        return "/".join(filter(None, (f"pool {self._access.pool}", self._access.namespace, self._prefix[:-1])))

    def prepare(self) -> None:
        """A pool is made by whoever runs the cluster, and there is nothing else to make."""

    def present(self) -> bool:
        return self._pool is not None

    def vacant(self) -> bool:
        try:
            self.head(MARKER)
        except ObjectMissing:
            return next(self._names(""), None) is None
        return False

    def tidy(self) -> None:
        """Deleted objects leave nothing behind."""

    def _rest(self, name: str, offset: int, length: int | None) -> int:
        """How much there is to read where that is not said; the object must be there also when nothing is wanted."""
        size = self.head(name).size
        return size - offset if length is None else 0

    def _names(self, prefix: str) -> Iterator[Batch]:
        """Names in the pool, in no order, some at a time. What cannot be ours is left out."""
        found = self._ask("list", prefix, lambda pool, oid: pool.names(oid), is_prefix=True)
        n_prefix = len(self._prefix)
        while batch := self._ask("list", prefix, lambda pool, oid: next(found, None), is_prefix=True):
            if ours := [name for name in batch if _may_be_ours(name[n_prefix:])]:
                yield ours

    def _ask(self, doing: str, name: str, call: Callable[[rados_io.Pool, str], T], *, is_prefix: bool = False) -> T:
        """Nothing of an error keeps the connection, which ends with its last request: no frame of a traceback, no cycle."""
        oid = self._prefix + (name if is_prefix else checked_name(name))
        for is_last in (False, True):
            pool = self._pool
            if pool is None:
                break
            try:
                return call(pool, oid)
            except OSError as e:
                failed = e.with_traceback(None)
            error = self._error(failed, doing, name)
            self._mend(pool, failed, name)
            is_other, pool = self._pool is not pool, None
            if is_last or not (is_other and failed.errno in _NOTHING_DONE):
                try:
                    raise error from failed
                finally:
                    del error
        raise ObjectError(f"{self.where} has been closed")

    def _answers(
        self,
        items: Iterable[T],
        make: Callable[[rados_io.Requests, T], None],
        n_bytes: Callable[[T], int] = lambda item: 0,
    ) -> Iterator[tuple[T, Any]]:
        """Make a request for each item, as many under way as may be; each with its answer, in the order of these, an OSError for
        what failed. `n_bytes` of data are sent or got for an item.
        """
        pool, left_bytes = self._pool, UNDER_WAY_BYTES
        under_way = None if pool is None else pool.requests(DEPTH)
        for item in items:
            if pool is None or under_way is None:
                yield item, ObjectError(f"{self.where} has been closed")
                continue
            left_bytes -= n_bytes(item)
            while under_way.n_under_way and left_bytes < 0:
                yield (answered := self._next(under_way, pool))
                left_bytes += n_bytes(answered[0])
            try:
                make(under_way, item)
            except OSError as e:
                left_bytes += n_bytes(item)
                yield item, e
            while under_way.n_under_way == DEPTH:  # before another is taken
                yield (answered := self._next(under_way, pool))
                left_bytes += n_bytes(answered[0])
        while pool is not None and under_way is not None and under_way.n_under_way:
            yield self._next(under_way, pool)

    def _next(self, under_way: rados_io.Requests, pool: rados_io.Pool) -> tuple[Any, Any]:
        item, answer = under_way.next()
        if isinstance(answer, OSError):
            self._mend(pool, answer)
        return item, answer

    def _make(self, under_way: rados_io.Requests, numbered: tuple[int, Request]) -> None:
        _, request = numbered
        oid = self._prefix + checked_name(request.name)
        if isinstance(request, Get):
            under_way.get(numbered, oid, request.offset, request.length)
        elif isinstance(request, Put):
            under_way.put(numbered, oid, request.parts)
        else:
            under_way.remove(numbered, oid)

    def _outcome(self, request: Request, answer: bytes | None | OSError) -> Outcome:
        if not isinstance(answer, OSError) or isinstance(answer, ObjectError):
            return answer
        if answer.errno in _NOTHING_DONE:
            return outcome_of(self, request)  # by a new connection perhaps
        return self._error(answer, _DOING[type(request)], request.name)

    def _error(self, e: OSError, doing: str, name: str) -> ObjectError:
        what = f"cannot {doing} object {name} in {self.where}"
        if e.errno == errno.ENOENT:
            return self._missing(name)
        if e.errno in _FULL:
            return ObjectError(f"{what}: the pool or the cluster is full", errno.ENOSPC)
        if e.errno == errno.ETIMEDOUT:
            return ObjectError(f"{what}: the cluster has not answered for {self._request_timeout_s} s")
        if e.errno == _BLOCKLISTED:
            return ObjectError(f"{what}: the cluster has blocklisted this client")
        if e.errno in _DENIED:
            return ObjectError(f"{what}: {self._user} may not, see 'ceph auth get {self._user}'", errno.EACCES)
        return ObjectError(f"{what}: {e.strerror}", _TELLING.get(e.errno or 0, errno.EIO))

    def _missing(self, name: str) -> ObjectError:
        """A pool that was deleted answers as one without the object: it has no marker either."""
        if name != MARKER:
            try:
                self.check()
            except ObjectError as e:
                return e
        return ObjectMissing(f"object {name} does not exist in {self.where}")

    def _mend(self, pool: rados_io.Pool, e: OSError, name: str = "") -> None:
        """Connect anew, once for all who have found the connection `pool` to be of no use any more.

        What a blocklisted client was told to do is over. What a user may do stays for an hour what it was when it connected, and
        what was the pool of that name stays it for ever, also when there is another one. A client whose monitors have refused it,
        since its key was away for a while, never asks them again (librados 16): it works with the OSDs that it knows, until one
        of them moves.
        """
        is_gone = e.errno == errno.ENOENT and name == MARKER and self._marker is not None
        if is_gone or e.errno == _BLOCKLISTED or e.errno in _DENIED:
            with self._renewing:
                self._renew(pool)
        elif e.errno == errno.ETIMEDOUT and self._pool is pool and self._renewing.acquire(blocking=False):
            threading.Thread(target=self._renew_if_deaf, args=(pool,), name="ceph-monitors", daemon=True).start()

    def _renew_if_deaf(self, pool: rados_io.Pool) -> None:
        """Beside the requests, which have waited long enough. Gives `_renewing` back."""
        try:
            pool.ask_monitors()
        except OSError:
            self._renew(pool)
        finally:
            self._renewing.release()

    def _renew(self, pool: rados_io.Pool) -> None:
        """By who has `_renewing`."""
        if self._pool is not pool or time.monotonic() - self._renewed_s < RENEWAL_S:
            return
        try:
            self._pool = self._connect_anew()
            self._said = ""
        except (VolumeError, ObjectError) as e:
            if str(e) != self._said:
                self._said = str(e)
                log.warning("%s", self._said)
        self._renewed_s = time.monotonic()
        if self._closed:
            self._pool = None

    def _connect_anew(self) -> rados_io.Pool:
        """What is put into another pool, which has got the name, would be lost to who looks into the volume's."""
        pool = self._connect()
        if self._marker is None:
            return pool
        try:
            found = pool.get(self._prefix + MARKER, 0, len(self._marker) + 1)
        except OSError as e:
            raise self._error(e.with_traceback(None), "read", MARKER) from None
        if found != self._marker:
            raise VolumeError(f"{self.where} holds the objects of another volume now")
        return pool

    @property
    def _request_timeout_s(self) -> int:
        """Of one attempt. Two fit into the time that a call may take: the second finds what a lost answer was about."""
        return max(1, ceil(self._io_timeout_s / 2))  # librados takes whole seconds

    def _connect(self) -> rados_io.Pool:
        access = self._access
        words = _ceph_args(os.environ.get("CEPH_ARGS", ""))
        conf = access.conf or words.conf
        user = access.user or words.name or words.id or DEFAULT_USER
        silence_s = max(1, int(self._io_timeout_s / 3))
        settings = {
            # librados asks for a newer map when a request is older than this. Its own 10 s would never pass with short timeouts,
            # and an OSD that came back under another address would not be found.
            "objecter_timeout": str(min(STALE_MAP_S, self._request_timeout_s / 2)),
            "objecter_tick_interval": str(min(STALE_MAP_S, self._request_timeout_s / 2) / 2),
            # A connection that brings nothing is given up, though TCP believes in it (librados's own are 900 s): what was asked
            # over it is asked again over a new one. librados looks as rarely as that, so it takes up to twice the time.
            "ms_connection_idle_timeout": str(silence_s),
            "ms_connection_ready_timeout": str(min(CONNECT_TIMEOUT_S, silence_s)),
            "mon_client_ping_interval": str(min(PING_S, silence_s / 2)),  # by its answers a connection to a monitor lasts
            "client_mount_timeout": str(min(CONNECT_TIMEOUT_S, ceil(self._io_timeout_s))),
            "rados_mon_op_timeout": str(self._request_timeout_s),
            "rados_osd_op_timeout": str(self._request_timeout_s),
            "log_to_stderr": "false",
            "err_to_stderr": "false",
        }
        self._user = user = user if "." in user else f"client.{user}"
        try:
            return rados_io.Pool(access.pool, user, conf, access.namespace, settings)
        except ImportError as e:
            raise VolumeError(f"{e}: {INSTALL}") from e
        except OSError as e:
            raise VolumeError(_why_not(e, access.pool, user, conf)) from e


def _data_bytes(request: Request) -> int:
    if isinstance(request, Put):
        return sum(map(len, request.parts))
    return request.length if isinstance(request, Get) else 0


def _may_be_ours(name: bytes) -> bool:
    try:
        checked_name(name.decode("ascii", "replace"))
    except ObjectError:
        return False
    return True


def _ceph_args(text: str) -> argparse.Namespace:
    """Of what CEPH_ARGS says, that which librados does not read itself."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-c", "--conf")
    parser.add_argument("-n", "--name")
    parser.add_argument("--id", "--user")
    try:
        return parser.parse_known_args(shlex.split(text))[0]
    except (ValueError, argparse.ArgumentError) as e:
        raise VolumeError(f"CEPH_ARGS cannot be read: {e}") from e


def _why_not(e: OSError, pool: str, user: str, conf: str | None) -> str:
    """One line: what has failed (the step is the text of the error), and what may mend it."""
    code = e.errno or 0
    why = os.strerror(code)
    place = conf or os.environ.get("CEPH_CONF") or "/etc/ceph/ceph.conf"
    keyring = f"look at its keyring (CEPH_KEYRING, or 'keyring' in {place}) and at 'ceph auth get {user}'"
    if e.strerror == "user":
        return f"{user!r} cannot be a user of Ceph: use NAME or client.NAME"
    if e.strerror == "conf" and code == errno.ENOENT:
        return f"there is no Ceph configuration that names monitors at {place}: name the file by --ceph-conf or CEPH_CONF"
    if e.strerror in ("conf", "setting"):
        return f"the Ceph configuration {place} cannot be used: {why}"
    if e.strerror == "connect" and code == errno.ETIMEDOUT:
        return f"no monitor of the Ceph cluster in {place} has answered: look at its 'mon host' and at 'ceph -s'"
    if e.strerror == "connect" and code == errno.EINVAL:
        return f"the 'mon host' of {place} has no address: correct it, or how this machine finds names"
    if e.strerror == "connect" and code in (errno.ENOENT, errno.EIO):
        return f"{f'no key for {user} was found' if code == errno.ENOENT else f'the key of {user} cannot be read'}: {keyring}"
    if e.strerror == "connect":
        return f"the Ceph cluster refuses {user} ({why}): {keyring}"
    if code == errno.ENOENT:
        return f"pool {pool!r} does not exist: make it by 'ceph osd pool create {pool}'"
    return f"pool {pool!r} cannot be used by {user}: {why}"
