"""A wall clock that a test moves at will: a library between programs and libc. Monotonic clocks stay, as on a machine whose clock
is set; or that which goes on while a machine is suspended moves with it.
"""

import struct
import subprocess
from pathlib import Path

_SHIFTS = struct.Struct("=qq")
_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NS INT64_C(1000000000)

struct shifts {
    int64_t wall_ns, boot_ns; /* the latter of CLOCK_BOOTTIME */
};

static struct shifts none;
static volatile struct shifts *shifts = &none; /* the file SHIFTED_CLOCK */

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv("SHIFTED_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *at = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *shifts, PROT_READ, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED)
        shifts = at;
    if (fd >= 0)
        close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *out)
{
    static int (*next)(clockid_t, struct timespec *);
    if (!next)
        next = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = next(clock, out);
    int is_wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
    if (failed || (!is_wall && clock != CLOCK_BOOTTIME))
        return failed;
    int64_t ns = out->tv_sec * NS + out->tv_nsec + (is_wall ? shifts->wall_ns : shifts->boot_ns);
    out->tv_sec = ns / NS;
    out->tv_nsec = ns % NS;
    return 0;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    *out = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return out ? (*out = now.tv_sec) : now.tv_sec;
}
"""


class ShiftedClock:
    """One clock. Programs that are started with `env` have it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "clock.c").write_text(_SOURCE)
        command = ["cc", "-O1", "-shared", "-fPIC", "-o", "clock.so", "clock.c", "-ldl"]
        subprocess.run(command, cwd=folder, check=True, timeout=60)
        self._file = folder / "shift"
        self._file.write_bytes(_SHIFTS.pack(0, 0))
        self.env = {"LD_PRELOAD": str(folder / "clock.so"), "SHIFTED_CLOCK": str(self._file)}
        self.ahead_s = self._slept_s = 0.0

    @property
    def prefix(self) -> list[str]:
        """Of a command that has it."""
        return ["env", *(f"{name}={value}" for name, value in self.env.items())]

    def set(self, ahead_s: float) -> None:
        """So far ahead of the machine's it is from now on."""
        self.ahead_s = ahead_s
        with self._file.open("r+b") as file:  # whoever has mapped it sees that
            file.write(_SHIFTS.pack(round(ahead_s * 10**9), round(self._slept_s * 10**9)))

    def jump(self, seconds: float) -> None:
        self.set(self.ahead_s + seconds)

    def sleep(self, seconds: float) -> None:
        """The machine was suspended for so long."""
        self._slept_s += seconds
        self.jump(seconds)
