"""The pack format: what is built is what is parsed, and nothing damaged passes."""

import random
import re
import struct
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnfs.const import CODEC_NONE, CODEC_ZSTD, PAGE_BYTES
from cairnfs.data import pack as p
from cairnfs.data.pack import HEADER_BYTES, BuiltPack, PlainSlice
from cairnfs.errors import CorruptError
from cairnfs.ext.checksum import crc32c
from cairnfs.objects.codec import make_encoder
from cairnfs.types import Inode, PackId

VOLUME = uuid.UUID("11111111-2222-3333-4444-555555555555").bytes
PACK = PackId(0x1234)


def build(*plains: bytes, compression: str = "none", pack: PackId = PACK, volume: bytes = VOLUME) -> tuple[BuiltPack, bytes]:
    slices = [PlainSlice(Inode(7 + i), 4096 * i, plain) for i, plain in enumerate(plains)]
    built = p.build_pack(volume, pack, slices, make_encoder(compression))
    data = b"".join(built.parts)
    assert len(data) == built.object_bytes
    return built, data


def parse(data: bytes) -> list[p.SliceEntry]:
    header = p.parse_header(data[:HEADER_BYTES], VOLUME, PACK)
    assert header.object_bytes == len(data)
    return p.parse_footer(data[header.index_off :], VOLUME, PACK, header.index_off)


def test_the_header_is_laid_out_as_documented() -> None:
    built, data = build(b"abc", b"de")
    assert data[:8] == b"CAIRNPAK"
    assert struct.unpack(">HHI", data[8:16]) == (1, 64, 2)
    assert data[16:32] == VOLUME
    assert struct.unpack(">QQI", data[32:52]) == (PACK, 64 + 5, 2 * (48 + 4))
    assert data[52:60] == bytes(8)
    assert int.from_bytes(data[60:64], "big") == crc32c(data[:60])
    assert data[64:69] == b"abcde"
    assert built.plain_bytes == 5


def test_index_and_trailer_are_laid_out_as_documented() -> None:
    _, data = build(b"x" * (PAGE_BYTES + 1))
    index, trailer = data[64 + PAGE_BYTES + 1 : -48], data[-48:]
    plain_crc = crc32c(b"x" * (PAGE_BYTES + 1))
    fields = struct.unpack(">QQQIIIIB3xI", index[:48])
    assert fields == (7, 0, 64, PAGE_BYTES + 1, PAGE_BYTES + 1, plain_crc, plain_crc, CODEC_NONE, 2)
    assert struct.unpack(">II", index[48:]) == (crc32c(b"x" * PAGE_BYTES), crc32c(b"x"))
    assert struct.unpack(">Q16sIIII8s", trailer) == (
        PACK,
        VOLUME,
        len(index),
        1,
        crc32c(index),
        crc32c(trailer[:36]),
        b"CAIRNEND",
    )


@given(
    st.lists(st.binary(max_size=300) | st.builds(lambda n: b"z" * n, st.integers(0, 200_000)), max_size=5),
    st.sampled_from(["none", "zstd", "zstd:3"]),
)
def test_what_is_built_is_what_is_parsed(plains: list[bytes], compression: str) -> None:
    built, data = build(*plains, compression=compression)
    entries = parse(data)
    assert len(entries) == len(plains)
    for i, (entry, ref, plain) in enumerate(zip(entries, built.refs, plains, strict=True)):
        assert (entry.ino, entry.file_off) == (7 + i, 4096 * i)
        assert p.find_entry(entries[i:], ref) == entry
        stored = data[ref.stored_off : ref.stored_off + ref.stored_len]
        assert bytes(p.open_slice(ref, stored)) == plain
        assert crc32c(stored) == entry.stored_crc
        p.check_pages(entry, PACK, 0, stored)


def test_the_writers_bytes_are_not_copied() -> None:
    plain = bytearray(b"a" * 1000)
    built = p.build_pack(VOLUME, PACK, [PlainSlice(Inode(1), 0, plain)], make_encoder("none"))
    assert built.parts[1] is plain


def test_names_are_spread_and_can_be_read_back() -> None:
    ids = range(0, 4096 * 256, 64)
    names = [p.pack_name(PackId(i)) for i in ids]
    assert all(re.fullmatch(r"packs/[0-9a-f]{2}/[0-9a-f]{16}", name) for name in names)
    assert [p.pack_id_of(name) for name in names] == list(ids)
    assert all(len({name[:9] for name in names[i : i + 4]}) == 1 for i in range(0, len(names), 4)), "ids in a row are together"
    counts = [sum(name[6:8] == f"{i:02x}" for name in names) for i in range(256)]
    assert min(counts) > 0 and max(counts) < 4 * 50
    for other in ("packs/00/0000000000000001x", "cairnfs_uuid", "packs/zz/0000000000000001", "packs/00/000000000000000g"):
        assert p.pack_id_of(other) is None


# Damage


def damaged(data: bytes, at: int, by: bytes) -> bytes:
    return data[:at] + by + data[at + len(by) :]


def test_identity_is_checked_before_checksums() -> None:
    _, data = build(b"abc")
    _, foreign = build(b"abc", volume=bytes(16))
    _, misplaced = build(b"abc", pack=PackId(0x9999))
    for bad, message in (
        (damaged(data, 0, b"NOTAPACK"), "not a pack"),
        (damaged(data, 9, b"\x02"), "version 2"),
        (foreign, "belongs to volume 0000"),
        (misplaced, "says it is pack 0000000000009999"),
        (damaged(data, 52, b"\x01"), "header's checksum"),
        (data[:40], "40 bytes where a header"),
    ):
        with pytest.raises(CorruptError, match=message) as caught:
            p.parse_header(bad[:HEADER_BYTES], VOLUME, PACK)
        assert "pack 0000000000001234" in str(caught.value)


