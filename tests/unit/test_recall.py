"""Operations begin with remembered rows: what they cost in round trips, and that a wrong guess is never seen."""

import errno
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnfs.errors import FsError
from cairnfs.meta import recall as recall_module
from cairnfs.meta.recall import Recall
from cairnfs.meta.records import ATTR_SUBKEY, INODE_PREFIX, chunk_key, dentry_key, dentry_value, inode_key
from cairnfs.meta.stores.base import Key, Put, Row
from cairnfs.meta.stores.memory import MemoryStore
from cairnfs.types import SetAttr
from support.namespaces import ROOT, USER, Node, Volume


@pytest.fixture
def nodes() -> tuple[Node, Node]:
    volume = Volume()
    return recalling(volume), volume.node()


def recalling(volume: Volume) -> Node:
    node = volume.node()
    node.core.recall.start()
    return node


def trips(node: Node, call: Callable[[], object]) -> list[str]:
    """Round trips of one operation."""
    node.store.trips.clear()
    call()
    return list(node.store.trips)


def test_each_operation_on_known_rows_is_one_round_trip(nodes: tuple[Node, Node]) -> None:
    node, _ = nodes
    with pytest.raises(FsError):
        node.names.lookup(ROOT, b"file")  # as kernels do before they create
    node.names.get(ROOT)
    assert trips(node, lambda: node.file(b"file")) == ["commit"]
    ino = node.names.lookup(ROOT, b"file").ino
    assert trips(node, lambda: node.attrs.set(USER, ino, SetAttr(mode=0o600))) == ["commit"]
    with pytest.raises(FsError):
        node.names.lookup(ROOT, b"other")
    assert trips(node, lambda: node.rename((ROOT, b"file"), (ROOT, b"other"))) == ["commit"]
    with pytest.raises(FsError):
        node.names.lookup(ROOT, b"again")
    assert trips(node, lambda: node.names.link(ino, ROOT, b"again")) == ["commit"]
    assert trips(node, lambda: node.unlink(b"other")) == ["commit"]
    assert trips(node, lambda: node.unlink(b"again")) == ["commit"]
    with pytest.raises(FsError):
        node.names.lookup(ROOT, b"dir")
    assert trips(node, lambda: node.dir(b"dir")) == ["commit"]
    assert trips(node, lambda: node.names.rmdir(ROOT, b"dir")) == ["commit"]


def test_nothing_is_recalled_while_others_may_have_committed_what_is_not_known() -> None:
    """A set-group-id bit that another process has just given to a directory counts for what is made in it."""
    volume = Volume()
    node, other = volume.node(), volume.node()
    unknown: list[bool] = []
    node.core.recall.start(lambda: not unknown)
    node.names.get(ROOT)
    assert trips(node, lambda: node.file(b"before")) == ["commit"]
    other.attrs.set(USER, ROOT, SetAttr(mode=0o2777, gid=77))
    unknown.append(True)
    assert "read" in trips(node, lambda: node.file(b"after"))
    assert node.names.lookup(ROOT, b"after").gid == 77
    node.core.recall.changed([inode_key(ROOT)])
    unknown.clear()
    node.names.get(ROOT)
    assert trips(node, lambda: node.file(b"again")) == ["commit"]


def test_a_name_that_another_process_has_looked_up_is_taken_for_new(nodes: tuple[Node, Node]) -> None:
    node, _ = nodes
    node.names.get(ROOT)
    assert trips(node, lambda: node.file(b"file")) == ["commit"]
    ino = node.names.lookup(ROOT, b"file").ino
    assert trips(node, lambda: node.names.link(ino, ROOT, b"linked")) == ["commit"]
    assert trips(node, lambda: node.rename((ROOT, b"file"), (ROOT, b"moved"))) == ["commit"]


def test_a_name_that_is_not_new_is_replaced_or_refused(nodes: tuple[Node, Node]) -> None:
    node, other = nodes
    moved, there = node.file(b"file"), other.file(b"there")
    with pytest.raises(FsError) as refused:
        node.names.link(moved.ino, ROOT, b"there")
    assert refused.value.errno == errno.EEXIST
    assert node.rename((ROOT, b"file"), (ROOT, b"there")).ino == moved.ino
    assert other.names.lookup(ROOT, b"there").ino == moved.ino
    with pytest.raises(FsError) as refused:
        other.names.get(there.ino)
    assert refused.value.errno == errno.ENOENT


