"""What a small file costs at least, whoever serves it: `python -m cairnfs.bench.floor`.

A process makes files through a mount on Redis, then removes them. What the mount asks of the server meanwhile is recorded
(MONITOR) and asked once more of a server with the same content, on one connection, one request after the other; objects of the
same size are put into a folder. So this is the time for which Redis and the disk are waited for, without FUSE and without a file
system.
"""

import argparse
import codecs
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import redis
from rich.console import Console
from rich.table import Table

from cairnfs.bench.mounted import count, mounted_again, run, run_cairnfs
from cairnfs.bench.servers import redis_server
from cairnfs.ext import file_io
from cairnfs.meta.stores.redis_wire import Wire

N_FOLDERS = 256  # of objects
AGAIN = frozenset({b"GET", b"GETEX", b"EVALSHA"})  # the rest is for connections and sessions, and brings scripts: EVAL
POSITION = "{cairnfs:0}position"
REMOVALS, END = b"removals", b"end"
LIMIT_S = 30.0
MAX_SAVES = 50

_ADDRESS = re.compile(rb"\+[\d.]+ \[\d+ ([^\]]+)\]")
_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"')

Words = tuple[bytes, ...]


class Recorded(NamedTuple):
    """The requests of each phase, the scripts that they call, the position afterwards."""

    creates: list[Words]
    removals: list[Words]
    scripts: list[bytes]
    position: bytes | None


class Costs(NamedTuple):
    """For one file, in microseconds."""

    n_requests: float
    redis_us: float
    object_us: float = 0
    synced_us: float = 0


class Monitor:
    """All that a server is asked by its clients, from now on."""

    def __init__(self, url: str) -> None:
        client = redis.Redis.from_url(url)
        place = client.connection_pool.connection_kwargs
        self._socket = socket.create_connection((place["host"], place["port"]), timeout=LIMIT_S)
        self._file = self._socket.makefile("rb")
        self._socket.sendall(b"MONITOR\r\n")
        self._file.readline()

    def until(self, mark: bytes) -> Iterator[Words]:
        """Up to one whose last word is `mark`. Scripts' own commands are left out."""
        for line in self._file:
            address = _ADDRESS.match(line)
            if address is None or address[1] == b"lua":
                continue
            words = tuple(codecs.escape_decode(word)[0] for word in _WORD.findall(line, address.end()))
            if words[-1:] == (mark,):
                return
            yield words

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def save(client: redis.Redis) -> bytes:
    """Have the server store what it has. Returns the mark among what it is asked, up to which all is in there."""
    for mark in (b"start %d" % n for n in range(MAX_SAVES)):
        position = client.get(POSITION)
        client.save()
        if marked(client, mark) == position:
            return mark
        time.sleep(0.1)
    raise SystemExit("floor: the mount does not come to rest")


def marked(client: redis.Redis, mark: bytes) -> bytes | None:
    """The position at a mark among what the server is asked."""
    position: bytes | None = client.pipeline().echo(mark).get(POSITION).execute()[1]  # type: ignore[union-attr]
    return position


def record(root: Path, url: str, n_files: int, data: bytes) -> Recorded:
    """What a mount asks of the server at `url`, whose content before that is in `root`/again afterwards."""
    client = redis.Redis.from_url(url)
    mountpoint, bucket = root / "mnt", root / "objects"
    run_cairnfs("format", url, "bench", "--bucket", bucket, "--sync", "fsync")
    monitor = Monitor(url)
    with mounted_again(mountpoint, url, root / "log"):
        folder = mountpoint / "files"
        folder.mkdir()
        (folder / "first").write_bytes(data)  # whose commits bring the scripts
        (folder / "first").unlink()
        start = save(client)
        shutil.copy(root / "server" / "dump.rdb", root / "again" / "dump.rdb")
        for n in range(n_files):
            (folder / f"{n:06}").write_bytes(data)
        marked(client, REMOVALS)
        for n in range(n_files):
            (folder / f"{n:06}").unlink()
        position = marked(client, END)
        phases = [list(monitor.until(mark)) for mark in (start, REMOVALS, END)]
    monitor.close()
    scripts = {words[1] for words in chain(*phases) if words[0] == b"EVAL"}
    creates, removals = ([words for words in phase if words[0] in AGAIN] for phase in phases[1:])
    return Recorded(creates, removals, [*scripts], position)


