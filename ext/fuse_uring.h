/* FUSE over io_uring: requests reach a lane through an entry of a queue instead of a read of /dev/fuse.
 *
 * The kernel has a queue for each possible CPU and puts a request into that of the CPU the caller runs on. A lane has one entry in one
 * queue, and a ring of its own to wait on: registered once, an entry is given a request, and the reply to it is committed by the call
 * that waits for the next. Only the thread that submitted an entry's last command gets its next request, so a lane waits for nothing
 * while its entry is free. FORGET, INTERRUPT and notifications stay on the descriptor, which has lanes of the other kind.
 *
 *             fu_lane_start           completion                 fu_reply            fu_receive
 *   (no entry) ------------> free --------------> in work ----------------> laid out ----------> free, or in work again
 *                             ^  REGISTER            |                                 COMMIT_AND_FETCH
 *                             +--- stop, hang-up ----+ (the ring is closed: the kernel takes the entry back)
 *
 * (1) A lane ends only when the channel does: a request that the kernel hands to an entry whose thread or ring is just going is lost to
 *     everybody, and its caller waits until the connection is aborted. (So requests would not outlive their process either.)
 * (2) The kernel gives a waiting request to an entry that commits or is free when it comes, not to one that is registered later. So an
 *     entry that is added becomes reliable by its first commit, or by a request that it makes the kernel send (nudge).
 * (3) A lane parks only while a queue keeps a reliable lane that does not, or when those that are added can be nudged. Others end by
 *     themselves, and commit: so what waits in a queue is fetched some time.
 * (4) Parked lanes do not count as working; a queue whose last idle lane is taken gets another one.
 *
 * Layouts are those of <linux/fuse.h> 7.42 (fuse_uring_req_header, fuse_uring_cmd_req) and <linux/io_uring.h> (128-byte submissions).
 */
#ifndef CAIRN_FUSE_URING_H
#define CAIRN_FUSE_URING_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <linux/io_uring.h>
#include <sched.h>

#include "fuse_chan_impl.h"

#define FU_NUDGE (UINT64_C(1) << 62) /* `unique` of requests made by nudges, far from those that the kernel counts up to */

enum {
    FU_MAX_QUEUES = 128, /* possible CPUs */
    FU_FIRST_LANES = 2,  /* of each queue, before there is a request */
    FU_REGISTER = 1,
    FU_COMMIT_AND_FETCH = 2,
};

struct fu_header { /* what an entry shares with the kernel, besides the payload */
    uint8_t in_out[128];  /*   0 fw_in_header, then fw_out_header */
    uint8_t op_in[128];   /* 128 the fixed part of a request */
    uint64_t flags;       /* 256 */
    uint64_t commit_id;   /* 264 names the request when its reply is committed */
    uint32_t n_payload;   /* 272 bytes of the rest of the request, then of the reply's body */
    uint32_t padding;     /* 276 */
    uint64_t reserved;    /* 280 */
};

struct fu_sqe {
    uint8_t opcode;       /*  0 */
    uint8_t flags;        /*  1 */
    uint16_t ioprio;      /*  2 */
    int32_t fd;           /*  4 */
    uint32_t cmd_op;      /*  8 FU_REGISTER, FU_COMMIT_AND_FETCH */
    uint32_t pad;         /* 12 */
    uint64_t addr;        /* 16 two iovecs: fu_header, payload */
    uint32_t len;         /* 24 */
    uint32_t op_flags;    /* 28 events to poll for */
    uint64_t user_data;   /* 32 */
    uint64_t spare;       /* 40 */
    uint64_t cmd_flags;   /* 48 */
    uint64_t commit_id;   /* 56 */
    uint16_t qid;         /* 64 */
    uint8_t cmd_pad[62];  /* 66 */
};
_Static_assert(sizeof(struct fu_header) == 288, "wire size of fu_header");
_Static_assert(sizeof(struct fu_sqe) == 128, "wire size of fu_sqe");

