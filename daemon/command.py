"""Arguments and options that several commands share."""

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from cairnfs.const import GIB
from cairnfs.errors import UsageError
from cairnfs.units import parse_count, parse_duration, parse_size

meta_url_argument = click.argument("meta_url", metavar="META_URL")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases of click
    """An option whose text is read by a function that raises UsageError."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


def size_type(bare_unit_bytes: int) -> Parsed:
    """A size in bytes; a number without a unit counts `bare_unit_bytes`."""
    return Parsed("size", lambda text: parse_size(text, bare_unit_bytes=bare_unit_bytes))


COUNT = Parsed("count", parse_count)
DURATION = Parsed("duration", parse_duration)


# Options that only some kinds of storage have: name, metavar, help. What is given goes into the volume's `storage_options`.
STORAGE_OPTIONS = (
    (
        "sync",
        "WHEN",
        "When objects in a folder are synced to its disk: close (before it returns), or fsync, as local file systems do: a loss "
        "of power may then damage what was closed in the last half minute and not synced. [default: close]",
    ),
    ("region", "NAME", "Region of a bucket of S3. [default: of the URL, environment or profile]"),
    ("ceph-conf", "FILE", "Ceph's configuration. [default: CEPH_CONF, or /etc/ceph/ceph.conf]"),
    ("ceph-user", "NAME", "User of Ceph. [default: client.admin]"),
    ("namespace", "NS", "Namespace within the pool of Ceph. [default: none]"),
)


def place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--storage, --bucket, and one argument `storage_options` for the options that only some kinds of storage have."""

    @wraps(command)
    def called(**given: Any) -> Any:
        given["ceph_conf"] = given["ceph_conf"] and os.path.abspath(given["ceph_conf"])
        values = {name: given.pop(name) for name in (option.replace("-", "_") for option, _, _ in STORAGE_OPTIONS)}
        return command(storage_options={name: value for name, value in values.items() if value}, **given)

    options = [click.option(f"--{name}", metavar=metavar, help=text) for name, metavar, text in STORAGE_OPTIONS]
    where = "Folder for objects, URL of a bucket (S3), or pool (Ceph). [default: /var/lib/cairnfs; not as root ~/.cairnfs/local]"
    bucket = click.option("--bucket", metavar="PLACE", help=where)
    storage = click.option("--storage", default="file", show_default=True, help="Kind of object storage: file, s3, rados.")
    for option in (*reversed(options), bucket, storage):
        called = option(called)
    return called


def limit_options(default: int | None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--capacity and --inodes, with their default."""
    capacity_help = "Most bytes in the volume, in GiB without a unit; 0: no limit."
    inodes_help = "Most files and directories; 0: no limit."

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        command = click.option("--inodes", type=COUNT, default=default, metavar="N", help=inodes_help)(command)
        return click.option("--capacity", type=size_type(GIB), default=default, metavar="SIZE", help=capacity_help)(command)

    return decorate
