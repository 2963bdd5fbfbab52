"""Processes named so precisely that whether they have ended can be told, and what is shown of sessions where it cannot."""

import os
import subprocess
from dataclasses import replace

import pytest

from cairnfs.meta import process as process_module
from cairnfs.meta.process import Process, this_process
from cairnfs.meta.sessions import SessionInfo, is_dead
from cairnfs.types import SessionId

S = 10**9
ELSEWHERE = Process("far", "boot-far", "pid:[1]", 77, 1000)


def session_of(process: Process, heartbeat: int) -> SessionInfo:
    return SessionInfo(SessionId(1), process, "/mnt", "0", heartbeat, heartbeat)


def test_pid_used_again_is_another_process() -> None:
    assert this_process().is_alive() is True
    assert replace(this_process(), pid_start=this_process().pid_start - 1).is_alive() is False


def test_ended_process_that_nobody_reaped_is_not_alive() -> None:
    ended = subprocess.Popen(["true"])
    start = process_module._start_of(ended.pid)
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert replace(this_process(), pid=ended.pid, pid_start=max(start, 1)).is_alive() is False
    ended.wait()


@pytest.mark.parametrize("change", [{"boot_id": "other"}, {"boot_id": ""}, {"pid_namespace": "pid:[1]"}])
def test_process_of_another_boot_or_container_cannot_be_told(change: dict[str, str]) -> None:
    assert replace(this_process(), **change).is_alive() is None  # type: ignore[arg-type]


def test_process_hidden_by_proc_cannot_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    process = replace(this_process(), pid=os.getppid())
    monkeypatch.setattr(process_module, "_start_of", lambda pid: 0)
    assert process.is_alive() is None


def test_session_from_before_this_machine_started_is_dead_at_once() -> None:
    now_s = 1_700_000_000
    rebooted = replace(this_process(), boot_id="before")
    assert is_dead(session_of(rebooted, heartbeat=0), now_s * S)
    assert not is_dead(session_of(rebooted, heartbeat=now_s - 1), now_s * S)  # a machine with our name, running


def test_session_of_a_clock_that_is_ahead_lives() -> None:
    assert not is_dead(session_of(ELSEWHERE, heartbeat=2_000), 1_000 * S)