@contextmanager
def same_server(folder: Path, scripts: list[bytes]) -> Iterator[Wire]:
    """A server with what is in its folder, and its log of changes on."""
    with redis_server(folder, appendonly=False) as url:
        client = redis.Redis.from_url(url)
        for script in scripts:
            client.script_load(script)
        client.config_set("appendonly", "yes")
        until_s = time.monotonic() + LIMIT_S
        while client.info("persistence")["aof_rewrite_in_progress"] and time.monotonic() < until_s:
            time.sleep(0.05)
        wire = Wire(client)
        yield wire
        wire.end()


def ask(wire: Wire, requests: list[Words], n_files: int) -> Costs:
    """The same once more."""
    began_s = time.perf_counter()
    for words in requests:
        wire.ask(words)
    return Costs(len(requests) / n_files, (time.perf_counter() - began_s) / n_files * 1e6)


def put(root: Path, n_files: int, data: bytes, sync: bool) -> float:
    """Microseconds for an object."""
    root.mkdir()
    file_io.spread(str(root))
    folders = [str(root / f"{n:02x}") for n in range(min(N_FOLDERS, n_files))]
    for folder in folders:
        os.mkdir(folder)
    began_s = time.perf_counter()
    for n in range(n_files):
        folder = folders[n % len(folders)]
        file_io.put(folder, f"{folder}/{n}", [data], sync)
    return (time.perf_counter() - began_s) / n_files * 1e6


def measure(root: Path, n_files: int, size: int) -> dict[str, Costs]:
    data = os.urandom(size)
    (root / "again").mkdir()
    with redis_server(root / "server", appendonly=True) as url:
        recorded = record(root, url, n_files, data)
    with same_server(root / "again", recorded.scripts) as wire:
        created, removed = ask(wire, recorded.creates, n_files), ask(wire, recorded.removals, n_files)
        if wire.ask(("GET", POSITION)) != recorded.position:
            raise SystemExit("floor: what was asked again had another outcome")
    unsynced_us, synced_us = (put(root / f"put{sync}", n_files, data, sync) for sync in (False, True))
    return {"create, write, close": created._replace(object_us=unsynced_us, synced_us=synced_us), "remove": removed}


def shown(costs: dict[str, Costs], title: str) -> Table:
    table = Table(title=title)
    for column in ("of each file", "requests to Redis", "Redis, us", "object, us", "synced, us", "files/s", "files/s, synced"):
        table.add_column(column, justify="right" if column != "of each file" else "left")
    for what, cost in costs.items():
        times = (cost.redis_us, cost.object_us, cost.synced_us)
        rates = (1e6 / (cost.redis_us + us) for us in times[1:])
        table.add_row(what, f"{cost.n_requests:.2f}", *(f"{us:,.0f}" for us in times), *(f"{rate:,.0f}" for rate in rates))
    table.caption = "one file after the other, nobody but Redis and the disk at work"
    return table


def main() -> int:
    parser = argparse.ArgumentParser(prog="cairnfs.bench.floor", description=__doc__)
    parser.add_argument("--files", type=count, default=2000)
    parser.add_argument("--size", type=count, default=64 << 10, help="bytes of each file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cairnfs-floor-") as folder:
        costs = measure(Path(folder), options.files, options.size)
    title = f"{options.files:,} files of {options.size:,} bytes"
    Console(width=None if sys.stdout.isatty() else 110).print(shown(costs, title))
    return 0


if __name__ == "__main__":
    run(main)
