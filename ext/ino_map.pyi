"""A compact table from inode numbers to 64-bit values: 16 bytes a slot, at most 7 of 8 slots in use."""

from typing import final

@final
class InoMap:
    """Inode number -> value. Each method is one step for other threads."""

    def __new__(cls, limit: int = 1 << 62) -> InoMap:
        """`limit`: most entries; what is put beyond takes the place of another, no matter how old or used."""

    def __len__(self) -> int: ...
    @property
    def n_bytes(self) -> int:
        """Memory of the table."""

    def get(self, ino: int) -> int | None:
        """The value, None when there is none."""

    def put(self, ino: int, value: int) -> None:
        """Set the value. In a full table another entry goes. ValueError for inode 0, MemoryError."""

    def remove(self, ino: int) -> bool:
        """Forget an inode; whether it was there."""

    def mask_all(self, mask: int) -> None:
        """Keep only the bits of `mask` in every value."""

    def check(self) -> None:
        """ValueError when an invariant of ino_map_impl.h is broken."""
