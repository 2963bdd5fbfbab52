"""What the kernel has sent to a mount, as its `.stats` counts it."""

from collections.abc import Callable

from support.mounts import Mount


def requests(mount: Mount) -> dict[str, int]:
    """What the mount has been asked, by opcode."""
    found = {}
    for line in (mount.path / ".stats").read_text().splitlines():
        if line.startswith("cairnfs_fuse_requests_total{"):
            found[line.split('"')[1]] = int(float(line.split(" ")[1]))
    return found


def sent(mount: Mount, act: Callable[[], object]) -> dict[str, int]:
    """Requests that an act causes, less those of looking, without those that nobody waits for: these may be of before."""
    first = requests(mount)
    before = requests(mount)
    act()
    after = requests(mount)
    looking = {op: before.get(op, 0) - first.get(op, 0) for op in before}
    found = {op: n - before.get(op, 0) - looking.get(op, 0) for op, n in after.items()}
    return {op: n for op, n in found.items() if n > 0 and op not in ("FORGET", "BATCH_FORGET", "RELEASE")}
