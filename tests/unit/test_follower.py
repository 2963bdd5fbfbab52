"""The follower of the change log: what others commit is forgotten here, what this process commits is not."""

import threading
from collections.abc import Iterable, Iterator

import pytest
from conftest import ExpectedLogs

from cairnfs.daemon.invalidate import Follower, changes, tell_own
from cairnfs.errors import StoreError
from cairnfs.meta.records import (
    GARBAGE_PART,
    USAGE_KEY,
    chunk_key,
    dentry_key,
    inode_key,
    locks_key,
    pack_key,
    xattr_key,
)
from cairnfs.meta.stores.base import Key, LogRecord, Put
from cairnfs.meta.stores.memory import MemoryStore
from cairnfs.types import Inode, PackId, Position, SessionId

OURS, THEIRS = SessionId(1), SessionId(2)
LOG_RECORDS = 8


class Cache:
    """Records what it is told to forget."""

    def __init__(self) -> None:
        self.inos: set[int] = set()
        self.dentries: set[tuple[int, bytes]] = set()
        self.attributes: set[int] = set()
        self.unlocked: set[int] = set()
        self.n_everything = 0
        self.unknown: set[Inode] = set()
        self.leaves = False
        self.followed = True
        self.told = threading.Event()

    def leaving(self, on: bool) -> None:
        self.leaves = on

    def invalidate(self, inos: Iterable[Inode], dentries: Iterable[tuple[Inode, bytes]] = ()) -> set[Inode]:
        self.inos.update(inos)
        self.dentries.update(dentries)
        self.told.set()
        return self.unknown & set(inos)

    def released(self, inos: Iterable[Inode]) -> None:
        self.unlocked.update(inos)

    def invalidate_attributes(self, inos: Iterable[Inode]) -> None:
        self.attributes.update(inos)

    invalidate_own = invalidate_attributes

    def invalidate_all(self) -> None:
        self.n_everything += 1

    def trust(self, followed: bool) -> None:
        self.followed = followed


class Node:
    """A follower with its caches, and another process that commits to the same store."""

    def __init__(self) -> None:
        self.store = MemoryStore(log_records=LOG_RECORDS)
        self.store.origin = OURS
        self.vfs = Cache()
        self.kernel = Cache()
        self.follower = Follower(self.store, self.vfs, self.kernel)

    def commit(self, *keys: Key, origin: SessionId = THEIRS) -> Position:
        self.store.origin = origin
        try:
            return self.store.commit((), [Put(key, b"value") for key in keys]).position
        finally:
            self.store.origin = OURS


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def following(node: Node) -> Iterator[Node]:
    node.follower.start()
    yield node
    node.follower.stop()


def test_rows_tell_which_inodes_and_names_changed() -> None:
    keys = [
        inode_key(Inode(5)),
        chunk_key(Inode(6), 1),
        xattr_key(Inode(7), b"user.a"),
        locks_key(Inode(8)),
        dentry_key(Inode(9), b"name"),
        pack_key(PackId(10)),
        USAGE_KEY,
        (GARBAGE_PART, bytes(8)),
        (b"i", b"a"),
    ]
    assert changes([LogRecord(Position(1), THEIRS, keys)]) == ({5, 6, 7}, {(9, b"name")})


def test_what_others_commit_is_dropped_from_both(node: Node) -> None:
    last = node.commit(inode_key(Inode(5)), dentry_key(Inode(1), b"f"))
    assert node.follower.catch_up()
    for cache in (node.vfs, node.kernel):
        assert (cache.inos, cache.dentries) == ({5}, {(1, b"f")})
    assert node.follower.position == last
    assert not node.follower.catch_up()


def test_own_commits_are_passed_over(node: Node) -> None:
    last = node.commit(inode_key(Inode(5)), origin=OURS)
    assert not node.follower.catch_up()
    assert not node.vfs.inos and not node.kernel.inos
    assert node.follower.position == last


def test_fence_drops_pages_and_names_of_the_kernel_later(node: Node) -> None:
    node.commit(inode_key(Inode(5)), dentry_key(Inode(1), b"f"))
    node.follower.fence()
    assert (node.vfs.inos, node.kernel.attributes) == ({5}, {5})
    assert not node.kernel.inos and not node.kernel.dentries, "a request must not wait for the kernel's locks"
    assert node.follower.catch_up()
    assert (node.kernel.inos, node.kernel.dentries) == ({5}, {(1, b"f")})


