"""Calls made as somebody who is not root."""

import os
import traceback
import warnings
from collections.abc import Callable


def as_user(uid: int, call: Callable[[], object]) -> None:
    """Run `call` in a copy of this process, as a user with this number alone; it must not raise."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # that a test has threads does not matter
        child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            call()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, f"user {uid}: see what it wrote on stderr"