def test_a_name_that_others_have_taken_or_removed(nodes: tuple[Node, Node]) -> None:
    node, other = nodes
    with pytest.raises(FsError):
        node.names.lookup(ROOT, b"file")
    taken = other.file(b"file")
    with pytest.raises(FsError) as refused:
        node.file(b"file")
    assert refused.value.errno == errno.EEXIST
    assert node.names.lookup(ROOT, b"file").ino == taken.ino
    other.unlink(b"file")
    with pytest.raises(FsError) as refused:
        node.unlink(b"file")
    assert refused.value.errno == errno.ENOENT
    assert node.file(b"file").ino != taken.ino


def test_a_refusal_by_remembered_rows_is_made_sure_of(nodes: tuple[Node, Node]) -> None:
    node, other = nodes
    folder = node.dir(b"dir")
    inner = node.file(b"file", folder.ino)
    other.unlink(b"file", folder.ino)
    node.names.rmdir(ROOT, b"dir")  # remembered as having an entry
    assert node.row(inode_key(inner.ino)) is None
    assert node.row(inode_key(folder.ino)) is None


def test_what_others_change_is_forgotten_when_told(nodes: tuple[Node, Node]) -> None:
    node, other = nodes
    ino = node.file(b"file").ino
    other.attrs.set(USER, ino, SetAttr(mode=0o640))
    node.core.recall.changed([inode_key(ino)])
    assert trips(node, lambda: node.attrs.set(USER, ino, SetAttr(uid=5))) == ["read", "commit"]
    assert node.names.get(ino).mode & 0o777 == 0o640


def test_rows_that_changed_while_they_were_read_are_not_remembered_and_others_are() -> None:
    store = MemoryStore()
    recall = Recall(store)
    recall.start()
    keys = [inode_key(n) for n in range(5)]
    moment = recall.moment
    rows = dict(zip(keys, store.read(keys), strict=True))
    recall.changed([keys[0]])
    mine = store.commit([], [Put(keys[1], b"mine")])
    recall.committed({keys[1]: b"mine"}, mine.position)
    recall.learn(rows, moment)
    assert recall.known(keys) == {keys[1]: Row(b"mine", mine.position), **dict.fromkeys(keys[2:])}
    recall.read(keys)
    assert recall.known(keys) == {**dict.fromkeys(keys), keys[1]: Row(b"mine", mine.position)}


def test_a_read_that_took_too_long_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall_module, "MAX_CHANGED", 10)
    recall = Recall(MemoryStore())
    recall.start()
    moment = recall.moment
    recall.changed([inode_key(n) for n in range(10)])
    recall.learn({inode_key(99): None}, moment)
    assert inode_key(99) in recall.known([inode_key(99)])
    recall.changed([inode_key(20)])
    recall.learn({inode_key(98): None}, moment)
    assert recall.known([inode_key(98)]) == {}
    moment = recall.moment
    recall.clear()
    recall.learn({inode_key(98): None}, moment)
    assert recall.known([inode_key(98)]) == {}


N_FILES = 4
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["others", "mine", "finish"]), st.integers(0, 2 * N_FILES - 1)),
        st.tuples(st.sampled_from(["read", "page", "look"]), st.integers(0, 2 * N_FILES - 1)),
    ),
    max_size=60,
)


