/* The channel and its lanes: what the compiled FUSE modules share. fuse_chan_impl.h has the functions that drive them.
 *
 * A lane is one thread's way to the kernel: its own clone of /dev/fuse (requests read from a clone must be answered on
 * it) and its own buffer. A lane serves one request at a time, so "the requests in flight" are the `unique` fields of the
 * lanes. Lanes live inside the channel and are reused, never freed before it: any thread may look at any lane at any time.
 *
 * Who writes what:
 *   dev_fd..linger_ms, caps, minor, served   the serving thread, before lanes start; read-only after
 *   n_idle, n_lanes, n_parked, counts        every lane, atomically
 *   lane.unique                              the lane's thread; read by every lane that got an INTERRUPT
 *   lane.interrupted                         any lane that got an INTERRUPT; read by the lane's thread
 *   early                                    any lane; see fc_interrupt() for the race it closes
 *   marks                                    any lane; bits are only ever set
 *   follows                                  whoever tells of changes; read by every lane
 *   known, round, round_began_ns             any lane, under known_lock
 *   arena                                    see arena.h
 *   everything else of a lane                the lane's thread
 */
#ifndef CAIRN_FUSE_LANE_H
#define CAIRN_FUSE_LANE_H

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <pthread.h>

#include "arena.h"
#include "fuse_slot.h"
#include "fuse_wire.h"
#include "ino_map_impl.h"
#include "journal_impl.h"
#include "log_end_impl.h"

/* How long the kernel may keep something. */
struct fc_span {
    uint64_t s;
    uint32_t ns;
};

enum {
    FC_MAX_LANES = 1024,    /* hard bound: threads that work plus threads that wait for a lock */
    FC_MAX_PARKED = 768,    /* of these, waiting for a lock; beyond, SETLKW gets ENOLCK */
    FC_N_EARLY = 64,        /* interrupts remembered that came before their request was registered */
    FC_N_MARKS = 4096,      /* slots of the filter over inodes; see enum fc_mark */
    FC_MAX_BUFFERS = 1000,  /* buffers of one READ reply; writev takes 1024 */
    FC_MAX_TOLD = 8,        /* inodes that the kernel is told of with a reply; of more, before */
};

struct fc_chan;
struct fu_lane;
struct fu_transport;

struct fc_lane {
    struct fc_chan *chan;
    _Atomic int in_use;           /* 0 = free slot; set by the serving thread, cleared by the lane at its end */
    int fd;                       /* own clone, or the channel's dev_fd when cloning is not possible */
    int epoll_fd;                 /* waits for fd and the channel's stop_fd */
    int idle;                     /* counted in chan->n_idle */
    int counted;                  /* counted in chan->n_lanes */
    int replied;                  /* the present request has its reply, or gets none */
    uint32_t counts_as;           /* opcode, while compiled code is trying to answer; 0: an answer is not its own, or already counted */
    int resumed;                  /* the present request was read by a process that has died */
    struct fc_slot *slot;         /* where the request lies for a successor, NULL: nowhere */
    struct fu_lane *entry;        /* of an io_uring queue, that brings the requests; NULL: they are read from fd */
    int (*put_reply)(struct fc_lane *lane, int error, struct iovec *iov, int n_iov); /* fu_reply() with an entry, else NULL */
    uint8_t *buf;                 /* chan->read_bytes long; owned by the caller */
    size_t n_bytes;               /* of the present request; its header is checked */
    uint64_t began_ns;            /* when it was there, by the monotonic clock */
    uint64_t reply_to;            /* `unique` of the present request */
    _Atomic uint64_t unique;      /* the same while the request may be interrupted, else 0 */
    _Atomic uint64_t interrupted; /* the last request of this lane that an INTERRUPT named */
    uint64_t told[FC_MAX_TOLD];   /* inodes whose attributes the kernel has to ask for again when it has the reply */
    size_t n_told;
};

