"""Reading a whole pack and proving every byte of it: identity, structure, checksums, and that it has what layouts refer to."""

import uuid
from collections.abc import Sequence

from cairnfs.check.findings import CheckedVolume, Finding, about_pack
from cairnfs.data.pack import (
    HEADER_BYTES,
    SliceEntry,
    check_pages,
    describe,
    find_entry,
    open_slice,
    pack_name,
    parse_footer,
    parse_header,
)
from cairnfs.errors import CorruptError, ObjectError, ObjectMissing
from cairnfs.ext.checksum import crc32c
from cairnfs.types import PackId, SliceRef

Used = tuple[SliceRef, int]  # a slice as a layout refers to it, and a file that does


def read_pack(volume: CheckedVolume, pack: PackId) -> tuple[bytes, list[SliceEntry]]:
    """A stored pack and its index, identity and structure proven. ObjectError, CorruptError."""
    data = volume.objects.get(pack_name(pack))
    identity = uuid.UUID(volume.meta.format.uuid).bytes
    header = parse_header(data[:HEADER_BYTES], identity, pack)
    if header.object_bytes != len(data):
        raise CorruptError(f"{describe(pack)}: the object has {len(data)} bytes, its header says {header.object_bytes}")
    return data, parse_footer(data[header.index_off :], identity, pack, header.index_off)


def verify_pack(volume: CheckedVolume, pack: PackId, used: Sequence[Used]) -> list[Finding]:
    """Everything that is wrong with one stored pack. A missing object is not: the list of objects has told. ObjectError when the
    store is away: each pack that is left would take an io-timeout.
    """
    try:
        data, entries = read_pack(volume, pack)
    except ObjectMissing:
        return []
    except CorruptError as why:
        return [_corrupt(pack, why, used)]
    except ObjectError as why:
        volume.objects.check()
        return [Finding("unreadable-object", pack_name(pack), str(why), about_pack(pack))]
    found = []
    for entry in entries:
        try:
            _verify_slice(pack, entry, data)
        except CorruptError as why:
            found.append(_corrupt(pack, why, [u for u in used if u[0].stored_off == entry.stored_off]))
    for ref, ino in used:
        try:
            find_entry(entries, ref)
        except CorruptError as why:
            found.append(_corrupt(pack, why, [(ref, ino)]))
    return found


def _verify_slice(pack: PackId, entry: SliceEntry, data: bytes) -> None:
    stored = memoryview(data)[entry.stored_off : entry.stored_off + entry.stored_len]
    check_pages(entry, pack, 0, stored)
    if crc32c(stored) != entry.stored_crc:
        where = describe(pack, entry.stored_off, entry.stored_len)
        raise CorruptError(f"{where}: the checksum of the stored bytes is {crc32c(stored):08x}, recorded {entry.stored_crc:08x}")
    open_slice(SliceRef(pack, entry.stored_off, entry.stored_len, entry.plain_len, entry.crc, entry.codec), stored)


def _corrupt(pack: PackId, why: CorruptError, used: Sequence[Used]) -> Finding:
    inos = sorted({ino for _, ino in used})
    whose = f" (used by inode {', '.join(map(str, inos[:10]))}{' …' if len(inos) > 10 else ''})" if inos else ""
    return Finding("corrupt-pack", pack_name(pack), f"{why}{whose}", about_pack(pack))
