"""The pack format, version 1: building packs and checked parsing of what a store returns.

A pack is an immutable object: header, stored slices without gaps, index, trailer. All integers are big-endian.

| part | offset | size | field |
|---|---|---|---|
| header | 0 | 8 | magic `CAIRNPAK` |
| | 8 | 2 | format version, 1 |
| | 10 | 2 | header bytes, 64 |
| | 12 | 4 | number of slices, n |
| | 16 | 16 | uuid of the volume |
| | 32 | 8 | pack id |
| | 40 | 8 | offset of the index |
| | 48 | 4 | bytes of the index |
| | 52 | 8 | zero |
| | 60 | 4 | CRC32C of header bytes 0..59 |
| slices | 64 | | stored bytes of slice 0, 1, … n-1 |
| index entry | 0 | 8 | inode |
| | 8 | 8 | offset in the file |
| | 16 | 8 | offset of the stored bytes in the pack |
| | 24 | 4 | stored bytes |
| | 28 | 4 | plain bytes |
| | 32 | 4 | CRC32C of the stored bytes |
| | 36 | 4 | CRC32C of the plain bytes |
| | 40 | 1 | codec: 0 none, 1 zstd |
| | 41 | 3 | zero |
| | 44 | 4 | number of pages, p = ceil(stored bytes / 64 KiB) |
| | 48 | 4p | CRC32C of each 64 KiB page of the stored bytes |
| trailer | 0 | 8 | pack id |
| | 8 | 16 | uuid of the volume |
| | 24 | 4 | bytes of the index |
| | 28 | 4 | n |
| | 32 | 4 | CRC32C of the index |
| | 36 | 4 | CRC32C of trailer bytes 0..35 |
| | 40 | 8 | magic `CAIRNEND` |

Valid means, in the order it is checked: magic, version, volume and pack id are the expected ones; header, trailer and
index checksums hold; the slices fill the space between header and index; then the checksum of the slice or page that was
asked for. Every length is bounded before memory is taken for it. A reader refuses other versions. The trailer names volume
and pack too, so index and pages of the last slice can be used without another request for the header.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import mmh3

from cairnfs.const import CHUNK_BYTES, CODEC_NONE, PAGE_BYTES
from cairnfs.errors import CorruptError
from cairnfs.ext.checksum import crc32c, crc32c_pages
from cairnfs.objects.codec import Encoder, decode
from cairnfs.types import Buffer, Inode, PackId, SliceRef

PACK_VERSION = 1
HEADER_BYTES = 64
TRAILER_BYTES = 48
ENTRY_BYTES = 48
MAX_SLICE_BYTES = CHUNK_BYTES  # stored or plain; a slice never crosses a chunk
MAX_SLICES = 1 << 16
MAX_INDEX_BYTES = 16 << 20
TOGETHER_BITS = 8

_MAGIC = b"CAIRNPAK"
_END_MAGIC = b"CAIRNEND"
_HEADER = struct.Struct(">8sHHI16sQQI8xI")
_ENTRY = struct.Struct(">QQQIIIIB3xI")
_TRAILER = struct.Struct(">Q16sIIII8s")
_TRAILER_SUM_AT = 36


class PlainSlice(NamedTuple):
    """Bytes to be stored, and where in which file they belong."""

    ino: Inode
    file_off: int
    plain: Buffer


class BuiltPack(NamedTuple):
    """A pack ready to be put: `parts` in order, and a reference to each slice in the order they were given."""

    pack: PackId
    parts: list[Buffer]
    refs: list[SliceRef]
    plain_bytes: int
    object_bytes: int


class SliceEntry(NamedTuple):
    """One entry of a pack's index; `page_crcs` is 4 bytes per page of the stored bytes."""

    ino: int
    file_off: int
    stored_off: int
    stored_len: int
    plain_len: int
    stored_crc: int
    crc: int
    codec: int
    page_crcs: bytes


class Header(NamedTuple):
    """Where a pack's index is."""

    pack: PackId
    n_slices: int
    index_off: int
    index_len: int

    @property
    def object_bytes(self) -> int:
        return self.index_off + self.index_len + TRAILER_BYTES


def pack_name(pack: PackId) -> str:
    """The object's name: packs/, two hex digits of a hash so that names spread evenly, the id in 16 hex digits.

    The digits are the same for 256 ids in a row, as many as a process takes at a time: what is stored one after the other lies in
    one folder, and a disk has less to look for.
    """
    return f"packs/{_folder(pack >> TOGETHER_BITS)}/{pack:016x}"


@lru_cache(64)
def _folder(ids: int) -> str:
    return f"{mmh3.hash(ids.to_bytes(8, 'big'), signed=False) & 0xFF:02x}"


def pack_id_of(name: str) -> PackId | None:
    """The id in an object's name, or None when it is not the name of a pack."""
    pack = id_in(name)
    return pack if pack is not None and pack_name(pack) == name else None