def test_gap_in_the_log_drops_everything(node: Node, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("no longer reaches back")
    for i in range(LOG_RECORDS * 10):
        last = node.commit(inode_key(Inode(i)))
    assert node.follower.catch_up()
    assert node.vfs.n_everything == node.kernel.n_everything == 1
    assert node.follower.position == last
    node.commit(inode_key(Inode(77)))
    assert node.follower.catch_up()
    assert node.kernel.inos == {77}


def test_fence_waits_while_everything_is_dropped(
    node: Node, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("no longer reaches back")
    done = threading.Event()
    fencing = threading.Thread(target=lambda: (node.follower.fence(), done.set()))

    def drop() -> None:
        fencing.start()
        assert not done.wait(0.3), "a request would go on with what is about to be dropped"

    monkeypatch.setattr(node.vfs, "invalidate_all", drop)
    for i in range(LOG_RECORDS * 10):
        node.commit(inode_key(Inode(i)))
    assert node.follower.catch_up()
    assert done.wait(20)
    fencing.join()


def test_thread_follows_by_itself_and_ends(following: Node) -> None:
    following.commit(inode_key(Inode(5)))
    assert following.kernel.told.wait(20)
    following.follower.stop()
    assert not following.follower.is_alive()


def test_follower_that_was_never_started_can_be_stopped(node: Node) -> None:
    node.follower.stop()


def test_store_that_fails_is_reported_once_and_asked_again(
    node: Node, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture
) -> None:
    expected_logs.add("cannot read the change log")
    failed = threading.Semaphore(0)

    def log(after: Position, limit: int, *, rings: bool = False) -> list[LogRecord]:
        failed.release()
        raise StoreError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(node.store, "log", log)
        node.follower.start()
        for _ in range(3):
            assert failed.acquire(timeout=20)
    node.commit(inode_key(Inode(5)))
    assert node.kernel.told.wait(20)
    node.follower.stop()
    assert caplog.text.count("the store is away") == 1


def test_failure_while_dropping_does_not_end_the_thread(node: Node, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("cannot apply the change log")
    failed = threading.Event()

    def fail(*_: object) -> None:
        failed.set()
        raise RuntimeError("a bug")

    told, node.vfs.invalidate = node.vfs.invalidate, fail  # type: ignore[assignment,method-assign]
    node.commit(inode_key(Inode(5)))
    node.follower.start()
    assert failed.wait(20)
    node.vfs.invalidate = told  # type: ignore[method-assign]
    assert node.kernel.told.wait(20), "what failed is tried again"
    node.follower.stop()


def test_whoever_opens_a_file_waits_until_the_kernel_has_dropped_it(node: Node) -> None:
    node.commit(inode_key(Inode(5)))
    node.follower.fence()
    assert node.kernel.leaves, "compiled code opens nothing meanwhile"
    node.follower.dropped(Inode(6))
    dropped = threading.Event()
    opening = threading.Thread(target=lambda: (node.follower.dropped(Inode(5)), dropped.set()))
    told = node.kernel.invalidate

    def invalidate(inos: Iterable[Inode], dentries: Iterable[tuple[Inode, bytes]] = ()) -> set[Inode]:
        opening.start()
        assert not dropped.wait(0.1), "while the kernel is told it waits"
        assert node.kernel.leaves
        return told(inos, dentries)

    node.kernel.invalidate = invalidate  # type: ignore[method-assign]
    node.follower.catch_up()
    opening.join(20)
    assert dropped.is_set()
    assert not node.kernel.leaves
    node.follower.dropped(Inode(5))


def test_an_open_does_not_wait_for_names_which_wait_for_requests_in_their_directory(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cairnfs.daemon.invalidate.OPENED_WITHIN_S", 60.0)
    node.commit(inode_key(Inode(5)), dentry_key(Inode(9), b"name"))
    told, n_names = node.kernel.invalidate, 0

    def invalidate(inos: Iterable[Inode], dentries: Iterable[tuple[Inode, bytes]] = ()) -> set[Inode]:
        nonlocal n_names
        if names := list(dentries):
            n_names += len(names)
            assert not list(inos) and node.kernel.inos >= {5}, "after the pages, and apart"
            assert not node.kernel.leaves
            opening = threading.Thread(target=lambda: node.follower.dropped(Inode(5)), daemon=True)
            opening.start()
            opening.join(20)
            assert not opening.is_alive()
        return told(inos, names)

    node.kernel.invalidate = invalidate  # type: ignore[method-assign]
    node.follower.catch_up()
    assert n_names == 1


def test_pages_that_show_what_a_write_has_put_elsewhere_are_dropped_soon(following: Node) -> None:
    following.follower.drop(Inode(5), True)  # whether it has waited for the kernel or not
    assert following.kernel.told.wait(20)
    assert following.kernel.inos == {5}
    following.follower.dropped(Inode(5))
    assert not following.kernel.leaves


def test_a_write_does_not_wait_for_the_page_that_it_has_locked(node: Node) -> None:
    node.follower.drop(Inode(5), True)  # nobody tells the kernel
    assert node.kernel.leaves, "whoever opens the file waits until somebody has"


def test_a_file_that_the_kernel_has_pages_of_loses_its_attributes_with_them(node: Node) -> None:
    node.vfs.invalidate = lambda inos, dentries=(): {Inode(5)}  # type: ignore[method-assign,assignment]
    node.commit(inode_key(Inode(5)), inode_key(Inode(6)))
    node.follower.fence()
    assert node.kernel.attributes == {6}
    node.follower.catch_up()
    assert node.kernel.inos == {5, 6}


def test_whoever_was_asked_for_a_size_that_is_not_known_yet_waits_until_the_kernel_has_dropped_the_pages(following: Node) -> None:
    following.follower.dropped(Inode(5), following.commit(inode_key(Inode(5))))
    assert following.kernel.inos == {5}


def test_an_open_does_not_wait_for_ever(node: Node) -> None:
    node.commit(inode_key(Inode(5)))
    node.follower.fence()
    node.follower.dropped(Inode(5))  # nobody tells the kernel
    assert node.kernel.leaves


def test_attributes_that_the_kernel_did_not_know_are_dropped_again_at_the_next_poll(node: Node) -> None:
    node.kernel.unknown = {Inode(5)}
    node.commit(inode_key(Inode(5)), inode_key(Inode(6)))
    node.follower.catch_up()
    node.kernel.attributes.clear()
    assert not node.follower.catch_up()
    assert node.kernel.attributes == {5}, "the kernel may have learned of the inode in between"
    node.kernel.attributes.clear()
    node.follower.catch_up()
    assert not node.kernel.attributes


def test_own_commits_tell_the_kernel_which_attributes_changed(node: Node) -> None:
    inodes, names = [inode_key(Inode(5)), inode_key(Inode(6))], [dentry_key(Inode(5), b"f")]
    changed = dict.fromkeys([*inodes, *names, xattr_key(Inode(7), b"user.a"), locks_key(Inode(8))], b"x")
    tell_own(node.kernel)(changed)
    assert node.kernel.attributes == {5, 6, 7}
    assert not node.kernel.inos


def test_the_kernel_is_not_told_of_attributes_of_what_is_gone(node: Node) -> None:
    removed, without = Inode(5), Inode(6)  # an inode, an extended attribute of another
    tell_own(node.kernel)(
        {
            inode_key(removed): None,
            xattr_key(removed, b"user.a"): None,
            locks_key(removed): None,
            xattr_key(without, b"user.a"): None,
        }
    )
    assert node.kernel.attributes == {without}


def test_without_a_session_no_commit_is_passed_over(node: Node) -> None:
    node.store.origin = SessionId(0)
    node.commit(inode_key(Inode(5)), origin=SessionId(0))
    node.store.origin = SessionId(0)
    assert node.follower.catch_up()
    assert node.kernel.inos == {5}


def test_locks_that_others_have_changed_wake_those_who_wait(node: Node) -> None:
    node.commit(locks_key(Inode(8)))
    node.commit(locks_key(Inode(9)), origin=OURS)
    node.follower.catch_up()
    assert node.vfs.unlocked == {8}
