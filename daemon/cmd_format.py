"""`cairnfs format`: make a volume."""

from shlex import quote

import click

from cairnfs.const import DEFAULT_BLOCK_BYTES, KIB
from cairnfs.daemon.command import json_option, limit_options, meta_url_argument, place_options, size_type
from cairnfs.units import format_size


@click.command("format")
@meta_url_argument
@click.argument("name")
@place_options
@click.option(
    "--block-size",
    type=size_type(KIB),
    default=DEFAULT_BLOCK_BYTES,
    metavar="SIZE",
    help=f"Most bytes in one stored object, in KiB without a unit. [default: {format_size(DEFAULT_BLOCK_BYTES)}]",
)
@click.option("--compress", default="none", show_default=True, metavar="KIND", help="none, or zstd[:LEVEL].")
@limit_options(default=0)
@click.option("--force", is_flag=True, help="Destroy the volume that META_URL already holds, and its objects, first.")
@json_option
def format_command(
    meta_url: str,
    name: str,
    storage: str,
    bucket: str | None,
    storage_options: dict[str, str],
    block_size: int,
    compress: str,
    capacity: int,
    inodes: int,
    force: bool,
    as_json: bool,
) -> None:
    """Create the volume NAME with its metadata at META_URL.

    NAME has 3 to 63 of a-z, 0-9 and '-'.
    """
    from cairnfs.daemon.output import print_json
    from cairnfs.daemon.shown import format_as_json
    from cairnfs.volume import format_volume, new_format

    fmt = new_format(
        name,
        storage=storage,
        bucket=bucket,
        block_bytes=block_size,
        compression=compress,
        capacity_bytes=capacity,
        inodes=inodes,
        storage_options=storage_options,
    )
    format_volume(meta_url, fmt, force=force)
    if as_json:
        print_json(format_as_json(fmt))
    else:
        print(f"formatted volume '{fmt.name}' (uuid {fmt.uuid}); mount it with: cairnfs mount {quote(meta_url)} MOUNTPOINT")
