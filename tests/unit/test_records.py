"""Metadata rows: fields are where the offset table says, what is written is read back, damage is refused."""

import stat
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnfs.errors import CorruptError
from cairnfs.meta import records
from cairnfs.meta.records import HeldLock, PackInfo, Usage
from cairnfs.meta.stores.base import Row
from cairnfs.types import Attr, Inode, Lock, PackId, Position, SessionId

U8, U16, U32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32))
U64, I64 = st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1)

ATTRS = st.builds(
    Attr,
    ino=st.just(Inode(7)),
    mode=U16,
    uid=U32,
    gid=U32,
    nlink=I64,
    size=I64,
    rdev=U32,
    atime_ns=I64,
    mtime_ns=I64,
    ctime_ns=I64,
    btime_ns=I64,
    parent=U64,
    alloc_bytes=I64,
    data_version=U64,
    flags=U8,
    tail=st.binary(max_size=100),
    version=st.just(3),
)


def row(value: bytes) -> Row:
    return Row(value, Position(3))


@given(ATTRS)
def test_inode_record_is_read_back_whole(attr: Attr) -> None:
    assert records.decode_attr(7, row(records.encode_attr(attr))) == attr


@given(ATTRS)
def test_a_copy_of_attributes_has_all_of_them_and_is_another(attr: Attr) -> None:
    copied = attr.copy()
    assert copied == attr
    copied.size += 1
    assert copied != attr


def test_inode_record_has_every_field_at_its_offset() -> None:
    attr = Attr(
        Inode(7),
        0x1234,
        0xA1A2A3A4,
        0xB1B2B3B4,
        3,
        5,
        0xC1C2C3C4,
        10,
        20,
        30,
        40,
        parent=6,
        alloc_bytes=8,
        data_version=9,
        flags=7,
    )
    attr.tail = b"tail"
    value = records.encode_attr(attr)
    bias = 2**63
    expected = [
        (0, 1, 1),
        (1, 1, 7),
        (2, 2, 0x1234),
        (4, 4, 0xA1A2A3A4),
        (8, 4, 0xB1B2B3B4),
        (12, 4, 0xC1C2C3C4),
        (records.NLINK_AT, 8, 3),
        (records.SIZE_AT, 8, 5),
        (records.ATIME_AT, 8, bias + 10),
        (records.MTIME_AT, 8, bias + 20),
        (records.CTIME_AT, 8, bias + 30),
        (56, 8, bias + 40),
        (64, 8, 6),
        (records.ALLOC_BYTES_AT, 8, 8),
        (records.DATA_VERSION_AT, 8, 9),
    ]
    assert [(at, n, int.from_bytes(value[at : at + n], "big")) for at, n, _ in expected] == expected
    assert value[records.TAIL_AT :] == b"tail"
    assert len(expected) == len(fields(Attr)) - 2  # version @0 comes to it; ino, tail and row version are elsewhere


@pytest.mark.parametrize("value", [b"", b"\1", b"\1" + bytes(86), b"\0" + bytes(87), b"\2" + bytes(87)])
def test_inode_record_of_wrong_length_or_version_is_refused(value: bytes) -> None:
    with pytest.raises(CorruptError, match="inode 7"):
        records.decode_attr(7, row(value))


@given(I64, I64)
def test_times_order_as_bytes(one: int, other: int) -> None:
    assert (records.time_field(one) < records.time_field(other)) == (one < other)
    assert len(records.time_field(one)) == 8


@pytest.mark.parametrize(
    "kind", [stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK]
)
def test_dentry_is_read_back_with_its_type_alone(kind: int) -> None:
    value = records.dentry_value(2**63 + 5, kind | 0o7777)
    assert records.decode_dentry(1, b"name", value) == (2**63 + 5, kind)


@pytest.mark.parametrize("value", [b"", bytes(8), bytes(10)])
def test_dentry_of_wrong_length_is_refused(value: bytes) -> None:
    with pytest.raises(CorruptError, match="directory 1"):
        records.decode_dentry(1, b"name", value)


LOCKS = st.builds(
    HeldLock, U64.map(SessionId), st.builds(Lock, type=U8, start=I64, end=I64, pid=U32, owner=U64, flock=st.booleans())
)


@given(st.lists(LOCKS, min_size=1, max_size=5))
def test_locks_are_read_back(held: list[HeldLock]) -> None:
    value = records.encode_locks(held)
    assert len(value) == 38 * len(held)
    assert records.decode_locks(7, row(value)) == held


def test_missing_lock_row_means_no_locks_and_a_cut_one_is_refused() -> None:
    assert records.decode_locks(7, None) == []
    with pytest.raises(CorruptError, match="inode 7"):
        records.decode_locks(7, row(bytes(37)))


@given(I64, I64, I64)
def test_pack_and_usage_are_read_back(live: int, plain: int, stored: int) -> None:
    assert records.decode_pack(PackId(1), records.encode_pack(PackInfo(live, plain, stored))) == (live, plain, stored)
    assert records.decode_usage(row(records.encode_usage(Usage(live, plain)))) == (live, plain)


def test_damaged_pack_is_refused_and_missing_usage_means_an_empty_volume() -> None:
    with pytest.raises(CorruptError, match="pack 00000000000000ff"):
        records.decode_pack(PackId(255), bytes(23))
    assert records.decode_usage(None) == (0, 0)


def test_keys_of_an_inode_share_a_partition_and_do_not_meet() -> None:
    keys = [
        records.inode_key(1),
        records.chunk_key(1, 1),
        records.chunk_key(1, 2**37),
        records.xattr_key(1, b"a"),
        records.xattr_key(1, b""),
        records.locks_key(1),
    ]
    assert {part for part, _ in keys} == {records.inode_part(1)}
    assert len(set(keys)) == len(keys)
    assert records.ino_of_part(records.inode_part(2**60)) == 2**60
    assert records.chunk_no_of(records.chunk_key(1, 77)[1]) == 77


def test_partitions_of_different_kinds_begin_differently() -> None:
    kinds = [
        records.FORMAT_KEY,
        records.inode_key(1),
        records.dentry_key(1, b"a"),
        records.pack_key(1),
        records.garbage_key(1),
        records.session_key(1),
        records.sustained_key(1, 1),
        records.locked_key(1, 1),
        records.deleted_key(1),
    ]
    assert len({part[:1] for part, _ in kinds}) == len(kinds)


@given(st.integers(0, 2**64 - 1))
def test_numbers_in_keys_are_read_back_and_order_like_the_keys(number: int) -> None:
    for key in (records.pack_key, records.garbage_key, records.session_key, records.deleted_key):
        assert records.number_of(key(number)[1]) == number
    assert records.pack_key(number)[0] == b"p" + bytes([number % 256])
    assert (records.ino8(number) < records.ino8(1000)) == (number < 1000)
