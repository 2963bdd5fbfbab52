/* Misses that other workers look after, while this process's interpreter is busy: they fetch into the arena, then compiled code answers.
 *
 * A lane that could go on in Python at once does: that costs less than waking another process. So jobs are given away only
 * while another lane is in there. fuse_jobs.h has the states of a job.
 */
#include "fuse_chan_hot.h"

#include <fcntl.h>

enum {
    TAKE_MS = 2,     /* for a worker to begin: the one that slept must have been killed or stopped */
    FETCH_MS = 1000, /* for it to end; beyond, the lane asks the store itself */
};

/* Does the arena lack something that somebody could fetch, so that the request could be answered then? */
static int lacks(struct fc_chan *chan, const struct fw_in_header *header, struct fc_cursor cursor)
{
    struct ar_arena *arena = chan->arena;
    struct ar_attr attr;
    uint64_t ino = header->nodeid;
    if (header->opcode == FW_LOOKUP) {
        size_t n_bytes;
        const char *name = fc_take_name(&cursor, &n_bytes);
        if (name == NULL || (name[0] == '.' && (n_bytes == 1 || (n_bytes == 2 && name[1] == '.'))))
            return 0; /* of a file handle: no directory has these names, so it would be found that they are absent */
        if (!ar_name_find(arena, header->nodeid, name, n_bytes, &ino))
            return 1;
        return ino != 0 && !(ar_marks(arena, ino) & AR_LEFT_ALONE) && !ar_attr_find(arena, ino, &attr);
    }
    if (header->opcode == FW_OPEN) {
        const struct fw_open_in *in = fc_take(&cursor, sizeof *in);
        if (in == NULL || (in->flags & (O_ACCMODE | O_TRUNC)) || in->open_flags || fc_is_marked(chan, ino, FC_MARK_LOCKED))
            return 0;
    }
    if (ar_marks(arena, ino) & AR_LEFT_ALONE)
        return 0;
    if (!ar_attr_find(arena, ino, &attr))
        return 1;
    return header->opcode == FW_READ && attr.layout == AR_SLICE && attr.plain_len <= arena->h->max_slice
        && !ar_slice_bytes(arena, attr.pack, attr.stored_off);
}

static int is_fetchable(struct fc_chan *chan, const struct fw_in_header *header, struct fc_cursor cursor)
{
    switch (header->opcode) {
    case FW_LOOKUP:
    case FW_GETATTR:
    case FW_STATX:
    case FW_OPEN:
    case FW_READ:
        return header->nodeid < chan->fleeting_from && fc_may_answer(chan) && lacks(chan, header, cursor);
    }
    return 0;
}

/* The worker with most threads that wait for something to do; 0: none has. */
static uint32_t freest(struct fc_jobs *jobs)
{
    uint32_t n = atomic_load_explicit(&jobs->n_fetchers, memory_order_relaxed), best = 0, most = 0;
    for (uint32_t worker = 1; worker <= n && worker <= FC_MAX_FETCHERS; worker++) {
        uint32_t sleeps = atomic_load_explicit(&jobs->sleeps[worker], memory_order_relaxed);
        if (sleeps > most) {
            most = sleeps;
            best = worker;
        }
    }
    return best;
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000) + now.tv_nsec / 1000000;
}

/* 1 = the job was done, 0 = it was taken back. */
static int await(struct fc_chan *chan, _Atomic uint32_t *job)
{
    int64_t started_ms = now_ms();
    for (;;) {
        uint32_t state = atomic_load(job);
        if (state == FC_JOB_DONE) {
            atomic_store(job, FC_JOB_NONE);
            return 1;
        }
        int patience_ms = (state & FC_JOB_STATES) == FC_JOB_WANTED ? TAKE_MS : FETCH_MS;
        int64_t left_ms = started_ms + patience_ms - now_ms();
        if (left_ms > 0 && !fc_chan_over(chan))
            fc_futex_wait(job, state, (uint32_t)left_ms);
        else if (atomic_compare_exchange_strong(job, &state, FC_JOB_NONE))
            return 0;
    }
}

/* 1 = somebody has looked after the request. */
static int fetch(struct fc_lane *lane, const struct fw_in_header *header, struct fc_cursor cursor)
{
    struct fc_chan *chan = lane->chan;
    if (lane->slot == NULL || chan->arena == NULL || atomic_load_explicit(&chan->n_in_python, memory_order_relaxed) == 0)
        return 0;
    struct fc_jobs *jobs = fc_jobs_of(chan->slots);
    uint32_t worker = freest(jobs);
    if (worker == 0 || !is_fetchable(chan, header, cursor))
        return 0;
    _Atomic uint32_t *job = &jobs->job[lane - chan->lanes];
    atomic_store(job, FC_JOB_WANTED | worker);
    atomic_fetch_add(&jobs->bell[worker], 1);
    fc_futex_wake(&jobs->bell[worker], 1);
    return await(chan, job);
}

int fc_answer_fetched(struct fc_lane *lane, const struct fw_in_header *header)
{
    struct fc_cursor cursor = {lane->buf + sizeof *header, lane->n_bytes - sizeof *header};
    if (!fetch(lane, header, cursor) || !fc_answer_hot(lane, header, &cursor))
        return 0;
    atomic_fetch_add_explicit(&fc_jobs_of(lane->chan->slots)->n_fetched, 1, memory_order_relaxed);
    return 1;
}