def test_a_damaged_end_is_named() -> None:
    _, data = build(b"abc", b"def")
    end = 64 + 6
    for bad, message in (
        (data[:-1], "does not end like a pack"),
        (damaged(data, len(data) - 48, bytes(8)), "trailer says pack"),
        (damaged(data, len(data) - 48 + 8, b"\xff"), "trailer says pack"),
        (damaged(data, len(data) - 48 + 24, b"\xff"), "trailer's checksum"),
        (damaged(data, end, b"\xff"), "index's checksum"),
        (data[: end + 10], "bytes where index and trailer belong"),
    ):
        with pytest.raises(CorruptError, match=message):
            p.parse_footer(bad[end:], VOLUME, PACK, end)


def check_flip(plains: list[bytes], compression: str, bit: int) -> bool:
    """One bit of a pack is another one: it is noticed, or else does not change what comes out. True for the latter."""
    built, data = build(*plains, compression=compression)
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    bad = bytes(flipped)
    try:
        for entry, ref in zip(parse(bad), built.refs, strict=True):
            p.find_entry([entry], ref)
        found = [bytes(p.open_slice(ref, bad[ref.stored_off : ref.stored_off + ref.stored_len])) for ref in built.refs]
    except CorruptError as error:
        assert "pack 0000000000001234" in str(error)
        return False
    assert found == plains
    return True


@given(st.randoms(use_true_random=False), st.sampled_from(["none", "zstd"]))
def test_no_flipped_bit_passes(rng: random.Random, compression: str) -> None:
    plains = [b"0123456789" * 20, rng.randbytes(100), b"q" * 70_000]
    n_bits = len(build(*plains, compression=compression)[1]) * 8
    assert not check_flip(plains, compression, rng.randrange(n_bits)) or compression == "zstd"


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_no_flipped_bit_of_a_small_pack_passes(compression: str) -> None:
    """zstd has bits that say nothing, such as the unused one of a frame's header (RFC 8878, 3.1.1.1.1.3)."""
    plains = [b"0123456789" * 20, b"q" * 1000]
    n_bits = len(build(*plains, compression=compression)[1]) * 8
    silent = sum(check_flip(plains, compression, bit) for bit in range(n_bits))
    assert silent <= (8 if compression == "zstd" else 0)


@given(st.binary(max_size=400))
def test_no_garbage_is_taken_for_an_index(garbage: bytes) -> None:
    with pytest.raises(CorruptError):
        p.parse_footer(garbage, VOLUME, PACK, HEADER_BYTES)


def seal(index: bytes, n_slices: int) -> bytes:
    """Index and trailer with right checksums, as a program with a bug would write them."""
    return index + p._build_trailer(VOLUME, PACK, index, n_slices)


ENTRY = struct.Struct(">QQQIIIIB3xI")


@pytest.mark.parametrize(
    ("index", "n_slices", "index_off"),
    [
        (b"", 1, 64),
        (ENTRY.pack(1, 0, 64, 10, 10, 0, 0, 0, 1), 1, 74),  # its page checksum is missing
        (ENTRY.pack(1, 0, 64, 10, 10, 0, 0, 0, 2) + bytes(8), 1, 74),  # two pages for ten bytes
        (ENTRY.pack(1, 0, 65, 10, 10, 0, 0, 0, 1) + bytes(4), 1, 75),  # a gap after the header
        (ENTRY.pack(1, 0, 64, 10, 10, 0, 0, 0, 1) + bytes(4), 1, 80),  # a gap before the index
        (ENTRY.pack(1, 0, 64, 10, 10, 0, 0, 0, 1) + bytes(5), 1, 74),  # bytes left over
        (ENTRY.pack(1, 0, 64, 10, 1 << 31, 0, 0, 1, 1) + bytes(4), 1, 74),  # 2 GiB of plain bytes
        (ENTRY.pack(1, 0, 64, 0, 0, 0, 0, 0, 0), 2, 64),
    ],
)
def test_an_impossible_index_is_refused_though_its_checksums_hold(index: bytes, n_slices: int, index_off: int) -> None:
    with pytest.raises(CorruptError):
        p.parse_footer(seal(index, n_slices), VOLUME, PACK, index_off)


def test_pack_and_layout_must_agree() -> None:
    built, data = build(b"abc", b"def")
    ref = built.refs[1]
    entries = parse(data)
    for changed in (ref._replace(crc=1), ref._replace(stored_len=2), ref._replace(codec=CODEC_ZSTD), ref._replace(stored_off=65)):
        with pytest.raises(CorruptError, match="index"):
            p.find_entry(entries, changed)


def test_a_slice_must_be_what_the_layout_says() -> None:
    built, _ = build(b"abcd" * 100)
    ref = built.refs[0]
    for stored, message in ((b"abcd" * 99, "396 of 400 bytes"), (b"abce" * 100, "checksum of its 400 plain bytes")):
        with pytest.raises(CorruptError, match=message) as caught:
            p.open_slice(ref, stored)
        assert "slice at 64+400" in str(caught.value)


def test_a_damaged_page_is_named_with_its_number() -> None:
    plain = bytes(range(256)) * 1024  # four pages
    _, data = build(plain)
    entry = parse(data)[0]
    p.check_pages(entry, PACK, 1, plain[PAGE_BYTES : 3 * PAGE_BYTES])
    bad = bytearray(plain[PAGE_BYTES : 3 * PAGE_BYTES])
    bad[PAGE_BYTES + 5] ^= 1
    with pytest.raises(CorruptError, match="page 2"):
        p.check_pages(entry, PACK, 1, bad)
