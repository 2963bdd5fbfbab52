/* Writing without Python: WRITE into the journal, where the inode has a grant, and FLUSH where there is nothing to store.
 *
 * The handler decides which inode has a grant, and for how many bytes (engine/vfs/granted.py). journal_impl.h says who sees what was
 * written when. The fence does not matter: what is written depends on nothing that others commit.
 */
#define _GNU_SOURCE
#include "fuse_chan_hot.h"

#include <fcntl.h>
#include <time.h>

/* Of an open: where it writes, or when it is stored, is not for compiled code to say. */
enum { UNUSUAL = O_APPEND | O_DIRECT | O_SYNC | O_DSYNC };

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Does the grant cover the write? Its lock is held. */
static int covers(const struct fc_chan *chan, const struct jn_grant *grant, const struct fw_write_in *in)
{
    if (grant->n_held || in->fh >> 1 != grant->fh || in->size > grant->left_bytes || grant->n_places >= JN_PLACES)
        return 0;
    if (in->offset > grant->max_end || in->size > grant->max_end - in->offset)
        return 0;
    /* The kernel must hear of a mode that a write changes: Python sees to that. */
    return !(in->write_flags & FW_WRITE_KILL_SUIDGID) || (grant->plain && !fc_is_marked((struct fc_chan *)chan, grant->ino, FC_MARK_SUID));
}

/* Note the write. Nobody is told of anything before its record is whole. 1 = done, 0 = nothing has happened. */
static int keep(struct fc_chan *chan, struct jn_grant *grant, const struct fw_write_in *in, const void *data)
{
    if (!grant->marked) {
        if (ar_mark(chan->arena, grant->ino, AR_DIRTY) < 0)
            return 0;
        grant->marked = 1;
    }
    return jn_add_granted(chan->journal, grant, in->offset, data, in->size, now_ns());
}

int fc_write_file(struct fc_lane *lane, const struct fw_in_header *header, struct fc_cursor *cursor)
{
    struct fc_chan *chan = lane->chan;
    struct fw_write_out out = {0};
    const struct fw_write_in *in = fc_take(cursor, sizeof *in);
    const void *data = in == NULL ? NULL : fc_take(cursor, in->size);
    if (chan->journal == NULL || data == NULL || in->size == 0 || (in->flags & UNUSUAL) || (in->write_flags & FW_WRITE_CACHE))
        return 0;
    if (atomic_load(&chan->arena->h->hush))
        return 0;
    int busy;
    struct jn_grant *grant = jn_enter(chan->journal, header->nodeid, 1, &busy);
    if (grant == NULL)
        return 0;
    int kept = covers(chan, grant, in) && keep(chan, grant, in, data);
    out.size = in->size;
    jn_leave(grant);
    if (kept)
        fc_reply_body(lane, &out, sizeof out);
    return kept;
}

/* Whoever wrote something has marked the inode before its WRITE was answered; so without a mark there is nothing that this close could
 * store, or fail to. Locks end with Python, as in fuse_chan_impl.c. */
int fc_flush_clean(struct fc_lane *lane, const struct fw_in_header *header)
{
    struct fc_chan *chan = lane->chan;
    if (atomic_load(&chan->arena->h->hush) || header->nodeid >= chan->fleeting_from)
        return 0;
    if (fc_is_marked(chan, header->nodeid, FC_MARK_LOCKED) || (ar_marks(chan->arena, header->nodeid) & AR_DIRTY))
        return 0;
    fc_reply_error(lane, 0);
    return 1;
}
