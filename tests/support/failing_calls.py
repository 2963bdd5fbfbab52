"""A process whose system calls fail: a library between a program and libc, so that compiled code meets them, too."""

import json
import os
import subprocess
import sys
from pathlib import Path

SHORT = 0  # instead of an errno: one byte at a time
_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

/* What is to become of a call: -1 nothing, 0 it does a byte only, else its errno. */
static int wanted(const char *call)
{
    const char *value = getenv(call);
    return value == NULL ? -1 : atoi(value);
}

ssize_t writev(int fd, const struct iovec *parts, int n_parts)
{
    int how = wanted("FAILING_writev");
    if (how > 0)
        return errno = how, -1;
    for (int i = 0; how == 0 && i < n_parts; i++)
        if (parts[i].iov_len)
            return write(fd, parts[i].iov_base, 1);
    return ((ssize_t (*)(int, const struct iovec *, int))dlsym(RTLD_NEXT, "writev"))(fd, parts, n_parts);
}

ssize_t pread64(int fd, void *out, size_t n_bytes, off_t at)
{
    int how = wanted("FAILING_pread");
    if (how > 0)
        return errno = how, -1;
    return ((ssize_t (*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, "pread64"))(fd, out, how == 0 && n_bytes ? 1 : n_bytes, at);
}

ssize_t pread(int fd, void *out, size_t n_bytes, off_t at)
{
    return pread64(fd, out, n_bytes, at);
}

int fsync(int fd)
{
    int how = wanted("FAILING_fsync");
    return how > 0 ? (errno = how, -1) : ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}

int syncfs(int fd)
{
    int how = wanted("FAILING_syncfs");
    return how > 0 ? (errno = how, -1) : ((int (*)(int))dlsym(RTLD_NEXT, "syncfs"))(fd);
}
"""


def build(folder: Path) -> Path:
    """The library, made in a folder."""
    (folder / "calls.c").write_text(_SOURCE)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", "calls.so", "calls.c", "-ldl"], cwd=folder, check=True, timeout=60)
    return folder / "calls.so"


def outcome_of(library: Path, program: str, arguments: list[str], **calls: int) -> object:
    """What a Python program prints as JSON while calls (writev, pread, fsync, syncfs) fail by an errno, or do little (SHORT)."""
    preloaded = f"{os.environ.get('LD_PRELOAD', '')} {library}".strip()
    failing = {f"FAILING_{call}": str(how) for call, how in calls.items()}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | {"LD_PRELOAD": preloaded} | failing,
        capture_output=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)
