"""How late another node sees a change: `python -m cairnfs.bench.staleness [--url redis://HOST:PORT/DB]`.

Two mounts of one volume with `--consistency push`, where opens ask nobody: a file is written again through one, and read again
and again through the other; a new name is made, and looked for. Alone, and while processes make files through both. The
database of the URL is overwritten; without one, a server is started.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cairnfs.bench.mounted import count, mounted_again, run, run_cairnfs
from cairnfs.bench.servers import redis_server

PAUSE_S = 0.3  # between changes: the follower must not be busy with the one before
GIVE_UP_S = 10.0
console = Console(width=None if sys.stdout.isatty() else 110)


@contextmanager
def two_mounts(url: str, root: Path) -> Iterator[tuple[Path, Path]]:
    run_cairnfs("format", url, "bench", "--bucket", root, "--force")
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(mounted_again(root / name, url, root / f"{name}.log", "--consistency", "push"))
            for name in ("one", "two")
        )
        yield one, two


def seen_after_s(is_seen: Callable[[], bool]) -> float:
    """From now until another node's change is seen."""
    changed_s = time.monotonic()
    while not is_seen():
        if time.monotonic() - changed_s > GIVE_UP_S:
            raise SystemExit(f"staleness: a change was not seen within {GIVE_UP_S:g} s")
    return time.monotonic() - changed_s


def content(one: Path, two: Path, n: int) -> list[float]:
    delays_s = []
    for i in range(n):
        data = b"%d" % i
        (one / "f").write_bytes(data)
        delays_s.append(seen_after_s(lambda data=data: (two / "f").exists() and (two / "f").read_bytes() == data))  # type: ignore[misc]
        time.sleep(PAUSE_S)
    return delays_s


def names(one: Path, two: Path, n: int) -> list[float]:
    delays_s = []
    for i in range(n):
        (two / f"n{i}").exists()  # so that it is known not to be there
        (one / f"n{i}").touch()
        delays_s.append(seen_after_s((two / f"n{i}").exists))
        time.sleep(PAUSE_S)
    return delays_s


def load(top: Path, number: int) -> None:
    folder = top / f"load{number}"
    folder.mkdir()
    data = os.urandom(1000)
    for i in range(1 << 30):
        (folder / f"{i}").write_bytes(data)


@contextmanager
def loaded(tops: tuple[Path, Path], n_procs: int) -> Iterator[None]:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=load, args=(tops[i % 2], i)) for i in range(n_procs)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def main() -> int:
    parser = argparse.ArgumentParser(prog="cairnfs.bench.staleness", description=__doc__)
    parser.add_argument("--url", help="a Redis database, which is overwritten")
    parser.add_argument("--changes", type=count, default=300)
    parser.add_argument("--load", type=int, default=4, metavar="N", help="processes that make files meanwhile")
    arguments = parser.parse_args()
    table = Table("what is looked for", "load", "median ms", "99 % ms", "worst ms")
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cairnfs-bench-")))
        url = arguments.url or f"{stack.enter_context(redis_server(root, appendonly=True))}/0"
        tops = stack.enter_context(two_mounts(url, root))
        for n_procs in (0, arguments.load):
            with loaded(tops, n_procs):
                for what, measure in (("content of a file", content), ("a new name", names)):
                    found = sorted(1000 * delay_s for delay_s in measure(*tops, arguments.changes))
                    last = found[int(len(found) * 0.99)]
                    load_name = f"{n_procs} processes" if n_procs else "none"
                    table.add_row(what, load_name, *(f"{ms:.1f}" for ms in (statistics.median(found), last, found[-1])))
            if n_procs == 0:
                for top in tops[0].iterdir():
                    top.unlink()
    console.print(table)
    return 0


if __name__ == "__main__":
    run(main)
