"""What misses bring along of a directory: how many round trips a walk takes, and how many rows."""

import random
from collections.abc import Iterable

import pytest

from cairnfs.errors import FsError
from cairnfs.meta import neighbours
from cairnfs.meta.records import dentry_key, inode_key
from cairnfs.meta.stores.base import Along, Key, Via
from cairnfs.types import Inode
from support.namespaces import ROOT, Volume


class Reader:
    """A node that reads where every read is a round trip, and asks only for what did not come along before."""

    def __init__(self, volume: Volume) -> None:
        self.node = volume.node()
        self.node.core.recall.start()
        self.node.core.neighbours.start()
        self.n_rows = 0
        read_via = self.node.store.read_via

        def counted(key: Key, prefix: bytes, subkey: bytes, along: Along) -> Via:
            found = read_via(key, prefix, subkey, along)
            self.n_rows += len(found.page)
            return found

        self.node.store.read_via = counted  # type: ignore[method-assign]

    @property
    def n_trips(self) -> int:
        return len(self.node.store.trips)

    def stat(self, parent: Inode, name: bytes) -> None:
        if not self.node.core.recall.known([dentry_key(parent, name)]):
            self.node.names.lookup(parent, name)

    def walk(self, places: Iterable[tuple[Inode, bytes]]) -> int:
        """Round trips for all of these."""
        before = self.n_trips
        for place in places:
            self.stat(*place)
        return self.n_trips - before


def made(volume: Volume, n: int, parent: Inode = ROOT) -> list[tuple[Inode, bytes]]:
    writer = volume.node()
    names = [b"f%05d" % i for i in range(n)]
    for name in names:
        writer.file(name, parent)
    return [(parent, name) for name in names]


def shuffled(places: list[tuple[Inode, bytes]]) -> list[tuple[Inode, bytes]]:
    found = places.copy()
    random.Random(1).shuffle(found)
    return found


@pytest.mark.parametrize("in_order", [True, False])
def test_a_directory_takes_few_round_trips_in_any_order(in_order: bool) -> None:
    volume = Volume()
    places = made(volume, 3000)
    reader = Reader(volume)
    # One name, then pages of 64, 128, 256, 512, 1000, 1000 and what is left.
    assert reader.walk(places if in_order else shuffled(places)) == 8
    assert reader.n_rows == 3000


def test_a_small_directory_comes_with_the_first_name() -> None:
    volume = Volume()
    writer = volume.node()
    dirs = [writer.dir(b"d%02d" % i).ino for i in range(20)]
    places = [place for ino in dirs for place in made(volume, 20, ino)]
    reader = Reader(volume)
    assert reader.walk(shuffled(places)) == 20


def test_directories_of_a_hundred_names_take_three_round_trips_each() -> None:
    volume = Volume()
    writer = volume.node()
    dirs = [writer.dir(b"d%02d" % i).ino for i in range(20)]
    places = [place for ino in dirs for place in made(volume, 100, ino)]
    reader = Reader(volume)
    assert reader.walk(shuffled(places)) <= 60


def test_a_large_directory_is_read_ahead_in_order_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "MODEST", 1000)
    volume = Volume()
    places = made(volume, 4000)
    at_random = Reader(volume)
    n = at_random.walk(shuffled(places)[:300])
    assert n > 150
    assert at_random.n_rows < 30 * n
    in_order = Reader(volume)
    assert in_order.walk(places) <= 14
    assert in_order.n_rows <= 4200


def test_names_that_do_not_exist_bring_nothing() -> None:
    volume = Volume()
    made(volume, 200)
    reader = Reader(volume)
    for i in range(100):
        with pytest.raises(FsError):
            reader.node.names.lookup(ROOT, b"new%d" % i)
    assert reader.n_rows == 0


def test_inodes_bring_what_is_in_their_directory() -> None:
    volume = Volume()
    inos = [volume.node().names.lookup(*place).ino for place in made(volume, 3000)]
    reader = Reader(volume)
    for ino in inos:
        if not reader.node.core.recall.known([inode_key(ino)]):
            reader.node.names.get_first(ino)
    assert reader.n_trips <= 20


def test_what_was_brought_whole_is_brought_again_only_after_many_misses() -> None:
    volume = Volume()
    places = made(volume, 200)
    reader = Reader(volume)
    reader.walk(places)
    n_rows = reader.n_rows
    for place in places[: neighbours.REPEATED]:
        reader.node.names.lookup(*place)
    assert reader.n_rows == n_rows
    reader.node.names.lookup(*places[0])
    assert reader.n_rows == n_rows + neighbours.FIRST_PAGE


def test_a_failed_read_leaves_the_next_one_free_to_bring_neighbours() -> None:
    volume = Volume()
    places = made(volume, 200)
    reader = Reader(volume)
    reader.stat(*places[0])
    working = reader.node.store.read_via

    def broken(key: Key, prefix: bytes, subkey: bytes, along: Along) -> Via:
        raise FsError(5)

    reader.node.store.read_via = broken  # type: ignore[method-assign]
    with pytest.raises(FsError):
        reader.stat(*places[1])
    reader.node.store.read_via = working  # type: ignore[method-assign]
    reader.stat(*places[1])
    assert reader.n_rows == neighbours.FIRST_PAGE


def test_of_several_reads_at_a_time_one_brings_neighbours() -> None:
    found = neighbours.Neighbours()
    found.start()
    with found.beside(ROOT, b"a") as first, found.beside(ROOT, b"b") as second:
        assert first.along.whole
        assert not second.along.whole
    with found.beside(ROOT, b"c") as third:
        assert third.along.whole


def test_only_so_many_directories_are_remembered() -> None:
    found = neighbours.Neighbours(max_directories=10)
    found.start()
    for ino in range(1, 100):
        with found.beside(Inode(ino), None) as page:
            page.got_page([])
    assert len(found._walks) == 10
