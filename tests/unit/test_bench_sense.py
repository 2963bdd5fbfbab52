"""What the bench refuses to report: wrong bytes, cold phases that were warm, work that failed. And how it refuses nonsense."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cairnfs.bench import sense
from cairnfs.bench.content import Content, parse_sizes
from cairnfs.bench.costs import Reading, between, cpu_seconds
from cairnfs.bench.places import IN_MEMORY, mount_of, places_of
from cairnfs.bench.runner import bench
from cairnfs.bench.sense import BenchError, Cold, check_pages, check_requests, check_storage
from cairnfs.bench.suites import SUITES
from cairnfs.bench.workers import together
from cairnfs.bench.workload import Settings, Workload, run_of
from cairnfs.bench.workloads.package_tree import Tree
from cairnfs.const import MIB
from support.mounts import cairnfs

pytestmark = pytest.mark.usefixtures("kernel_caches")

SMALL = Settings(n_files=12, n_procs=2, n_rounds=1, sizes=parse_sizes("4K"), large_bytes=16 * MIB, cold=False)


PROGRAM = (sys.executable, "-m")


def quiet(line: str) -> None:
    pass


def workloads(*suites: str) -> list[Workload]:
    found = {workload.title: workload for suite in suites for workload in SUITES[suite].workloads(SMALL)}
    return [workload for workload in found.values() if not workload.missing()]


# Bytes


def test_content_tells_wrong_bytes_from_right_ones() -> None:
    content = Content(1, 4096)
    right = bytes(content.of(3, 4096))
    content.check("f3", 3, 4096, right)
    content.check_part("f3", 3, 1000, 96, right[1000:1096])
    with pytest.raises(BenchError, match="f3: byte 4095 of 4096"):
        content.check("f3", 3, 4096, right[:-1] + bytes([right[-1] ^ 1]))
    with pytest.raises(BenchError, match="f3: 4095 bytes were read"):
        content.check("f3", 3, 4096, right[:-1])
    with pytest.raises(BenchError, match="f3: byte 0 "):
        content.check("f3", 3, 4096, bytes(content.of(4, 4096)))
    assert bytes(Content(1, 4096).of(3, 4096)) == right != bytes(Content(2, 4096).of(3, 4096))


WITHOUT_OUR_BYTES = ("metadata", "package tree", "large files by fio")
WITH_OUR_BYTES = [workload for workload in workloads("quick", "train") if workload.name not in WITHOUT_OUR_BYTES]
WITH_COLD = [workload for workload in workloads("quick", "train") if any("cold" in line.name for line in workload.lines)]


@pytest.mark.parametrize("workload", WITH_OUR_BYTES, ids=lambda workload: workload.title)
def test_every_workload_notices_wrong_bytes(workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Content.of

    def one_bit_wrong(content: Content, n: int, size: int) -> memoryview:
        wrong = bytearray(right(content, n, size))
        wrong[size // 2] ^= 1
        return memoryview(wrong)

    monkeypatch.setattr(Content, "of", one_bit_wrong)
    with pytest.raises(BenchError, match=f"{tmp_path}.*: byte \\d+ of"):
        bench(places_of([tmp_path]), [workload], SMALL, "x", quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_tree_that_is_not_what_was_copied_is_noticed(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.copy()
    tree.commit()
    tree.git_status(0)
    tree.grep(0)
    changed = tree.modules[0]
    changed.write_text(changed.read_text().replace("from", "FROM") + "\n")
    with pytest.raises(BenchError, match="git finds changes"):
        tree.git_status(0)
    with pytest.raises(BenchError, match="grep found"):
        tree.grep(0)
    changed.write_text("def\n")
    with pytest.raises(BenchError, match="compileall"):
        tree.compile()


# Cold


def test_requests_prove_that_a_mount_was_cold() -> None:
    cold = Cold([], {"LOOKUP": 100, "READ": 100})
    check_requests("x", cold, {"LOOKUP": 104, "READ": 95})
    with pytest.raises(BenchError, match="x was not cold: only 7 READ requests for 100"):
        check_requests("x", cold, {"LOOKUP": 104, "READ": 7})


def test_bytes_from_the_device_prove_that_a_disk_was_cold() -> None:
    check_storage("x", Cold([], {}, 1000), 4096)
    with pytest.raises(BenchError, match="x was not cold: 0 of 1000 bytes"):
        check_storage("x", Cold([], {}, 1000), 0)
    with pytest.raises(BenchError, match="x was not cold"):
        check_storage("x", Cold([], {}), 0)


def test_pages_in_memory_prove_that_it_was_warm(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(os.urandom(64 << 10))
    with pytest.raises(BenchError, match="x was not cold: 16 of 16 pages"):
        check_pages("x", [path])
    if mount_of(tmp_path).fstype in IN_MEMORY:
        return
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert not any(sense.resident_pages(path))
    check_pages("x", [path])


@pytest.mark.parametrize("workload", WITH_COLD, ids=lambda workload: workload.title)
def test_a_cold_phase_that_was_warm_ends_the_run(workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = places_of([tmp_path])
    if places[0].mount.fstype in IN_MEMORY:
        pytest.skip("the temporary directory is never cold")
    monkeypatch.setattr(sense, "can_drop_caches", lambda: True)
    monkeypatch.setattr(sense, "drop_caches", lambda: None)
    with pytest.raises(BenchError, match="was not cold"):
        bench(places, [workload], Settings(12, 2, 1, large_bytes=16 * MIB), "x", quiet)
    assert list(tmp_path.iterdir()) == []


def test_where_caches_cannot_be_dropped_cold_lines_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sense, "can_drop_caches", lambda: False)
    found = bench(places_of([tmp_path]), workloads("quick")[:1], Settings(12, 2, 1), "x", quiet)
    measured = {line.name for line in found.lines if line.values}
    assert "stat, warm" in measured and "stat, cold" not in measured
    assert any("only root may drop" in note for note in found.notes)


# Workers and costs


def test_work_is_done_by_every_process_and_summed() -> None:
    outcome = together(lambda worker: (worker, os.getpid()), 3)
    assert [worker for worker, _ in outcome.found] == [0, 1, 2]
    assert len({pid for _, pid in outcome.found} | {os.getpid()}) == 4
    assert outcome.n_passes == 1
    assert together(lambda worker: None, 1, least_s=0.01).n_passes > 1


def failing(act: Callable[[], object]) -> Callable[[int], None]:
    def work(worker: int) -> None:
        if worker == 1:
            act()

    return work


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: os.stat("/no/such/file"), "No such file or directory: '/no/such/file'"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "a process was killed"),
        (lambda: 1 // 0, "ZeroDivisionError"),
    ],
)
def test_a_process_that_fails_ends_the_run(act: Callable[[], object], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        together(failing(act), 2)


def test_costs_are_of_each_unit_and_only_what_is_known() -> None:
    before = {'cairnfs_fuse_requests_total{opcode="READ"}': 5.0, 'cairnfs_fuse_answers_total{opcode="READ"}': 5.0}
    after = {'cairnfs_fuse_requests_total{opcode="READ"}': 25.0, 'cairnfs_fuse_answers_total{opcode="READ"}': 20.0}
    found = between(Reading(before, 1.0), Reading(after, 1.5), 0.1, 10)
    assert (found["FUSE requests"], found["of them in Python"], found["object requests"]) == (2, 0.5, 0)
    assert found["server CPU µs"] == pytest.approx(50_000) and found["client CPU µs"] == pytest.approx(10_000)
    assert set(between(Reading({}, None), Reading({}, None), 0.1, 10)) == {"client CPU µs"}


def test_processor_time_of_other_processes_is_read() -> None:
    used_s = cpu_seconds([os.getpid()])
    while cpu_seconds([os.getpid()]) < used_s + 0.01:
        pass
    assert cpu_seconds([1 << 22]) == 0  # beyond what a process number can be


def test_processes_are_named_by_number_or_program(tmp_path: Path) -> None:
    name = Path("/proc/self/comm").read_text().strip()
    assert places_of([tmp_path], (str(os.getpid()),))[0].pids() == [os.getpid()]
    assert os.getpid() in places_of([tmp_path], (name,))[0].pids()
    assert places_of([tmp_path], ("no-such-program",))[0].pids() == []
    found = bench(places_of([tmp_path], (str(os.getpid()),)), workloads("quick")[:1], SMALL, "x", quiet)
    assert all("server CPU µs" in line.costs[str(tmp_path)] for line in found.lines if line.costs)


def test_a_folder_is_removed_whatever_happens(tmp_path: Path) -> None:
    (place,) = places_of([tmp_path])
    (workload, *_) = workloads("quick")
    with run_of(workload, place, SMALL, 1) as run:
        (run.folder / "left").write_text("over")
    with pytest.raises(BenchError), run_of(workload, place, SMALL, 1) as run:
        raise BenchError("x")
    assert list(tmp_path.iterdir()) == []


# Usage


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "Usage: cairnfs bench"),
        (["--suite", "quick"], "name a directory"),
        (["/no/such/dir"], "is not a directory"),
        (["/etc/hostname"], "is not a directory"),
        (["/tmp", "--suite", "everything"], "'everything' is not one of"),
        (["/tmp", "--size", "huge"], "write wav, or a size such as 64K"),
        (["/tmp", "--size", "0"], "from 1 byte to 64M"),
        (["/tmp", "--files", "3"], "--files must be at least"),
        (["/tmp", "--rounds", "0"], "must be at least 1"),
        (["/tmp", "--procs", "0"], "must be at least 1"),
        (["/tmp", "--large", "1"], "--large must be at least"),
        (["compare", "/tmp"], "Missing argument"),
    ],
)
def test_wrong_usage_is_refused_before_any_work(args: list[str], said: str) -> None:
    done = cairnfs("bench", *args, check=False)
    assert done.returncode == 2 and said in done.stderr, done


@pytest.mark.parametrize("program", ["ceph_epoch", "epochs", "floor", "read_only", "redis_memory"])
def test_programs_want_at_least_one_file(program: str) -> None:
    done = subprocess.run([*PROGRAM, f"cairnfs.bench.{program}", "--files", "0"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        f"cairnfs.bench.{program}: error: argument --files: invalid count value: '0'",
    )


@pytest.mark.parametrize("program", ["ceph_epoch", "floor", "redis_memory", "staleness"])
def test_programs_say_in_one_line_which_server_is_not_installed(program: str, tmp_path: Path) -> None:
    environment = os.environ | {"PATH": str(tmp_path)}
    words = [*PROGRAM, f"cairnfs.bench.{program}"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "install" in done.stderr and len(done.stderr.splitlines()) == 1, done


def test_a_report_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    done = cairnfs("bench", tmp_path, "--json", tmp_path / "none" / "x.json", check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"cairnfs: {tmp_path}/none/x.json: No such file or directory"]


def test_the_same_directory_twice_has_two_names(tmp_path: Path) -> None:
    assert [place.name for place in places_of([tmp_path, tmp_path])] == [str(tmp_path), f"{tmp_path} (2)"]
