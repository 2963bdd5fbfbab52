#include "log_end_impl.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { MAX_REPLY = 1 + 2 + 2 + LE_MAX_DIGITS + 2 }; /* $16\r\n...\r\n */
enum { BROKEN = -1, UNFINISHED = -2 };

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static int take(struct le_log_end *end)
{
    for (int i = 0; i < LE_MAX_LINKS; i++) {
        int link = atomic_exchange(&end->links[i], 0);
        if (link)
            return link - 1;
    }
    atomic_fetch_add(&end->n_missed, 1);
    return -1;
}

static int give_back(struct le_log_end *end, int fd)
{
    for (int i = 0; i < LE_MAX_LINKS; i++) {
        int none = 0;
        if (atomic_compare_exchange_strong(&end->links[i], &none, fd + 1))
            return 0;
    }
    return -ENOSPC;
}

static void give_up(struct le_log_end *end, int fd)
{
    close(fd);
    atomic_fetch_sub(&end->n_links, 1);
}

/* Decimal digits up to "\r\n", from *at on, which moves behind that. */
static int64_t parse_number(const char *reply, size_t n_bytes, size_t *at, size_t max_digits)
{
    int64_t number = 0;
    size_t i = *at;
    for (; i < n_bytes && reply[i] >= '0' && reply[i] <= '9'; i++) {
        if (i - *at == max_digits)
            return BROKEN;
        number = number * 10 + (reply[i] - '0');
    }
    if (i + 1 >= n_bytes)
        return i == n_bytes || reply[i] == '\r' ? UNFINISHED : BROKEN;
    if (i == *at || reply[i] != '\r' || reply[i + 1] != '\n')
        return BROKEN;
    *at = i + 2;
    return number;
}

static int64_t parse(const char *reply, size_t n_bytes)
{
    size_t at = 1;
    if (n_bytes == 0)
        return UNFINISHED;
    if (reply[0] != '$')
        return BROKEN;
    int64_t n_digits = parse_number(reply, n_bytes, &at, 2);
    if (n_digits < 0)
        return n_digits;
    size_t begin = at;
    int64_t position = parse_number(reply, n_bytes, &at, LE_MAX_DIGITS);
    if (position >= 0 && (at - begin != (size_t)n_digits + 2 || at != n_bytes))
        return BROKEN;
    return position;
}

static int64_t exchange(struct le_log_end *end, int fd)
{
    char reply[MAX_REPLY];
    int64_t position = UNFINISHED;
    struct bp_reply first = {.out = reply, .room = sizeof reply};
    if (bp_exchange(&end->habit, fd, end->command, end->n_command, &first) != end->n_command)
        return BROKEN;
    size_t n_bytes = first.n_bytes;
    if (n_bytes > 0)
        position = parse(reply, n_bytes);
    while (position == UNFINISHED && n_bytes < sizeof reply) {
        ssize_t n = recv(fd, reply + n_bytes, sizeof reply - n_bytes, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return BROKEN;
        n_bytes += (size_t)n;
        position = parse(reply, n_bytes);
    }
    return position;
}

static void count(struct le_log_end *end, int64_t took_ns)
{
    uint64_t us = took_ns <= 0 ? 0 : (uint64_t)(took_ns - 1) / 1000; /* bounds belong to their bucket */
    int bucket = us == 0 ? 0 : 64 - __builtin_clzll(us);
    if (end->times == NULL)
        return;
    __atomic_fetch_add(&end->times[bucket < LE_N_TIMES - 2 ? bucket : LE_N_TIMES - 2], 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&end->times[LE_N_TIMES - 1], took_ns, __ATOMIC_RELAXED);
}

int64_t le_ask(struct le_log_end *end)
{
    int64_t began_ns = now_ns();
    int fd = take(end);
    if (fd < 0)
        return -1;
    int64_t position = exchange(end, fd);
    if (position < 0) {
        give_up(end, fd);
        return -1;
    }
    give_back(end, fd);
    count(end, now_ns() - began_ns);
    return position;
}

int le_add(struct le_log_end *end, int fd)
{
    struct timeval timeout = {.tv_usec = LE_TIMEOUT_MS * 1000};
    if (atomic_load(&end->n_links) >= LE_MAX_LINKS)
        return -ENOSPC;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) < 0)
        return -errno;
    atomic_fetch_add(&end->n_links, 1);
    atomic_store(&end->n_missed, 0);
    return give_back(end, fd);
}

int le_wants_link(const struct le_log_end *end)
{
    int n_links = atomic_load(&end->n_links);
    return n_links == 0 || (n_links < LE_MAX_LINKS && atomic_load(&end->n_missed) > 0);
}

void le_close(struct le_log_end *end)
{
    int none = atomic_load(&end->n_missed);
    for (int fd; (fd = take(end)) >= 0;)
        give_up(end, fd);
    atomic_store(&end->n_missed, none);
}
