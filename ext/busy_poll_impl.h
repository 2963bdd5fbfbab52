/* Busy polling: looking for a reply for a while before sleeping until it comes.
 *
 * A thread that sleeps while a server on the same machine or the same network works is woken tens of microseconds after the reply is
 * there, above all where its CPU has gone to sleep with it (a virtual machine leaves the host for that). So it looks again and again,
 * and lets others run in between (sched_yield). It stops when others take the CPU for long, for who sleeps is put before them when it
 * is woken; and it does not even begin, most of the time, where replies take longer than that (a habit, of a connection's users).
 * Only when to sleep is decided here: replies and errors are read by who reads them anyway. */
#ifndef CAIRN_BUSY_POLL_IMPL_H
#define CAIRN_BUSY_POLL_IMPL_H

#include <stdatomic.h>
#include <stddef.h>
#include <sys/types.h>

enum {
    BP_MOST_US = 150, /* longer than a commit takes on a server that is near */
    BP_HELD_US = 50,  /* others had the CPU for so long in one go: they need it */
    BP_VAIN = 4,      /* after so many times in vain, one after the other, */
    BP_SKIPS = 64,    /* so many are not tried */
};

struct bp_habit {
    _Atomic int n_vain;
    _Atomic int n_skips;
};

/* Wait for something to read, the end of the stream or an error, but not for long. 1 = there is, 0 = sleep for it. */
int bp_look(struct bp_habit *habit, int fd);

/* Send what can be sent at once; if that is all, look for the reply. How many bytes were sent: with fewer than all, or none, the caller
 * goes on, and finds out what is wrong. */
size_t bp_send(struct bp_habit *habit, int fd, const void *data, size_t n_bytes);

#endif
