"""What a user may set for one mount or embedded engine. Defaults are JuiceFS's where it has the same option."""

from dataclasses import dataclass

from cairnfs.const import MIB


@dataclass(frozen=True)
class EngineOptions:
    """Settings of the engine, the same for every front."""

    buffer_bytes: int = 300 * MIB  # write buffers and readahead together
    cache_bytes: int = 256 * MIB  # verified slices kept in memory
    max_uploads: int = 20
    max_downloads: int = 20
    readahead_bytes: int = 8 * MIB  # per sequential reader, at most
    upload_limit_mbps: float = 0.0  # megabits (10**6) per second, 0 for no limit
    download_limit_mbps: float = 0.0
    io_timeout_s: float = 60.0  # how long a call waits for a store that does not answer, before EIO
    read_only: bool = False
    heartbeat_s: float = 12.0
    background_jobs: bool = True  # deletion and compaction by this process


@dataclass(frozen=True)
class FuseOptions:
    """Settings of a FUSE front.

    Timeouts are how long the kernel may keep what it is told. None: for a day where the front can take it back from any kernel
    cache (the channel), else for a second. `keeps_absent`: it may also keep that a name is absent, so
    whoever opens a name that others have made sees it once the front has told the kernel.
    """

    volume_name: str = "cairnfs"
    attr_timeout_s: float | None = None
    entry_timeout_s: float | None = None
    dir_entry_timeout_s: float | None = None
    keeps_absent: bool = False
    min_threads: int = 2
    max_threads: int = 64
    max_write_bytes: int = MIB
    max_background: int = 50
    read_only: bool = False
    allow_other: bool = False
    mount_options: tuple[str, ...] = ()  # further -o words for the kernel: noatime, nosuid, nodev, noexec, ...
    debug: bool = False
    io_uring: bool = True  # where the kernel has it switched on and nothing has to outlive this process
