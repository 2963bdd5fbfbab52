"""Requests that a process had carried out when it died. Used by `fuse_chan` only; nothing here is for Python."""

from typing import Any

__pyx_capi__: dict[str, Any]
"""What other compiled modules take from this one."""
