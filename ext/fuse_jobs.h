/* Work that the process that serves gives to others: fetch what a request needs into the arena, for compiled code to answer it.
 *
 * Part of the shared memory of fuse_slot.h. One word a slot: who is to look at the request that lies there, and how far they are.
 *
 *   FC_JOB_NONE               nothing to do, or not any more
 *   FC_JOB_WANTED | worker    the lane of the slot waits (or has waited too long and just says so)
 *   FC_JOB_TAKEN | worker     a thread of that process is at it
 *   FC_JOB_DONE               it is over; the lane may go on
 *
 *   lane      NONE -> WANTED; WANTED, TAKEN -> NONE when its patience ends; DONE -> NONE
 *   fetcher   WANTED -> TAKEN -> DONE, each by compare-and-swap
 *   supervisor, after the death of a worker: TAKEN by it -> DONE
 *
 * Whoever fetches changes nothing but the arena, where only what is true is kept. So a job may be done twice, too late, for nobody, or not
 * at all: the lane then serves the request itself. A fetcher that comes late to a word of its own that stands for another job by now ends
 * that one early, which comes to the same. It copies what it needs of the request after it has taken the job: if the slot holds
 * another request by then, that one's is fetched, and a torn one's is checked like any other. */
#ifndef CAIRN_FUSE_JOBS_H
#define CAIRN_FUSE_JOBS_H

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { FC_MAX_FETCHERS = 63, FC_MAX_JOBS = 1024 };

enum { FC_JOB_NONE = 0, FC_JOB_WANTED = 1 << 8, FC_JOB_TAKEN = 2 << 8, FC_JOB_DONE = 3 << 8, FC_JOB_STATES = 3 << 8 };

struct fc_jobs {
    _Atomic uint32_t n_fetchers; /* words below that are used; the supervisor's */
    uint32_t spare;
    _Atomic uint64_t n_fetched;  /* requests answered without Python after a job */
    _Atomic uint32_t bell[FC_MAX_FETCHERS + 1];  /* counts jobs of a worker: its threads sleep on it */
    _Atomic uint32_t sleeps[FC_MAX_FETCHERS + 1]; /* threads of it that do; not exact, and reset when it dies */
    _Atomic uint32_t job[FC_MAX_JOBS];           /* by slot */
};

/* Sleep while *word is `value`; also ends for no reason. Between processes. */
static inline void fc_futex_wait(_Atomic uint32_t *word, uint32_t value, uint32_t timeout_ms)
{
    struct timespec timeout = {.tv_sec = timeout_ms / 1000, .tv_nsec = timeout_ms % 1000 * 1000000L};
    syscall(SYS_futex, word, FUTEX_WAIT, value, &timeout, NULL, 0);
}

static inline void fc_futex_wake(_Atomic uint32_t *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE, n, NULL, NULL, 0);
}

#endif
