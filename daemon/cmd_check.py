"""`cairnfs fsck` and `cairnfs gc`."""

import click

from cairnfs.daemon.command import DURATION, json_option, meta_url_argument


@click.command("fsck")
@meta_url_argument
@click.option("--repair", is_flag=True, help="Mend what can be mended; the volume must not be mounted.")
@click.option("--verify-data", is_flag=True, help="Read every object and verify every byte.")
@json_option
def fsck_command(meta_url: str, repair: bool, verify_data: bool, as_json: bool) -> int:
    """Check the volume at META_URL: names, inodes, layouts, counters, and that all objects are there.

    The exit code is 0 when nothing is wrong or everything was mended, else 1. While the volume is mounted, changes made
    during the check may be reported as damage.
    """
    from cairnfs.check.fsck import check_volume
    from cairnfs.daemon.output import note, print_json, progress
    from cairnfs.volume import open_volume

    with open_volume(meta_url, data=False) as volume:
        if volume.active_sessions():
            note("the volume is in use: changes made during the check may be reported as damage")
        report = check_volume(volume, progress, verify_data=verify_data, mend=repair)
    if as_json:
        print_json(report.as_json())
    else:
        for finding in report.findings:
            print(finding)
        if report.more:
            print(f"... and {report.more:,} more")
        totals = ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in report.totals.items())
        print(f"{'the volume is clean' if report.clean else 'the volume is damaged'}: {totals}")
    return 0 if report.clean else 1


@click.command("gc")
@meta_url_argument
@click.option("--delete", is_flag=True, help="Delete what was found.")
@click.option(
    "--grace",
    type=DURATION,
    default="1h",
    show_default=True,
    metavar="TIME",
    help="Leave objects alone that are younger, in seconds without a unit: their writer may be about to commit them.",
)
@json_option
def gc_command(meta_url: str, delete: bool, grace: float, as_json: bool) -> None:
    """Find what takes space in the volume at META_URL although no file uses it."""
    from dataclasses import asdict

    from cairnfs.check.gc import collect_garbage
    from cairnfs.daemon.output import print_fields, print_json, progress
    from cairnfs.units import format_size
    from cairnfs.volume import open_volume

    with open_volume(meta_url, data=False) as volume:
        found = collect_garbage(volume, progress, delete=delete, grace_s=grace)
    if as_json:
        print_json(asdict(found))
        return
    print_fields(
        {
            "Unknown objects": f"{found.leaked_objects:,} ({format_size(found.leaked_bytes)})",
            "Unknown objects too young to judge": f"{found.recent_objects:,}",
            "Objects that are not packs": f"{found.foreign_objects:,} (left alone)",
            "Packs without live bytes": f"{found.dead_packs:,}",
            "Deleted files with chunks left": f"{found.unfinished_files:,}",
        }
    )
    print("deleted" if delete else "nothing was deleted; add --delete")
