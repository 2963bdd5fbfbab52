#define _GNU_SOURCE
#include "fuse_chan_impl.h"

#include <assert.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define FC_IOC_CLONE _IOR(229, 0, uint32_t)

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

/* Looks for another request after one was served, before the lane sleeps: some 20 us in all, about what a wake-up costs. Two processes
 * that open warm files get 75,000 a second served instead of 45,000 (2 cores). */
enum { LOOKS = 32 };

enum { FUSE_DEVICE_MAJOR = 10, FUSE_DEVICE_MINOR = 229 };

static void signal_event(int fd)
{
    uint64_t one = 1;
    ssize_t ignored = write(fd, &one, sizeof one); /* fails only when the counter is full: then it is readable anyway */
    (void)ignored;
}

int fc_chan_init(struct fc_chan *chan, int dev_fd)
{
    struct stat st;
    chan->known.limit = SIZE_MAX;
    chan->count_known = fc_count_known;
    chan->put_known = fc_put_known;
    chan->put_page = fc_put_page;
    chan->is_known = fc_is_known;
    chan->let_go = fc_let_go;
    chan->tell_later = fc_tell_later;
    chan->tell = fc_tell;
    chan->wants_fence = fc_wants_fence;
    chan->open_fenced = fc_open_fenced;
    struct fc_shared *shared = chan->slots == NULL ? NULL : fc_shared_of(chan->slots);
    chan->marks = shared == NULL ? chan->own_marks : shared->marks;
    chan->counts = shared == NULL ? chan->own_counts : shared->counts;
    chan->answered_bytes = shared == NULL ? &chan->own_answered_bytes : &shared->answered_bytes;
    chan->answers = shared == NULL ? chan->own_answers : shared->answers;
    pthread_mutex_init(&chan->known_lock, NULL);
    if (fstat(dev_fd, &st) < 0)
        return -errno;
    chan->dev_fd = dev_fd;
    chan->is_device = S_ISCHR(st.st_mode) && st.st_rdev == makedev(FUSE_DEVICE_MAJOR, FUSE_DEVICE_MINOR);
    chan->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    chan->want_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int flags = fcntl(dev_fd, F_GETFL);
    if (chan->stop_fd < 0 || chan->want_fd < 0 || flags < 0 || fcntl(dev_fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        int error = -errno;
        fc_chan_free(chan);
        return error;
    }
    return 0;
}

/* What must hold once every lane is closed; check builds stop here otherwise. */
static void check_quiet(struct fc_chan *chan)
{
#if CAIRN_CHECK
    assert(atomic_load(&chan->n_lanes) == 0 && atomic_load(&chan->n_idle) == 0 && atomic_load(&chan->n_parked) == 0);
    for (int i = 0; i < FC_MAX_LANES; i++)
        assert(!atomic_load(&chan->lanes[i].in_use) && atomic_load(&chan->lanes[i].unique) == 0);
#else
    (void)chan;
#endif
}

void fc_chan_free(struct fc_chan *chan)
{
    check_quiet(chan);
    if (chan->stop_fd > 0)
        close(chan->stop_fd);
    if (chan->want_fd > 0)
        close(chan->want_fd);
    chan->stop_fd = chan->want_fd = 0;
    fu_close(chan);
    im_free(&chan->known);
}

void fc_chan_stop(struct fc_chan *chan)
{
    atomic_store(&chan->ended, 1);
    signal_event(chan->stop_fd);
    signal_event(chan->want_fd);
}

int fc_chan_over(struct fc_chan *chan)
{
    return atomic_load(&chan->ended);
}

void fc_hang_up(struct fc_chan *chan, int error)
{
    int none = 0;
    atomic_compare_exchange_strong(&chan->error, &none, error);
    fc_chan_stop(chan);
}

void fc_chan_want(struct fc_chan *chan)
{
    signal_event(chan->want_fd);
}

int fc_wait_wanted(struct fc_chan *chan, int timeout_ms)
{
    struct pollfd wanted = {.fd = chan->want_fd, .events = POLLIN};
    if (poll(&wanted, 1, timeout_ms) <= 0)
        return 0;
    uint64_t n;
    return read(chan->want_fd, &n, sizeof n) == sizeof n;
}

int fc_wants_lane(struct fc_chan *chan)
{
    int n_lanes = atomic_load(&chan->n_lanes);
    int n_working = n_lanes - atomic_load(&chan->n_parked);
    if (fc_chan_over(chan) || n_lanes >= (chan->slots == NULL ? FC_MAX_LANES : chan->slots->n_slots))
        return 0;
    return n_lanes < chan->min_lanes || (atomic_load(&chan->n_idle) <= 0 && n_working < chan->max_lanes);
}

/* A clone has its own queue of requests in work; where /dev/fuse may not be opened (unprivileged), lanes share dev_fd. */
static int open_clone(struct fc_chan *chan)
{
    if (!chan->is_device || chan->slots != NULL) /* requests read from a clone fail when its process dies */
        return chan->dev_fd;
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return errno == EMFILE || errno == ENFILE ? -1 : chan->dev_fd;
    uint32_t of = (uint32_t)chan->dev_fd;
    if (ioctl(fd, FC_IOC_CLONE, &of) < 0) {
        close(fd);
        return chan->dev_fd;
    }
    return fd;
}

static int watch(struct fc_lane *lane)
{
    struct epoll_event requests = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.fd = lane->fd};
    struct epoll_event stop = {.events = EPOLLIN, .data.fd = lane->chan->stop_fd};
    lane->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (lane->epoll_fd < 0)
        return -1;
    if (epoll_ctl(lane->epoll_fd, EPOLL_CTL_ADD, lane->fd, &requests) < 0)
        return -1;
    return epoll_ctl(lane->epoll_fd, EPOLL_CTL_ADD, lane->chan->stop_fd, &stop);
}

