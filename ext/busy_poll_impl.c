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

int bp_may_look(const struct bp_habit *habit)
{
    return now_us() >= atomic_load_explicit(&habit->again_us, memory_order_relaxed);
}

/* 1 = look again, 0 = they need the CPU. */
static int yield_to_others(struct bp_habit *habit)
{
    int64_t before_us = now_us();
    sched_yield();
    int64_t us = now_us();
    if (us - before_us <= BP_HELD_US) {
        if (atomic_fetch_add_explicit(&habit->n_free, 1, memory_order_relaxed) == BP_FREE)
            atomic_store_explicit(&habit->pause_us, 0, memory_order_relaxed);
        return 1;
    }
    int64_t pause_us = 2 * atomic_load_explicit(&habit->pause_us, memory_order_relaxed);
    pause_us = pause_us < BP_PAUSE_US ? BP_PAUSE_US : pause_us > BP_LONGEST_US ? BP_LONGEST_US : pause_us;
    atomic_store_explicit(&habit->n_free, 0, memory_order_relaxed);
    atomic_store_explicit(&habit->pause_us, pause_us, memory_order_relaxed);
    atomic_store_explicit(&habit->again_us, us + pause_us, memory_order_relaxed);
    return 0;
}

/* Do replies come in time? Where they have not, one of some is looked for all the same. */
static int is_in_vain(struct bp_habit *habit)
{
    if (atomic_load_explicit(&habit->n_vain, memory_order_relaxed) < BP_VAIN)
        return 0;
    if (atomic_fetch_add_explicit(&habit->n_skips, 1, memory_order_relaxed) < BP_SKIPS)
        return 1;
    atomic_store_explicit(&habit->n_skips, 0, memory_order_relaxed);
    return 0;
}

static void look(struct bp_habit *habit, int fd)
{
    int64_t until_us = now_us() + BP_MOST_US;
    do {
        if (is_there(fd)) {
            atomic_store_explicit(&habit->n_vain, 0, memory_order_relaxed);
            return;
        }
    } while (yield_to_others(habit) && now_us() <= until_us);
    if (is_there(fd)) /* whoever had the CPU may have made it */
        return;
    atomic_fetch_add_explicit(&habit->n_vain, 1, memory_order_relaxed);
}

/* Wait for something to read, the end of the stream or an error, but not for long. */
static void look_unless_vain(struct bp_habit *habit, int fd)
{
    if (!bp_may_look(habit) || is_in_vain(habit) || atomic_exchange(&habit->is_looked, 1))
        return;
    look(habit, fd);
    atomic_store(&habit->is_looked, 0);
}

size_t bp_send(struct bp_habit *habit, int fd, const void *data, size_t n_bytes)
{
    ssize_t n = send(fd, data, n_bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0)
        return 0;
    if ((size_t)n == n_bytes)
        look_unless_vain(habit, fd);
    return (size_t)n;
}
