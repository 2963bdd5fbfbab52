"""Programs people really run, on a real mount: git, make, tar, rsync, SQLite, LMDB."""

import os
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from support.mounts import Mount

pytestmark = pytest.mark.fuse

ENVIRONMENT = {**os.environ, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org", "GIT_CONFIG_NOSYSTEM": "1"}
ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)
ENVIRONMENT |= {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org", "HOME": "/nonexistent"}


def run(*command: str | Path, cwd: Path | None = None, ok: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, env=ENVIRONMENT, timeout=200)
    assert done.returncode in ok, f"{command}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A native tree with links, odd modes, odd times, holes and odd names."""
    top = tmp_path / "tree"
    shutil.copytree(Path(sysconfig.get_path("stdlib")) / "email", top / "email", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(Path(sysconfig.get_path("stdlib")) / "json", top / "json", ignore=shutil.ignore_patterns("__pycache__"))
    (top / "links").mkdir()
    (top / "links" / "symbolic").symlink_to("../json/decoder.py")
    (top / "links" / "broken").symlink_to("nowhere")
    os.link(top / "json" / "decoder.py", top / "links" / "hard")
    os.mkfifo(top / "links" / "fifo")
    with open(top / "sparse", "wb") as file:
        file.seek(5_000_000)
        file.write(b"end")
    (top / "name with\nnewline").write_bytes(b"x")
    (top / "private").write_bytes(b"x")
    os.setxattr(top / "private", "user.note", b"kept")
    (top / "private").chmod(0o400)
    os.utime(top / "private", ns=(1_000_000_001, 1_234_567_890_123_456_789))
    os.utime(top / "links" / "broken", ns=(5, 6), follow_symlinks=False)
    (top / "closed").mkdir(mode=0o700)
    os.utime(top / "closed", ns=(7, 8))
    return top


def test_tar_finds_no_difference(mount: Mount, tree: Path, tmp_path: Path) -> None:
    xattrs = ["--xattrs"] if os.geteuid() == 0 else []  # tar sets them after the mode, which shuts an ordinary user out
    run("tar", "--format=posix", *xattrs, "-cf", tmp_path / "t.tar", "-C", tree, ".")
    (mount.path / "x").mkdir()
    run("tar", *xattrs, "-xpf", tmp_path / "t.tar", "-C", mount.path / "x")
    assert run("tar", "-df", tmp_path / "t.tar", "-C", mount.path / "x") == ""
    mount.restart()
    assert run("tar", "-df", tmp_path / "t.tar", "-C", mount.path / "x") == ""


def test_rsync_round_trip_changes_nothing(mount: Mount, tree: Path, tmp_path: Path) -> None:
    flags = "-aHAX" if os.geteuid() == 0 else "-aHX"
    run("rsync", flags, f"{tree}/", mount.path / "copy")
    run("rsync", flags, f"{mount.path}/copy/", tmp_path / "back")
    differences = run("rsync", flags, "-nic", "--delete", f"{tree}/", tmp_path / "back")
    assert differences == ""
    assert os.stat(mount.path / "copy" / "json" / "decoder.py").st_nlink == 2


def test_git_works(mount: Mount, tree: Path) -> None:
    shutil.copytree(tree / "email", mount.path / "repo")
    repo = mount.path / "repo"
    run("git", "init", "-q", ".", cwd=repo)
    run("git", "-c", "gc.auto=0", "add", ".", cwd=repo)
    run("git", "commit", "-qm", "first", cwd=repo)
    (repo / "new").write_text("text")
    (repo / "charset.py").unlink()
    run("git", "add", "-A", cwd=repo)
    run("git", "commit", "-qm", "second", cwd=repo)
    run("git", "checkout", "-q", "HEAD~1", cwd=repo)
    assert (repo / "charset.py").exists()
    run("git", "clone", "-q", repo, mount.path / "clone")
    run("git", "gc", "-q", cwd=mount.path / "clone")
    run("git", "fsck", "--full", "--strict", cwd=mount.path / "clone")
    assert run("git", "status", "--porcelain", cwd=mount.path / "clone") == ""


def test_a_c_program_builds_in_parallel(mount: Mount) -> None:
    top = mount.path / "c"
    top.mkdir()
    objects = []
    for i in range(24):
        (top / f"part{i}.c").write_text(f'#include "all.h"\nint part{i}(void) {{ return {i}; }}\n')
        objects.append(f"part{i}.o")
    (top / "all.h").write_text("".join(f"int part{i}(void);\n" for i in range(24)))
    total = " + ".join(f"part{i}()" for i in range(24))
    (top / "main.c").write_text(
        f'#include <stdio.h>\n#include "all.h"\nint main(void) {{ printf("%d\\n", {total}); return 0; }}\n'
    )
    (top / "Makefile").write_text(f"prog: main.o {' '.join(objects)}\n\tgcc -o $@ $^\n%.o: %.c all.h\n\tgcc -c -o $@ $<\n")
    run("make", "-j4", cwd=top)
    assert run(top / "prog") == f"{sum(range(24))}\n"
    assert "up to date" in run("make", "-j4", cwd=top)


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite_database(mount: Mount, journal: str) -> None:
    path = mount.path / "test.db"
    db = sqlite3.connect(path)
    assert db.execute(f"pragma journal_mode={journal}").fetchone()[0] == journal
    db.execute("create table t (id integer primary key, text)")
    for i in range(20):
        with db:
            db.executemany("insert into t (text) values (?)", [(f"row {i} {j} " * 5,) for j in range(100)])
    with db:
        db.execute("delete from t where id % 3 = 0")
    db.execute("vacuum")
    db.close()
    mount.restart()
    db = sqlite3.connect(path)
    assert db.execute("pragma integrity_check").fetchone()[0] == "ok"
    assert db.execute("select count(*) from t").fetchone()[0] == 2000 - 2000 // 3
    db.close()


def test_lmdb_database(channel_mount: Mount) -> None:
    lmdb = pytest.importorskip("lmdb")
    for writemap in (False, True):
        path = str(channel_mount.path / f"lmdb-{writemap}")
        with lmdb.open(path, map_size=64 << 20, writemap=writemap) as env:
            for batch in range(5):
                with env.begin(write=True) as txn:
                    for i in range(200):
                        txn.put(b"%d-%d" % (batch, i), b"value %d " % i * 100)
        channel_mount.restart()
        with lmdb.open(path, map_size=64 << 20, readonly=True, lock=False) as env, env.begin() as txn:
            assert txn.stat()["entries"] == 1000
            assert txn.get(b"3-77") == b"value 77 " * 100


def test_python_imports_from_the_mount(mount: Mount) -> None:
    stdlib = Path(sysconfig.get_path("stdlib"))
    for name in ("json", "email", "unittest"):
        shutil.copytree(stdlib / name, mount.path / "lib" / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = "import json, email.message, unittest; print(json.__file__); assert json.loads('[1]') == [1]"
    command = [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(mount.path / 'lib')!r}); {code}"]
    for _ in range(2):
        assert run(*command).startswith(str(mount.path))
    assert (mount.path / "lib" / "json" / "__pycache__").is_dir()


def test_programs_run_from_the_mount(mount: Mount) -> None:
    target = shutil.copy2("/bin/echo", mount.path / "echo")
    assert run(target, "hello") == "hello\n"
    script = mount.path / "script"
    script.write_text("#!/bin/sh\necho from a script\n")
    script.chmod(0o755)
    assert run(script) == "from a script\n"