/* Entries of a directory that Python has read (page_impl.h), for its reply to READDIR or READDIRPLUS. */
struct fc_batch {
    const uint8_t *bytes;
    const uint32_t *places; /* of the rows that come next */
    size_t n_rows;
    uint64_t dir, parent; /* the latter is what ".." stands for */
    uint64_t offset;      /* of the request */
    uint64_t cookie;      /* of the first row; the others' follow */
    int plus;
    int is_old;      /* the page was read for an earlier request: names may be gone, or stand for something else */
    size_t n_passed; /* rows done with: those that are laid out, and before them those whose names are gone */
    size_t n_given;  /* rows laid out */
};

struct fc_chan {
    int dev_fd;           /* the mount's own descriptor; notifications go here */
    int stop_fd;          /* eventfd; readable: every lane ends */
    int want_fd;          /* eventfd; readable: the serving thread should look at the numbers below */
    int is_device;        /* dev_fd is /dev/fuse, so clones may be tried */
    int min_lanes;
    int max_lanes;        /* not counting parked ones */
    int linger_ms;        /* a lane beyond min_lanes ends after so long without a request */
    size_t read_bytes;    /* what a lane's buffer must hold: max_write and the headers */
    uint32_t minor;       /* agreed protocol */
    uint64_t caps;        /* agreed FW_CAP_* */
    int no_open;          /* OPEN is refused: the kernel reads inodes that nobody has opened, with handle 0 */
    uint64_t served;      /* bit per opcode: Python serves it; the rest is answered here */
    _Atomic int error;    /* errno that ended the channel, 0 for an unmount or stop */
    _Atomic int ended;    /* the kernel has hung up */
    _Atomic int n_idle;   /* lanes waiting for a request, or about to */
    _Atomic int n_lanes;
    _Atomic int n_slots;  /* of lanes[], that were ever in use */
    _Atomic int n_parked; /* lanes inside a call that waits for a lock */
    _Atomic int n_in_python; /* the other lanes with a request that Python serves */
    _Atomic uint64_t n_malformed;
    _Atomic uint64_t *counts; /* FW_N_OPCODES: requests read, by opcode; [0]: opcodes beyond the table */
    _Atomic uint32_t n_early;
    _Atomic uint64_t early[FC_N_EARLY];
    _Atomic uint8_t *marks;            /* FC_N_MARKS of them, by hash of the inode number: FC_MARK_* */
    _Atomic uint8_t own_marks[FC_N_MARKS]; /* these three are used when there are no slots to share them */
    _Atomic uint64_t *answered_bytes; /* of files, in answers to READ without Python */
    _Atomic uint64_t own_answered_bytes;
    _Atomic uint64_t own_counts[FW_N_OPCODES];
    struct fc_times own_answers[FW_N_OPCODES];
    const struct fc_slots *slots;      /* NULL: requests end with this process */
    struct fu_transport *uring;        /* fuse_uring.h; NULL: not asked for. Freed with the channel */
    struct ar_arena *arena;            /* what may be answered without Python; NULL: nothing */
    struct jn_journal *journal;        /* where WRITE may leave its bytes; NULL: nowhere */
    struct le_log_end *log_end;        /* whom to ask what was committed; NULL: only Python can */
    struct fc_span attr_valid, entry_valid, dir_entry_valid; /* of what is answered from it */
    struct fc_span negative_valid;     /* of names known to be absent; 0: the kernel keeps none */
    uint64_t fleeting_from;            /* inodes from here on are not the volume's */
    _Atomic int follows;               /* somebody tells of changes; while not, nothing is answered from the arena */
    _Atomic int leaves;                /* the kernel is still to be told of some: Python opens files, and waits for that */
    _Atomic uint64_t n_changes;        /* how often there was something to tell it: what was laid out before is perhaps of before */
    struct fc_times *answers; /* FW_N_OPCODES: requests answered without Python, by opcode */
    pthread_mutex_t known_lock;
    struct im_map known; /* inode -> names and entries that the kernel was given of it and has not forgotten; fuse_chan_known.c */
    uint64_t round;          /* the rest under known_lock as well: which inodes are held, 0 = none; */
    uint64_t round_began_ns; /* and since when */
    int (*count_known)(struct fc_chan *chan, uint64_t ino, int64_t n); /* fc_known(), for modules that do not have it */
    int (*is_known)(struct fc_chan *chan, uint64_t ino); /* fc_is_known() */
    void (*let_go)(struct fc_chan *chan, uint64_t ino); /* fc_let_go() */
    int (*tell_later)(struct fc_chan *chan, const uint64_t *inos, size_t n); /* fc_tell_later(), and fc_tell() */
    void (*tell)(struct fc_lane *lane);
    int (*wants_fence)(struct fc_chan *chan, uint64_t ino); /* fc_wants_fence(), and fc_open_fenced() */
    int (*open_fenced)(struct fc_lane *lane);
    int (*put_known)(struct fc_chan *chan, uint64_t ino, struct fw_entry_out *out); /* fc_put_known() */
    size_t (*put_page)(struct fc_chan *chan, struct fc_batch *batch, uint8_t *out, size_t room); /* fc_put_page() */
    struct fc_lane lanes[FC_MAX_LANES];
};

