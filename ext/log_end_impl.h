/* Where the change log of a store on a Redis server ends, asked for without Python.
 *
 * A command that Python has made (GET of the position) is sent on a connection that Python has made, with whatever comes first on one;
 * the reply is a bulk string of decimal digits (https://redis.io/docs/latest/develop/reference/protocol-spec/). Anything else, or nothing in
 * time, closes the connection: Python then asks by itself, which knows of servers that are away, and makes another connection later.
 *
 * Invariants: a descriptor is in `links`, or in use by one thread; n_links counts both, and is at most LE_MAX_LINKS, so that
 * there is always a place for one that comes back. */
#ifndef CAIRN_LOG_END_IMPL_H
#define CAIRN_LOG_END_IMPL_H

#include "busy_poll_impl.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
    LE_MAX_LINKS = 8,     /* more wait for Python, which asks for all of them at once */
    LE_MAX_COMMAND = 256, /* bytes */
    LE_MAX_DIGITS = 16,   /* positions are below 2^53 */
    LE_TIMEOUT_MS = 100,  /* a server that is there answers within one; longer pauses are Python's */
    LE_N_TIMES = 27,      /* a histogram of engine/metrics.py: up to 1 us, 2 us, ... 16.8 s, what took longer, and the sum in ns */
};

struct le_log_end {
    uint8_t command[LE_MAX_COMMAND];
    size_t n_command;
    _Atomic int links[LE_MAX_LINKS]; /* a descriptor plus 1; 0: none, or it is in use */
    _Atomic int n_links;
    struct bp_habit habit;
    _Atomic int n_missed;   /* times that all were in use since one was added */
    int64_t *times;         /* LE_N_TIMES of those who got an answer, which nobody else writes; NULL: not wanted */
};

/* The position that the server tells after the call began, or -1. */
int64_t le_ask(struct le_log_end *end);

/* Take a connection over: a connected socket that blocks. 0, or a negative errno: -ENOSPC when there are enough. */
int le_add(struct le_log_end *end, int fd);

/* Would another connection have been used? */
int le_wants_link(const struct le_log_end *end);

/* Close the connections that nobody uses. */
void le_close(struct le_log_end *end);

#endif
