"""Programs on other hosts that tests talk to, a line at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import Popen


def says(process: "Popen[str]") -> str:
    """Its next line."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        assert process.stderr is not None
        raise AssertionError(f"the program has ended: {process.stderr.read()}")
    return line.strip()


@contextmanager
def ended(*processes: "Popen[str]") -> Iterator[None]:
    """At the end of the block they get the end of their input, and must end."""
    try:
        yield
    except BaseException:
        for process in processes:
            process.kill()
        raise
    finally:
        for process in processes:
            process.communicate(timeout=30)
