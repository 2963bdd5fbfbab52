/* What the kernel is told of own commits: attributes that it has to ask for again, with the reply to the request that made them. */
#include "fuse_chan_impl.h"

/* Requests whose commit is the last that they wait for. */
#define CHANGING_NAMES                                                                                                             \
    (UINT64_C(1) << FW_UNLINK | UINT64_C(1) << FW_RMDIR | UINT64_C(1) << FW_CREATE | UINT64_C(1) << FW_MKNOD |                     \
     UINT64_C(1) << FW_MKDIR | UINT64_C(1) << FW_SYMLINK | UINT64_C(1) << FW_LINK | UINT64_C(1) << FW_RENAME |                     \
     UINT64_C(1) << FW_RENAME2)

static _Thread_local struct fc_lane *serving; /* the lane whose request this thread serves in Python */

void fc_serve(struct fc_lane *lane)
{
    serving = lane;
    if (lane != NULL)
        lane->n_told = 0;
}

int fc_tell_later(struct fc_chan *chan, const uint64_t *inos, size_t n)
{
    struct fc_lane *lane = serving;
    if (lane == NULL || lane->chan != chan || lane->replied || lane->n_told + n > FC_MAX_TOLD)
        return 0;
    uint32_t opcode = ((const struct fw_in_header *)lane->buf)->opcode;
    if (opcode >= 64 || !(CHANGING_NAMES >> opcode & 1))
        return 0;
    memcpy(lane->told + lane->n_told, inos, n * sizeof *inos);
    lane->n_told += n;
    return 1;
}

void fc_tell(struct fc_lane *lane)
{
    struct fw_notify_inval_inode_out body = {.off = -1};
    for (size_t i = 0; i < lane->n_told; i++) {
        struct iovec iov[2] = {[1] = {&body, sizeof body}};
        body.ino = lane->told[i];
        fc_let_go(lane->chan, body.ino);
        fc_write(lane->chan->dev_fd, 0, FW_NOTIFY_INVAL_INODE, iov, 2); /* an inode that it does not know is no matter, nor its end */
    }
    lane->n_told = 0;
}
