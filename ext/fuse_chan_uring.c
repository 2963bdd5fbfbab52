#define _GNU_SOURCE
#include "fuse_uring.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>

enum {
    OP_URING_CMD = 46, /* headers before Linux 5.19 do not have it */
    OF_ENTRY = 1, /* user_data of completions */
    OF_STOP = 2,
    HEADER_BYTES = 4096,
    SETTLE_AFTER = 16, /* requests in a row that need no Python */
};

static void push_command(struct fu_ring *ring, int fd, uint32_t command, unsigned queue, uint64_t commit_id, struct iovec *iov)
{
    struct fu_sqe *sqe = fu_ring_next(ring);
    sqe->opcode = OP_URING_CMD;
    sqe->fd = fd;
    sqe->cmd_op = command;
    sqe->addr = (uintptr_t)iov;
    sqe->len = iov == NULL ? 0 : 2;
    sqe->user_data = OF_ENTRY;
    sqe->commit_id = commit_id;
    sqe->qid = (uint16_t)queue;
    fu_ring_push(ring);
}

/* ---- the channel ---- */

int fu_prepare(struct fc_chan *chan, unsigned n_queues)
{
    if (n_queues == 0 || n_queues > FU_MAX_QUEUES)
        return -EINVAL;
    struct fu_transport *uring = calloc(1, sizeof *uring);
    if (uring == NULL)
        return -ENOMEM;
    int error = fu_ring_open(&uring->control);
    if (error) {
        free(uring);
        return error;
    }
    uring->n_queues = n_queues;
    chan->uring = uring;
    return 0;
}

void fu_close(struct fc_chan *chan)
{
    if (chan->uring != NULL)
        fu_ring_close(&chan->uring->control);
}

/* Make the kernel use the descriptor: it does so once an entry is refused, and holds requests back until then. */
static void give_up(struct fc_chan *chan)
{
    struct fu_ring *ring = &chan->uring->control;
    struct io_uring_cqe completion;
    push_command(ring, chan->dev_fd, FU_REGISTER, UINT16_MAX, 0, NULL);
    if (fu_ring_enter(ring, 1) < 0 || !fu_ring_take(ring, &completion))
        fc_hang_up(chan, EIO); /* nobody would ever be answered */
}

int fu_runs(const struct fc_chan *chan)
{
    for (unsigned i = 0; i < chan->uring->n_queues; i++)
        if (atomic_load(&chan->uring->queues[i].n_registered) == 0)
            return 0;
    return 1;
}

int fu_settle(struct fc_chan *chan)
{
    struct fu_transport *uring = chan->uring;
    if (atomic_load(&uring->n_started) < uring->n_opened)
        return fc_chan_over(chan) ? 0 : -1;
    if (!fu_runs(chan)) {
        give_up(chan);
        return 0;
    }
    atomic_store(&uring->running, 1);
    return 1;
}

int fu_error(const struct fc_chan *chan)
{
    return atomic_load(&chan->uring->error);
}

int fu_n_lanes(const struct fc_chan *chan)
{
    int n = 0;
    for (unsigned i = 0; chan->uring != NULL && i < chan->uring->n_queues; i++)
        n += atomic_load(&chan->uring->queues[i].n_lanes);
    return n;
}

static int n_working(struct fu_queue *queue)
{
    return atomic_load(&queue->n_lanes) - atomic_load(&queue->n_parked);
}

int fu_wants_lane(struct fc_chan *chan)
{
    struct fu_transport *uring = chan->uring;
    if (uring == NULL || !atomic_load(&uring->running) || atomic_load(&uring->held) || fc_chan_over(chan))
        return -1;
    int n = 0;
    for (unsigned i = 0; i < uring->n_queues; i++)
        n += n_working(&uring->queues[i]);
    for (unsigned i = 0; i < uring->n_queues; i++) {
        struct fu_queue *queue = &uring->queues[i];
        if (atomic_load(&queue->n_idle) <= 0 && (n < chan->max_lanes || n_working(queue) < FU_FIRST_LANES))
            return (int)i;
    }
    return -1;
}

void fu_retry(struct fc_chan *chan)
{
    if (chan->uring != NULL)
        atomic_store(&chan->uring->held, 0);
}

/* ---- a lane ---- */

