"""What is counted: declarations, histograms, and that each part counts what it does, once."""

import inspect
import os
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest

from cairnfs.cache.memory import ENTRY_BYTES, SliceCache
from cairnfs.clock import SystemClock
from cairnfs.const import MIB
from cairnfs.errors import ObjectError
from cairnfs.ext import fuse_table
from cairnfs.meta import Meta
from cairnfs.meta.stores import open_store
from cairnfs.meta.stores.base import Absent, ConditionFailed, Put
from cairnfs.meta.stores.counting import CountingStore
from cairnfs.meta.stores.memory import MemoryStore
from cairnfs.metrics import ANSWERED_OPCODES, BUCKETS_US, META_OPERATIONS, OPCODES, OPERATIONS, Distribution, Histogram, Metrics
from cairnfs.objects.counting import CountingObjects
from cairnfs.objects.file import FileStore
from cairnfs.objects.retry import Retrying
from cairnfs.vfs import Vfs
from support.engine import Engine, new_volume
from support.faulty import FaultyObjects


def test_names_are_unique_carry_their_unit_and_are_explained() -> None:
    families = Metrics().families
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert family.name.startswith("cairnfs_") and family.name == family.name.lower()
        assert family.help.endswith(".") and family.unit
        assert family.name.endswith("_total") == (family.kind == "counter")
        if family.unit in ("bytes", "seconds"):
            assert family.unit in family.name.split("_")


def test_label_values_are_those_of_the_code(tmp_path: Path) -> None:
    groups = ("names", "attrs", "xattrs", "layout", "locks", "sessions")
    meta = Meta(open_store(new_volume(tmp_path)))
    found = {
        f"{group}.{name}"
        for group in groups
        for name, _ in inspect.getmembers(type(getattr(meta, group)), inspect.isfunction)
        if not name.startswith("_")
    }
    assert set(META_OPERATIONS) == found
    assert set(OPCODES) == {name for name, _ in fuse_table.OPCODES.values()} | {"UNKNOWN", "MALFORMED"}
    methods = {name for name, _ in inspect.getmembers(Vfs, inspect.isfunction) if not name.startswith("_")}
    told = {"follow", "forget", "invalidate", "invalidate_all", "released", "read_pages"}
    assert methods - set(OPERATIONS) == {"close", "fence", "gather", "held", "resume"} | told
    assert set(OPERATIONS) <= methods


@pytest.mark.parametrize(
    ("ns", "bucket"), [(0, 0), (1, 0), (1000, 0), (1001, 1), (2000, 1), (2001, 2), (4000, 2), (1 << 24, 15), (10**12, 25)]
)
def test_a_time_falls_into_the_bucket_whose_bound_is_next(ns: int, bucket: int) -> None:
    histogram = Histogram([0] * Histogram.N_CELLS, 0)
    histogram.observe_ns(ns)
    value = histogram.value
    assert value.counts.index(1) == bucket and value.n == 1 and value.sum_ns == ns
    if bucket < len(BUCKETS_US):
        assert ns <= BUCKETS_US[bucket] * 1000


def test_what_compiled_code_may_answer_has_a_histogram() -> None:
    """A request that is answered without Python under an opcode that is not declared would be in no count."""
    source = (Path(__file__).parents[2] / "ext" / "fuse_chan_hot.c").read_text()
    switches = source[source.index("\nstatic int answer(") :]
    assert set(re.findall(r"case FW_(\w+):", switches)) | {"FLUSH"} == set(ANSWERED_OPCODES)
    assert set(ANSWERED_OPCODES) <= set(OPCODES)


def test_times_that_are_kept_elsewhere_are_counted_as_well() -> None:
    metrics = Metrics()
    metrics.fuse_answers.source = lambda: {"READ": Distribution((2, 0, 1, *[0] * 23), 5_000)}
    found = dict(metrics.samples())
    assert found['cairnfs_fuse_answer_seconds_count{opcode="READ"}'] == found['cairnfs_fuse_answers_total{opcode="READ"}'] == 3
    assert found['cairnfs_fuse_answer_seconds_sum{opcode="READ"}'] == 5e-6
    assert found['cairnfs_fuse_answer_seconds_count{opcode="OPEN"}'] == found['cairnfs_fuse_answers_total{opcode="OPEN"}'] == 0


def test_counts_live_in_the_cells_that_are_given() -> None:
    n_cells = Metrics().n_cells
    cells = memoryview(bytearray(8 * n_cells)).cast("q")
    one, other = Metrics(cells), Metrics(cells)
    one.cache_hits.add(3)
    one.object_s["get"].observe_ns(5000)
    assert other.cache_hits.value == 3
    assert other.object_s["get"].value.n == 1
    assert other.n_cells == n_cells


def test_text_has_a_line_of_name_and_value_for_everything() -> None:
    metrics = Metrics()
    metrics.read_bytes.add(7)
    metrics.meta_store_s["read"].observe_ns(1_500_000)
    metrics.fuse_requests.source = lambda: {"OPEN": 4}
    metrics.open_handles.source = lambda: 2
    lines = dict(line.split(" ") for line in metrics.text().splitlines())
    assert lines["cairnfs_read_bytes_total"] == "7"
    assert lines['cairnfs_meta_store_seconds_count{kind="read"}'] == "1"
    assert lines['cairnfs_meta_store_seconds_sum{kind="read"}'] == "0.001500000"
    assert lines['cairnfs_fuse_requests_total{opcode="OPEN"}'] == "4"
    assert lines['cairnfs_fuse_requests_total{opcode="READ"}'] == "0"
    assert lines["cairnfs_open_handles"] == "2"
    assert {family.name for family in metrics.families} <= {
        name.partition("{")[0].removesuffix("_count").removesuffix("_sum") for name in lines
    }


