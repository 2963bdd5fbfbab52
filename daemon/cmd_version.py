"""`cairnfs version`: the version, and with --json what it was built and runs with."""

import click

from cairnfs.daemon.command import json_option
from cairnfs.version import VERSION


@click.command("version")
@json_option
def version_command(as_json: bool) -> None:
    """Show the version of cairnfs, of its volume format, of Python, and of librados where it is installed."""
    import platform

    from cairnfs.const import FORMAT_VERSION
    from cairnfs.daemon.output import print_json
    from cairnfs.ext import rados_io

    python, librados = platform.python_version(), rados_io.version()
    if as_json:
        print_json({"version": VERSION, "format_version": FORMAT_VERSION, "python": python, "librados": librados})
    else:
        ceph = f", librados {librados}" if librados else ""
        print(f"cairnfs {VERSION} (volume format {FORMAT_VERSION}, Python {python}{ceph})")
