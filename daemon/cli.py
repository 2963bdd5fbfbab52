"""The `cairnfs` program: finds the command, runs it, and turns how it ended into one line and an exit code.

Commands live in `cmd_*.py`, one file per group, and are imported only when they are run: `cairnfs version` and
completion must not pay for the engine. Exit codes: 0 done, 1 failed (or nobody reads the output), 2 wrong usage, 130
interrupted.

mount.fuse3 runs `cairnfs SOURCE MOUNTPOINT -o OPTIONS` for `mount -t fuse.cairnfs`; `is_mount_call` recognises that.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

import click

from cairnfs.errors import CairnError

INTERRUPTED = 130
OUTPUT_CLOSED = 1  # as click has it


class Lazy(NamedTuple):
    """Where a command is, and its line in `cairnfs --help`."""

    module: str  # of this package, or with its whole name
    attribute: str
    summary: str


COMMANDS = {
    "format": Lazy("cmd_format", "format_command", "Create a volume."),
    "mount": Lazy("cmd_mount", "mount_command", "Mount a volume."),
    "umount": Lazy("cmd_mount", "umount_command", "Unmount a volume and wait until its data is safe."),
    "status": Lazy("cmd_info", "status_command", "Show a volume: its settings, usage and who has it mounted."),
    "info": Lazy("cmd_info", "info_command", "Show what is stored for a file or directory in a mount."),
    "stats": Lazy("cmd_stats", "stats_command", "Show live what a mount is doing."),
    "watch": Lazy("cmd_watch", "watch_command", "Print changes as they happen, made by any mount."),
    "config": Lazy("cmd_info", "config_command", "Show or change settings of a volume."),
    "fsck": Lazy("cmd_check", "fsck_command", "Check the consistency of a volume."),
    "gc": Lazy("cmd_check", "gc_command", "Find (and delete) objects that no file uses."),
    "objbench": Lazy("cmd_objbench", "objbench_command", "Try and measure a place for objects."),
    "destroy": Lazy("cmd_destroy", "destroy_command", "Destroy a volume with all its data."),
    "bench": Lazy("cairnfs.bench.cli", "bench_command", "Compare directories: rates, latencies and costs."),
    "version": Lazy("cmd_version", "version_command", "Show the version."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        lazy = COMMANDS.get(cmd_name)
        if lazy is None:
            return None
        module = lazy.module if "." in lazy.module else f"cairnfs.daemon.{lazy.module}"
        command: click.Command = getattr(importlib.import_module(module), lazy.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.summary) for name, lazy in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--debug", is_flag=True, help="Log everything; show tracebacks of errors.")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
@click.option("-q", "--quiet", is_flag=True, help="Log warnings and errors only.")
@click.pass_context
def root(ctx: click.Context, debug: bool, verbose: bool, quiet: bool) -> None:
    """A POSIX file system over object storage, for training on millions of small files.

    META_URL says where the metadata of a volume is, such as sqlite3:///var/lib/cairnfs/photos.db.
    """
    import logging

    from cairnfs.daemon.logs import log_to_stderr

    level = logging.DEBUG if debug or verbose else logging.WARNING if quiet else logging.INFO
    ctx.obj = level
    log_to_stderr(level if ctx.invoked_subcommand == "mount" else max(level, logging.DEBUG if debug else logging.WARNING))


def is_mount_call(args: Sequence[str]) -> bool:
    """Whether the arguments are those of a mount helper: a metadata URL where a command would stand."""
    return len(args) >= 2 and args[0] not in COMMANDS and "://" in args[0] and not args[1].startswith("-")


def run(args: Sequence[str]) -> int:
    """Run one command line; returns the exit code."""
    debug = "--debug" in args
    try:
        if is_mount_call(args):
            from cairnfs.daemon.mount_helper import run_helper

            return run_helper(args)
        status = root.main(args=list(args), prog_name="cairnfs", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as exit_request:
        return exit_request.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):
        return INTERRUPTED
    except RuntimeError as error:
        if comes_of_interrupt(error):
            return INTERRUPTED
        raise
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OUTPUT_CLOSED
    except OSError as error:
        return report(error, debug=debug)


def comes_of_interrupt(error: BaseException) -> bool:
    """Ctrl-C may come while a lock of the interpreter's own modules is half taken, which then complains of that."""
    cause = error.__context__
    return cause is not None and (isinstance(cause, KeyboardInterrupt) or comes_of_interrupt(cause))


def report(error: OSError, *, debug: bool) -> int:
    """Print one line about a failure (with `debug`, its traceback); returns the exit code it asks for."""
    if debug:
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    print(f"cairnfs: {describe(error)}", file=sys.stderr)
    return error.exit_code if isinstance(error, CairnError) else 1


def describe(error: OSError) -> str:
    """The message of an error of ours; file name and reason of one of the system's."""
    if isinstance(error, CairnError) or error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def main() -> None:
    """Entry point of the program."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
