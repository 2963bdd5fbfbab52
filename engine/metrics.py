"""What is counted: every counter, gauge and histogram of the engine, declared here and nowhere else.

`Metrics` belongs to one open volume. Counters and histograms are cells of one flat run of 64-bit integers (`Cells`), and this
file is all that knows where which of them is: an array of its own, or any memory that several processes share.
Adding is one read and one write of a cell without a call in between, so under the GIL no count is lost and no lock is needed.
Gauges, and what others count for us, cost nothing until somebody asks: they are read from a `source` that their owner sets.

Names are those of the Prometheus text format, with the base unit in the name. A family has one label at most; its values are
fixed, so that two mounts always show the same lines.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

N_BUCKETS = 25  # upper bounds of 1 us, 2 us, 4 us, ... 16.8 s; one more bucket holds what took longer
BUCKETS_US = tuple(1 << i for i in range(N_BUCKETS))

STORE_CALLS = ("read", "scan", "commit", "log", "position", "fence", "sync")  # fence: position, asked for by compiled code
CONDITIONS = ("unchanged", "not_since", "exists", "absent", "at_most", "max")
META_OPERATIONS = (
    ("names.create", "names.fetch", "names.get", "names.get_first", "names.link", "names.list", "names.lookup")
    + ("names.page", "names.path_of", "names.recalled", "names.remembered")
    + ("names.release_deleted", "names.rename", "names.rmdir", "names.unlink", "attrs.set", "attrs.statfs")
    + ("xattrs.get", "xattrs.list", "xattrs.remove", "xattrs.set")
    + ("layout.allocate", "layout.commit_write", "layout.copy_range", "layout.drop_pack", "layout.drop_packs")
    + ("layout.extents", "layout.free_deleted", "layout.garbage", "layout.punch", "layout.read", "layout.replace", "layout.seek")
    + ("layout.truncate", "layout.zero", "locks.drop_session", "locks.getlk", "locks.held")
    + ("locks.release", "locks.setlk")
    + ("sessions.active", "sessions.clean_stale", "sessions.close", "sessions.describe", "sessions.expect", "sessions.heartbeat")
    + ("sessions.list", "sessions.now_ns", "sessions.open", "sessions.renew", "sessions.resume", "sessions.sustained")
)
EVICTED = ("segment", "attributes", "name")  # in the order of `Arena.evicted`
OBJECT_CALLS = ("put", "get", "head", "delete", "list")
OPERATIONS = (
    ("lookup", "mknod", "mkdir", "symlink", "readlink", "link", "unlink", "rmdir", "rename")
    + ("getattr", "setattr", "access", "statfs", "create", "open", "read", "write", "write_mapped", "flush", "fsync", "release")
    + ("fallocate", "lseek", "copy_file_range", "opendir", "readdir", "releasedir", "fsyncdir")
    + ("getxattr", "setxattr", "listxattr", "removexattr", "getlk", "setlk", "syncfs")
)
OPCODES = (
    ("LOOKUP", "FORGET", "GETATTR", "SETATTR", "READLINK", "SYMLINK", "MKNOD", "MKDIR", "UNLINK", "RMDIR", "RENAME", "LINK")
    + ("OPEN", "READ", "WRITE", "STATFS", "RELEASE", "FSYNC", "SETXATTR", "GETXATTR", "LISTXATTR", "REMOVEXATTR", "FLUSH")
    + ("INIT", "OPENDIR", "READDIR", "RELEASEDIR", "FSYNCDIR", "GETLK", "SETLK", "SETLKW", "ACCESS", "CREATE", "INTERRUPT")
    + ("BMAP", "DESTROY", "IOCTL", "POLL", "NOTIFY_REPLY", "BATCH_FORGET", "FALLOCATE", "READDIRPLUS", "RENAME2", "LSEEK")
    + ("COPY_FILE_RANGE", "SETUPMAPPING", "REMOVEMAPPING", "SYNCFS", "TMPFILE", "STATX", "COPY_FILE_RANGE_64")
    + ("UNKNOWN", "MALFORMED")
)
ANSWERED_OPCODES = (  # by compiled code, without Python
    ("LOOKUP", "FORGET", "GETATTR", "OPEN", "READ", "RELEASE", "GETXATTR", "LISTXATTR", "FLUSH", "OPENDIR", "READDIR")
    + ("RELEASEDIR", "ACCESS", "BATCH_FORGET", "READDIRPLUS", "STATX", "STATFS", "WRITE")
)


class Cells(Protocol):
    """Where counts are kept: signed 64-bit integers by number."""

    def __getitem__(self, at: int, /) -> int: ...
    def __setitem__(self, at: int, value: int, /) -> None: ...


class Counter:
    """A number that only grows."""

    __slots__ = ("_at", "_cells", "_others")

    def __init__(self, cells: Cells, at: int, others: Sequence[Cells] = ()) -> None:
        self._cells = cells
        self._at = at
        self._others = others

    def add(self, n: int = 1) -> None:
        self._cells[self._at] += n

    @property
    def value(self) -> int:
        return self._cells[self._at] + sum(cells[self._at] for cells in self._others)


class Distribution(NamedTuple):
    """A histogram as read: events per bucket (the last one is what exceeds every bound), and the sum of all times."""

    counts: tuple[int, ...]
    sum_ns: int

    @property
    def n(self) -> int:
        return sum(self.counts)

    @property
    def sum_s(self) -> float:
        return self.sum_ns / 1e9


NEVER = Distribution((0,) * (N_BUCKETS + 1), 0)


class Histogram:
    """How often something happened and how long it took, in buckets of doubling width."""

    __slots__ = ("_at", "_cells", "_others")

    N_CELLS = N_BUCKETS + 2  # the buckets, the one without a bound, the sum

    def __init__(self, cells: Cells, at: int, others: Sequence[Cells] = ()) -> None:
        self._cells = cells
        self._at = at
        self._others = others

    def observe_ns(self, ns: int) -> None:
        bucket = (max(ns - 1, 0) // 1000).bit_length()  # bounds belong to their bucket
        cells = self._cells
        cells[self._at + (bucket if bucket < N_BUCKETS else N_BUCKETS)] += 1
        cells[self._at + N_BUCKETS + 1] += ns

    @property
    def memory(self) -> memoryview:
        """Its cells, for compiled code that counts by itself: nobody else may then."""
        cells: Any = self._cells
        return memoryview(cells)[self._at : self._at + self.N_CELLS]

    @property
    def value(self) -> Distribution:
        everybody = (self._cells, *self._others)
        numbers = [sum(cells[self._at + i] for cells in everybody) for i in range(self.N_CELLS)]
        return Distribution(tuple(numbers[:-1]), numbers[-1])


def _zero() -> int:
    return 0


def _nothing() -> Mapping[str, int]:
    return {}


class Gauge:
    """A number that goes up and down; whoever owns it sets `source`."""

    __slots__ = ("source",)

    def __init__(self) -> None:
        self.source: Callable[[], int] = _zero

    @property
    def value(self) -> int:
        return self.source()


class Counted:
    """Counters kept elsewhere, by label value; whoever keeps them sets `source`. What it leaves out is 0."""

    __slots__ = ("source",)

    def __init__(self) -> None:
        self.source: Callable[[], Mapping[str, int]] = _nothing


class Timed:
    """Histograms kept elsewhere, as `Counted`."""

    __slots__ = ("source",)

    def __init__(self) -> None:
        self.source: Callable[[], Mapping[str, Distribution]] = dict


Value = int | Distribution


class Family(NamedTuple):
    """One declaration. `label` is empty for a family with a single member; `read` gives its members by label value."""

    name: str
    kind: str  # counter, gauge, histogram
    unit: str
    help: str
    label: str
    read: Callable[[], Iterable[tuple[str, Value]]]


class Metrics:
    """Everything that is counted for one volume; `families` has the declarations in their order."""

    def __init__(self, cells: Cells | None = None, others: Sequence[Cells] = ()) -> None:
        """`cells` must hold `n_cells` zeros, or the counts of an earlier user. `others`: where other processes count, which is
        added to what is read.
        """
        self._others = others
        self.families: list[Family] = []
        self.n_cells = 0
        self._grown = array("q")
        self._cells: Cells = self._grown if cells is None else cells
        self._declare_fuse()
        self._declare_meta()
        self._declare_data()

    def _declare_fuse(self) -> None:
        self.fuse_requests = self._counted(
            "cairnfs_fuse_requests_total", "requests", "Requests of the kernel.", "opcode", OPCODES
        )
        answered = self._counted(
            "cairnfs_fuse_answers_total", "requests", "Of these, answered by compiled code from shared memory.", "opcode", OPCODES
        )
        self.fuse_answers = self._timed(
            "cairnfs_fuse_answer_seconds", "How long these took from read to write.", "opcode", ANSWERED_OPCODES
        )
        answered.source = lambda: {opcode: times.n for opcode, times in self.fuse_answers.source().items()}
        self.fuse_answered_bytes = self._told("cairnfs_fuse_answered_bytes_total", "bytes", "Bytes of files in these answers.")
        self.operation_s = self._histograms(
            "cairnfs_operation_seconds", "File system operations and how long they took.", "op", OPERATIONS
        )
        self.operation_errors = self._counters(
            "cairnfs_operation_errors_total",
            "operations",
            "Those that failed, ENOENT included.",
            "op",
            OPERATIONS,
        )
        self.read_bytes = self._counter("cairnfs_read_bytes_total", "bytes", "Bytes read from files.")
        self.written_bytes = self._counter("cairnfs_written_bytes_total", "bytes", "Bytes written to files.")
        self.fuse_fetched = self._told(
            "cairnfs_fuse_fetched_total", "requests", "Of these, requests for which another worker had fetched something."
        )
        self.worker_restarts = self._gauge(
            "cairnfs_worker_restarts", "processes", "Workers that were replaced because they died."
        )
        self.open_handles = self._gauge("cairnfs_open_handles", "handles", "Open file handles.")
        self.open_directories = self._gauge("cairnfs_open_directories", "handles", "Open directory handles.")
        self.open_inodes = self._gauge("cairnfs_open_inodes", "inodes", "Inodes that are open at least once.")

    def _declare_meta(self) -> None:
        self.meta_operations = self._counters(
            "cairnfs_meta_operations_total", "operations", "Metadata operations begun.", "op", META_OPERATIONS
        )
        self.meta_store_s = self._histograms(
            "cairnfs_meta_store_seconds", "Round trips to the metadata store.", "kind", STORE_CALLS
        )
        self.meta_conflicts = self._counters(
            "cairnfs_meta_conflicts_total",
            "commits",
            "Commits refused, by the condition that did not hold: unchanged is a race, tried again with fresh rows; "
            "not_since, that others have moved a directory.",
            "condition",
            CONDITIONS,
        )
        self.sessions = self._gauge("cairnfs_sessions", "sessions", "Sessions of the volume when they were last listed.")

    def _declare_data(self) -> None:
        self.object_s = self._histograms("cairnfs_object_seconds", "Requests to the object store.", "kind", OBJECT_CALLS)
        self.object_errors = self._counters(
            "cairnfs_object_errors_total", "requests", "Requests to the object store that failed.", "kind", OBJECT_CALLS
        )
        self.object_retries = self._counter("cairnfs_object_retries_total", "requests", "Requests that were tried again.")
        self.object_put_bytes = self._counter("cairnfs_object_put_bytes_total", "bytes", "Bytes sent to the object store.")
        self.object_got_bytes = self._counter("cairnfs_object_got_bytes_total", "bytes", "Bytes got from the object store.")
        self.cache_hits = self._counter("cairnfs_cache_hits_total", "slices", "Slices and pages that Python found in memory.")
        self.cache_misses = self._counter("cairnfs_cache_misses_total", "slices", "Slices and pages that had to be fetched.")
        self.cache_evictions = self._counter(
            "cairnfs_cache_evictions_total", "slices", "Slices and pages that Python dropped for room, none of the arena."
        )
        self.cache_bytes = self._gauge("cairnfs_cache_bytes", "bytes", "Memory of slices: the arena's, and Python's beside it.")
        self._declare_arena()
        self.buffer_bytes = self._gauge(
            "cairnfs_buffer_bytes", "bytes", "Memory of Python's write buffers and readahead; the journal has its own."
        )
        self.journal_bytes = self._gauge(
            "cairnfs_journal_bytes", "bytes", "Memory of the journal in use: what is written and not committed."
        )
        self.buffer_wait_s = self._histogram("cairnfs_buffer_wait_seconds", "Writes that waited for memory.")
        self.uploads = self._counter("cairnfs_uploads_total", "packs", "Packs stored.")
        self.upload_bytes = self._counter("cairnfs_upload_bytes_total", "bytes", "File bytes in packs stored, uncompressed.")
        self.writer_commits = self._counter("cairnfs_writer_commits_total", "commits", "Commits of written data.")
        self.losses = self._counter(
            "cairnfs_losses_total", "losses", "Times that what was written to a file was lost, which the log tells."
        )
        self.readahead_issued = self._counter("cairnfs_readahead_issued_total", "slices", "Slices fetched ahead of a reader.")
        self.readahead_used = self._counter("cairnfs_readahead_used_total", "slices", "Of these, slices that a reader came to.")

    def _declare_arena(self) -> None:
        self.arena_hits = self._told(
            "cairnfs_arena_hits_total",
            "slices",
            "Slices and pages of listings that compiled code or Python found in the arena.",
        )
        self.arena_misses = self._told(
            "cairnfs_arena_misses_total", "slices", "Those that compiled code looked for there and did not find."
        )
        self.arena_evictions = self._counted(
            "cairnfs_arena_evictions_total",
            "entries",
            "What gave way in the arena; a segment is many slices and pages.",
            "kind",
            EVICTED,
        )
        self.arena_table_bytes = self._gauge(
            "cairnfs_arena_table_bytes",
            "bytes",
            "Memory of the arena that is reserved for what is no slice: attributes, names and more.",
        )

    # Reading

    def samples(self) -> Iterator[tuple[str, int | float]]:
        """Every number by its name and label; of a histogram, how many events and their sum in seconds."""
        for family in self.families:
            for label, value in family.read():
                where = f'{{{family.label}="{label}"}}' if family.label else ""
                if isinstance(value, Distribution):
                    yield f"{family.name}_count{where}", value.n
                    yield f"{family.name}_sum{where}", value.sum_s
                else:
                    yield family.name + where, value

    def text(self) -> str:
        """`samples` as lines of name and value."""
        return "".join(f"{name} {_number(value)}\n" for name, value in self.samples())

    # Declaring

    def _take(self, n: int) -> int:
        at = self.n_cells
        self.n_cells += n
        if self._cells is self._grown:
            self._grown.extend([0] * n)
        return at

    def _counter(self, name: str, unit: str, text: str) -> Counter:
        counter = Counter(self._cells, self._take(1), self._others)
        self.families.append(Family(name, "counter", unit, text, "", lambda: [("", counter.value)]))
        return counter

    def _counters(self, name: str, unit: str, text: str, label: str, values: tuple[str, ...]) -> dict[str, Counter]:
        members = {value: Counter(self._cells, self._take(1), self._others) for value in values}
        self.families.append(Family(name, "counter", unit, text, label, lambda: [(v, m.value) for v, m in members.items()]))
        return members

    def _histogram(self, name: str, text: str) -> Histogram:
        histogram = Histogram(self._cells, self._take(Histogram.N_CELLS), self._others)
        self.families.append(Family(name, "histogram", "seconds", text, "", lambda: [("", histogram.value)]))
        return histogram

    def _histograms(self, name: str, text: str, label: str, values: tuple[str, ...]) -> dict[str, Histogram]:
        members = {value: Histogram(self._cells, self._take(Histogram.N_CELLS), self._others) for value in values}
        read = lambda: [(v, m.value) for v, m in members.items()]  # noqa: E731 - as in its neighbours
        self.families.append(Family(name, "histogram", "seconds", text, label, read))
        return members

    def _gauge(self, name: str, unit: str, text: str) -> Gauge:
        gauge = Gauge()
        self.families.append(Family(name, "gauge", unit, text, "", lambda: [("", gauge.value)]))
        return gauge

    def _told(self, name: str, unit: str, text: str) -> Gauge:
        """A counter that is kept elsewhere."""
        gauge = Gauge()
        self.families.append(Family(name, "counter", unit, text, "", lambda: [("", gauge.value)]))
        return gauge

    def _counted(self, name: str, unit: str, text: str, label: str, values: tuple[str, ...]) -> Counted:
        counted = Counted()

        def read() -> list[tuple[str, Value]]:
            now = counted.source()
            return [(value, now.get(value, 0)) for value in values]

        self.families.append(Family(name, "counter", unit, text, label, read))
        return counted

    def _timed(self, name: str, text: str, label: str, values: tuple[str, ...]) -> Timed:
        timed = Timed()

        def read() -> list[tuple[str, Value]]:
            now = timed.source()
            return [(value, now.get(value, NEVER)) for value in values]

        self.families.append(Family(name, "histogram", "seconds", text, label, read))
        return timed


def _number(value: int | float) -> str:
    return f"{value:.9f}" if isinstance(value, float) else str(value)
