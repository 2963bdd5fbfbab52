#define _GNU_SOURCE
#include "busy_poll_impl.h"

#include <errno.h>
#include <poll.h>
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

/* Take what has come. 1 = that is something, or the end of the stream, or an error; 0 = nothing yet. */
static int take(int fd, struct bp_reply *reply)
{
    ssize_t n = recv(fd, reply->out, reply->room, MSG_DONTWAIT);
    if (n > 0)
        reply->n_bytes = (size_t)n;
    return n >= 0 || (errno != EAGAIN && errno != EINTR);
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

/* Take the reply when it comes, but do not look for long. As take(). */
static int look(struct bp_habit *habit, int fd, struct bp_reply *reply)
{
    int64_t until_us = now_us() + BP_MOST_US;
    do {
        if (take(fd, reply)) {
            atomic_store_explicit(&habit->n_vain, 0, memory_order_relaxed);
            return 1;
        }
    } while (yield_to_others(habit) && now_us() <= until_us);
    if (take(fd, reply)) /* whoever had the CPU may have made it */
        return 1;
    atomic_fetch_add_explicit(&habit->n_vain, 1, memory_order_relaxed);
    return 0;
}

static int look_unless_vain(struct bp_habit *habit, int fd, struct bp_reply *reply)
{
    if (!bp_may_look(habit) || is_in_vain(habit) || atomic_exchange(&habit->is_looked, 1))
        return 0;
    int is_taken = look(habit, fd, reply);
    atomic_store(&habit->is_looked, 0);
    return is_taken;
}

size_t bp_exchange(struct bp_habit *habit, int fd, const void *data, size_t n_bytes, struct bp_reply *reply)
{
    reply->n_bytes = 0;
    ssize_t n = send(fd, data, n_bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0)
        return 0;
    if ((size_t)n == n_bytes && !look_unless_vain(habit, fd, reply)) {
        struct pollfd answered = {.fd = fd, .events = POLLIN};
        if (reply->wait_ms > 0 && poll(&answered, 1, reply->wait_ms) > 0)
            take(fd, reply);
    }
    return (size_t)n;
}
