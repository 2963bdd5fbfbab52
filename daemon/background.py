"""Starting a mount in the background: fork before any thread, and come back only when the mount answers.

      parent                              child
      ------                              -----
      start(): pipe, fork  ------------>  new session, no terminal
      waits for the pipe                  serve(report) ... opens the volume, mounts
      exits 0           <--- ready ----   report.ready(remarks) once the mountpoint answers
      exits, one line   <--- error ----   failed before that
      exits 1           <--- nothing --   died before that (killed, crashed)

The child's output goes to the log file from the start, so a crash leaves its traceback there.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from cairnfs.errors import CairnError, MountError


class Report:
    """The child's end of the pipe. The first thing said counts."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd
        os.register_at_fork(after_in_child=self._drop)  # the parent waits for the last copy to be closed

    def ready(self, remarks: Sequence[str] = ()) -> None:
        """The mount answers. `remarks`: lines for whoever started it."""
        self._say({"remarks": remarks})

    def failed(self, message: str, exit_code: int) -> None:
        """The mount could not be made."""
        self._say({"message": message, "exit_code": exit_code})

    def _drop(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _say(self, what: dict[str, Any]) -> None:
        fd, self._fd = self._fd, None
        if fd is None:
            return
        try:
            os.write(fd, json.dumps(what).encode())
        except BrokenPipeError:
            pass  # the parent was interrupted; the mount goes on
        os.close(fd)


def start(serve: Callable[[Report], int], hint: str) -> list[str]:
    """Run `serve` in a child process and wait until it is ready; returns its remarks.

    Raises what the child reported. `hint` says where to look when the child dies without a word.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _live(serve, Report(writing))
    os.close(writing)
    try:
        answer = _read_all(reading)
    except KeyboardInterrupt:
        os.kill(pid, signal.SIGTERM)
        raise
    finally:
        os.close(reading)
    return _judge(answer, hint)


def _live(serve: Callable[[Report], int], report: Report) -> NoReturn:
    """The life of the child. It leaves through _exit: what the parent had open or registered is not the child's."""
    exit_code = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.close(null)
        exit_code = serve(report)
    except OSError as error:
        exit_code = error.exit_code if isinstance(error, CairnError) else 1
        report.failed(str(error), exit_code)
    except BaseException as error:
        report.failed(f"{type(error).__name__}: {error}", 1)
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stderr.flush()
        os._exit(exit_code)


def _read_all(fd: int) -> bytes:
    received = b""
    while part := os.read(fd, 65536):
        received += part
    return received


def _judge(answer: bytes, hint: str) -> list[str]:
    if not answer:
        raise MountError(f"the mount process ended unexpectedly; {hint}")
    said = json.loads(answer)
    if "message" in said:
        error = MountError(said["message"])
        error.exit_code = said["exit_code"]
        raise error
    return list(said["remarks"])
