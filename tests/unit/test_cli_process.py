"""What mount processes stand on: the start in the background, notes of running mounts, shared log files."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairnfs.daemon import running
from cairnfs.daemon.logs import SharedLogHandler
from cairnfs.daemon.output import PlainProgress
from cairnfs.daemon.running import Registration, find_running
from cairnfs.errors import MountError


def in_background(child: str) -> subprocess.CompletedProcess[str]:
    """Run `background.start` on a function with the body `child`; prints "back" when it returns, else the error."""
    script = f"""
import os, signal, sys, time
from cairnfs.daemon import background
from cairnfs.errors import CairnError, UsageError
def serve(report):
    {child}
    return 0
try:
    print("back", *background.start(serve, "see the log"))
except CairnError as error:
    print(error.exit_code, error)
"""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)


def test_the_start_returns_when_the_child_is_ready_and_the_child_goes_on(tmp_path: Path) -> None:
    go, told = tmp_path / "go", tmp_path / "told"
    os.mkfifo(go)
    os.mkfifo(told)
    # The child gives up the output, which this test reads to its end, before it waits.
    says = f"open({str(told)!r}, 'w').write(str(os.getsid(0) == os.getpid()))"
    done = in_background(f"report.ready(['so', 'it is']); os.close(1); os.close(2); open({str(go)!r}).read(); {says}")
    assert done.stdout == "back so it is\n"
    go.write_text("")
    assert told.read_text() == "True"


@pytest.mark.parametrize(
    ("child", "said"),
    [
        ("raise UsageError('bad url')", "2 bad url\n"),
        ("raise CairnError('no volume')", "1 no volume\n"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "1 the mount process ended unexpectedly; see the log\n"),
        ("os._exit(0)", "1 the mount process ended unexpectedly; see the log\n"),
    ],
)
def test_the_start_raises_what_went_wrong_in_the_child(child: str, said: str) -> None:
    done = in_background(child)
    assert done.stdout == said and done.stderr == ""


def test_a_defect_in_the_child_is_one_line_for_the_user_and_a_traceback_in_its_log() -> None:
    done = in_background("raise ValueError('surprise')")
    assert done.stdout == "1 ValueError: surprise\n"
    assert "Traceback" in done.stderr


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "notes"
    monkeypatch.setattr(running, "running_dir", lambda uid: folder)
    yield folder


def test_a_running_mount_is_found_by_its_mountpoint(notes: Path, tmp_path: Path) -> None:
    registration = Registration(tmp_path, {"url": "memory://x"})
    (tmp_path / "link").symlink_to(tmp_path)
    found = find_running(tmp_path / "link", os.geteuid())
    assert found is not None
    assert (found.pid, found.url) == (os.getpid(), "memory://x")
    assert not found.wait(0)
    registration.fail("disk on fire")
    assert found.failure() == "disk on fire"
    registration.close()
    found.close()
    assert find_running(tmp_path, os.geteuid()) is None
    assert list(notes.iterdir()) == []


def test_a_note_left_by_a_killed_process_counts_for_nothing(notes: Path, tmp_path: Path) -> None:
    registration = Registration(tmp_path, {"url": "memory://x"})
    os.close(registration.fd)  # as a killed process does: the lock goes, the file stays
    assert find_running(tmp_path, os.geteuid()) is None
    assert list(notes.iterdir()) == []


def test_a_new_mount_removes_notes_left_by_killed_processes(notes: Path, tmp_path: Path) -> None:
    alive = Registration(tmp_path, {})
    os.close(Registration(tmp_path / "a", {}).fd)
    Registration(tmp_path / "b", {}).close()
    assert len(list(notes.iterdir())) == 1
    alive.close()


def test_two_processes_cannot_serve_one_mountpoint(notes: Path, tmp_path: Path) -> None:
    registration = Registration(tmp_path, {})
    with pytest.raises(MountError, match="another cairnfs process"):
        Registration(tmp_path, {})
    registration.close()


def test_the_end_of_a_process_is_seen_and_its_last_words_heard(notes: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from cairnfs.daemon import running; "
        f"running.running_dir = lambda uid: Path({str(notes)!r}); "
        f"registration = running.Registration(Path({str(tmp_path)!r}), {{}}); "
        "print('on', flush=True); sys.stdin.read(); registration.fail('lost it'); registration.close()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "on\n"
        found = find_running(tmp_path, os.geteuid())
        assert found is not None and found.pid == process.pid
        process.stdin.close()
        assert found.wait(30)
        assert found.failure() == "lost it"
        found.close()


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("cairnfs.test", logging.INFO, __file__, 1, text, None, None)


def test_processes_that_share_a_log_file_rotate_it_once_and_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    handlers = [SharedLogHandler(path, take_output=False, rotate_bytes=1000, kept_files=50) for _ in range(2)]
    for i in range(200):
        handlers[i % 2].emit(record(f"line {i:04}"))
    for handler in handlers:
        handler.close()
    files = sorted(tmp_path.iterdir())
    lines = [line for file in files for line in file.read_text().splitlines()]
    assert sorted(lines) == [f"line {i:04}" for i in range(200)]
    assert all(file.stat().st_size <= 1010 for file in files)
    assert len(files) == 3


def test_only_so_many_old_log_files_are_kept(tmp_path: Path) -> None:
    handler = SharedLogHandler(tmp_path / "log", take_output=False, rotate_bytes=100, kept_files=2)
    for i in range(100):
        handler.emit(record(f"line {i:04}"))
    handler.close()
    assert {file.name for file in tmp_path.iterdir()} == {"log", "log.1", "log.2"}
    assert "line 0099" in (tmp_path / "log.1").read_text() + (tmp_path / "log").read_text()


def test_an_event_is_one_line_even_with_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "log"
    script = (
        "import logging; from pathlib import Path; from cairnfs.daemon.logs import log_to_file; "
        f"log_to_file(Path({str(path)!r}), logging.INFO, take_output=False); logging.info('a\\nb')\n"
        "try: 1 / 0\n"
        "except ZeroDivisionError: logging.exception('failed'); logging.getLogger('botocore.credentials').exception('again')"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    first, second = path.read_text().splitlines()
    assert first.endswith("root: a\\nb")
    assert "failed\\nTraceback" in second and second.endswith("ZeroDivisionError: division by zero")


def test_what_the_process_prints_follows_the_log_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    script = (
        "import logging, os; from pathlib import Path; from cairnfs.daemon.logs import log_to_file; "
        f"path = Path({str(path)!r}); log_to_file(path, logging.INFO, take_output=True); "
        "print('printed', flush=True); os.rename(path, f'{path}.1'); logging.info('a record'); os.write(2, b'crash\\n')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""
    assert (tmp_path / "log.1").read_text() == "printed\n"
    assert "a record" in path.read_text() and "crash" in path.read_text()


def test_json_goes_to_stdout_as_one_document() -> None:
    script = "from cairnfs.daemon.output import print_json; print_json({'a': [1], 'ż': None})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"a": [1], "ż": None}


def test_progress_without_a_terminal_is_a_plain_line_now_and_then(capfd: pytest.CaptureFixture[str]) -> None:
    slow = PlainProgress("Reading", 3 << 20, in_bytes=True, interval_s=0)
    slow.advance(1 << 20)
    slow.finish()
    quick = PlainProgress("Comparing", None)
    quick.advance(5)
    quick.finish()
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == ["Reading: 1 MiB of 3 MiB", "Reading: 1 MiB of 3 MiB"]


def test_progress_on_a_terminal_is_a_bar_on_stderr() -> None:
    script = (
        "import sys, time; from cairnfs.daemon.output import progress\n"
        "with progress('Counting', 7) as steps: [steps.advance() for _ in range(7)]\n"
        "print('result')"
    )
    controller, terminal = os.openpty()
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=terminal, text=True, check=True)
    os.close(terminal)
    drawn = os.read(controller, 1 << 16).decode()
    os.close(controller)
    assert done.stdout == "result\n"
    assert "Counting" in drawn and "7/7" in drawn


# Ctrl-C

STUCK = """
import ctypes, sys
from cairnfs.daemon.interrupting import ended_by_interrupt
lock, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
with ended_by_interrupt(int(sys.argv[1])) as ending:
    ending.left = "some things are left"
    print("waits", flush=True)
    while True:
        libc.pthread_mutex_lock(lock)  # the second time for ever, whatever signals come
"""


@pytest.mark.parametrize("nth", [1, 2])
def test_ctrl_c_ends_a_process_that_waits_in_compiled_code(nth: int) -> None:
    command = [sys.executable, "-c", STUCK, str(nth)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "waits\n"
        time.sleep(0.2)
        for _ in range(1 if nth == 1 else 100):
            process.send_signal(signal.SIGINT)
            try:
                process.wait(0.2)
                break
            except subprocess.TimeoutExpired:
                continue
        try:
            _, said = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert said == "cairnfs: some things are left\n"
