"""Numbers that more than one layer must agree on. Formats' own offsets live beside the code that reads them."""

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

FORMAT_VERSION = 2  # of the volume: metadata records and packs; 1: packs have other names, see `cairnfs.data.old_names`

ROOT_INO = 1
CHUNK_BYTES = 64 * MIB
DEFAULT_BLOCK_BYTES = 4 * MIB
MIN_BLOCK_BYTES = 64 * KIB
MAX_BLOCK_BYTES = 16 * MIB
MAX_FILE_BYTES = (1 << 63) - 1  # loff_t; chunk numbers then fit 37 bits
MAX_NAME_BYTES = 255
MAX_SYMLINK_BYTES = 4095
MAX_XATTR_NAME_BYTES = 255
MAX_XATTR_BYTES = 64 * KIB
MAX_LINKS = 1 << 31

CODEC_NONE = 0
CODEC_ZSTD = 1

PAGE_BYTES = 64 * KIB  # a pack keeps one CRC32C per page of a stored slice, so that ranges can be verified
