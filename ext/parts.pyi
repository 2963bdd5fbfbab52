"""Buffers as other kernels take them; nothing for Python to call."""

from collections.abc import Iterable
from typing import final

from typing_extensions import Buffer

@final
class Parts:
    """The buffers, held for as long as this is there."""

    def __new__(cls, parts: Iterable[Buffer]) -> Parts: ...
