"""`cairnfs mount` and `cairnfs umount`."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cairnfs.daemon.command import meta_url_argument
from cairnfs.daemon.mount_options import SETTINGS, MountRequest, default_of, make_request, sort_words, split_words


def setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option per entry of SETTINGS."""
    for setting in reversed(SETTINGS):
        shown = "" if "[default:" in setting.help else f" [default: {default_of(setting)}]"
        names = f"--{setting.name}" if setting.metavar else f"--{setting.name}/--no-{setting.name}"
        more: dict[str, Any] = {"metavar": setting.metavar} if setting.metavar else {"default": None}
        command = click.option(names, help=setting.help + shown, **more)(command)
    return command


def text_of(value: str | bool) -> str:
    """A setting as `-o` would say it."""
    return value if isinstance(value, str) else "yes" if value else "no"


@click.command("mount")
@meta_url_argument
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option("-d", "--background", is_flag=True, help="Return when the mount answers, and serve it in the background.")
@click.option("-o", "words", metavar="WORD,...", multiple=True, help="Mount options: ro, allow_other, noatime, any setting ...")
@click.option("--read-only", is_flag=True, help="The same as -o ro.")
@setting_options
@click.option("--debug", is_flag=True, help="Log everything; show tracebacks of errors.")
@click.pass_context
def mount_command(
    ctx: click.Context,
    /,
    meta_url: str,
    mountpoint: Path,
    background: bool,
    words: tuple[str, ...],
    read_only: bool,
    debug: bool,
    **settings: str | bool | None,
) -> int:
    """Mount the volume at META_URL on MOUNTPOINT.

    Any setting may be given in -o as well: -o ro,cache-memory=1G. As root, other users have access (allow_other).

    The same volume, mounted there already, is taken over: the process that serves it ends, and those who use it notice nothing.
    """
    given = {name.replace("_", "-"): text_of(value) for name, value in settings.items() if value is not None}
    sorted_words = sort_words(word for argument in words for word in split_words(argument))
    request = make_request(meta_url, mountpoint.absolute(), given, sorted_words, read_only=read_only, as_root=os.geteuid() == 0)
    request = replace(request, take_over=True)
    level = logging.DEBUG if debug or request.fuse.debug else ctx.obj
    return mount_in_background(request, level) if background else mount_in_foreground(request, level)


def mount_in_foreground(request: MountRequest, level: int) -> int:
    """Mount and serve until unmounted; returns the exit code."""
    from cairnfs.daemon.logs import log_to_file, log_to_stderr
    from cairnfs.daemon.session import serve
    from cairnfs.daemon.systemd import say_ready

    if request.log_path is None:
        log_to_stderr(level)
    else:
        log_to_file(request.log_path, level, take_output=False)

    def ready(remarks: Sequence[str]) -> None:
        if request.log_path is not None:  # else they have been logged there
            show(remarks)
        say_ready()

    return serve(request, ready)


def mount_in_background(request: MountRequest, level: int) -> int:
    """Start a process that serves the mount; returns 0 when it answers, and raises what prevented it."""
    from cairnfs.daemon import background
    from cairnfs.daemon.logs import default_log_path, log_to_file

    log_path = request.log_path or default_log_path()

    def child(report: background.Report) -> int:
        from cairnfs.daemon.session import serve

        log_to_file(log_path, level, take_output=True)
        return serve(request, report.ready)

    show(background.start(child, f"see {log_path}"))
    return 0


def show(remarks: Sequence[str]) -> None:
    """What is to be known about a mount that answers, a line each."""
    from cairnfs.daemon.output import note

    for remark in remarks:
        note(f"cairnfs: {remark}")


@click.command("umount")
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option("-l", "--lazy", is_flag=True, help="Detach now; the mount ends when the last open file is closed. Does not wait.")
@click.option("--force", is_flag=True, help="Abort calls that hang, then unmount.")
def umount_command(mountpoint: Path, lazy: bool, force: bool) -> None:
    """Unmount MOUNTPOINT and return when its process has stored everything and ended."""
    from cairnfs.daemon.unmounting import unmount_and_wait

    unmount_and_wait(mountpoint.absolute(), lazy=lazy, force=force)
