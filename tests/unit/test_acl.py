"""ACL values: what is valid, and what chmod, inheritance and the mode make of them. Expectations as seen on ext4."""

import errno

import pytest

from cairnfs.errors import FsError
from cairnfs.meta import acl
from cairnfs.meta.acl import GROUP, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, Entry

MINIMAL = [Entry(USER_OBJ, 7), Entry(GROUP_OBJ, 5), Entry(OTHER, 4)]
NAMED = [Entry(USER_OBJ, 7), Entry(USER, 6, 1001), Entry(GROUP_OBJ, 5), Entry(GROUP, 4, 50), Entry(MASK, 6), Entry(OTHER, 1)]


def test_value_is_the_kernels_binary_form() -> None:
    assert acl.encode([Entry(USER, 6, 1001)]) == bytes.fromhex("02000000 0200 0600 e9030000")


@pytest.mark.parametrize("entries", [MINIMAL, NAMED, []])
def test_parse_gives_back_what_was_encoded(entries: acl.Acl) -> None:
    assert acl.parse(acl.encode(entries)) == entries


def test_ids_of_entries_that_name_nobody_are_ignored() -> None:
    value = acl.encode([entry._replace(id=7) for entry in MINIMAL])
    assert acl.parse(value) == MINIMAL


@pytest.mark.parametrize(
    "entries",
    [
        [Entry(USER_OBJ, 7), Entry(OTHER, 4)],
        [Entry(USER_OBJ, 7), Entry(USER, 6, 1001), Entry(GROUP_OBJ, 5), Entry(OTHER, 4)],
        [Entry(GROUP_OBJ, 5), Entry(USER_OBJ, 7), Entry(OTHER, 4)],
        [*MINIMAL, Entry(OTHER, 4)],
        [Entry(USER_OBJ, 7), Entry(GROUP_OBJ, 5), Entry(MASK, 7), Entry(MASK, 7), Entry(OTHER, 4)],
        [Entry(USER_OBJ, 8), Entry(GROUP_OBJ, 5), Entry(OTHER, 4)],
        [Entry(USER_OBJ, 7), Entry(USER, 6), Entry(GROUP_OBJ, 5), Entry(MASK, 7), Entry(OTHER, 4)],
        [Entry(0x40, 7), *MINIMAL],
    ],
    ids=["no group", "no mask", "order", "twice", "two masks", "permission", "nobody", "tag"],
)
def test_invalid_acl_is_refused(entries: acl.Acl) -> None:
    with pytest.raises(FsError) as caught:
        acl.parse(acl.encode(entries))
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("value", [b"", b"\2\0\0", acl.encode(MINIMAL)[:-1]])
def test_cut_value_is_refused(value: bytes) -> None:
    with pytest.raises(FsError) as caught:
        acl.parse(value)
    assert caught.value.errno == errno.EINVAL


def test_unknown_version_is_not_supported() -> None:
    with pytest.raises(FsError) as caught:
        acl.parse(b"\3\0\0\0")
    assert caught.value.errno == errno.EOPNOTSUPP


def test_mode_shows_the_mask_for_the_group() -> None:
    assert acl.apply_to_mode(NAMED, 0o104000) == 0o104761
    assert acl.apply_to_mode(MINIMAL, 0o042000) == 0o042754


def test_chmod_sets_the_mask_and_leaves_the_group_entry() -> None:
    assert acl.chmod(NAMED, 0o100420) == [
        Entry(USER_OBJ, 4), Entry(USER, 6, 1001), Entry(GROUP_OBJ, 5), Entry(GROUP, 4, 50), Entry(MASK, 2), Entry(OTHER, 0),
    ]  # fmt: skip


def test_chmod_sets_the_group_entry_without_a_mask() -> None:
    assert acl.chmod(MINIMAL, 0o421) == [Entry(USER_OBJ, 4), Entry(GROUP_OBJ, 2), Entry(OTHER, 1)]


def test_inheriting_a_minimal_acl_leaves_only_a_mode() -> None:
    assert acl.inherit(MINIMAL, 0o100666) == (None, 0o100644)


def test_inheriting_narrows_owner_mask_and_other() -> None:
    access, mode = acl.inherit(NAMED, 0o100640)
    assert mode == 0o100640
    assert access == [
        Entry(USER_OBJ, 6), Entry(USER, 6, 1001), Entry(GROUP_OBJ, 5), Entry(GROUP, 4, 50), Entry(MASK, 4), Entry(OTHER, 0),
    ]  # fmt: skip


def test_inheriting_keeps_the_type_and_special_bits_of_the_mode() -> None:
    assert acl.inherit(MINIMAL, 0o043777)[1] == 0o043754
