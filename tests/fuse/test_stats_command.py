"""`cairnfs stats` and `cairnfs mount --metrics` on a real mount."""

import json
import re
import socket
import urllib.request
from pathlib import Path

import pytest

from support.mounts import Mount, MountFactory, cairnfs

pytestmark = pytest.mark.fuse


def test_stats_prints_a_line_per_interval_under_a_header(mount: Mount) -> None:
    lines = cairnfs("stats", mount.path, "--interval", "0.05", "--count", "22").stdout.splitlines()
    assert len(lines) == 24
    assert lines[0] == lines[21] and lines[0].split()[:3] == ["ops/s", "mean", "ms"]
    assert all(len(line) == len(lines[0]) for line in lines)
    assert not any(line.split()[0] != "0" for line in lines[1:4]), "looking counts nothing"


def test_stats_as_json_is_one_snapshot_or_one_per_interval(mount: Mount) -> None:
    (mount.path / "f").write_bytes(b"12345")
    once = json.loads(cairnfs("stats", mount.path, "--json").stdout)
    assert once["stats"]["cairnfs_written_bytes_total"] == 5
    assert once["stats"]['cairnfs_operation_seconds_sum{op="create"}'] > 0
    lines = cairnfs("stats", mount.path, "--json", "--interval", "0.01", "--count", "3").stdout.splitlines()
    assert len(lines) == 3
    assert [json.loads(line)["stats"].keys() == once["stats"].keys() for line in lines] == [True] * 3


def test_stats_of_what_is_no_mount_fails_with_one_line(mount: Mount, tmp_path: Path) -> None:
    (mount.path / "d").mkdir()
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / ".stats").write_text("not ours\n")
    for path in (tmp_path, tmp_path / "plain", mount.path / "d", tmp_path / "missing"):
        done = cairnfs("stats", path, check=False)
        assert done.returncode == 1
        assert done.stderr == f"cairnfs: {path} is not the root of a cairnfs mount\n"
    assert cairnfs("stats", mount.path, "--interval", "0", check=False).returncode == 2


def scraped(mount: Mount) -> dict[str, float]:
    found = re.search(r"metrics: (http://\S+/metrics)", mount.log.read_text())
    assert found
    with urllib.request.urlopen(found[1], timeout=20) as answer:
        text = answer.read().decode()
    return {name: float(value) for name, value in re.findall(r"^([^#\s].*) (\S+)$", text, re.MULTILINE)}


def test_metrics_are_served_to_prometheus(mounts: MountFactory, front: str) -> None:
    volume = mounts.volume()
    mount = mounts.new(volume, "--metrics", "127.0.0.1:0", *volume.compiled_opens, front=front)
    (mount.path / "f").write_bytes(b"12345")
    for _ in range(3):
        (mount.path / "f").read_bytes()
    samples = scraped(mount)
    labels = f'mountpoint="{mount.path}",{{}}volume="{mount.volume.name}"'
    assert samples[f"cairnfs_written_bytes_total{{{labels.format('')}}}"] == 5
    creates = labels.format('op="create",')
    assert samples[f"cairnfs_operation_seconds_count{{{creates}}}"] == 1
    assert samples[f'cairnfs_operation_seconds_bucket{{le="+Inf",{creates}}}'] == 1
    opcode = labels.format('opcode="CREATE",')
    assert samples[f"cairnfs_fuse_requests_total{{{opcode}}}"] == 1
    assert samples["process_resident_memory_bytes"] > 0
    create_buckets = [v for name, v in samples.items() if name.startswith("cairnfs_operation_seconds_bucket") and creates in name]
    assert create_buckets == sorted(create_buckets) and len(create_buckets) == 26
    opens = labels.format('opcode="OPEN",')
    n_opened = samples[f"cairnfs_fuse_answers_total{{{opens}}}"]
    assert samples[f'cairnfs_fuse_answer_seconds_bucket{{le="+Inf",{opens}}}'] == n_opened
    assert (n_opened > 0) == (front == "channel")


def test_an_address_in_use_is_one_line_and_leaves_no_mount(mounts: MountFactory, tmp_path: Path) -> None:
    volume = mounts.volume()
    (tmp_path / "mnt").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = cairnfs(
            "mount", "-d", volume.url, tmp_path / "mnt", "--log", tmp_path / "log", "-o", f"metrics={address}", check=False
        )
    assert (done.returncode, done.stderr) == (1, f"cairnfs: cannot serve metrics on {address}: Address already in use\n")
    assert json.loads(cairnfs("status", volume.url, "--json").stdout)["sessions"] == []