/* Write header and iov[1..n_iov) as one message; iov[0] is the caller's to leave free. 0, or a negative errno. */
static inline int fc_write(int fd, uint64_t unique, int32_t code, struct iovec *iov, int n_iov)
{
    struct fw_out_header header = {.len = sizeof header, .error = code, .unique = unique};
    iov[0].iov_base = &header;
    iov[0].iov_len = sizeof header;
    for (int i = 1; i < n_iov; i++)
        header.len += (uint32_t)iov[i].iov_len;
    for (;;) {
        if (writev(fd, iov, n_iov) >= 0)
            return 0;
        if (errno != EINTR)
            return -errno;
    }
}

static inline uint64_t fc_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* If it is compiled code that answers the present request, count it: before the kernel has the answer, so that whoever has it finds
 * it counted. Once. */
static inline void fc_count_answer(struct fc_lane *lane)
{
    if (lane->counts_as == 0)
        return;
    struct fc_times *times = &lane->chan->answers[lane->counts_as];
    uint64_t took_ns = fc_now_ns() - lane->began_ns;
    uint64_t us = took_ns == 0 ? 0 : (took_ns - 1) / 1000; /* bounds belong to their bucket */
    int bucket = us == 0 ? 0 : 64 - __builtin_clzll(us);
    if (bucket >= FC_N_BUCKETS)
        bucket = FC_N_BUCKETS - 1;
    atomic_fetch_add_explicit(&times->buckets[bucket], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&times->sum_ns, took_ns, memory_order_relaxed);
    lane->counts_as = 0;
}

/* Answer the lane's present request, once: further calls do nothing.
 *
 * Returns 0 when the kernel took it, FC_UNWANTED when nobody waits for it any more (the request was aborted), else a
 * negative errno; the kernel then still waits, so the caller should answer with a plain error.
 */
enum { FC_UNWANTED = 1 };

/* The effects of the present request are there, and this is its reply: a successor must not serve it again. */
static inline void fc_keep_answer(struct fc_lane *lane, int error, const struct iovec *iov, int n_iov)
{
    struct fc_slot *slot = lane->slot;
    size_t n_bytes = 0;
    if (slot == NULL)
        return;
    for (int i = 1; i < n_iov; i++)
        n_bytes += iov[i].iov_len;
    if (n_bytes > FC_SLOT_REPLY)
        return;
    uint8_t *at = slot->reply;
    for (int i = 1; i < n_iov; i++) {
        memcpy(at, iov[i].iov_base, iov[i].iov_len);
        at += iov[i].iov_len;
    }
    slot->error = error;
    slot->n_reply = (uint32_t)n_bytes;
    atomic_store(&slot->answered, lane->reply_to);
}