static struct fu_queue *queue_of(struct fc_lane *lane)
{
    return &lane->chan->uring->queues[lane->entry->queue];
}

struct fc_lane *fu_lane_open(struct fc_chan *chan, unsigned queue, int *error)
{
    struct fc_lane *lane = fc_free_lane(chan);
    struct fu_lane *entry = lane == NULL ? NULL : calloc(1, sizeof *entry);
    *error = lane == NULL ? EAGAIN : ENOMEM;
    if (entry == NULL)
        return NULL;
    size_t n_bytes = HEADER_BYTES + chan->read_bytes;
    void *mapped = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) {
        free(entry);
        return NULL;
    }
    entry->ring.fd = -1;
    entry->queue = queue;
    entry->header = mapped;
    entry->payload = (uint8_t *)mapped + HEADER_BYTES;
    entry->n_payload = chan->read_bytes;
    lane->entry = entry;
    lane->put_reply = fu_reply;
    lane->chan = chan;
    lane->fd = chan->dev_fd;
    lane->epoll_fd = -1;
    lane->slot = NULL;
    lane->counted = 0;
    fc_lane_take(lane);
    chan->uring->n_opened++;
    atomic_fetch_add(&queue_of(lane)->n_lanes, 1);
    atomic_fetch_add(&queue_of(lane)->n_idle, 1);
    lane->idle = 1;
    return lane;
}

/* Run on the CPU of the queue, where the caller of the next request goes to sleep: waking a thread there is a switch, waking one elsewhere
 * an interrupt. Not while Python serves: whoever holds the GIL should run wherever there is room, and so should threads that it starts,
 * which inherit this; nor between its requests, because coming back costs more than it saves. */
static void settle_down(struct fc_lane *lane)
{
    cpu_set_t there;
    CPU_ZERO(&there);
    CPU_SET(lane->entry->queue, &there);
    lane->entry->pinned = sched_setaffinity(0, sizeof there, &there) == 0;
    if (!lane->entry->pinned)
        atomic_store(&queue_of(lane)->unreachable, 1); /* not tried again for each request */
}

void fu_let_go(struct fc_lane *lane)
{
    if (lane->entry == NULL)
        return;
    lane->entry->n_compiled = 0;
    if (!lane->entry->pinned)
        return;
    sched_setaffinity(0, sizeof lane->entry->anywhere, &lane->entry->anywhere);
    lane->entry->pinned = 0;
}

/* Make the kernel put a request into the queue, whose commit fetches those that were there before an entry was. By a thread that runs on
 * the queue's CPU. 0, or a negative errno: the inode is no regular file that the kernel has. */
static int nudge(struct fc_lane *lane, uint64_t ino)
{
    struct fu_notify_retrieve_out body = {.nodeid = ino};
    struct iovec iov[2] = {[1] = {&body, sizeof body}};
    body.notify_unique = FU_NUDGE + 2 * atomic_fetch_add(&lane->chan->uring->n_nudges, 1);
    return fc_write(lane->chan->dev_fd, 0, FW_NOTIFY_RETRIEVE, iov, 2);
}

/* From now on no request waits in the queue while this entry is free. */
static void become_reliable(struct fc_lane *lane)
{
    if (!lane->entry->reliable)
        atomic_fetch_add(&queue_of(lane)->n_reliable, 1);
    lane->entry->reliable = 1;
}

/* The lane has an entry, or never will. */
static void has_started(struct fc_lane *lane, int error)
{
    struct fu_transport *uring = lane->chan->uring;
    lane->entry->started = 1;
    if (error) {
        atomic_store(&uring->error, -error);
        atomic_store(&uring->held, 1);
    }
    atomic_fetch_add(&uring->n_started, 1);
    fc_chan_want(lane->chan);
}

static int begin_entry(struct fc_lane *lane)
{
    struct fu_lane *entry = lane->entry;
    struct iovec iov[2] = {{entry->header, sizeof *entry->header}, {entry->payload, entry->n_payload}};
    int error = fu_ring_open(&entry->ring);
    if (error)
        return error;
    struct fu_sqe *sqe = fu_ring_next(&entry->ring);
    sqe->opcode = IORING_OP_POLL_ADD;
    sqe->fd = lane->chan->stop_fd;
    sqe->op_flags = POLLIN;
    sqe->user_data = OF_STOP;
    fu_ring_push(&entry->ring);
    push_command(&entry->ring, lane->chan->dev_fd, FU_REGISTER, entry->queue, 0, iov);
    error = fu_ring_enter(&entry->ring, 0);
    const struct io_uring_cqe *first = fu_ring_look(&entry->ring); /* stays there: it may be a request already */
    return error || first == NULL || first->user_data != OF_ENTRY || first->res > 0 ? error : first->res;
}

