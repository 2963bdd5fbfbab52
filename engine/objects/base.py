"""The object store contract: immutable objects under flat names. Every store passes `tests/stores/test_objects.py`."""

import errno
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, cast

from cairnfs.errors import ObjectError
from cairnfs.types import Buffer

MARKER = "cairnfs_uuid"  # the object that says whose folder, bucket or pool prefix this is: the volume's uuid as text
# Components never start with a dot: hidden names are a folder's own, for objects being written.
_NAME = re.compile(r"[0-9a-z_-][0-9a-z_.-]*(/[0-9a-z_-][0-9a-z_.-]*)*")


def checked_name(name: str) -> str:
    """The name of an object, unless it can be none. ObjectError (EINVAL)."""
    if not _NAME.fullmatch(name):
        raise ObjectError(f"{name!r} cannot be the name of an object", errno.EINVAL)
    return name


class NotOurs(ObjectError):
    """The place has not got the volume's marker: gone, not mounted, or another one. While a volume is open it may come back."""


class Untrusted(ObjectError):
    """Who answers does not prove to be the server that was meant. While a volume is open that may pass: by a new certificate."""


class TimedOut(ObjectError):
    """An attempt was given up for want of time: the store is away, or the link to it slow."""


class ObjectInfo(NamedTuple):
    name: str
    size: int
    mtime_s: float


class Get(NamedTuple):
    """A range of an object, at least one byte."""

    name: str
    offset: int
    length: int


class Put(NamedTuple):
    name: str
    parts: Sequence[Buffer]


class Delete(NamedTuple):
    name: str


Request = Get | Put | Delete
Outcome = bytes | None | ObjectError  # of a get its bytes, of the others nothing; or why it failed


class ObjectStore(Protocol):
    """One bucket, pool or folder. Safe to use from several threads; blocking calls release the GIL.

    Names are relative paths of [0-9a-z_/.-]. Every method may raise ObjectError (EIO, ENOSPC, EACCES).
    """

    @property
    def depth(self) -> int:
        """How many requests of one `many` may be under way at a time; 1: each is waited for before the next is made."""
        ...

    def many(self, requests: Iterable[Request]) -> Iterator[tuple[int, Outcome]]:
        """What came of each request, by its number from 0 on, in the order of the answers. Never raises ObjectError.

        The next request is taken from `requests` when it can be made: so these may be made as they are taken, and end when
        something has failed. Whoever drops the iterator waits for what is under way.
        """
        ...

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        """Store the concatenation of `parts` atomically, and durably unless `sync` is for that. The name must be new (EEXIST)."""
        ...

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of an object, or of a range; shorter than asked only at its end. ObjectMissing if there is none."""
        ...

    def head(self, name: str) -> ObjectInfo:
        """Size and time of an object. ObjectMissing if there is none."""
        ...

    def delete(self, name: str) -> None:
        """Delete an object; deleting a missing one is not an error."""
        ...

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """Every object whose name starts with `prefix` and comes after `after`, in order of name, without holding all in memory.

        What is stored or deleted meanwhile may be in it or not.
        """
        ...

    def sync(self) -> None:
        """When this returns, everything that anybody has put survives a loss of power. ObjectError, once for what was lost."""
        ...

    def check(self) -> None:
        """Raise ObjectError when the store cannot be used now (folder gone, disk not mounted)."""
        ...

    def close(self) -> None: ...


class OneByOne:
    """For an object store that makes one request at a time for each thread."""

    depth = 1

    def many(self, requests: Iterable[Request]) -> Iterator[tuple[int, Outcome]]:
        for i, request in enumerate(requests):
            yield i, outcome_of(cast(ObjectStore, self), request)


class SyncedAtPut:
    """For an object store whose puts return when they are durable."""

    def sync(self) -> None:
        """Nothing is left to do."""


def outcome_of(store: ObjectStore, request: Request) -> Outcome:
    """What comes of one request, waited for."""
    try:
        match request:
            case Get(name, offset, length):
                return store.get(name, offset, length)
            case Put(name, parts):
                store.put(name, parts)
            case Delete(name):
                store.delete(name)
    except ObjectError as e:
        return e
    return None


class Bucket(ObjectStore, Protocol):
    """What each kind of storage is: an object store that can say where it is, and be made and removed.

    Making one (`cairnfs.objects.STORAGES`) may connect, and raises VolumeError or UsageError saying how to mend it, but
    changes nothing.
    """

    @property
    def where(self) -> str:
        """The place, for messages: a folder, or a pool or bucket and a prefix."""
        ...

    def prepare(self) -> None:
        """Make what can be made before the first object; what is there already stays. VolumeError when it cannot be."""
        ...

    def present(self) -> bool:
        """Whether the place is there at all; False also while the disk that holds it is not mounted."""
        ...

    def vacant(self) -> bool:
        """Whether nothing at all is in the place, or it is not there."""
        ...

    def tidy(self) -> None:
        """Remove what the deletion of objects leaves behind, such as empty folders."""
        ...
