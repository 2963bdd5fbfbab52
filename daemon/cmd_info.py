"""Commands that show or change how a volume is: `status`, `config`, and `info` for one file."""

import errno
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cairnfs.daemon.command import json_option, limit_options, meta_url_argument
from cairnfs.errors import CairnError, FsError

if TYPE_CHECKING:
    from cairnfs.meta.sessions import SessionInfo

INFO_XATTR = "cairnfs.info"


@click.command("status")
@meta_url_argument
@json_option
def status_command(meta_url: str, as_json: bool) -> None:
    """Show the settings of the volume at META_URL, its usage, and its sessions."""
    from cairnfs.daemon import shown
    from cairnfs.daemon.output import print_fields, print_json, print_table
    from cairnfs.units import format_size
    from cairnfs.volume import open_volume

    with open_volume(meta_url, data=False) as volume:
        sessions = volume.meta.sessions.list()
        usage = volume.meta.attrs.statfs()
        now_ns = volume.meta.sessions.now_ns()
    if as_json:
        print_json(
            {
                "format": shown.format_as_json(volume.format),
                "usage": shown.usage_as_json(usage),
                "sessions": [shown.session_as_json(session, now_ns) for session in sessions],
            }
        )
        return
    used = {"Used": f"{format_size(usage.used_bytes)} in {usage.used_inodes:,} files and directories"}
    print_fields(shown.format_as_text(volume.format) | used)
    if sessions:
        print()
        rows = [
            (s.id, s.host, s.pid, s.mountpoint, s.version, _heartbeat(s, now_ns), s.serving.get("workers", ""), _transport(s))
            for s in sessions
        ]
        columns = ("ID", "Host", "Process", "Mountpoint", "Version", "Heartbeat", "Workers", "Transport")
        print_table("Sessions", columns, rows)


def _transport(session: "SessionInfo") -> str:
    """How requests come, and why not through io_uring."""
    name, reason = session.serving.get("transport", ""), session.serving.get("transport_reason")
    return f"{name}: {reason}" if reason else name


def _heartbeat(session: "SessionInfo", now_ns: int) -> str:
    from cairnfs.meta.sessions import is_dead
    from cairnfs.units import format_duration

    return "dead" if is_dead(session, now_ns) else f"{format_duration(now_ns / 1e9 - session.heartbeat)} ago"


@click.command("info")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
def info_command(paths: tuple[Path, ...], as_json: bool) -> None:
    """Show what is stored for each PATH in a mount: inode, size, and the slices its content is made of."""
    from cairnfs.daemon.output import print_json

    found = [read_info(path) for path in paths]
    if as_json:
        print_json(found[0] if len(found) == 1 else found)
        return
    for number, info in enumerate(found):
        if number:
            print()
        print_info(paths[number], info)


def read_info(path: Path) -> dict[str, Any]:
    """What the mount says of a path. CairnError when the path is not in a cairnfs mount."""
    try:
        info = json.loads(os.getxattr(path, INFO_XATTR, follow_symlinks=False))
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENODATA):
            raise CairnError(f"{path} is not in a cairnfs mount", error.errno) from error
        raise FsError(error.errno or errno.EIO, f"{path}: {error.strerror}") from error
    if not isinstance(info, dict):
        raise CairnError(f"{path}: the mount answered something that is not about a file")
    return info


def print_info(path: Path, info: dict[str, Any]) -> None:
    """The fields of one file, then its extents as a table."""
    from cairnfs.daemon.output import note, print_fields, print_table

    lists = {name: value for name, value in info.items() if isinstance(value, list)}
    print_fields({"path": path} | {name: value for name, value in info.items() if name not in lists})
    for name, rows in lists.items():
        if rows:
            print_table(name, list(rows[0]), ([row.get(column, "") for column in rows[0]] for row in rows))
    if info.get("truncated"):
        note("the list is longer than what fits an extended attribute; the rest is left out")


@click.command("config")
@meta_url_argument
@limit_options(default=None)
@json_option
def config_command(meta_url: str, capacity: int | None, inodes: int | None, as_json: bool) -> None:
    """Show the settings of the volume at META_URL; with options, change them first.

    Mounts take up changes with their next heartbeat.
    """
    from cairnfs.daemon import shown
    from cairnfs.daemon.output import print_fields, print_json
    from cairnfs.meta.volume import update_format
    from cairnfs.volume import open_volume

    with open_volume(meta_url, data=False) as volume:
        given = {"capacity_bytes": capacity, "inodes": inodes}
        changes = {name: limit for name, limit in given.items() if limit is not None}
        fmt = update_format(volume.store, **changes) if changes else volume.format
    if as_json:
        print_json(shown.format_as_json(fmt))
    else:
        print_fields(shown.format_as_text(fmt))