def test_a_store_counts_each_round_trip_by_kind_and_conflicts_by_condition() -> None:
    metrics = Metrics()
    store = CountingStore(MemoryStore("counting-store"), metrics)
    key = (b"p", b"k")
    store.commit([Absent(key)], [Put(key, b"v")])
    with pytest.raises(ConditionFailed):
        store.commit([Absent(key)], [Put(key, b"w")])
    store.read([key])
    store.scan(b"p", None, 10)
    store.log(store.position(), 10)
    store.sync()
    counts = {kind: histogram.value.n for kind, histogram in metrics.meta_store_s.items()}
    assert counts == {"read": 1, "scan": 1, "commit": 2, "log": 1, "position": 1, "fence": 0, "sync": 1}
    assert {name: c.value for name, c in metrics.meta_conflicts.items() if c.value} == {"absent": 1}
    store.wipe()


def test_objects_count_requests_bytes_errors_and_retries(tmp_path: Path, expected_logs: Any) -> None:
    expected_logs.add("trying again")
    (tmp_path / "cairnfs_uuid").write_text("x")
    metrics = Metrics()
    faulty = FaultyObjects(FileStore(str(tmp_path)))
    store = Retrying(CountingObjects(faulty, metrics), 1.0, SystemClock(), random.Random(1), metrics)
    store.put("a/b", [b"12", b"345"])
    assert store.get("a/b", 1, 3) == b"234"
    assert [info.name for info in store.list("a")] == ["a/b"]
    store.head("a/b")
    store.delete("a/b")
    with pytest.raises(ObjectError):
        store.get("a/b")
    counts = {kind: histogram.value.n for kind, histogram in metrics.object_s.items()}
    assert counts == {"put": 1, "get": 2, "head": 1, "delete": 1, "list": 1}
    assert (metrics.object_put_bytes.value, metrics.object_got_bytes.value) == (5, 3)
    assert sum(c.value for c in metrics.object_errors.values()) == 0, "a missing object is an answer"
    faulty.fail_once("delete")
    store.delete("a/b")
    assert metrics.object_s["delete"].value.n == 3
    assert (metrics.object_errors["delete"].value, metrics.object_retries.value) == (1, 1)
    store.close()


def test_the_cache_counts_hits_and_evictions() -> None:
    metrics = Metrics()
    cache = SliceCache(2 * (100 + ENTRY_BYTES), metrics)
    for n in range(3):
        cache.put((n, 0, -1), bytes(100))
    assert cache.get((0, 0, -1)) is None
    assert cache.get((2, 0, -1)) is not None
    assert (metrics.cache_hits.value, metrics.cache_evictions.value) == (1, 1)


def test_an_engine_counts_what_it_writes_reads_and_holds_open(tmp_path: Path) -> None:
    url = new_volume(tmp_path)
    with Engine(url) as engine:
        metrics = engine.volume.metrics
        for n in range(5):
            engine.files.write(f"f{n}", bytes(1000))
        assert metrics.uploads.value == metrics.writer_commits.value == metrics.object_s["put"].value.n == 5
        assert metrics.upload_bytes.value == 5000
        assert metrics.object_put_bytes.value > 5000
        assert metrics.meta_operations["names.create"].value == 5
        assert metrics.meta_operations["layout.commit_write"].value == 5
        assert metrics.sessions.value == 1
        assert engine.files.read("f0") == bytes(1000)
        assert metrics.cache_hits.value == 1 and metrics.cache_misses.value == 0
        assert metrics.cache_bytes.value > 5000
    with Engine(url) as engine:
        assert engine.files.read("f0") == bytes(1000)
        metrics = engine.volume.metrics
        assert metrics.cache_hits.value == 0 and metrics.cache_misses.value == metrics.object_s["get"].value.n == 1


def test_slices_fetched_ahead_are_counted_and_whether_a_reader_came_to_them(tmp_path: Path) -> None:
    url = new_volume(tmp_path, block_bytes=MIB)
    with Engine(url) as engine:
        engine.files.write("f", os.urandom(8 * MIB))
    with Engine(url) as engine, engine.files.opened("f", os.O_RDONLY) as fh:
        for at in range(0, 8 * MIB, 128 << 10):
            engine.files.pread(fh, at, 128 << 10)
            time.sleep(0.002)  # a reader that is faster than the threads that fetch ahead has used nothing of theirs
        metrics = engine.volume.metrics
        assert 0 < metrics.readahead_used.value <= metrics.readahead_issued.value <= 8


def test_the_readme_lists_every_metric_as_it_is_declared() -> None:
    text = (Path(__file__).parents[2] / "daemon" / "README.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `cairnfs_")]
    assert rows == [f"| `{f.name}` | {f.kind} | {f.label} | {f.help} |" for f in Metrics().families]
