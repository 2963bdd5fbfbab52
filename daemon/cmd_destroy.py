"""`cairnfs destroy`: delete a volume with all its data."""

import click

from cairnfs.daemon.command import json_option, meta_url_argument


@click.command("destroy")
@meta_url_argument
@click.argument("uuid")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Even while the volume is in use, or its objects cannot be deleted.")
@json_option
def destroy_command(meta_url: str, uuid: str, yes: bool, force: bool, as_json: bool) -> None:
    """Delete all objects and all metadata of the volume at META_URL.

    UUID must be that of the volume, as 'cairnfs status' shows it.
    """
    from cairnfs.daemon.output import print_json, progress
    from cairnfs.volume import check_destroyable, destroy_volume, open_volume

    if not yes:
        with open_volume(meta_url, data=False) as volume:
            check_destroyable(volume, uuid, force=force)
            fmt = volume.format
            used = volume.meta.attrs.statfs()
        click.echo(
            f"volume '{fmt.name}': {used.used_inodes:,} files and directories, objects in {fmt.bucket}/{fmt.name}", err=True
        )
        click.confirm("Delete all of it, for ever?", abort=True, err=True)
    with progress("Deleting objects") as steps:
        n_objects = destroy_volume(meta_url, uuid, force=force, deleted=steps.advance)
    if as_json:
        print_json({"uuid": uuid, "deleted_objects": n_objects})
    else:
        print(f"volume {uuid} is destroyed: {n_objects:,} objects deleted")