void fu_lane_close(struct fc_lane *lane)
{
    struct fu_lane *entry = lane->entry;
    if (!entry->started)
        has_started(lane, -ENOMEM);
    atomic_fetch_sub(&queue_of(lane)->n_idle, lane->idle);
    atomic_fetch_sub(&queue_of(lane)->n_lanes, 1);
    lane->idle = 0;
    fu_ring_close(&entry->ring);
    munmap(entry->header, HEADER_BYTES + entry->n_payload);
    free(entry);
    lane->entry = NULL;
    lane->put_reply = NULL;
}

int fu_lane_start(struct fc_lane *lane)
{
    struct fu_queue *queue = queue_of(lane);
    int was_running = atomic_load(&lane->chan->uring->running);
    sched_getaffinity(0, sizeof lane->entry->anywhere, &lane->entry->anywhere);
    settle_down(lane);
    atomic_fetch_add(&queue->n_registered, 1); /* the first request may be answered before this thread goes on */
    int error = begin_entry(lane);
    if (error)
        atomic_fetch_sub(&queue->n_registered, 1);
    has_started(lane, error);
    if (error)
        return error;
    uint64_t ino = atomic_load(&queue->nudge_ino);
    if (!was_running || (ino && lane->entry->pinned && nudge(lane, ino) == 0))
        become_reliable(lane);
    return 0;
}

/* ---- requests ---- */

uint8_t *fu_room(struct fc_lane *lane, size_t n_bytes)
{
    return n_bytes > lane->entry->n_payload ? NULL : lane->entry->payload;
}

int fu_reply(struct fc_lane *lane, int error, struct iovec *iov, int n_iov)
{
    struct fu_lane *entry = lane->entry;
    struct fw_out_header header = {.len = sizeof header, .error = error, .unique = lane->reply_to};
    uint8_t *at = entry->payload;
    size_t left = entry->n_payload;
    for (int i = 1; i < n_iov; i++) {
        if (iov[i].iov_len > left)
            return -EINVAL;
        if (iov[i].iov_base != at)
            memcpy(at, iov[i].iov_base, iov[i].iov_len);
        at += iov[i].iov_len;
        left -= iov[i].iov_len;
    }
    entry->header->n_payload = (uint32_t)(at - entry->payload);
    header.len += entry->header->n_payload;
    memcpy(entry->header->in_out, &header, sizeof header);
    entry->laid_out = 1;
    return 0;
}

/* The reply to what the entry holds, as a submission. */
static void push_commit(struct fc_lane *lane)
{
    struct fu_lane *entry = lane->entry;
    struct iovec none[1];
    if (!entry->in_work)
        return;
    if (!entry->laid_out)
        fu_reply(lane, 0, none, 1); /* NOTIFY_REPLY: the kernel waits for no reply, but for the entry */
    push_command(&entry->ring, lane->chan->dev_fd, FU_COMMIT_AND_FETCH, entry->queue, entry->header->commit_id, NULL);
    entry->in_work = entry->laid_out = 0;
    become_reliable(lane);
}

/* The request in the entry as one message in lane->buf, where views of it may outlive it. 0 = it contradicts itself. */
static int load(struct fc_lane *lane)
{
    const struct fu_lane *entry = lane->entry;
    const struct fw_in_header *header = (const struct fw_in_header *)entry->header->in_out;
    size_t n_payload = entry->header->n_payload;
    size_t n_fixed = sizeof *header + n_payload;
    if (n_payload > entry->n_payload || header->len < n_fixed || header->len - n_fixed > sizeof entry->header->op_in ||
        header->len > lane->chan->read_bytes)
        return 0;
    size_t n_op = header->len - n_fixed;
    memcpy(lane->buf, header, sizeof *header);
    memcpy(lane->buf + sizeof *header, entry->header->op_in, n_op);
    memcpy(lane->buf + sizeof *header + n_op, entry->payload, n_payload);
    lane->n_bytes = header->len;
    return 1;
}