static void close_descriptors(struct fc_lane *lane)
{
    if (lane->epoll_fd >= 0)
        close(lane->epoll_fd);
    if (lane->fd >= 0 && lane->fd != lane->chan->dev_fd)
        close(lane->fd);
    lane->fd = lane->epoll_fd = -1;
}

struct fc_lane *fc_free_lane(struct fc_chan *chan)
{
    int n = chan->slots == NULL ? FC_MAX_LANES : chan->slots->n_slots;
    for (int i = 0; i < n; i++)
        if (!atomic_load(&chan->lanes[i].in_use))
            return &chan->lanes[i];
    return NULL;
}

void fc_lane_take(struct fc_lane *lane)
{
    int slot = (int)(lane - lane->chan->lanes);
    lane->replied = 1;
    lane->resumed = 0;
    if (slot >= atomic_load(&lane->chan->n_slots))
        atomic_store(&lane->chan->n_slots, slot + 1);
    atomic_store(&lane->in_use, 1);
}

/* A read that has to make a page of the buffer first would fail, and the request with it, when the process is killed just then. */
static int has_memory(struct fc_lane *lane)
{
    const struct fc_chan *chan = lane->chan;
    lane->slot = chan->slots == NULL ? NULL : fc_slot_at(chan->slots, (int)(lane - chan->lanes));
    if (lane->slot == NULL || madvise(lane->slot, chan->slots->slot_bytes, MADV_POPULATE_WRITE) == 0 || errno == EINVAL)
        return 1;
    errno = ENOMEM;
    return 0;
}

struct fc_lane *fc_lane_open(struct fc_chan *chan, int *error)
{
    struct fc_lane *lane = fc_free_lane(chan);
    if (lane == NULL) {
        *error = EAGAIN;
        return NULL;
    }
    lane->chan = chan;
    lane->epoll_fd = -1;
    lane->fd = open_clone(chan);
    if (lane->fd < 0 || watch(lane) < 0 || !has_memory(lane)) {
        *error = errno;
        close_descriptors(lane);
        return NULL;
    }
    lane->idle = lane->counted = 1;
    atomic_fetch_add(&chan->n_idle, 1);
    atomic_fetch_add(&chan->n_lanes, 1);
    if (lane->slot != NULL)
        atomic_store(&fc_jobs_of(chan->slots)->job[lane - chan->lanes], FC_JOB_NONE);
    fc_lane_take(lane);
    return lane;
}

void fc_lane_close(struct fc_lane *lane)
{
    struct fc_chan *chan = lane->chan;
    close_descriptors(lane);
    if (lane->entry != NULL)
        fu_lane_close(lane);
    lane->buf = NULL;
    atomic_fetch_sub(&chan->n_idle, lane->idle);
    atomic_fetch_sub(&chan->n_lanes, lane->counted);
    atomic_store(&lane->in_use, 0);
    signal_event(chan->want_fd);
}

/* ---- reading ---- */

static void become_idle(struct fc_lane *lane)
{
    if (!lane->idle) {
        lane->idle = 1;
        atomic_fetch_add(&lane->chan->n_idle, 1);
    }
}

static void become_busy(struct fc_lane *lane)
{
    lane->idle = 0;
    if (atomic_fetch_sub(&lane->chan->n_idle, 1) == 1 && fc_wants_lane(lane->chan))
        signal_event(lane->chan->want_fd);
}

