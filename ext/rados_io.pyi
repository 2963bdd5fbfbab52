"""Pools of a Ceph cluster through librados, which is loaded when it is first wanted. Calls that ask the cluster release the GIL.

A failure is OSError with the errno that librados gave; nothing here says more than that. Objects belong to the process that
made them: a child made by fork must make its own. Names, prefixes and settings with a NUL in them are ValueError.
"""

from collections.abc import Sequence
from typing import Any, Self, final

from typing_extensions import Buffer

MAX_DEPTH: int
STEPS: tuple[str, ...]
"""Where the making of a Pool fails: "user", "conf", "setting", "connect", "pool"."""

def version() -> str | None:
    """Version of librados's interface; None where it is not installed."""

@final
class Pool:
    """A connection to a cluster and one of its pools. Thread-safe; closed when the last reference has gone."""

    def __new__(cls, pool: str, user: str, conf: str | None, namespace: str, settings: dict[str, str]) -> Self:
        """Connect as `user` (TYPE.ID). `conf` None: the configuration file where ceph looks; CEPH_ARGS is heeded, `settings`
        go before both. ImportError where librados cannot be loaded; OSError with a member of STEPS as its text.
        """

    def ask_monitors(self) -> None:
        """Have a monitor answer. ETIMEDOUT when none does within `rados_mon_op_timeout`."""

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        """Store the concatenation of contiguous buffers as a new object, in one operation. EEXIST when there is one."""

    def get(self, name: str, offset: int, length: int) -> bytes:
        """A range of an object, read into the bytes that are returned; shorter at its end. `length` is 1 to 2**31 - 1."""

    def stat(self, name: str) -> tuple[int, int]:
        """Bytes of an object, and its time in whole seconds since the epoch."""

    def remove(self, name: str) -> None:
        """Remove an object. ENOENT when there is none."""

    def names(self, prefix: str) -> Names:
        """Names of the namespace's objects that begin with `prefix`, some at a time, in no order."""

    def requests(self, depth: int) -> Requests:
        """A queue for up to `depth` requests under way, at most MAX_DEPTH."""

@final
class Requests:
    """Requests of one thread. Each is named by a tag, anything at all, and made at once: ValueError when `depth` are under way,
    OSError when it cannot be made. Dropping the last reference waits for what is under way. Not thread-safe.
    """

    def __new__(cls, pool: Pool, depth: int) -> Self: ...
    @property
    def depth(self) -> int: ...
    @property
    def n_under_way(self) -> int: ...
    def get(self, tag: Any, name: str, offset: int, length: int) -> None: ...
    def put(self, tag: Any, name: str, parts: Sequence[Buffer]) -> None: ...
    def remove(self, tag: Any, name: str) -> None: ...
    def stat(self, tag: Any, name: str) -> None: ...
    def next(self) -> tuple[Any, Any]:
        """Wait for the next answer, in whatever order they come: its tag, and what the method of Pool would have returned, or the
        OSError that it would have raised. ValueError when nothing is under way.
        """

@final
class Names:
    """What `Pool.names` gives. Not thread-safe."""

    def __new__(cls, pool: Pool, prefix: str) -> Self: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> list[bytes]: ...
