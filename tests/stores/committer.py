"""A process that commits to a SQLite store until it is told to stop or killed: PATH NAME N_COMMITS [CHECKPOINT_PAGES].

Each commit adds 1 to the counter of all processes and to its own, and puts a row of its own; then a line on stdout
acknowledges it. Small CHECKPOINT_PAGES make checkpoints happen all the time.
"""

import sys
from pathlib import Path

from cairnfs.meta.stores import sqlite_checkpoint
from cairnfs.meta.stores.base import Add, Put
from cairnfs.meta.stores.sqlite import SqliteStore


def main() -> None:
    path, name, n_commits = Path(sys.argv[1]), sys.argv[2].encode(), int(sys.argv[3])
    if len(sys.argv) > 4:
        sqlite_checkpoint.PASSIVE_PAGES = int(sys.argv[4])
        sqlite_checkpoint.RESTART_PAGES = 2 * int(sys.argv[4])
    store = SqliteStore(path, str(path), create=True)
    for n in range(n_commits):
        row = (b"row" + name, n.to_bytes(8, "big"))
        store.commit([], [Add((b"count", b"all"), 0, 1), Add((b"count", name), 0, 1), Put(row, b"x" * 500)])
        print(n, flush=True)
    store.close()


if __name__ == "__main__":
    main()
