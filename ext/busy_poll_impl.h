/* Busy polling: looking for a reply for a while before sleeping until it comes.
 *
 * A thread that sleeps while a server on the same machine or the same network works is woken tens of microseconds after the reply is
 * there, above all where its CPU has gone to sleep with it (a virtual machine leaves the host for that). So it looks again and again,
 * and lets others run in between (sched_yield). Where others need the CPU that is the wrong thing to do, for who has slept is put before
 * them when it is woken: when they had it for long in one go, nobody looks for a while, which grows as long as that goes on. Nor does
 * anybody, most of the time, where replies take longer than that, and never more than one at a time.
 * What has come of the reply then is taken, whole or not; the rest, and what is wrong, is found out by who would read it anyway. */
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

/* Where a reply goes. */
struct bp_reply {
    void *out;
    size_t room;
    int wait_ms;    /* how long to sleep at most when it was not there in time; 0: the caller waits by itself */
    size_t n_bytes; /* so much has come; 0: nothing, or the stream has ended, or something is wrong */
};

/* Send what can be sent at once; if that is all, take what comes first of the reply. How many bytes were sent: with fewer than all, or
 * none, the caller goes on, and finds out what is wrong. */
size_t bp_exchange(struct bp_habit *habit, int fd, const void *data, size_t n_bytes, struct bp_reply *reply);

#endif
