"""Servers that peers need, for the length of one run."""

import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import redis

from cairnfs.errors import CairnError

START_S = 20.0


class PeerError(CairnError):
    """It cannot be had here; the message says why."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(ready: Callable[[], bool], process: "subprocess.Popen[bytes]", program: str) -> None:
    """Until it is ready. PeerError when it ends instead, or takes too long."""
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s:
        if ready():
            return
        if process.poll() is not None:
            raise PeerError(f"{program} ended with exit code {process.returncode}")
        time.sleep(0.05)
    raise PeerError(f"{program} was not ready within {START_S:.0f} s")


def end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()  # nothing happens to one that has ended
    try:
        process.wait(START_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def start(command: list[str], stack: ExitStack) -> "subprocess.Popen[bytes]":
    """A server until the end of the run; in a session of its own, so that an interrupt does not end it before what uses it."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    stack.callback(end, process)
    return process


def redis_server(folder: Path, stack: ExitStack) -> int:
    """A Redis server with a log of its changes, as a volume needs it; its port."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise PeerError("redis-server is not installed")
    folder.mkdir()
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "yes"]
    process = start(command, stack)
    wait_for(lambda: _answers(port), process, "redis-server")
    return port


def _answers(port: int) -> bool:
    with redis.Redis(port=port) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False