def id_in(name: str) -> PackId | None:
    """What is written as the id in something like the name of a pack."""
    head, _, digits = name.rpartition("/")
    if not head.startswith("packs/") or len(digits) != 16:
        return None
    try:
        return PackId(int(digits, 16))
    except ValueError:
        return None


def describe(pack: PackId, stored_off: int | None = None, stored_len: int = 0) -> str:
    """How a pack or a slice in it is named in messages."""
    where = f"pack {pack:016x}"
    return where if stored_off is None else f"{where}, slice at {stored_off}+{stored_len}"


def build_pack(volume: bytes, pack: PackId, slices: Sequence[PlainSlice], encode: Encoder) -> BuiltPack:
    """Lay out a pack. Plain slices are referred to, not copied: they must not change until the pack is stored."""
    parts: list[Buffer] = [b""]
    refs: list[SliceRef] = []
    index: list[bytes] = []
    at = HEADER_BYTES
    for s in slices:
        plain_crc = crc32c(s.plain)
        codec, stored = encode(s.plain)
        stored_crc = plain_crc if codec == CODEC_NONE else crc32c(stored)
        pages = crc32c_pages(stored, PAGE_BYTES)
        n_stored, n_plain = len(stored), len(s.plain)
        index.append(_ENTRY.pack(s.ino, s.file_off, at, n_stored, n_plain, stored_crc, plain_crc, codec, len(pages) // 4) + pages)
        refs.append(SliceRef(pack, at, n_stored, n_plain, plain_crc, codec))
        parts.append(stored)
        at += n_stored
    footer = b"".join(index)
    parts[0] = _build_header(volume, pack, len(refs), at, len(footer))
    parts.append(footer + _build_trailer(volume, pack, footer, len(refs)))
    return BuiltPack(pack, parts, refs, sum(len(s.plain) for s in slices), at + len(footer) + TRAILER_BYTES)


def _build_header(volume: bytes, pack: PackId, n_slices: int, index_off: int, index_len: int) -> bytes:
    head = _HEADER.pack(_MAGIC, PACK_VERSION, HEADER_BYTES, n_slices, volume, pack, index_off, index_len, 0)
    return head[:-4] + crc32c(head[:-4]).to_bytes(4, "big")


def _build_trailer(volume: bytes, pack: PackId, footer: bytes, n_slices: int) -> bytes:
    body = _TRAILER.pack(pack, volume, len(footer), n_slices, crc32c(footer), 0, _END_MAGIC)[:_TRAILER_SUM_AT]
    return body + crc32c(body).to_bytes(4, "big") + _END_MAGIC


def parse_header(data: Buffer, volume: bytes, pack: PackId) -> Header:
    """The header of a pack that must be pack `pack` of `volume`. Raises CorruptError saying what differs."""
    if len(data) < HEADER_BYTES:
        raise CorruptError(f"{describe(pack)}: {len(data)} bytes where a header of {HEADER_BYTES} belongs")
    head = bytes(data[:HEADER_BYTES])
    magic, version, header_len, n_slices, found_volume, found_pack, index_off, index_len, crc = _HEADER.unpack(head)
    if magic != _MAGIC:
        raise CorruptError(f"{describe(pack)}: the object is not a pack (it begins with {magic!r})")
    if version != PACK_VERSION or header_len != HEADER_BYTES:
        raise CorruptError(f"{describe(pack)}: pack format version {version} is not known, this program reads {PACK_VERSION}")
    if found_volume != volume:
        raise CorruptError(f"{describe(pack)}: belongs to volume {found_volume.hex()}, not {volume.hex()}")
    if found_pack != pack:
        raise CorruptError(f"{describe(pack)}: the object says it is pack {found_pack:016x}")
    if crc32c(head[:-4]) != crc:
        raise CorruptError(f"{describe(pack)}: the header's checksum is {crc32c(head[:-4]):08x}, recorded {crc:08x}")
    if not n_slices <= MAX_SLICES or index_len > MAX_INDEX_BYTES or index_off < HEADER_BYTES:
        raise CorruptError(f"{describe(pack)}: the header claims {n_slices} slices, index {index_off}+{index_len}")
    return Header(pack, n_slices, index_off, index_len)


def parse_footer(data: Buffer, volume: bytes, pack: PackId, index_off: int) -> list[SliceEntry]:
    """Index and trailer, `data` being the object's bytes from `index_off` to its end. Raises CorruptError."""
    index_len = len(data) - TRAILER_BYTES
    if not 0 <= index_len <= MAX_INDEX_BYTES:
        raise CorruptError(f"{describe(pack)}: {len(data)} bytes where index and trailer belong")
    trailer = bytes(data[index_len:])
    found_pack, found_volume, found_len, n_slices, index_crc, crc, magic = _TRAILER.unpack(trailer)
    if magic != _END_MAGIC:
        raise CorruptError(f"{describe(pack)}: the object does not end like a pack (it ends with {magic!r})")
    if (found_volume, found_pack) != (volume, pack):
        raise CorruptError(f"{describe(pack)}: the trailer says pack {found_pack:016x} of volume {found_volume.hex()}")
    found_crc = crc32c(trailer[:_TRAILER_SUM_AT])
    if found_crc != crc:
        raise CorruptError(f"{describe(pack)}: the trailer's checksum is {found_crc:08x}, recorded {crc:08x}")
    if found_len != index_len or n_slices > MAX_SLICES:
        raise CorruptError(
            f"{describe(pack)}: the trailer claims {n_slices} slices and {found_len} bytes of index, not {index_len}"
        )
    index = bytes(data[:index_len])
    found_crc = crc32c(index)
    if found_crc != index_crc:
        raise CorruptError(f"{describe(pack)}: the index's checksum is {found_crc:08x}, recorded {index_crc:08x}")
    return _parse_index(index, pack, n_slices, index_off)


def _parse_index(index: bytes, pack: PackId, n_slices: int, index_off: int) -> list[SliceEntry]:
    entries: list[SliceEntry] = []
    at, end = 0, HEADER_BYTES
    for i in range(n_slices):
        if len(index) - at < ENTRY_BYTES:
            raise CorruptError(f"{describe(pack)}: the index ends within entry {i} of {n_slices}")
        *fields, n_pages = _ENTRY.unpack_from(index, at)
        at += ENTRY_BYTES
        entry = SliceEntry._make((*fields, index[at : at + 4 * n_pages]))
        at += 4 * n_pages
        if (
            entry.stored_off != end
            or max(entry.stored_len, entry.plain_len) > MAX_SLICE_BYTES
            or n_pages != -(-entry.stored_len // PAGE_BYTES)
            or len(entry.page_crcs) != 4 * n_pages
        ):
            raise CorruptError(
                f"{describe(pack, entry.stored_off, entry.stored_len)}: index entry {i} is impossible "
                f"({entry.plain_len} plain bytes, {n_pages} pages, the slice before ends at {end})"
            )
        end += entry.stored_len
        entries.append(entry)
    if at != len(index) or end != index_off:
        raise CorruptError(
            f"{describe(pack)}: {n_slices} slices end at {end}, the index begins at {index_off} "
            f"and has {len(index) - at} bytes too many"
        )
    return entries


def find_entry(entries: Sequence[SliceEntry], ref: SliceRef) -> SliceEntry:
    """The index entry of a slice as a layout refers to it. CorruptError when pack and layout disagree."""
    for entry in entries:
        if entry.stored_off == ref.stored_off:
            found = (entry.stored_len, entry.plain_len, entry.crc, entry.codec)
            if found == (ref.stored_len, ref.plain_len, ref.crc, ref.codec):
                return entry
            raise CorruptError(
                f"{describe(ref.pack, ref.stored_off, ref.stored_len)}: the index says stored length, plain length, "
                f"checksum and codec are {found}, the layout {(ref.stored_len, ref.plain_len, ref.crc, ref.codec)}"
            )
    raise CorruptError(f"{describe(ref.pack, ref.stored_off, ref.stored_len)}: the index has no slice there")


def open_slice(ref: SliceRef, stored: Buffer) -> Buffer:
    """The plain bytes of a whole slice, decompressed and verified against the layout's checksum. Raises CorruptError."""
    where = describe(ref.pack, ref.stored_off, ref.stored_len)
    if len(stored) != ref.stored_len:
        raise CorruptError(f"{where}: the object has {len(stored)} of {ref.stored_len} bytes")
    try:
        plain = decode(ref.codec, stored, ref.plain_len)
    except CorruptError as e:
        raise CorruptError(f"{where}: {e}") from e
    found = crc32c(plain)
    if found != ref.crc:
        raise CorruptError(f"{where}: the checksum of its {ref.plain_len} plain bytes is {found:08x}, recorded {ref.crc:08x}")
    return plain


def check_pages(entry: SliceEntry, pack: PackId, first_page: int, stored: Buffer) -> None:
    """Verify a run of whole pages (the slice's last may be short) against the index. Raises CorruptError."""
    found = crc32c_pages(stored, PAGE_BYTES)
    expected = entry.page_crcs[4 * first_page : 4 * first_page + len(found)]
    if found == expected:
        return
    page = next(i for i in range(len(found) // 4) if found[4 * i : 4 * i + 4] != expected[4 * i : 4 * i + 4])
    raise CorruptError(
        f"{describe(pack, entry.stored_off, entry.stored_len)}: the checksum of page {first_page + page} is "
        f"{found[4 * page : 4 * page + 4].hex()}, recorded {expected[4 * page : 4 * page + 4].hex()}"
    )
