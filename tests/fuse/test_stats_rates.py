"""`cairnfs stats` under load: every rate is what happened between two samples. The mount is real; the clock is the test's."""

import itertools
import os
import time
from types import SimpleNamespace

import pytest

from cairnfs.const import MIB
from cairnfs.daemon import cmd_stats
from cairnfs.daemon.cmd_stats import take_snapshot
from support.mounts import Mount

pytestmark = pytest.mark.fuse

INTERVAL_S = 4.0
N_WRITTEN = (8, 0, 12, 4)  # files of 1 MiB in each interval: what is shown has one digit behind the point
N_MADE = (40, 100, 0, 8)  # directories
OPERATIONS = ("cairnfs_operation_seconds_count", "cairnfs_fuse_answers_total")
SETTLE_S = 20


def settled(mount: Mount) -> dict[str, int | float]:
    """All counts, once no operation is under way any more: nobody waits for a RELEASE."""
    deadline = time.monotonic() + SETTLE_S
    found = dict(take_snapshot(mount.path).samples)
    while True:
        time.sleep(0.2)
        before, found = found, dict(take_snapshot(mount.path).samples)
        if all(found[name] == n for name, n in before.items() if name.partition("{")[0] in OPERATIONS):
            return found
        assert time.monotonic() < deadline


def columns(printed: str) -> dict[str, list[float]]:
    """Numbers by the title above them."""
    header, *lines = printed.splitlines()
    titles = [" ".join(title.split()) for title in header.split("  ") if title]
    rows = [line.split() for line in lines]
    return {title: [float(row[i].replace(",", "")) for row in rows] for i, title in enumerate(titles) if title.endswith("/s")}


def test_rates_times_time_are_what_was_done(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now_s, n_steps = 1000.0, 0
    totals: list[dict[str, int | float]] = []

    def load(seconds: float) -> None:
        nonlocal now_s, n_steps
        assert seconds == INTERVAL_S
        for i in range(N_WRITTEN[n_steps]):
            path = mount.path / f"file{n_steps}.{i}"
            path.write_bytes(os.urandom(MIB))
            with path.open("rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                assert len(file.read()) == MIB
        for i in range(N_MADE[n_steps]):
            (mount.path / f"d{n_steps}.{i}").mkdir()
        now_s += seconds
        n_steps += 1
        totals.append(settled(mount))

    totals.append(settled(mount))
    clock = SimpleNamespace(time=time.time, monotonic=lambda: now_s, sleep=load)
    monkeypatch.setattr(cmd_stats, "time", clock)
    cmd_stats._print_rates(mount.path, INTERVAL_S, len(N_WRITTEN))
    found = columns(capsys.readouterr().out)

    assert found["write MiB/s"] == found["read MiB/s"] == [n / INTERVAL_S for n in N_WRITTEN]
    assert found["puts/s"] == [n / INTERVAL_S for n in N_WRITTEN]
    assert sum(found["commits/s"]) * INTERVAL_S >= sum(N_MADE)

    n_done = [sum(n for name, n in at.items() if name.partition("{")[0] in OPERATIONS) for at in totals]
    done = [after - before for before, after in itertools.pairwise(n_done)]
    assert [rate * INTERVAL_S for rate in found["ops/s"]] == pytest.approx(done, abs=INTERVAL_S / 2)  # whole numbers are shown
    made = 'cairnfs_operation_seconds_count{op="mkdir"}'
    assert totals[-1][made] - totals[0][made] == sum(N_MADE) <= sum(done)