/* What a completion brings: 1 = a request, 0 = nothing yet. */
static int complete(struct fc_lane *lane, const struct io_uring_cqe *completion)
{
    const struct fw_in_header *header = (const struct fw_in_header *)lane->entry->header->in_out;
    if (completion->user_data != OF_ENTRY)
        return 0; /* stop_fd: the channel is over */
    if (completion->res < 0) { /* ENOENT, too, comes when the connection is being aborted */
        int error = -completion->res;
        fc_hang_up(lane->chan, error == ENOTCONN || error == ECONNABORTED || error == ENOENT || error == ECANCELED ? 0 : error);
        return 0;
    }
    lane->entry->in_work = 1;
    lane->reply_to = header->unique;
    lane->began_ns = fc_now_ns();
    if (header->opcode == FW_NOTIFY_REPLY)
        return 0;
    if (load(lane))
        return 1;
    struct iovec none[1];
    fu_reply(lane, -EIO, none, 1);
    return 0;
}

static void become_busy(struct fc_lane *lane)
{
    lane->idle = 0;
    if (atomic_fetch_sub(&queue_of(lane)->n_idle, 1) == 1 && fu_wants_lane(lane->chan) >= 0)
        fc_chan_want(lane->chan);
}

/* The lane begins to wait: for its next request, if there is no completion yet. */
static void become_idle(struct fc_lane *lane)
{
    struct fu_lane *entry = lane->entry;
    if (!entry->pinned && ++entry->n_compiled >= SETTLE_AFTER && !atomic_load(&queue_of(lane)->unreachable))
        settle_down(lane);
    if (!lane->idle) {
        lane->idle = 1;
        atomic_fetch_add(&queue_of(lane)->n_idle, 1);
    }
}

int fu_receive(struct fc_lane *lane)
{
    struct fu_ring *ring = &lane->entry->ring;
    struct io_uring_cqe completion;
    become_idle(lane);
    push_commit(lane);
    while (!fc_chan_over(lane->chan)) {
        int error = fu_ring_enter(ring, 1);
        if (error && error != -EINTR && error != -EAGAIN)
            fc_hang_up(lane->chan, -error);
        while (fu_ring_take(ring, &completion))
            if (complete(lane, &completion)) {
                become_busy(lane);
                return 1;
            }
        push_commit(lane);
    }
    fu_ring_enter(ring, 0); /* a reply that was laid out when the channel was stopped */
    return 0;
}

/* May the last reliable lane of a queue wait for a lock? If those that are added can be made reliable: by the file it is a lock of, which
 * stays open meanwhile. A lane that is added just now sees the inode here, or gets the request that this nudge makes. */
static int can_do_without(struct fc_lane *lane)
{
    uint64_t ino = ((const struct fw_in_header *)lane->buf)->nodeid;
    settle_down(lane);
    atomic_store(&queue_of(lane)->nudge_ino, ino);
    int can = lane->entry->pinned && nudge(lane, ino) == 0;
    if (!can)
        atomic_store(&queue_of(lane)->nudge_ino, 0);
    fu_let_go(lane);
    return can;
}

int fu_park(struct fc_lane *lane)
{
    struct fu_queue *queue = queue_of(lane);
    int n_all = atomic_fetch_add(&lane->chan->uring->n_parked, 1) + 1;
    atomic_fetch_add(&queue->n_parked, 1);
    int n_reliable = atomic_fetch_sub(&queue->n_reliable, lane->entry->reliable) - lane->entry->reliable;
    if (n_all > FC_MAX_PARKED || (n_reliable <= 0 && !can_do_without(lane))) {
        fu_unpark(lane);
        return 0;
    }
    if (fu_wants_lane(lane->chan) >= 0)
        fc_chan_want(lane->chan);
    return 1;
}

void fu_unpark(struct fc_lane *lane)
{
    atomic_fetch_add(&queue_of(lane)->n_reliable, lane->entry->reliable);
    atomic_fetch_sub(&queue_of(lane)->n_parked, 1);
    atomic_fetch_sub(&lane->chan->uring->n_parked, 1);
}
