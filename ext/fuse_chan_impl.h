/* Driving lanes: open, wait for a request, answer what needs no Python, end. No Python here; call without the GIL.
 *
 *   serving thread                         each lane's thread
 *     fc_chan_init, INIT by hand             while fc_next(lane) == FC_REQUEST:
 *     loop:                                      serve lane->buf[0 .. lane->n_bytes)
 *       fc_wait_wanted                           fc_done(lane)
 *       while fc_wants_lane: fc_lane_open    fc_lane_close(lane)
 *     until fc_chan_over, then fc_chan_free
 *
 * A lane is counted idle from fc_lane_open on, and whenever it is inside fc_next. The lane that takes the last idle place
 * wakes the serving thread, which opens another one. Waiting is epoll with EPOLLEXCLUSIVE, so that one request wakes one
 * lane, and always the oldest idle one: the surplus stays asleep until its time is over.
 */
#ifndef CAIRN_FUSE_CHAN_IMPL_H
#define CAIRN_FUSE_CHAN_IMPL_H

#include "fuse_cursor.h"
#include "fuse_lane.h"

enum { FC_END = 0, FC_REQUEST = 1 };

/* Prepare a zeroed channel on a device (or, in tests, a SOCK_SEQPACKET socket). 0 or a negative errno. The fd stays the
 * caller's. */
int fc_chan_init(struct fc_chan *chan, int dev_fd);

/* Close what fc_chan_init opened, once or more often. All lanes must be closed. */
void fc_chan_free(struct fc_chan *chan);

/* Make every lane end after its present request, and wake the serving thread. Safe from signal handlers and any thread. */
void fc_chan_stop(struct fc_chan *chan);

/* Has the kernel hung up, or has fc_chan_stop been called? */
int fc_chan_over(struct fc_chan *chan);

/* Wait up to timeout_ms until a lane asks for attention. 1 = asked, 0 = time is over or a signal came. */
int fc_wait_wanted(struct fc_chan *chan, int timeout_ms);

/* Should another lane be opened? */
int fc_wants_lane(struct fc_chan *chan);

/* A free lane with its descriptors open and counted idle, or NULL with *error set. Only the serving thread calls it. */
struct fc_lane *fc_lane_open(struct fc_chan *chan, int *error);

void fc_lane_close(struct fc_lane *lane);

/* End the channel because of an errno, 0 for an unmount. */
void fc_hang_up(struct fc_chan *chan, int error);

/* Wake the serving thread. */
void fc_chan_want(struct fc_chan *chan);

/* A lane that nobody uses, or NULL; and its being used from now on. Only the serving thread calls them. */
struct fc_lane *fc_free_lane(struct fc_chan *chan);
void fc_lane_take(struct fc_lane *lane);

/* The next request for Python in lane->buf: FC_REQUEST, or FC_END when the lane should end. */
int fc_next(struct fc_lane *lane);

/* What the lane's slot holds of a process that has died: FC_REQUEST when Python must serve it, else FC_END, and it is done. */
int fc_resume(struct fc_lane *lane);

/* Lanes that must be opened so that every request which somebody has left behind is served. */
int fc_n_left(const struct fc_chan *chan);

/* The present request is over. If it still has no reply, it gets EIO: a request must never be left hanging. */
void fc_done(struct fc_lane *lane);

/* Around a call that waits for a lock: the lane stops counting against max_lanes. 0 = too many already wait. */
int fc_park(struct fc_lane *lane);
void fc_unpark(struct fc_lane *lane);

/* One message read from a descriptor whether or not it blocks, for INIT. Bytes read, 0 for end, or a negative errno. */
ssize_t fc_read_one(struct fc_chan *chan, void *buf, size_t n_bytes, int timeout_ms);

struct fc_limits {
    uint32_t max_write;      /* bytes of one WRITE or READ; a multiple of 4 KiB */
    uint16_t max_background; /* requests the kernel may have open that nobody waits for */
};

/* Look at an INIT message and fill in the answer (fuse_chan_init.c).
 *
 * 1 = agreed; chan->minor, caps and read_bytes are set. 0 = the kernel speaks a later major version and will, after this answer,
 * send another INIT. -EPROTO = not an INIT; -EPROTONOSUPPORT = the kernel is too old.
 */
