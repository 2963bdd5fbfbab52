"""`cairnfs format`: make a volume."""

import os

import click

from cairnfs.const import DEFAULT_BLOCK_BYTES, KIB
from cairnfs.daemon.command import json_option, limit_options, meta_url_argument, size_type
from cairnfs.units import format_size


@click.command("format")
@meta_url_argument
@click.argument("name")
@click.option("--storage", default="file", show_default=True, help="Kind of object storage: file, rados.")
@click.option(
    "--bucket",
    metavar="PLACE",
    help="Folder for objects, or pool of a Ceph cluster. [default: /var/lib/cairnfs; not as root ~/.cairnfs/local]",
)
@click.option("--ceph-conf", metavar="FILE", help="Ceph's configuration. [default: CEPH_CONF, or /etc/ceph/ceph.conf]")
@click.option("--ceph-user", metavar="NAME", help="User of Ceph. [default: client.admin]")
@click.option("--namespace", metavar="NS", help="Namespace within the pool. [default: none]")
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
    ceph_conf: str | None,
    ceph_user: str | None,
    namespace: str | None,
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

    options = {"ceph_conf": ceph_conf and os.path.abspath(ceph_conf), "ceph_user": ceph_user, "namespace": namespace}
    fmt = new_format(
        name,
        storage=storage,
        bucket=bucket,
        block_bytes=block_size,
        compression=compress,
        capacity_bytes=capacity,
        inodes=inodes,
        storage_options={name: value for name, value in options.items() if value},
    )
    format_volume(meta_url, fmt, force=force)
    if as_json:
        print_json(format_as_json(fmt))
    else:
        print(f"formatted volume '{fmt.name}' (uuid {fmt.uuid}); mount it with: cairnfs mount {meta_url} MOUNTPOINT")
