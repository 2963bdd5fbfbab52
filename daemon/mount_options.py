"""What one mount was asked to be: settings of `cairnfs mount`, words of `-o`, and how they become options objects.

The table SETTINGS is the one list of settings: the command line makes its options from it, and each may be written as
`-o NAME=VALUE` as well, which is how fstab gives them.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from cairnfs.const import MIB
from cairnfs.errors import UsageError
from cairnfs.options import EngineOptions, FuseOptions
from cairnfs.units import format_size, parse_count, parse_duration, parse_size

FRONTS = ("channel", "pyfuse3")
CONSISTENCIES = ("close-to-open", "push")

ADDRESS = re.compile(r"(?:\[(?P<ipv6>[0-9a-fA-F:.%\w]+)\]|(?P<host>[^\s:\[\]]*)):(?P<port>\d{1,5})", re.ASCII)
MBPS = re.compile(r"\d{1,9}(\.\d+)?", re.ASCII)
SLOWEST_MBPS = 1.0  # a pack of 4 MiB then takes 34 s, which is half of the io-timeout
ANY_HOST = "0.0.0.0"  # an address without a host, such as :9567
LAST_PORT = 65535

MAX_WORKERS = 64
DEFAULT_WORKERS = min(len(os.sched_getaffinity(0)), 8)
SHORTEST_WORKER_TIMEOUT_S = 2.0  # a busy machine may well keep a process waiting for a second
SHORTEST_HEARTBEAT_S = 0.1
LONGEST_HEARTBEAT_S = 30.0  # others wait five times as long for what a dead mount has locked

# Words for mount(8) and init systems; those that repeat what cairnfs always does; and the opposites of real options.
IGNORED_WORDS = frozenset(
    ("defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev", "default_permissions")
)
IGNORED_PREFIXES = ("x-", "X-", "user=", "comment=", "fsname=", "subtype=", "helper=", "uhelper=")
KERNEL_WORDS = frozenset(
    ("nosuid", "suid", "nodev", "dev", "noexec", "exec", "sync", "async", "dirsync")
    + ("noatime", "atime", "nodiratime", "diratime", "relatime", "norelatime", "strictatime", "nostrictatime")
    + ("lazytime", "nolazytime")
)


class Setting(NamedTuple):
    """One setting with a value: which field of which options object, how its text is read, and its help.

    One without a `metavar` is yes or no, and a pair of options without a value on the command line.
    """

    name: str
    target: str
    field: str
    parse: Callable[[str], Any]
    metavar: str
    help: str


def _mebibytes(text: str) -> int:
    return parse_size(text, bare_unit_bytes=MIB)


def _memory(text: str) -> int:
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if (n_bytes := _mebibytes(text)) > machine_bytes:  # which the kernel would kill others for, rather than refuse it
        raise UsageError(f"'{text}' is more than this machine has: {format_size(machine_bytes)}")
    return n_bytes


def _switch(text: str) -> bool:
    if text not in ("yes", "no"):
        raise UsageError(f"'{text}' is neither yes nor no")
    return text == "yes"


def _positive(text: str) -> int:
    if (count := parse_count(text)) == 0:
        raise UsageError(f"'{text}' must be at least 1")
    return count


def _mbps(text: str) -> float:
    limit = float(text) if MBPS.fullmatch(text) else -1.0
    if 0 < limit < SLOWEST_MBPS or limit < 0:
        raise UsageError(f"'{text}' is not a limit: write {SLOWEST_MBPS:g} or more megabits a second, or 0 for none")
    return limit


def _heartbeat(text: str) -> float:
    if not SHORTEST_HEARTBEAT_S <= (seconds := parse_duration(text)) <= LONGEST_HEARTBEAT_S:
        raise UsageError(f"'{text}' must be from {SHORTEST_HEARTBEAT_S:g} to {LONGEST_HEARTBEAT_S:g} seconds")
    return seconds


def _front(text: str) -> str:
    if text not in FRONTS:
        raise UsageError(f"'{text}' is not a front: choose one of {', '.join(FRONTS)}")
    return text


def _consistency(text: str) -> str:
    if text not in CONSISTENCIES:
        raise UsageError(f"'{text}' is not a mode: choose one of {', '.join(CONSISTENCIES)}")
    return text


def _workers(text: str) -> int:
    if (count := parse_count(text)) > MAX_WORKERS:
        raise UsageError(f"'{text}' is more than {MAX_WORKERS}")
    return count


def _worker_timeout(text: str) -> float:
    if (seconds := parse_duration(text)) < SHORTEST_WORKER_TIMEOUT_S:
        raise UsageError(f"'{text}' is shorter than {SHORTEST_WORKER_TIMEOUT_S:g} seconds")
    return seconds


class Address(NamedTuple):
    """Where to listen; port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _address(text: str) -> Address:
    match = ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > LAST_PORT:
        raise UsageError(f"'{text}' is not an address: write HOST:PORT, such as 127.0.0.1:9567")
    return Address(match["ipv6"] or match["host"] or ANY_HOST, int(match["port"]))


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


