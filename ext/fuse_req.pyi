"""One FUSE request in work. For Python only `Caller` matters; the rest is made and used by `fuse_chan`."""

from collections.abc import Callable
from typing import Any, final

__pyx_capi__: dict[str, Any]
"""What other compiled modules take from this one."""

@final
class Caller:
    """Who makes a request; the fields of `cairnfs.types.Caller`."""

    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def pid(self) -> int: ...
    @property
    def umask(self) -> int: ...
    @property
    def fenced(self) -> bool: ...
    def interrupted(self) -> bool:
        """Has the calling process been signalled since it made this request? False once the request is over."""

@final
class Payload:
    """The buffer a lane reads into. A view of it that outlives its request keeps it alive; the lane then takes another."""

    def __new__(cls, n_bytes: int) -> Payload: ...

@final
class Rules:
    """How long the kernel may keep what it is told, and what makes the handler's argument values."""

    def __new__(
        cls,
        attr_timeout_s: float,
        entry_timeout_s: float,
        dir_entry_timeout_s: float,
        negative_timeout_s: float,
        make_set_attr: Callable[..., Any],
        make_lock: Callable[..., Any],
    ) -> Rules: ...

@final
class Handler:
    """The methods of a handler, bound once."""

    def __new__(cls, handler: object) -> Handler: ...

@final
class Request:
    """The request a lane has in work."""

    def __new__(cls, rules: Rules, handler: Handler) -> Request: ...