/* The present request is over, also for a successor. */
static inline void fc_retire(struct fc_lane *lane)
{
    if (lane->slot == NULL)
        return;
    lane->slot->n_tries = 0;
    __atomic_store_n(&lane->slot->began, 0, __ATOMIC_RELAXED); /* the next request to lie here has not begun with this one */
    __atomic_store_n(&((struct fw_in_header *)lane->buf)->len, 0, __ATOMIC_RELEASE);
}

static inline int fc_reply(struct fc_lane *lane, int error, struct iovec *iov, int n_iov)
{
    if (lane->replied)
        return 0;
    if (lane->n_told != 0)
        lane->chan->tell(lane);
    fc_keep_answer(lane, error, iov, n_iov);
    fc_count_answer(lane);
    int result = lane->put_reply != NULL ? lane->put_reply(lane, -error, iov, n_iov)
                                         : fc_write(lane->fd, lane->reply_to, -error, iov, n_iov);
    if (result == -ENOENT || result == -ENODEV || result == -ECONNABORTED || result == -EPIPE)
        result = FC_UNWANTED;
    lane->replied = result >= 0;
    return result;
}

static inline int fc_reply_error(struct fc_lane *lane, int error)
{
    struct iovec iov[1];
    return fc_reply(lane, error, iov, 1);
}

/* Should whoever serves this request give up waiting? Also when the mount is gone: nobody is left to send INTERRUPT. */
static inline int fc_is_interrupted(struct fc_lane *lane, uint64_t unique)
{
    return atomic_load(&lane->interrupted) == unique || atomic_load(&lane->chan->ended);
}

/* What is remembered of inodes, in a filter: a mark that was set is always found, one that was not sometimes, too. */
enum fc_mark {
    FC_MARK_LOCKED = 1, /* an fcntl lock was asked for */
    FC_MARK_SUID = 2,   /* the kernel was told a mode with set-user-id or set-group-id */
};

static inline _Atomic uint8_t *fc_mark_slot(struct fc_chan *chan, uint64_t nodeid)
{
    return &chan->marks[(nodeid * 0x9E3779B97F4A7C15ULL) >> 52];
}

static inline void fc_mark(struct fc_chan *chan, uint64_t nodeid, int mark)
{
    atomic_fetch_or(fc_mark_slot(chan, nodeid), (uint8_t)mark);
}

static inline int fc_is_marked(struct fc_chan *chan, uint64_t nodeid, int mark)
{
    return (atomic_load(fc_mark_slot(chan, nodeid)) & mark) != 0;
}

/* The kernel has been given, or has forgotten, `n` names or entries of an inode. 0, or -1 when there is no memory. */
static inline int fc_known(struct fc_chan *chan, uint64_t ino, int64_t n)
{
    return chan->count_known(chan, ino, n);
}

/* Handles that compiled code gives out: bit 63, bit 62 for "the kernel drops its pages", then (bits 61 to 41) low bits of the content's
 * version, a number, bit 0 for "read-only". Of a directory: bit 63, the version of its row, bit 0. */
#define FC_COMPILED_FH (UINT64_C(1) << 63)
#define FC_DROPS_FH (UINT64_C(1) << 62)
enum { FC_FH_VERSION_AT = 41, FC_FH_VERSION_MASK = 0x1FFFFF };

/* Make the kernel ask for the attributes of an inode at their next use. Takes no lock there: allowed while serving. */
static inline int fc_forget_attr(struct fc_chan *chan, uint64_t nodeid)
{
    struct fw_notify_inval_inode_out body = {.ino = nodeid, .off = -1, .len = 0};
    struct iovec iov[2] = {[1] = {&body, sizeof body}};
    return fc_write(chan->dev_fd, 0, FW_NOTIFY_INVAL_INODE, iov, 2);
}

#endif