SETTINGS = (
    Setting("front", "mount", "front", _front, "FRONT", "What talks to the kernel: channel (compiled) or pyfuse3."),
    Setting(
        "workers",
        "mount",
        "workers",
        _workers,
        "N",
        "Processes: one serves, the others fetch for it; 0: the first one serves by itself. [default: cores, at most 8]",
    ),
    Setting(
        "worker-timeout",
        "mount",
        "worker_timeout_s",
        _worker_timeout,
        "TIME",
        "How long a worker may show no sign of life before it is replaced.",
    ),
    Setting(
        "consistency",
        "mount",
        "consistency",
        _consistency,
        "MODE",
        "close-to-open: an open sees all that was closed before, on any node; push: what has arrived.",
    ),
    Setting("log", "mount", "log_path", _path, "FILE", "Log file. [default: stderr; with -d a standard file]"),
    Setting("metrics", "mount", "metrics", _address, "HOST:PORT", "Serve metrics to Prometheus. [default: off]"),
    Setting(
        "buffer-size",
        "engine",
        "buffer_bytes",
        _memory,
        "SIZE",
        "Memory for writing and readahead, in MiB; with a worker, as much again keeps what is not stored.",
    ),
    Setting("cache-memory", "engine", "cache_bytes", _memory, "SIZE", "Memory for data read or written lately, in MiB."),
    Setting("max-uploads", "engine", "max_uploads", _positive, "N", "Uploads at a time."),
    Setting("max-downloads", "engine", "max_downloads", _positive, "N", "Downloads at a time."),
    Setting("upload-limit", "engine", "upload_limit_mbps", _mbps, "MBPS", "Most megabits a second to send; 0: no limit."),
    Setting("download-limit", "engine", "download_limit_mbps", _mbps, "MBPS", "Most megabits a second to get; 0: no limit."),
    Setting("readahead", "engine", "readahead_bytes", _mebibytes, "SIZE", "Most to read ahead per reader, in MiB."),
    Setting("io-timeout", "engine", "io_timeout_s", parse_duration, "TIME", "How long calls wait for storage before EIO."),
    Setting("heartbeat", "engine", "heartbeat_s", _heartbeat, "TIME", "How often the mount says that it is alive."),
    Setting("attr-cache", "fuse", "attr_timeout_s", parse_duration, "TIME", "How long the kernel keeps attributes."),
    Setting("entry-cache", "fuse", "entry_timeout_s", parse_duration, "TIME", "How long the kernel keeps names of files."),
    Setting("dir-entry-cache", "fuse", "dir_entry_timeout_s", parse_duration, "TIME", "... and names of directories."),
    Setting("threads", "fuse", "max_threads", _positive, "N", "Most threads that serve requests."),
    Setting("max-background", "fuse", "max_background", _positive, "N", "Background requests the kernel may queue."),
    Setting("io-uring", "fuse", "io_uring", _switch, "", "Use io_uring where the kernel has it on; with --workers 0."),
)
BY_NAME = {setting.name: setting for setting in SETTINGS}


