"""How volumes, sessions and usage are shown, as JSON and as text: the same names in every command."""

import os
import re
from dataclasses import asdict
from typing import Any

from cairnfs.daemon.mount_options import MountRequest
from cairnfs.daemon.transport import Transport
from cairnfs.meta.sessions import SessionInfo, is_dead
from cairnfs.meta.volume import VolumeFormat
from cairnfs.types import StatFs
from cairnfs.units import format_size
from cairnfs.version import VERSION
from cairnfs.volume import Volume

SERVING = ("front", "transport", "transport_reason", "workers")
PASSWORD = re.compile(r"(?<=://)([^/@]*?):[^/]*@")


def format_as_json(fmt: VolumeFormat) -> dict[str, Any]:
    """The format of a volume; sizes in bytes, 0 for no limit, `created` in seconds since the epoch."""
    return {
        "name": fmt.name,
        "uuid": fmt.uuid,
        "format_version": fmt.format_version,
        "storage": fmt.storage,
        "bucket": fmt.bucket,
        "storage_options": fmt.storage_options,
        "block_bytes": fmt.block_bytes,
        "compression": fmt.compression,
        "capacity_bytes": fmt.capacity_bytes,
        "inodes": fmt.inodes,
        "created": fmt.created,
    }


def format_as_text(fmt: VolumeFormat) -> dict[str, str]:
    """The format of a volume for people."""
    return {
        "Name": fmt.name,
        "UUID": fmt.uuid,
        "Format version": str(fmt.format_version),
        "Objects": f"{fmt.storage}: {fmt.bucket}/{fmt.name}" + "".join(f", {k} {v}" for k, v in fmt.storage_options.items()),
        "Block size": format_size(fmt.block_bytes),
        "Compression": fmt.compression,
        "Capacity": format_size(fmt.capacity_bytes) if fmt.capacity_bytes else "no limit",
        "Inodes": f"{fmt.inodes:,}" if fmt.inodes else "no limit",
        "Created": time_text(fmt.created),
    }


def time_text(unix_s: float) -> str:
    """A time in the local zone, ISO 8601, to the second."""
    from datetime import datetime

    return datetime.fromtimestamp(unix_s).astimezone().isoformat(sep=" ", timespec="seconds")


def session_as_json(session: SessionInfo, now_ns: int) -> dict[str, Any]:
    """One session; times in seconds since the epoch, null for what it has not said. Dead ones go with the next mount."""
    return {
        "id": session.id,
        "host": session.host,
        "pid": session.pid,
        "mountpoint": session.mountpoint,
        "version": session.version,
        "started": session.started,
        "heartbeat": session.heartbeat,
        "period_s": session.period_s,
        "dead": is_dead(session, now_ns),
        **{name: session.serving.get(name) for name in SERVING},
    }


def serving(request: MountRequest, transport: Transport) -> dict[str, Any]:
    """How a mount is served, as `status` and `.config` show it; `workers`: 0 for one process that does all."""
    values = (request.front, transport.name, transport.reason, request.workers)
    return dict(zip(SERVING, values, strict=True))


def usage_as_json(usage: StatFs) -> dict[str, int]:
    """What the volume holds."""
    return {"used_bytes": usage.used_bytes, "used_inodes": usage.used_inodes}


def mount_config(volume: Volume, request: MountRequest, pid: int, transport: Transport) -> dict[str, Any]:
    """What `.config` of a mount shows: nothing secret, since every user of the machine may read it. `pid`: whom to signal."""
    return {
        "version": VERSION,
        "pid": pid,
        "serving_pid": os.getpid(),
        **serving(request, transport),
        "mountpoint": str(request.mountpoint),
        "meta_url": without_password(request.url),
        "format": format_as_json(volume.format),
        "engine": asdict(request.engine),
        "fuse": asdict(request.fuse),
        "consistency": request.consistency,
        "metrics": None if request.metrics is None else str(request.metrics),
        "log": None if request.log_path is None else str(request.log_path),
    }


def without_password(url: str) -> str:
    """A URL whose password, if it has one, is shown as stars."""
    return PASSWORD.sub(r"\1:****@", url)
