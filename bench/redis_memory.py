"""How much memory of Redis a file takes: `python -m cairnfs.bench.redis_memory`.

Files with names of 20 characters in folders of a thousand (`--per-folder`), each with some bytes and thus a layout, made through
one engine in this process on a Redis server that this starts and ends. What the server uses is read before and after; the change
log, which has an end, is taken out of it and shown by itself.
"""

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import redis

from cairnfs.bench.mounted import count, run
from cairnfs.bench.servers import redis_server
from cairnfs.const import ROOT_INO
from cairnfs.options import EngineOptions
from cairnfs.types import Caller, Inode
from cairnfs.vfs import Vfs
from cairnfs.volume import format_volume, new_format, open_volume

FILE_BYTES = 1000
N_THREADS = 8
LOG = "{cairnfs:0}log"  # of the volume in database 0
ME = Caller()


class Used(NamedTuple):
    """What the server uses, in bytes: for all but the log, and for the log and its records."""

    rows: int
    log: int
    n_log: int


def used(client: "redis.Redis") -> Used:
    log = int(client.memory_usage(LOG, samples=0) or 0)
    return Used(int(client.info("memory")["used_memory"]) - log, log, int(client.llen(LOG)))


def make_folder(vfs: Vfs, no: int, n_files: int) -> None:
    folder = vfs.mkdir(ME, Inode(ROOT_INO), b"speakers-%04d" % no, 0o755).ino
    data = os.urandom(FILE_BYTES)
    for n in range(n_files):
        fh = vfs.create(ME, folder, b"utterance-%06d.wav" % n, 0o644, os.O_WRONLY)[1].fh
        vfs.write(ME, fh, 0, data)
        vfs.flush(ME, fh)
        vfs.release(ME, fh)


def measure(url: str, bucket: Path, n_folders: int, per_folder: int, client: "redis.Redis") -> tuple[Used, Used]:
    """What is in use with few files, and with `n_folders` of them more."""
    format_volume(url, new_format("sizing", bucket=str(bucket)))
    with open_volume(url, EngineOptions(background_jobs=False)) as volume:
        volume.meta.sessions.open("/in-process", "bench")
        vfs = Vfs(volume.meta, volume.data, volume.options, volume.clock)
        n_warm = 2  # folders by which all that is there once is there
        with ThreadPoolExecutor(N_THREADS) as pool:
            list(pool.map(lambda no: make_folder(vfs, no, per_folder), range(n_warm)))
            before = used(client)
            list(pool.map(lambda no: make_folder(vfs, no, per_folder), range(n_warm, n_warm + n_folders)))
            after = used(client)
        vfs.close()
        volume.meta.sessions.close()
    return before, after


def main() -> int:
    parser = argparse.ArgumentParser(prog="cairnfs.bench.redis_memory", description=__doc__)
    parser.add_argument("--files", type=count, default=200_000)
    parser.add_argument("--per-folder", type=count, default=1000, metavar="N", help="files in a folder")
    parser.add_argument("--bucket", type=Path, help="where to put the objects; removed at the end")
    options = parser.parse_args()
    n_folders = max(options.files // options.per_folder, 1)
    n_files = n_folders * options.per_folder
    with (
        tempfile.TemporaryDirectory(prefix="cairnfs-redis-") as folder,
        tempfile.TemporaryDirectory(prefix="cairnfs-redis-", dir=options.bucket) as bucket,
        redis_server(Path(folder), appendonly=False) as server,
        redis.Redis.from_url(server) as client,
    ):
        started_s = time.monotonic()
        before, after = measure(f"{server}/0", Path(bucket), n_folders, options.per_folder, client)
        elapsed_s = time.monotonic() - started_s
    each = (after.rows - before.rows) / n_files
    record = (after.log - before.log) / max(after.n_log - before.n_log, 1)
    print(f"{n_files:,} files in {elapsed_s:.0f} s: {each:.0f} bytes each, {record:.0f} for each record of the change log")
    return 0


if __name__ == "__main__":
    run(main)
