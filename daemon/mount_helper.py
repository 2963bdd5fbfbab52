"""`mount.cairnfs`: what mount(8), fstab and systemd run for `mount -t cairnfs` and `mount -t fuse.cairnfs`.

mount(8) runs /sbin/mount.TYPE SOURCE MOUNTPOINT [-sfnv] [-N NAMESPACE] [-t TYPE] -o WORDS. Without a helper for
`fuse.cairnfs` it runs mount.fuse3, which in turn runs `cairnfs SOURCE MOUNTPOINT -o WORDS`; `cli.run` passes such a call
on to `run_helper`. SOURCE is the metadata URL. The mount is always served in the background, and the helper returns when
it answers, so that what comes after in the boot finds it there.
"""

import getopt
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cairnfs.daemon.mount_options import make_request, sort_words, split_words
from cairnfs.errors import CairnError, UsageError

# Exit codes that mount(8) knows.
USAGE = 1
FAILED = 32


class Call(NamedTuple):
    """One call by mount(8). `fake` asks for all but the mount itself; `sloppy` for unknown words to be ignored."""

    source: str
    mountpoint: Path
    words: list[str]
    fake: bool
    sloppy: bool
    verbose: bool


def parse_call(args: Sequence[str]) -> Call:
    """Read the arguments; options may stand before, between and after the two others. UsageError when they are wrong."""
    try:
        options, rest = getopt.gnu_getopt(list(args), "sfnvo:N:t:")
    except getopt.GetoptError as error:
        raise UsageError(str(error)) from error
    if len(rest) != 2:
        raise UsageError("usage: mount.cairnfs META_URL MOUNTPOINT [-sfnv] [-o WORD,...]")
    flags = {name for name, _ in options}
    words = [word for name, value in options if name == "-o" for word in split_words(value)]
    return Call(rest[0], Path(rest[1]).absolute(), words, "-f" in flags, "-s" in flags, "-v" in flags)


def run_helper(args: Sequence[str]) -> int:
    """Serve one call of mount(8); returns the exit code it expects."""
    try:
        call = parse_call(args)
        _mount(call)
    except OSError as error:
        print(f"mount.cairnfs: {error if isinstance(error, CairnError) else error.strerror}", file=sys.stderr)
        return USAGE if isinstance(error, UsageError) else FAILED
    return 0


def _mount(call: Call) -> None:
    from cairnfs.daemon.cmd_mount import mount_in_background
    from cairnfs.daemon.running import find_running

    words = sort_words(call.words, sloppy=call.sloppy)
    request = make_request(call.source, call.mountpoint, {}, words, read_only=False, as_root=os.geteuid() == 0)
    running = find_running(call.mountpoint, os.geteuid())
    if running is not None:
        served = running.url
        running.close()
        if served == call.source:
            return  # `mount -a` cannot see that it is mounted: the kernel's table has the volume's name, not the URL
    if not call.fake:
        mount_in_background(request, logging.DEBUG if call.verbose or words.debug else logging.INFO)


def main() -> None:
    """Entry point of the program."""
    sys.exit(run_helper(sys.argv[1:]))


if __name__ == "__main__":
    main()
