"""A program that makes, replaces and removes files in a folder, and says what it was promised.

python load.py FOLDER NAME: until the end of its input. Prints "+ FILE VERSION" when a version has been stored, "- FILE" when
the file has been removed, "! FILE ERRNO" for each failure, and at the end "slowest SECONDS".
"""

import errno
import os
import random
import select
import sys
import time

N_FILES = 40


def data_of(file: str, version: int) -> bytes:
    return f"{file} {version};".encode() * (100 + version % 50)


def change(path: str, file: str, version: int) -> str:
    if version % 7 == 6:
        os.unlink(path)
        return f"- {file}"
    fresh = path + ".new"
    with open(fresh, "wb") as out:
        out.write(data_of(file, version))
    os.rename(fresh, path)
    return f"+ {file} {version}"


def main(folder: str, name: str) -> None:
    chance = random.Random(name)
    versions: dict[str, int] = {}
    slowest_s = 0.0
    while not select.select([sys.stdin], [], [], 0)[0]:
        file = f"{name}{chance.randrange(N_FILES)}"
        version = versions.get(file, -1) + 1
        began_s = time.monotonic()
        try:
            print(change(os.path.join(folder, file), file, version), flush=True)
        except OSError as error:
            print("!", file, errno.errorcode[error.errno or 0], flush=True)
        else:
            versions[file] = version
        slowest_s = max(slowest_s, time.monotonic() - began_s)
    print("slowest", slowest_s, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