@dataclass(frozen=True)
class MountRequest:
    """A mount, fully said: `mountpoint` is absolute; `log_path` is None for stderr, `metrics` for no server."""

    url: str
    mountpoint: Path
    engine: EngineOptions
    fuse: FuseOptions
    front: str = "channel"
    log_path: Path | None = None
    metrics: Address | None = None
    consistency: str = "close-to-open"  # on this machine (SQLite) an open of what exists sees everything anyway
    workers: int = DEFAULT_WORKERS  # only the compiled channel has any
    worker_timeout_s: float = 10.0
    take_over: bool = False  # from the process that serves the mountpoint, if there is one

    @property
    def is_pushed(self) -> bool:
        """Whether opens, and looks at what is absent, take what the log has brought: nobody asks, or need be asked."""
        return self.consistency == "push" or (self.fuse.read_only and self.front == "channel")


def default_of(setting: Setting) -> str:
    """The default of a setting as its help shows it."""
    owner = {"engine": EngineOptions, "fuse": FuseOptions, "mount": MountRequest}[setting.target]
    default: Any = next(field.default for field in fields(owner) if field.name == setting.field)
    if isinstance(default, bool):
        return "yes" if default else "no"
    if default is None:
        return "1d; 1 with pyfuse3"
    if setting.parse in (_memory, _mebibytes):
        return f"{default // MIB}M"
    return f"{default:g}" if isinstance(default, float) else str(default)


class Words(NamedTuple):
    """The words of -o, sorted out: `settings` are for cairnfs, `kernel` go with the mount."""

    settings: dict[str, str]
    kernel: tuple[str, ...]
    read_only: bool
    allow_other: bool
    debug: bool


def sort_words(words: Iterable[str], *, sloppy: bool = False) -> Words:
    """Sort out the words of `-o`. UsageError for a word nobody knows, unless `sloppy`."""
    settings: dict[str, str] = {}
    kernel: list[str] = []
    read_only = allow_other = debug = False
    for word in filter(None, words):
        name, equals, value = word.partition("=")
        if word in ("ro", "rw"):
            read_only = word == "ro"  # the last one counts, as for mount(8)
        elif word == "allow_other":
            allow_other = True
        elif word == "debug":
            debug = True
        elif word in KERNEL_WORDS:
            kernel.append(word)
        elif equals and (known := name.replace("_", "-")) in BY_NAME:
            settings[known] = value
        elif word not in IGNORED_WORDS and not word.startswith(IGNORED_PREFIXES) and not sloppy:
            raise UsageError(f"unknown mount option '{word}'; 'cairnfs mount --help' lists them")
    return Words(settings, tuple(kernel), read_only, allow_other, debug)


def split_words(text: str) -> list[str]:
    """The words of a `-o` argument; a backslash keeps a comma within a word."""
    return [word.replace("\0", ",") for word in text.replace("\\,", "\0").split(",")]


def make_request(
    url: str, mountpoint: Path, settings: Mapping[str, str], words: Words, *, read_only: bool, as_root: bool
) -> MountRequest:
    """Combine settings of the command line (they win) with those of `-o`. UsageError names the one that is wrong."""
    values: dict[str, dict[str, Any]] = {"engine": {}, "fuse": {}, "mount": {}}
    for name, text in {**words.settings, **settings}.items():
        setting = BY_NAME[name]
        try:
            values[setting.target][setting.field] = setting.parse(text)
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from error
    read_only = read_only or words.read_only
    max_threads = values["fuse"].get("max_threads", FuseOptions.max_threads)
    fuse = FuseOptions(
        min_threads=min(FuseOptions.min_threads, max_threads),
        read_only=read_only,
        allow_other=as_root or words.allow_other,
        mount_options=words.kernel,
        debug=words.debug,
        **values["fuse"],
    )
    request = MountRequest(url, mountpoint, EngineOptions(read_only=read_only, **values["engine"]), fuse, **values["mount"])
    if request.front == "channel":
        return request
    if values["mount"].get("workers"):
        raise UsageError(f"workers: front {request.front} serves by itself; use --front channel, or --workers 0")
    return replace(request, workers=0)
