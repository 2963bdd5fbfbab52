"""Which opens may keep the kernel's pages: never after a foreign change, always while nothing but this process's commits came."""

from hypothesis import given
from hypothesis import strategies as st

from cairnfs.ext.arena import Arena
from cairnfs.types import Attr, Inode
from cairnfs.vfs.pages import UNKNOWN, PageVersions

STEPS = st.lists(st.sampled_from(["open", "use", "commit", "foreign", "drop_all", "forget"]), max_size=40)


def file(version: int, ino: int = 7) -> Attr:
    return Attr(Inode(ino), 0o100644, 0, 0, 1, 0, data_version=version)


@given(STEPS)
def test_pages_are_kept_exactly_while_they_follow_the_content(steps: list[str]) -> None:
    """`awaited` is the version of the last open that told the kernel to drop its pages, until a handle of it is used."""
    pages, version = PageVersions(Arena(1 << 20)), 1
    shown, known, awaited = False, False, 0
    for step in steps:
        if step == "open":
            assert pages.opened(file(version)) == shown
            known, awaited = True, 0 if shown else version
        elif step == "use":
            pages.dropped(Inode(7), awaited or version)
            shown, awaited = shown or awaited == version, 0 if awaited == version else awaited
        elif step == "commit":
            version += 1
            pages.committed(file(version))
        elif step == "foreign":
            version += 1
            pages.drop(Inode(7))
            shown, awaited = False, 0
        elif step == "drop_all":
            pages.drop_all()
            shown, awaited = False, 0
        else:
            pages.forget(Inode(7))
            shown, known, awaited = False, False, 0
        assert known or pages.newest(Inode(7)) == UNKNOWN


def test_pages_may_be_older_unless_an_open_is_about_to_drop_them() -> None:
    pages = PageVersions(Arena(1 << 20))
    assert not pages.older(file(2)), "nobody has opened it"
    pages.opened(file(1))
    assert not pages.older(file(2)), "there are none until the handle is used"
    pages.dropped(Inode(7), 1)
    assert pages.older(file(2))
    assert not pages.older(file(1))
    pages.drop(Inode(7))
    assert pages.older(file(2)), "older handles read on"
    pages.opened(file(2))
    assert not pages.older(file(3))


def test_a_commit_that_others_came_before_ends_it() -> None:
    pages = PageVersions(Arena(1 << 20))
    pages.opened(file(1))
    pages.dropped(Inode(7), 1)
    pages.committed(file(3))
    assert pages.newest(Inode(7)) == 3
    assert not pages.opened(file(3))


def test_a_row_older_than_what_is_known_is_no_reason_to_keep_pages() -> None:
    pages = PageVersions(Arena(1 << 20))
    pages.opened(file(5))
    assert not pages.opened(file(4))
    assert pages.newest(Inode(7)) == 5
    assert not pages.opened(file(5)), "what the open before brought is not known"
    pages.dropped(Inode(7), 5)
    assert pages.opened(file(5))


def test_pages_are_not_kept_before_the_kernel_has_dropped_the_old_ones() -> None:
    pages = PageVersions(Arena(1 << 20))
    pages.opened(file(5))
    assert not pages.opened(file(5)), "the answer to the first open may still be under way"
    pages.opened(file(6))
    pages.dropped(Inode(7), 5)
    assert not pages.opened(file(6)), "a handle of an older version tells nothing"
    pages.dropped(Inode(7), 6)
    assert pages.opened(file(6))
    pages.drop(Inode(7))
    pages.dropped(Inode(7), 6)
    assert not pages.opened(file(6)), "what came after the open is not known"


def test_a_second_epoch_over_many_files_keeps_all_pages() -> None:
    pages = PageVersions(Arena(64 << 20))
    n_files = 100_000
    assert not any(pages.opened(file(1, ino)) for ino in range(1, n_files + 1))
    for ino in range(1, n_files + 1):
        pages.dropped(Inode(ino), 1)
    assert all(pages.opened(file(1, ino)) for ino in range(n_files, 0, -1))