/* Leave the idle lanes for good, unless that would leave none idle or fewer than min_lanes. 1 = left. */
static int leave_if_surplus(struct fc_lane *lane)
{
    struct fc_chan *chan = lane->chan;
    int n_lanes = atomic_load(&chan->n_lanes);
    do {
        if (n_lanes <= chan->min_lanes)
            return 0;
    } while (!atomic_compare_exchange_weak(&chan->n_lanes, &n_lanes, n_lanes - 1));
    int n_idle = atomic_load(&chan->n_idle);
    do {
        if (n_idle <= 1) {
            atomic_fetch_add(&chan->n_lanes, 1);
            return 0;
        }
    } while (!atomic_compare_exchange_weak(&chan->n_idle, &n_idle, n_idle - 1));
    lane->idle = lane->counted = 0;
    return 1;
}

/* Sleep until there may be a request. 0 = the lane should end. */
static int sleep_until_ready(struct fc_lane *lane)
{
    struct epoll_event event;
    int n = epoll_wait(lane->epoll_fd, &event, 1, lane->chan->linger_ms);
    if (n < 0 && errno != EINTR) {
        fc_hang_up(lane->chan, errno);
        return 0;
    }
    return !fc_chan_over(lane->chan) && (n != 0 || !leave_if_surplus(lane));
}

/* One message into lane->buf, however long it takes. 0 = the lane should end. */
static int receive(struct fc_lane *lane)
{
    struct fc_chan *chan = lane->chan;
    if (lane->entry != NULL)
        return fu_receive(lane);
    int n_looks = lane->idle ? LOOKS : 0; /* whoever was woken for nothing sleeps on */
    become_idle(lane);
    while (!fc_chan_over(chan)) {
        ssize_t n = read(lane->fd, lane->buf, chan->read_bytes);
        if (n > 0) {
            lane->n_bytes = (size_t)n;
            lane->began_ns = fc_now_ns();
            become_busy(lane);
            return 1;
        }
        int error = n == 0 ? ENODEV : errno;
        if (error == EAGAIN) {
            if (n_looks++ < LOOKS)
                sched_yield();
            else if (!sleep_until_ready(lane))
                return 0;
        } else if (error != EINTR && error != ENOENT) { /* ENOENT: the request was interrupted while being read */
            fc_hang_up(chan, error == ENODEV || error == ECONNABORTED ? 0 : error);
        }
    }
    return 0;
}

/* Is the message whole? If its header can be read, the kernel gets an answer even when it is not. */
static int check_header(struct fc_lane *lane)
{
    const struct fw_in_header *header = (const struct fw_in_header *)lane->buf;
    if (lane->n_bytes < sizeof *header) {
        lane->replied = 1;
        return 0;
    }
    lane->reply_to = header->unique;
    lane->replied = header->unique == 0;
    return header->len == lane->n_bytes && sizeof *header + header->total_extlen * 8u <= lane->n_bytes;
}

/* FLUSH exists to store what was written and to drop the closing process's fcntl locks. A handle that cannot write, of
 * a file that never had such a lock, needs neither; bit 0 of fh says that the handle is read-only (fuse_files.pyx). */
static int flush_does_nothing(struct fc_chan *chan, const struct fw_in_header *header, struct fc_cursor *cursor)
{
    const struct fw_flush_in *in = fc_take(cursor, sizeof *in);
    return in != NULL && (in->fh & 1) && !fc_is_marked(chan, header->nodeid, FC_MARK_LOCKED);
}

/* Answer what needs no Python. 1 = done, 0 = Python must serve it. */
static int answer_here(struct fc_lane *lane, const struct fw_in_header *header)
{
    struct fc_chan *chan = lane->chan;
    struct fc_cursor cursor = {lane->buf + sizeof *header, lane->n_bytes - sizeof *header};
    const struct fw_interrupt_in *interrupt;

    switch (header->opcode) {
    case FW_INTERRUPT:
        interrupt = fc_take(&cursor, sizeof *interrupt);
        lane->replied = 1;
        if (interrupt != NULL)
            fc_interrupt(chan, interrupt->unique);
        return 1;
    case FW_NOTIFY_REPLY:
        lane->replied = 1;
        return 1;
    case FW_FORGET:
    case FW_BATCH_FORGET:
        lane->replied = 1;
        if (!(chan->served >> header->opcode & 1))
            return 1;
        break;
    case FW_OPEN:
    case FW_FSYNC:
    case FW_FLUSH:
        if (chan->no_open) {
            fc_reply_error(lane, ENOSYS); /* once each: the kernel does not ask again */
            return 1;
        }
        if (header->opcode != FW_FLUSH || !flush_does_nothing(chan, header, &cursor))
            break;
        lane->counts_as = FW_FLUSH;
        fc_reply_error(lane, 0);
        return 1;
    case FW_DESTROY:
        fc_reply_error(lane, 0);
        return 1;
    case FW_IOCTL:
        fc_reply_error(lane, ENOTTY);
        return 1;
    }
    if (header->opcode < FW_N_OPCODES && (chan->served >> header->opcode & 1))
        return fc_answer_hot(lane, header, &cursor);
    fc_reply_error(lane, ENOSYS);
    return 1;
}

