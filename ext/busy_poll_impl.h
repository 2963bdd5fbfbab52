/* Busy polling: looking for a reply for a while before sleeping until it comes.
 *
 * A thread that sleeps while a server on the same machine or the same network works is woken tens of microseconds after the reply is
 * there, above all where its CPU has gone to sleep with it (a virtual machine leaves the host for that). So it looks again and again,
 * and lets others run in between (sched_yield). Where others need the CPU that is the wrong thing to do, for who has slept is put before
 * them when it is woken: when they had it for long in one go, nobody looks for a while, which grows as long as that goes on. Nor does
 * anybody, most of the time, where replies take longer than that, and never more than one at a time.
 * Only when to sleep is decided here: replies and errors are read by who reads them anyway. */
#ifndef CAIRN_BUSY_POLL_IMPL_H
#define CAIRN_BUSY_POLL_IMPL_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
    BP_MOST_US = 150,   /* longer than a commit takes on a server that is near */
    BP_HELD_US = 500,   /* others had the CPU for so long in one go: longer than a request takes, shorter than a slice */
    BP_PAUSE_US = 1000, /* then so long nobody looks, twice as long the next time, */
    BP_LONGEST_US = 128000, /* at most so long, and a short time again */
    BP_FREE = 64,       /* after so many times that others did not need it */
    BP_VAIN = 4,        /* after so many times in vain, one after the other, */
    BP_SKIPS = 64,      /* so many replies are not looked for */
};

struct bp_habit {
    _Atomic int n_vain;
    _Atomic int n_skips;
    _Atomic int n_free;
    _Atomic int is_looked; /* by somebody */
    _Atomic int64_t pause_us, again_us; /* CLOCK_MONOTONIC: until then nobody looks */
};

/* Were the CPUs free enough of late? */
int bp_may_look(const struct bp_habit *habit);

/* Send what can be sent at once; if that is all, look for the reply. How many bytes were sent: with fewer than all, or none, the caller
 * goes on, and finds out what is wrong. */
size_t bp_send(struct bp_habit *habit, int fd, const void *data, size_t n_bytes);

#endif
