"""CRC32C (Castagnoli, polynomial 0x1EDC6F41 reflected; RFC 3720 appendix B.4) over buffers, without the GIL.

Buffers must be contiguous (BufferError otherwise). A checksum given as `crc` is continued: crc32c(b, crc32c(a)) is the
checksum of a + b.
"""

from typing_extensions import Buffer

KERNELS: tuple[str, ...]
"""Every variant known: "scalar", "sse42", "armv8"."""

kernel: str
"""The variant in use: CAIRN_KERNEL_CRC32C if set (the import fails if that cannot run), else the fastest this CPU runs."""

def available() -> list[str]:
    """Variants this CPU can run."""

def crc32c(data: Buffer, crc: int = 0) -> int:
    """CRC32C of a contiguous buffer, continuing from `crc`. Unsigned 32 bits; OverflowError if `crc` is not."""

def crc32c_with(name: str, data: Buffer, crc: int = 0) -> int:
    """The same by a named variant. Raises ValueError for an unknown one, RuntimeError for one that cannot run here."""

def crc32c_pages(data: Buffer, page_bytes: int) -> bytes:
    """CRC32C of each page of a buffer (the last may be short): 4 bytes big-endian each. Empty for an empty buffer."""