struct fu_notify_retrieve_out { /* FW_NOTIFY_RETRIEVE; the kernel answers with a request NOTIFY_REPLY */
    uint64_t notify_unique; /*  0 */
    uint64_t nodeid;        /*  8 */
    uint64_t offset;        /* 16 */
    uint32_t size;          /* 24 */
    uint32_t padding;       /* 28 */
};

struct fu_ring { /* of one thread */
    int fd; /* -1 = none */
    void *rings;
    size_t n_rings;
    struct fu_sqe *sqes;
    size_t n_sqes;
    _Atomic uint32_t *sq_head, *sq_tail;
    uint32_t sq_mask;
    _Atomic uint32_t *cq_head, *cq_tail;
    uint32_t cq_mask;
    struct io_uring_cqe *cqes;
};

struct fu_lane {
    struct fu_ring ring;
    unsigned queue;
    int started;
    int reliable;       /* (2) */
    int pinned;         /* to the CPU of its queue */
    int n_compiled;     /* requests since Python served one, while not pinned */
    cpu_set_t anywhere; /* where it may run otherwise */
    int in_work;     /* the entry holds a request without a committed reply */
    int laid_out;    /* ... and the reply to it */
    struct fu_header *header;
    uint8_t *payload; /* both in one mapping */
    size_t n_payload;
};

struct fu_queue {
    _Atomic int n_idle, n_lanes, n_parked; /* as in fc_chan */
    _Atomic int n_registered;   /* entries */
    _Atomic int n_reliable;     /* lanes that are, and not parked */
    _Atomic uint64_t nudge_ino; /* a regular file that the kernel has while a lane is parked, 0 = none */
    _Atomic int unreachable;    /* this process may not run on its CPU */
};

struct fu_transport {
    struct fu_ring control; /* the serving thread's: tells the kernel that there will be no entries */
    unsigned n_queues;
    int n_opened;           /* lanes, ever; the serving thread's */
    _Atomic int n_started;  /* of these, that have tried to register */
    _Atomic int error;      /* the last errno of one that could not */
    _Atomic int running;    /* the kernel uses the queues */
    _Atomic int held;       /* a lane could not be had lately */
    _Atomic int n_parked;   /* of all queues */
    _Atomic uint64_t n_nudges;
    struct fu_queue queues[FU_MAX_QUEUES];
};

/* 0, or a negative errno. */
int fu_ring_open(struct fu_ring *ring);
void fu_ring_close(struct fu_ring *ring);

/* The next submission, zeroed, to be filled in and pushed. There is always room. */
struct fu_sqe *fu_ring_next(struct fu_ring *ring);
void fu_ring_push(struct fu_ring *ring);

/* Submit what was pushed, and wait for `n_wait` completions. 0, or a negative errno. */
int fu_ring_enter(struct fu_ring *ring, unsigned n_wait);

/* The next completion, or NULL; take it, 0 = there is none. */
const struct io_uring_cqe *fu_ring_look(const struct fu_ring *ring);
int fu_ring_take(struct fu_ring *ring, struct io_uring_cqe *out);

/* Get ready to use io_uring, before INIT is answered; by the serving thread. 0, or a negative errno: this process cannot. */
int fu_prepare(struct fc_chan *chan, unsigned n_queues);

/* After the first lanes were opened: 1 = the kernel uses the queues, 0 = not all have an entry and it uses the descriptor, -1 = lanes
 * are still starting (fc_wait_wanted tells of progress). */
int fu_settle(struct fc_chan *chan);

/* A queue that needs another lane, or -1; also for a while after one could not be had, until fu_retry. */
int fu_wants_lane(struct fc_chan *chan);
void fu_retry(struct fc_chan *chan);

/* As fc_lane_open, for a queue; fc_lane_close closes it. Its thread must call fu_lane_start first: 0, or a negative errno. */
struct fc_lane *fu_lane_open(struct fc_chan *chan, unsigned queue, int *error);
int fu_lane_start(struct fc_lane *lane);

/* Does every queue have an entry? Then the kernel uses them. */
int fu_runs(const struct fc_chan *chan);

/* The errno for which a lane got no entry, 0 when all have one. */
int fu_error(const struct fc_chan *chan);

/* Threads that serve queues. */
int fu_n_lanes(const struct fc_chan *chan);

#endif
