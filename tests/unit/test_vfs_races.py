"""Threads against each other through one Vfs: whatever the order, nothing is lost, and the volume adds up afterwards."""

import errno
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cairnfs.check import fsck
from cairnfs.const import KIB
from cairnfs.errors import CairnError
from cairnfs.types import Inode, SetAttr
from support.engine import ME, ROOT, Engine, new_volume


@pytest.fixture(params=["memory", "sqlite"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An engine whose volume must add up, and in which nothing must be left open."""
    with Engine(new_volume(tmp_path, request.param, block_bytes=64 * KIB)) as engine:
        yield engine
        assert len(engine.vfs._state.files) == len(engine.vfs._state.handles) == 0
        assert not engine.vfs._state.files._barred
        assert len(engine.volume.data.writers) == 0
        deadline = time.monotonic() + 10
        while engine.volume.data.budget.used_bytes:  # what was discarded while a thread stored it
            assert time.monotonic() < deadline, engine.volume.data.budget.used_bytes
            time.sleep(0.01)
        report = fsck.run(engine.volume, verify_data=True)
        assert report.problems == []


def together(*works: Callable[[], None]) -> None:
    """Run each in a thread; the first failure of any fails the test."""
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # handed to the test
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    if failures:
        raise failures[0]


def test_opening_writing_and_unlinking_one_name(engine: Engine) -> None:
    def use(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(60):
            try:
                fh = engine.files.create("f") if rng.random() < 0.5 else engine.files.open("f")
            except CairnError as error:
                assert error.errno in (errno.ENOENT, errno.ESTALE)
                continue
            data = bytes([seed]) * rng.randrange(1, 3000)
            engine.files.pwrite(fh, 0, data)
            assert len(engine.files.pread(fh, 0, len(data))) == len(data)
            if rng.random() < 0.5:
                engine.vfs.fsync(ME, fh)
            engine.files.close(fh)

    def unlink() -> None:
        for _ in range(200):
            try:
                engine.files.unlink("f")
            except CairnError as error:
                assert error.errno == errno.ENOENT

    together(*(lambda seed=seed: use(seed) for seed in range(4)), unlink)


def test_replacing_a_file_that_is_being_read(engine: Engine) -> None:
    engine.files.write("f", b"\0" * 1000)
    done = threading.Event()

    def replace() -> None:
        for i in range(1, 60):
            engine.files.write("new", bytes([i]) * 1000)
            engine.files.rename("new", "f")
        done.set()

    def read() -> None:
        last = 0
        while not done.is_set():
            try:
                fh = engine.files.open("f", os.O_RDONLY)
            except CairnError as error:
                assert error.errno == errno.ESTALE  # the kernel would look the name up again
                continue
            data = engine.files.pread(fh, 0, 2000)
            engine.files.close(fh)
            assert len(data) == 1000 and len(set(data)) == 1
            assert data[0] >= last
            last = data[0]

    together(replace, read, read)


def test_readers_never_see_older_content_while_writes_are_committed(engine: Engine) -> None:
    n_blocks = 4
    with engine.files.created("f") as fh:
        engine.files.pwrite(fh, 0, bytes(n_blocks * 100))
        done = threading.Event()

        def write() -> None:
            for i in range(1, 60):
                for block in range(n_blocks):
                    engine.files.pwrite(fh, block * 100, bytes([i]) * 100)
                if i % 3 == 0:
                    engine.vfs.flush(ME, fh)
            done.set()

        def read() -> None:
            last = [0] * n_blocks
            while not done.is_set():
                for block in range(n_blocks):
                    data = engine.files.pread(fh, block * 100, 100)
                    assert len(data) == 100 and len(set(data)) == 1
                    assert data[0] >= last[block]
                    last[block] = data[0]

        def watch() -> None:
            ino = engine.files.ino("f")
            last_mtime = 0
            while not done.is_set():
                attr = engine.vfs.getattr(ME, ino)
                assert attr.size == n_blocks * 100
                assert attr.mtime_ns >= last_mtime
                last_mtime = attr.mtime_ns
                assert engine.vfs.lookup(ME, ROOT, b"f").size == n_blocks * 100

        together(write, read, read, watch)


def test_a_lookup_never_shows_a_smaller_size_than_what_was_written_and_closed(engine: Engine) -> None:
    done = threading.Event()
    sizes = [0]

    def write() -> None:
        for i in range(1, 100):
            with engine.files.created("f", os.O_WRONLY | os.O_APPEND) as fh:
                engine.files.pwrite(fh, 0, b"x")
                sizes[0] = i
        done.set()

    def look() -> None:
        while not done.is_set():
            at_least = sizes[0]
            try:
                attr = engine.vfs.lookup(ME, ROOT, b"f")
            except CairnError:
                continue
            assert attr.size >= at_least
            listed = engine.files.list(plus=True)[0].attr
            assert listed is not None and listed.size >= at_least

    together(write, look, look)


def test_appends_of_many_handles_do_not_overwrite_each_other(engine: Engine) -> None:
    engine.files.write("log", b"")

    def append(seed: int) -> None:
        for i in range(40):
            with engine.files.opened("log", os.O_WRONLY | os.O_APPEND) as fh:
                engine.files.pwrite(fh, 0, b"%d-%02d\n" % (seed, i))

    together(*(lambda seed=seed: append(seed) for seed in range(4)))
    lines = engine.files.read("log").split(b"\n")[:-1]
    assert sorted(lines) == sorted(b"%d-%02d" % (seed, i) for seed in range(4) for i in range(40))


def test_truncation_and_writes_and_flushes_at_once(engine: Engine) -> None:
    with engine.files.created("f") as fh:
        ino = engine.files.ino("f")

        def write(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(60):
                engine.files.pwrite(fh, rng.randrange(200_000), bytes([seed]) * rng.randrange(1, 50_000))

        def truncate() -> None:
            rng = random.Random(99)
            for _ in range(40):
                engine.vfs.setattr(ME, ino, SetAttr(size=rng.choice([0, 1000, 100_000, 300_000])))
                engine.vfs.fallocate(ME, fh, 0x03, rng.randrange(100_000), 10_000)

        def flush() -> None:
            for _ in range(40):
                engine.vfs.fsync(ME, fh)

        together(lambda: write(1), lambda: write(2), truncate, flush)
        before = engine.files.pread(fh, 0, 1 << 20)
    assert engine.files.read("f") == before


def test_a_tree_of_files_made_by_many_threads(engine: Engine) -> None:
    def work(seed: int) -> None:
        rng = random.Random(seed)
        engine.files.mkdir(f"d{seed}")
        for i in range(40):
            name = f"d{seed}/f{i}"
            data = rng.randbytes(rng.randrange(5000))
            engine.files.write(name, data)
            assert engine.files.read(name) == data
            if i % 3 == 0:
                engine.files.rename(name, f"d{seed}/g{i}")
            elif i % 3 == 1:
                engine.files.unlink(name)
            engine.vfs.link(ME, engine.files.ino(f"d{seed}/g0"), ROOT, b"l%d-%d" % (seed, i))

    together(*(lambda seed=seed: work(seed) for seed in range(4)))
    assert len(engine.files.names()) == 4 + 4 * 40
    for seed in range(4):
        assert engine.files.attr(f"d{seed}/g0").nlink == 41
        assert len(engine.files.names(f"d{seed}")) == 14 + 13


def test_copies_between_two_files_in_both_directions(engine: Engine) -> None:
    a, b = engine.files.create("a"), engine.files.create("b")
    engine.files.pwrite(a, 0, b"a" * 10_000)
    engine.files.pwrite(b, 0, b"b" * 10_000)

    def copy(source: int, target: int, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(40):
            at = rng.randrange(9000)
            assert engine.vfs.copy_file_range(ME, source, at, target, rng.randrange(9000), 1000) == 1000
            engine.files.pwrite(source, at, b"c")

    together(lambda: copy(a, b, 1), lambda: copy(b, a, 2))
    for fh in (a, b):
        assert set(engine.files.pread(fh, 0, 20_000)) <= set(b"abc")
        engine.files.close(fh)


def test_removing_and_asking_for_directories(engine: Engine) -> None:
    inos: list[Inode] = []

    def make() -> None:
        for i in range(60):
            inos.append(engine.files.mkdir(f"d{i}").ino)
            engine.vfs.rmdir(ME, ROOT, b"d%d" % i)

    def ask() -> None:
        for _ in range(300):
            for ino in inos[-3:]:
                assert engine.vfs.getattr(ME, ino).is_dir

    together(make, ask)
