"""Shared memory that may be handed to another process: processes get it by fork, or by its descriptor."""

from typing import final

@final
class SharedMemory:
    """Bytes that several processes share; zeros at first."""

    def __new__(cls, name: str, n_bytes: int, fd: int = -1, *, reserved: int | None = None) -> SharedMemory:
        """New memory, or with `fd` that which another process has made; the descriptor is then this object's to close.

        All of new memory is reserved, or with `reserved` so many bytes at its beginning: who touches more must have asked for it,
        since it is SIGBUS when there is none.

        OSError: without memory; EINVAL, and `fd` stays the caller's, for what is not exactly `n_bytes` of such memory.
        """

    @property
    def fd(self) -> int:
        """Its descriptor, which goes with the object."""

    @property
    def n_bytes(self) -> int: ...
    @property
    def view(self) -> memoryview:
        """All of it, for reading and writing; the memory stays for as long as there are views."""
