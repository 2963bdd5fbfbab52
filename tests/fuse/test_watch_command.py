"""`cairnfs watch`: what is done on any mount of a volume is printed as it happens."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.mounts import CAIRNFS, Mount, MountFactory, Volume, cairnfs

pytestmark = pytest.mark.fuse

PATIENCE_S = 30


@pytest.fixture(params=["sqlite", "redis"])
def volume(request: pytest.FixtureRequest, mounts: MountFactory) -> Volume:
    server = request.getfixturevalue("redis_server") if request.param == "redis" else None
    return mounts.volume(url=None if server is None else f"{server.url}/5")


class Watch:
    """The command, running; its output in files."""

    def __init__(self, root: Path, *args: str | Path) -> None:
        self.out, self.err = root / "watch.out", root / "watch.err"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen([*CAIRNFS, "watch", *map(str, args)], stdout=out, stderr=err)
        self.wait_for("watching", self.err)

    def wait_for(self, text: str, file: Path | None = None) -> list[str]:
        """The lines so far, once one of them has a text."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in (found := (file or self.out).read_text()):
            assert time.monotonic() < deadline and self.process.poll() is None, f"no '{text}': {found}{self.err.read_text()}"
            time.sleep(0.02)
        return found.splitlines()


@contextmanager
def watching(root: Path, *args: str | Path) -> Iterator[Watch]:
    watch = Watch(root, *args)
    try:
        yield watch
        watch.process.send_signal(signal.SIGINT)
        assert watch.process.wait(PATIENCE_S) == 0
        assert watch.err.read_text().count("\n") == 1, watch.err.read_text()
    finally:
        watch.process.kill()
        watch.process.wait()


def session_of(mount: Mount) -> dict[str, object]:
    sessions = json.loads(cairnfs("status", mount.volume.url, "--json").stdout)["sessions"]
    return next(session for session in sessions if session["mountpoint"] == str(mount.path))


def test_changes_of_every_mount_are_printed_with_who_made_them(mounts: MountFactory, volume: Volume, tmp_path: Path) -> None:
    here, there = mounts.new(volume), mounts.new(volume)
    (here.path / "watched").mkdir()
    (here.path / "watched" / "old").write_bytes(b"x")
    with watching(tmp_path, here.path / "watched", "--json") as watch:
        (there.path / "elsewhere").write_bytes(b"x")
        folder = there.path / "watched"
        while not (folder / "old").exists():
            time.sleep(0.01)
        (folder / "old").write_bytes(b"yy")
        watch.wait_for('"write"')  # the log names its inode only, which has no path any more when it is removed
        (folder / "new").write_bytes(b"z")
        (folder / "new").rename(there.path / "away")
        shutil.rmtree(folder)
        while (here.path / "watched").exists():
            time.sleep(0.01)
        (here.path / "watched").mkdir()
        events = [json.loads(line) for line in watch.wait_for('"mkdir"')]
    shown = str(here.path / "watched")
    told = [(event["what"], event["path"].removeprefix(shown), event.get("new_path")) for event in events]
    kinds = [what for what, path, _ in told if path == "/old"]
    assert kinds[0] == "write" and kinds[-1] == "remove" and set(kinds) == {"write", "remove"}
    assert [one for one in told if one[1] != "/old" and one[0] != "write"] == [
        ("create", "/new", None),
        ("rename", "/new", str(here.path / "away")),
        ("rmdir", "", None),
        ("mkdir", "", None),
    ]
    by_here, by_there = session_of(here), session_of(there)
    for event in events:
        by = by_here if event["what"] == "mkdir" else by_there
        assert [event[name] for name in ("session", "host", "pid", "mountpoint")] == [
            by[name] for name in ("id", "host", "pid", "mountpoint")
        ]
        assert abs(event["time"] - time.time()) < PATIENCE_S
    positions = [event["position"] for event in events]
    assert positions == sorted(positions)


def test_lines_name_what_and_where_for_people(mounts: MountFactory, tmp_path: Path) -> None:
    mount = mounts.new()
    with watching(tmp_path, mount.volume.url, "--path", "d/") as watch:
        os.mkdir(mount.path / "d")
        (mount.path / "d" / "a\nb").symlink_to("t")
        (mount.path / "dd").mkdir()
        os.rename(mount.path / "d" / "a\nb", mount.path / "d" / "c")
        lines = watch.wait_for("rename")
    by = session_of(mount)
    who = f"[{by['host']}:{by['pid']}]"
    assert [line.split(maxsplit=2)[2] for line in lines] == [
        f"mkdir      /d  {who}",
        f"symlink    /d/a\\nb  {who}",
        f"rename     /d/a\\nb -> /d/c  {who}",
    ]


def test_what_is_no_longer_in_the_log_is_said(mounts: MountFactory, tmp_path: Path) -> None:
    mount = mounts.new()
    mount.expected_log.append("the change log no longer reaches back|another one now|no heartbeat|taken for dead")
    with watching(tmp_path, mount.path) as watch:
        mount.stop()
        cairnfs("format", mount.volume.url, "test-volume", "--bucket", tmp_path / "other", "--force")
        watch.wait_for("gap: what happened after position")
        mount.start()
        (mount.path / "after").mkdir()
        assert watch.wait_for("mkdir")[-1].split()[3] == str(mount.path / "after")


def test_it_ends_quietly_when_nobody_reads_any_more(mounts: MountFactory) -> None:
    mount = mounts.new()
    process = subprocess.Popen(
        [*CAIRNFS, "watch", str(mount.path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    assert process.stderr.readline().startswith("watching")
    (mount.path / "f").mkdir()
    assert "mkdir" in process.stdout.readline()
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["/"], 1, "is not in a cairnfs mount"),
        (["/nonexistent"], 1, "does not exist"),
        (["/", "--path", "x"], 2, "--path is for a META_URL"),
        (["sqlite3:///nonexistent/x.db"], 1, "nonexistent"),
    ],
)
def test_what_cannot_be_watched_is_one_line(args: list[str], code: int, said: str) -> None:
    done = cairnfs("watch", *args, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr and done.stderr.count("\n") == 1
