"""The command line in a copy of this process, which has everything imported: what surrounds a test costs little.

Not for the clients of S3 and RADOS: a copy is without their threads.
"""

import gc
import os
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import NoReturn

from cairnfs.daemon.cli import run

FAILED = 70  # of the copy itself


def forked(args: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """`cairnfs ARGS`, to its end."""
    out, err = os.memfd_create("out"), os.memfd_create("err")
    try:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # that a test has threads does not matter
            pid = os.fork()
        if pid == 0:
            _be_cairnfs(args, out, err)
        try:
            status = os.waitpid(pid, 0)[1]
        except BaseException:  # the test's time is up
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        said = [os.pread(fd, os.fstat(fd).st_size, 0).decode() for fd in (out, err)]
    finally:
        os.close(out)
        os.close(err)
    return subprocess.CompletedProcess(list(args), os.waitstatus_to_exitcode(status), *said)


def _be_cairnfs(args: Sequence[str], out: int, err: int) -> NoReturn:
    """The life of the copy. It ends nothing that the test has: no collection, no handlers at its exit."""
    status = FAILED
    try:
        gc.disable()
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = (open(fd, "w", closefd=False) for fd in (1, 2))
        status = run(args)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