int fc_negotiate(struct fc_chan *chan, const uint8_t *message, size_t n_bytes, const struct fc_limits *limits,
                 struct fw_init_out *out);

/* Of a lane with an entry of an io_uring queue (fuse_chan_uring.c): the next request into lane->buf, 0 = the lane should end; a reply,
 * and room for one; waiting for a lock; its end; and the end of the channel. */
int fu_receive(struct fc_lane *lane);
int fu_reply(struct fc_lane *lane, int error, struct iovec *iov, int n_iov);
uint8_t *fu_room(struct fc_lane *lane, size_t n_bytes);
void fu_let_go(struct fc_lane *lane); /* Python is about to serve */
int fu_park(struct fc_lane *lane);
void fu_unpark(struct fc_lane *lane);
void fu_lane_close(struct fc_lane *lane);
void fu_close(struct fc_chan *chan);

uint64_t fc_count(struct fc_chan *chan, int opcode);

uint64_t fc_answered_bytes(struct fc_chan *chan);

/* Answer a request from the arena, and count it (fuse_chan_hot.c). 1 = done, 0 = Python must serve what is in the lane's buffer now. */
int fc_answer_hot(struct fc_lane *lane, const struct fw_in_header *header, struct fc_cursor *cursor);

/* Have another worker fetch what the arena lacks for a request, then answer it (fuse_chan_fetch.c). 1 = done. */
int fc_answer_fetched(struct fc_lane *lane, const struct fw_in_header *header);

/* Is an OPEN for reading, or an OPENDIR, worth a fence, after which compiled code may answer it? */
int fc_wants_fence(struct fc_chan *chan, uint64_t ino);

/* Answer an OPEN or OPENDIR after a fence. 1 = done, 0 = Python must serve what is in the lane's buffer now. */
int fc_open_fenced(struct fc_lane *lane);

/* An INTERRUPT names a request; the lane has a request that one may name (fuse_chan_interrupt.c). */
void fc_interrupt(struct fc_chan *chan, uint64_t unique);
void fc_register(struct fc_lane *lane, uint64_t unique);

int fc_count_known(struct fc_chan *chan, uint64_t ino, int64_t n);

/* A request has come: count it, and let go of its inode if the kernel will ask for the attributes again. */
void fc_count_request(struct fc_chan *chan, const struct fw_in_header *header);

/* The kernel is given a name with attributes, which count as held from now on (fuse_chan_known.c), if that is the only name. 0, or -1
 * when there is no memory. */
int fc_give(struct fc_chan *chan, const struct ar_attr *attr);

/* This thread begins to serve the request of a lane in Python; NULL: it has ended (fuse_chan_told.c). */
void fc_serve(struct fc_lane *lane);

/* Inodes that a commit of this thread has changed: have the kernel told of them just before the reply to the request that the thread
 * serves, if that changes names. 0 = it does not: tell it now. */
int fc_tell_later(struct fc_chan *chan, const uint64_t *inos, size_t n);
void fc_tell(struct fc_lane *lane);

/* The kernel is told to forget attributes of an inode; of every one: 0. */
void fc_let_go(struct fc_chan *chan, uint64_t ino);

/* May anything be left out of a reply to READDIRPLUS now? */
int fc_may_leave_out(struct fc_chan *chan);

/* 1 = the kernel holds the inode; 0 = it will ask for the attributes; -1 = its name may be new to it, or another inode's there. */
int fc_holds(struct fc_chan *chan, uint64_t ino);

/* An entry of READDIRPLUS from the arena, counted as known to the kernel; `out` is zeroed. 1, or 0: Python must lay it out. */
int fc_put_known(struct fc_chan *chan, uint64_t ino, struct fw_entry_out *out);

/* fuse_chan_dir.c: lay out as many entries as fit, up to one whose attributes are wanted and not known, or one whose name is gone.
 * How many bytes they take. */
size_t fc_put_page(struct fc_chan *chan, struct fc_batch *batch, uint8_t *out, size_t room);

/* Inodes that the kernel may know: how many, and their numbers (room for so many; returns how many there were). */
/* 1 when the kernel may know the inode. */
int fc_is_known(struct fc_chan *chan, uint64_t ino);
size_t fc_n_known(struct fc_chan *chan);
size_t fc_copy_known(struct fc_chan *chan, uint64_t *out, size_t room);

#endif
