"""Compression of slices: zstd, skipped where it does not pay.

A slice is stored plain when compression saves less than about 6 %; for large slices a sample decides first, so that
incompressible data (audio, images, archives) costs a fraction of a compression and no copy.
Compressors are not safe to share, so each thread has its own.
"""

import threading
from collections.abc import Callable

import zstandard

from cairnfs.const import CODEC_NONE, CODEC_ZSTD, KIB
from cairnfs.errors import CorruptError, UsageError
from cairnfs.types import Buffer

SAMPLE_BYTES = 32 * KIB
MIN_COMPRESS_BYTES = 128  # a frame's own bytes outweigh what can be saved below this
_WORTH_16THS = 15  # stored size must be at most 15/16 of the plain size
DEFAULT_LEVEL = 1  # at higher levels the compressor, not the store, limits a writer

Encoder = Callable[[Buffer], tuple[int, Buffer]]


def make_encoder(compression: str) -> Encoder:
    """The encoder for a volume's `compression`: "none", "zstd" or "zstd:LEVEL". It returns (codec, stored bytes).

    The stored bytes may be the very buffer that was given. Raises UsageError for an unknown name.
    """
    if compression == "none":
        return _store_plain
    name, _, level = compression.partition(":")
    if compression == "zstd":
        level = str(DEFAULT_LEVEL)
    if name == "zstd" and level.isascii() and level.isdigit() and 1 <= int(level) <= 19:
        return _ZstdEncoder(int(level))
    raise UsageError(f"compression {compression!r} is not known: use none, zstd or zstd:LEVEL with a level from 1 to 19")


def decode(codec: int, stored: Buffer, plain_len: int) -> Buffer:
    """The plain bytes of a slice. Raises CorruptError when `stored` is not exactly `plain_len` bytes of plain data."""
    if codec == CODEC_NONE:
        if len(stored) != plain_len:
            raise CorruptError(f"{len(stored)} bytes are stored where {plain_len} belong")
        return stored
    if codec != CODEC_ZSTD:
        raise CorruptError(f"codec {codec} is not known")
    return _unzstd(stored, plain_len)


def _store_plain(plain: Buffer) -> tuple[int, Buffer]:
    return CODEC_NONE, plain


class _ZstdEncoder:
    def __init__(self, level: int) -> None:
        self._level = level
        self._local = threading.local()

    def __call__(self, plain: Buffer) -> tuple[int, Buffer]:
        n = len(plain)
        if n < MIN_COMPRESS_BYTES:
            return CODEC_NONE, plain
        compressor = self._compressor()
        if n >= 4 * SAMPLE_BYTES:
            middle = (n - SAMPLE_BYTES) // 2
            if not _worth(len(compressor.compress(memoryview(plain)[middle : middle + SAMPLE_BYTES])), SAMPLE_BYTES):
                return CODEC_NONE, plain
        stored = compressor.compress(plain)
        return (CODEC_ZSTD, stored) if _worth(len(stored), n) else (CODEC_NONE, plain)

    def _compressor(self) -> zstandard.ZstdCompressor:
        found: zstandard.ZstdCompressor | None = getattr(self._local, "compressor", None)
        if found is None:
            # The pack has checksums of its own; the content size lets a reader bound its allocation.
            found = zstandard.ZstdCompressor(self._level, write_checksum=False, write_content_size=True)
            self._local.compressor = found
        return found


def _worth(stored_len: int, plain_len: int) -> bool:
    return stored_len * 16 <= plain_len * _WORTH_16THS


def _unzstd(stored: Buffer, plain_len: int) -> bytes:
    try:
        declared = zstandard.frame_content_size(stored)
        if declared != plain_len:
            raise CorruptError(f"the compressed frame holds {declared} bytes where {plain_len} belong")
        plain: bytes = zstandard.ZstdDecompressor().decompress(stored)
    except zstandard.ZstdError as e:
        raise CorruptError(f"cannot be decompressed: {e}") from e
    if len(plain) != plain_len:
        raise CorruptError(f"decompresses to {len(plain)} bytes where {plain_len} belong")
    return plain
