"""Stores small files on a mount until its standard input ends: `python storing_writer.py DIR SEED`.

Prints a JSON line for each: its name, the digest of its bytes, 0 or the errno of what failed, and how many seconds it took. A
process of its own, because a test that starts a server would otherwise hold copies of the open file for a moment, and wait for
the storage when it closes them.
"""

import hashlib
import json
import os
import random
import select
import sys
import time
from pathlib import Path


def store(path: Path, data: bytes) -> int:
    """Write and sync a new file; the errno of what failed, or 0."""
    try:
        with path.open("wb", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno or -1
    return 0


def main() -> None:
    top, rng, number = Path(sys.argv[1]), random.Random(sys.argv[2]), 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        data, name, started_s = rng.randbytes(rng.randrange(1, 60_000)), f"w{number}", time.monotonic()
        failed = store(top / name, data)
        took_s = time.monotonic() - started_s
        print(json.dumps([name, hashlib.sha256(data).hexdigest(), failed, took_s]), flush=True)
        number += 1


if __name__ == "__main__":
    main()
