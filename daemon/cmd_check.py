"""`cairnfs fsck` and `cairnfs gc`."""

from typing import TYPE_CHECKING

import click

from cairnfs.daemon.command import DURATION, json_option, meta_url_argument

if TYPE_CHECKING:
    from cairnfs.volume import Volume

CLOCK_SKEW_S = 300.0  # how much the clocks of hosts and of the object store may differ


@click.command("fsck")
@meta_url_argument
@click.option("--repair", is_flag=True, help="Mend what can be mended.")
@click.option("--verify-data", is_flag=True, help="Read every object and verify every byte.")
@json_option
def fsck_command(meta_url: str, repair: bool, verify_data: bool, as_json: bool) -> int:
    """Check the volume at META_URL: names, inodes, layouts, counters, and that all objects are there.

    The exit code is 0 when nothing is wrong or everything was repaired, else 1. The volume may be in use; what changes
    during the check is not judged.
    """
    from cairnfs.check import fsck
    from cairnfs.daemon.interrupting import ended_by_interrupt
    from cairnfs.daemon.output import note, print_json, progress
    from cairnfs.volume import open_volume

    with ended_by_interrupt(), open_volume(meta_url, data=False) as volume:
        report = fsck.run(volume, verify_data=verify_data, repair=repair, progress=progress)
    if as_json:
        print_json(report.to_json())
        return 0 if report.ok else 1
    for problem in report.problems:
        print(problem)
    if report.n_problems > len(report.problems):
        print(f"... and {report.n_problems - len(report.problems):,} more")
    if report.unsettled:
        note(f"{report.unsettled:,} doubts could not be settled, because the volume changed; check again when it is idle")
    checked = ", ".join(f"{n:,} {what.replace('_', ' ')}" for what, n in report.checked.items())
    print(f"{_verdict(report.n_problems, report.n_left)}; looked at {checked}")
    return 0 if report.ok else 1


def _verdict(n_problems: int, n_left: int) -> str:
    if n_problems == 0:
        return "the volume is clean"
    return f"{n_problems:,} problems, all repaired" if n_left == 0 else f"{n_problems:,} problems, {n_left:,} of them left"


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
def gc_command(meta_url: str, delete: bool, grace: float, as_json: bool) -> int:
    """Find what takes space in the volume at META_URL although no file uses it.

    Unknown objects that were stored since the oldest mount began are left alone, too: a file may be written to for as long
    before anything of it is committed. A mount that has not been heard of for long counts until another one has cleaned up
    after it.
    """
    from cairnfs.check import gc
    from cairnfs.daemon.interrupting import ended_by_interrupt
    from cairnfs.daemon.output import note, print_fields, print_json, progress
    from cairnfs.units import format_size
    from cairnfs.volume import open_volume

    with ended_by_interrupt(), open_volume(meta_url, data=False) as volume:
        found = gc.run(volume, delete=delete, grace_s=max(grace, _oldest_session_s(volume)), progress=progress)
    if as_json:
        print_json(found.to_json())
        return 0 if found.ok else 1
    print_fields(
        {
            "Packs that no file uses": f"{found.garbage_packs:,} ({format_size(found.garbage_bytes)})",
            "Unknown objects": f"{found.unknown_objects:,} ({format_size(found.unknown_bytes)})",
            "Unknown objects too young to judge": f"{found.young_objects:,}",
            "Objects that are not packs": f"{found.foreign_objects:,} (never deleted)",
            "Deleted files with content left": f"{found.deleted_files:,}",
            "Packs in use": f"{found.live_packs:,} ({format_size(found.live_bytes)})",
            "Unused bytes in them": f"{format_size(found.dead_bytes)} (left to compaction)",
        }
    )
    for failure in found.failed:
        note(failure)
    print("deleted" if delete else "nothing was deleted; add --delete")
    return 0 if found.ok else 1


def _oldest_session_s(volume: "Volume") -> float:
    """How long the volume has been in use without a break, by anyone who is not known to have ended; 0 when nobody is left. Of
    those which do not say what packs are theirs, as earlier versions; `gc.run` knows those of all others.

    Who was not heard of for long may have been stopped with what it has stored, and go on to commit it.
    """
    sessions = volume.meta.sessions
    sessions.clean_stale()
    started = [session.started for session in sessions.list() if not session.first_pack]
    return sessions.now_ns() / 1e9 - min(started) + CLOCK_SKEW_S if started else 0.0
