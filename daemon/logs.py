"""Where log records go: stderr for a mount in the foreground, a rotating file for one in the background.

Several mounts of a host share one log file by default. Lines are appended whole; the process that finds the file too
large renames it under a lock, and the others notice that the name means a new file and follow. In a file an event is one
line, so that searching finds all of it.
"""

import fcntl
import logging
import logging.handlers
import os
import sys
from pathlib import Path

from cairnfs.errors import CairnError

ROTATE_BYTES = 64 << 20
KEPT_FILES = 4
FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"


def default_log_path() -> Path:
    """/var/log/cairnfs.log for root, ~/.cairnfs/cairnfs.log for others."""
    return Path("/var/log/cairnfs.log") if os.geteuid() == 0 else Path.home() / ".cairnfs" / "cairnfs.log"


def log_to_stderr(level: int) -> None:
    """Log records of `level` and above to stderr."""
    _install(logging.StreamHandler(sys.stderr), level)


def log_to_file(path: Path, level: int, *, take_output: bool) -> None:
    """Log records to a rotating file; with `take_output`, what the process prints goes there too. Raises CairnError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = SharedLogHandler(path, take_output=take_output)
    except OSError as error:
        raise CairnError(f"cannot write the log file {path}: {error.strerror}; choose another with --log", error.errno) from error
    _install(handler, level, OneLineFormatter(FORMAT))


class OneLineFormatter(logging.Formatter):
    """One line per event, also with a traceback: the line breaks within become `\\n`."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\n", "\\n")


def _install(handler: logging.Handler, level: int, formatter: logging.Formatter | None = None) -> None:
    handler.setFormatter(formatter or logging.Formatter(FORMAT))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level)
    if level > logging.DEBUG:
        logging.getLogger("botocore").setLevel(logging.CRITICAL)  # it tells with tracebacks of what it raises, too


class SharedLogHandler(logging.handlers.WatchedFileHandler):
    """Appends to a file that other processes append to and may rotate at any time.

    With `take_output`, descriptors 1 and 2 follow the file, for tracebacks of dying threads and output of C code.
    """

    def __init__(self, path: Path, *, take_output: bool, rotate_bytes: int = ROTATE_BYTES, kept_files: int = KEPT_FILES) -> None:
        self.path = path
        self._take_output = take_output
        self._rotate_bytes = rotate_bytes
        self._kept_files = kept_files
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self._point_output()

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        if self.stream is not None and os.fstat(self.stream.fileno()).st_size >= self._rotate_bytes:
            self._rotate(self.stream.fileno())

    def reopenIfNeeded(self) -> None:
        stream = self.stream
        super().reopenIfNeeded()
        if self.stream is not stream:
            self._point_output()

    def _rotate(self, fd: int) -> None:
        """Shift FILE to FILE.1 and so on. The lock is on the file that is renamed, so its loser finds a new file."""
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            if not os.path.samestat(os.fstat(fd), os.stat(self.path)):
                return
            for n in range(self._kept_files, 0, -1):
                older = f"{self.path}.{n - 1}" if n > 1 else str(self.path)
                if os.path.exists(older):
                    os.replace(older, f"{self.path}.{n}")
        except OSError:
            return  # a log that cannot be rotated goes on growing; logging about it here would recurse
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
        self.reopenIfNeeded()

    def _point_output(self) -> None:
        if self._take_output and self.stream is not None:
            os.dup2(self.stream.fileno(), 1)
            os.dup2(self.stream.fileno(), 2)
