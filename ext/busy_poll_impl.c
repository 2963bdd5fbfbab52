#define _GNU_SOURCE
#include "busy_poll_impl.h"

#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <sys/socket.h>
#include <time.h>

static int64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000) + now.tv_nsec / 1000;
}

static int is_there(int fd)
{
    char byte;
    return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || (errno != EAGAIN && errno != EINTR);
}

/* Is it worth a look this time? */
static int tries(struct bp_habit *habit)
{
    if (atomic_load_explicit(&habit->n_vain, memory_order_relaxed) < BP_VAIN)
        return 1;
    if (atomic_fetch_add_explicit(&habit->n_skips, 1, memory_order_relaxed) < BP_SKIPS)
        return 0;
    atomic_store_explicit(&habit->n_skips, 0, memory_order_relaxed);
    return 1;
}

int bp_look(struct bp_habit *habit, int fd)
{
    if (!tries(habit))
        return 0;
    int64_t began_us = now_us();
    for (int64_t before_us = began_us;;) {
        if (is_there(fd)) {
            atomic_store_explicit(&habit->n_vain, 0, memory_order_relaxed);
            return 1;
        }
        sched_yield();
        int64_t us = now_us();
        if (us - before_us > BP_HELD_US || us - began_us > BP_MOST_US)
            break;
        before_us = us;
    }
    if (is_there(fd)) /* whoever had the CPU may have made it */
        return 1;
    atomic_fetch_add_explicit(&habit->n_vain, 1, memory_order_relaxed);
    return 0;
}

size_t bp_send(struct bp_habit *habit, int fd, const void *data, size_t n_bytes)
{
    ssize_t n = send(fd, data, n_bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0)
        return 0;
    if ((size_t)n == n_bytes)
        bp_look(habit, fd);
    return (size_t)n;
}
