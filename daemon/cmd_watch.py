"""`cairnfs watch`: changes of a volume as they happen, whoever makes them: a line each, or JSON."""

import json
import os
import re
import select
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from cairnfs.daemon.command import json_option
from cairnfs.errors import CairnError, UsageError
from cairnfs.types import TYPE_NAMES

if TYPE_CHECKING:
    from cairnfs.meta.changes import Change
    from cairnfs.meta.sessions import SessionInfo
    from cairnfs.volume import Volume

SHORTEST_POLL_S = 0.01  # while something happens
LONGEST_POLL_S = 0.2  # while nothing does
SESSIONS_S = 1.0  # between two looks at who is there, when somebody unknown changes something
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class Watched(NamedTuple):
    """What to watch. `below`: path in the volume, without a slash at its end; `prefix` goes before what is shown."""

    url: str
    below: bytes
    prefix: bytes

    def covers(self, path: bytes | None) -> bool:
        """Is a path, None for one not known, to be shown?"""
        if path is None:
            return not self.below
        return path == self.below or path.startswith(self.below + b"/")


@click.command("watch")
@click.argument("target", metavar="PATH|META_URL")
@click.option("--path", "inside", metavar="DIR", help="With META_URL: what to watch in the volume. [default: /]")
@json_option
def watch_command(target: str, inside: str | None, as_json: bool) -> None:
    """Print what changes at or below PATH in a mount, made by this mount or by any other, until interrupted.

    A line for each change: the time at which it was seen, what happened, where, and by whom; with --json an object.
    """
    try:
        watched = _in_volume(target, inside) if "://" in target else _in_mount(target, inside)
        _watch(watched, as_json)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more


def _in_volume(url: str, inside: str | None) -> Watched:
    path = os.path.normpath("/" + (inside or "").lstrip("/"))
    return Watched(url, os.fsencode(path.rstrip("/")), b"")


def _in_mount(target: str, inside: str | None) -> Watched:
    """The volume is found through the mount. CairnError when there is none."""
    if inside is not None:
        raise UsageError("--path is for a META_URL; for a mount, give the path itself")
    from cairnfs.daemon.mountpoint import mounted_by
    from cairnfs.daemon.running import find_running

    path = Path(os.path.realpath(target))
    if not path.exists():
        raise CairnError(f"{target} does not exist")
    for mountpoint in [path, *path.parents]:
        user = mounted_by(mountpoint)
        if user is not None:
            break
    else:
        raise CairnError(f"{target} is not in a cairnfs mount")
    running = find_running(mountpoint, user) if os.geteuid() in (0, user) else None
    if running is not None:
        url = running.url
        running.close()
    else:
        url = str(json.loads((mountpoint / ".config").read_bytes())["meta_url"])
    below = path.relative_to(mountpoint)
    return Watched(url, b"" if below == Path() else b"/" + os.fsencode(below), os.fsencode(mountpoint))


def _watch(watched: Watched, as_json: bool) -> None:
    from cairnfs.daemon.output import note
    from cairnfs.meta.changes import ChangeReader
    from cairnfs.meta.stores.base import LogTrimmed
    from cairnfs.volume import open_volume

    with open_volume(watched.url, data=False) as volume:
        reader, shown = ChangeReader(volume.meta), Shown(volume, watched, as_json)
        note(f"watching {os.fsdecode(watched.prefix + watched.below) or '/'} of volume {volume.format.name}")
        for _ in _turns(shown):
            before = reader.position
            try:
                changes = reader.read()
            except LogTrimmed:
                shown.gap(before, reader.skip())
                continue
            for change in changes:
                shown.change(change)


def _turns(shown: "Shown") -> Iterator[None]:
    """Soon while something happens, less often while nothing does, until nobody reads what is printed."""
    poll = select.poll()
    poll.register(sys.stdout, 0)  # POLLERR: the other end of a pipe is closed
    pause_s = SHORTEST_POLL_S
    while not poll.poll(pause_s * 1000):
        n_before = shown.n_seen
        yield
        sys.stdout.flush()
        pause_s = SHORTEST_POLL_S if shown.n_seen != n_before else min(2 * pause_s, LONGEST_POLL_S)


class Shown:
    """Prints changes; knows who the sessions are."""

    def __init__(self, volume: "Volume", watched: Watched, as_json: bool) -> None:
        self.n_seen = 0  # changes, those elsewhere included
        self._volume = volume
        self._watched = watched
        self._as_json = as_json
        self._sessions: dict[int, SessionInfo] = {}
        self._asked_s = -SESSIONS_S

    def gap(self, after: int, position: int) -> None:
        """Changes were missed."""
        if self._as_json:
            print(json.dumps({"time": time.time(), "what": "gap", "after": after, "position": position}))
        else:
            print(f"{_clock()} gap: what happened after position {after} is no longer in the change log; going on at {position}")

    def change(self, change: "Change") -> None:
        self.n_seen += 1
        if not self._watched.covers(change.path) and (change.new_path is None or not self._watched.covers(change.new_path)):
            return
        session = self._session(change.session)
        if self._as_json:
            print(json.dumps(self._fields(change, session)))
            return
        where = self._text(change.path) or f"(inode {change.ino})"
        if change.new_path is not None:
            where += f" -> {self._text(change.new_path)}"
        who = f"{session.host}:{session.pid}" if session else f"session {change.session}" if change.session else "a tool"
        print(f"{_clock()} {change.what:<10} {where}  [{who}]")

    def _fields(self, change: "Change", session: "SessionInfo | None") -> dict[str, Any]:
        fields = {
            "time": time.time(),
            "position": change.position,
            "what": change.what,
            "path": self._path(change.path),
            "inode": change.ino,
            "type": TYPE_NAMES.get(change.type),
            "session": change.session,
            "host": session.host if session else None,
            "pid": session.pid if session else None,
            "mountpoint": session.mountpoint if session else None,
        }
        return fields if change.new_path is None else {**fields, "new_path": self._path(change.new_path)}

    def _path(self, path: bytes | None) -> str | None:
        return None if path is None else os.fsdecode(self._watched.prefix + path)

    def _text(self, path: bytes | None) -> str | None:
        """A path on one line, whatever is in it."""
        text = self._path(path)
        return None if text is None else UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)

    def _session(self, session: int) -> "SessionInfo | None":
        """Who it is; None when it ended before anybody asked."""
        now_s = time.monotonic()
        if session and session not in self._sessions and now_s - self._asked_s > SESSIONS_S:
            self._asked_s = now_s
            self._sessions |= {found.id: found for found in self._volume.meta.sessions.list()}
        return self._sessions.get(session)


def _clock() -> str:
    return datetime.now().astimezone().isoformat(sep=" ", timespec="milliseconds")
