"""Every opcode: its name, the handler's method that serves it, the function that translates between the two."""

from typing import Any

__pyx_capi__: dict[str, Any]
"""What other compiled modules take from this one."""

OPCODES: dict[int, tuple[str, str | None]]
"""Opcode: the kernel's name for it, and the handler's method that must be there for it to be served, None when it never is."""