/* Python is to serve the request, and may commit something: a successor looks for it in the change log from here on. */
static void note_beginning(struct fc_lane *lane)
{
    struct fc_chan *chan = lane->chan;
    if (lane->slot != NULL && __atomic_load_n(&lane->slot->began, __ATOMIC_RELAXED) == 0) /* else a process that died had begun */
        __atomic_store_n(&lane->slot->began, 1 + (chan->arena == NULL ? 0 : atomic_load(&chan->arena->h->newest)), __ATOMIC_SEQ_CST);
}

int fc_next(struct fc_lane *lane)
{
    struct fc_chan *chan = lane->chan;
    while (receive(lane)) {
        const struct fw_in_header *header = (const struct fw_in_header *)lane->buf;
        if (!check_header(lane)) {
            atomic_fetch_add(&chan->n_malformed, 1);
            fc_reply_error(lane, EIO);
            fc_retire(lane);
            continue;
        }
        fc_count_request(chan, header);
        if (answer_here(lane, header) || fc_answer_fetched(lane, header)) {
            fc_retire(lane);
            continue;
        }
        note_beginning(lane);
        fc_register(lane, header->unique);
        atomic_fetch_add(&chan->n_in_python, 1);
        fu_let_go(lane);
        fc_serve(lane);
        return FC_REQUEST;
    }
    return FC_END;
}

void fc_done(struct fc_lane *lane)
{
    atomic_fetch_sub(&lane->chan->n_in_python, 1);
    fc_reply_error(lane, EIO);
    fc_serve(NULL);
    fc_retire(lane);
    lane->replied = 1;
    lane->resumed = 0;
    atomic_store(&lane->unique, 0);
}

/* ---- after a death ---- */

/* Give the reply that the slot holds; the kernel may have had it already. */
static void answer_again(struct fc_lane *lane)
{
    struct fc_slot *slot = lane->slot;
    struct iovec iov[2] = {[1] = {slot->reply, slot->n_reply}};
    if (!lane->replied && slot->n_reply <= FC_SLOT_REPLY)
        fc_write(lane->fd, lane->reply_to, -slot->error, iov, slot->n_reply ? 2 : 1);
    lane->replied = 1;
}

int fc_resume(struct fc_lane *lane)
{
    struct fc_slot *slot = lane->slot;
    const struct fw_in_header *header = (const struct fw_in_header *)lane->buf;
    if (slot == NULL || header->len == 0 || header->len > lane->chan->read_bytes)
        return FC_END;
    lane->n_bytes = header->len;
    lane->began_ns = fc_now_ns();
    become_busy(lane);
    if (!check_header(lane))
        fc_reply_error(lane, EIO);
    else if (atomic_load(&slot->answered) == header->unique)
        answer_again(lane);
    else if (header->opcode != FW_SETLKW && slot->n_tries++ >= FC_MAX_TRIES)
        fc_reply_error(lane, EIO);
    else if (!answer_here(lane, header)) {
        note_beginning(lane);
        fc_register(lane, header->unique);
        if (atomic_load(&slot->interrupted) == header->unique)
            atomic_store(&lane->interrupted, header->unique);
        lane->resumed = 1;
        atomic_fetch_add(&lane->chan->n_in_python, 1);
        fc_serve(lane);
        return FC_REQUEST;
    }
    fc_retire(lane);
    return FC_END;
}

int fc_park(struct fc_lane *lane)
{
    struct fc_chan *chan = lane->chan;
    if (lane->entry != NULL)
        return fu_park(lane);
    int most = chan->slots == NULL ? FC_MAX_PARKED : chan->slots->n_slots - chan->max_lanes;
    if (atomic_fetch_add(&chan->n_parked, 1) >= most) {
        atomic_fetch_sub(&chan->n_parked, 1);
        return 0;
    }
    atomic_fetch_sub(&chan->n_in_python, 1);
    if (fc_wants_lane(chan))
        signal_event(chan->want_fd);
    return 1;
}

void fc_unpark(struct fc_lane *lane)
{
    if (lane->entry != NULL) {
        fu_unpark(lane);
        return;
    }
    atomic_fetch_add(&lane->chan->n_in_python, 1);
    atomic_fetch_sub(&lane->chan->n_parked, 1);
}