@given(STEPS, st.sampled_from([3, 8192]))
def test_what_is_known_is_what_the_store_has_however_reads_and_changes_overlap(steps: list[tuple[str, int]], most: int) -> None:
    """Each change is told of at once; reads begin, and are remembered later."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recall_module, "MAX_CHANGED", most)
        store = MemoryStore()
        recall = Recall(store)
        recall.start()
        keys = put_files(store, N_FILES)
        under_way: list[Callable[[], object]] = []
        for what, n in steps:
            key, moment = keys[n], recall.moment
            value = dentry_value(100 + n // 2, 0o100644) if n % 2 == 0 else b"%d" % store.position()
            if what == "others":
                store.commit([], [Put(key, value)])
                recall.changed([key])
            elif what == "mine":
                recall.committed({key: value}, store.commit([], [Put(key, value)]).position)
            elif what == "read":
                row = store.read([key])[0]
                under_way.append(partial(recall.learn, {key: row}, moment))
            elif what == "page":
                under_way.append(page_under_way(store, recall, moment))
            elif what == "finish" and under_way:
                under_way.pop(n % len(under_way))()
            elif what == "look":
                recall.known([key])
        known = recall.known(keys)
        assert known == {key: row for key, row in zip(keys, store.read(keys), strict=True) if key in known}


def page_under_way(store: MemoryStore, recall: Recall, moment: int) -> Callable[[], object]:
    found = store.scan_via(dentry_key(1, b"")[0], None, 100, INODE_PREFIX, ATTR_SUBKEY)
    late = recall_module._Late(dentry_key(1, b"")[0], found.page, INODE_PREFIX, ATTR_SUBKEY)
    return partial(recall._learn_page, late, moment)


def test_only_rows_that_are_conditions_are_remembered_and_not_too_many() -> None:
    store = MemoryStore()
    recall = Recall(store, max_rows=10)
    recall.read([inode_key(1)])
    assert recall.known([inode_key(1)]) == {}, "nobody tells of changes"
    recall.start()
    keys = [chunk_key(1, 1), dentry_key(1, b"large")]
    store.commit([], [Put(key, b"x" * 5000) for key in keys])
    recall.read(keys)
    assert recall.known(keys) == {}
    many = [inode_key(n) for n in range(30)]
    recall.read(many)
    assert list(recall.known(many)) == many[-10:]
    recall.clear()
    assert recall.known(many) == {}


def put_files(store: MemoryStore, n: int) -> list[Key]:
    """Names of files, and their inode rows: keys of all."""
    names = [dentry_key(1, b"%05d" % i) for i in range(n)]
    inodes = [inode_key(100 + i) for i in range(n)]
    effects = [Put(key, dentry_value(100 + i, 0o100644)) for i, key in enumerate(names)]
    store.commit([], [*effects, *(Put(key, b"first") for key in inodes)])
    return [key for pair in zip(names, inodes, strict=True) for key in pair]


def page(recall: Recall, after: bytes | None = None, limit: int = 100) -> None:
    recall.scan_via(dentry_key(1, b"")[0], after, limit, INODE_PREFIX, ATTR_SUBKEY)


def test_rows_of_pages_are_remembered_and_not_too_many() -> None:
    store = MemoryStore()
    recall = Recall(store, max_rows=20)
    keys = put_files(store, 30)
    page(recall)
    assert recall.known(keys) == {}, "nobody tells of changes"
    recall.start()
    for i in range(30):
        page(recall, b"%05d" % (i - 1), 1)
    assert sorted(recall.known(keys)) == sorted(keys[-20:])
    assert [recall.known(keys)[key] for key in keys[-20:]] == store.read(keys[-20:])
    page(recall)
    recall.clear()
    assert recall.known(keys) == {}


@pytest.mark.parametrize("is_taken_apart", [False, True])
def test_a_row_of_a_page_does_not_outlive_its_change(is_taken_apart: bool) -> None:
    store = MemoryStore()
    recall = Recall(store)
    recall.start()
    keys = put_files(store, 6)
    page(recall)
    if is_taken_apart:
        recall.known(keys)
    recall.changed([keys[0], keys[3]])
    mine = store.commit([], [Put(keys[5], b"second")])
    recall.committed({keys[5]: b"second"}, mine.position)
    store.commit([], [Put(keys[7], b"third")])
    recall.changed([keys[7]])
    recall.read([keys[7]])
    known = recall.known(keys)
    assert sorted(set(keys) - set(known)) == sorted([keys[0], keys[3]])
    assert known == {key: row for key, row in zip(keys, store.read(keys), strict=True) if key in known}


def test_what_changed_while_its_page_was_read_is_not_remembered() -> None:
    store = MemoryStore()
    recall = Recall(store)
    recall.start()
    keys = put_files(store, 3)
    scan_via = store.scan_via

    def overtaken(*args: object, **kwargs: object) -> object:
        found = scan_via(*args, **kwargs)  # type: ignore[arg-type]
        recall.changed([keys[0]])
        return found

    store.scan_via = overtaken  # type: ignore[method-assign, assignment]
    page(recall)
    assert sorted(recall.known(keys)) == sorted(keys[1:])


def test_removing_what_is_not_known_takes_one_round_trip_more_and_brings_neighbours() -> None:
    volume = Volume()
    node = recalling(volume)
    node.core.neighbours.start()
    there = node.dir(b"d").ino
    for i in range(300):
        node.file(b"%03d" % i, there)
    node.dir(b"e", there)
    node.core.recall.clear()
    assert trips(node, lambda: node.unlink(b"000", there)) == ["read", "read", "commit"], "the directory is not known either"
    assert trips(node, lambda: node.unlink(b"001", there)) == ["read", "commit"]
    assert trips(node, lambda: node.rename((there, b"200"), (there, b"x200"))) == ["read", "commit"]
    assert trips(node, lambda: node.names.rmdir(there, b"e")) == ["read", "commit"]
    taken = [trip for i in range(2, 300) if i != 200 for trip in trips(node, lambda i=i: node.unlink(b"%03d" % i, there))]  # type: ignore[misc]
    assert taken.count("commit") == 297
    assert taken.count("read") <= 4
