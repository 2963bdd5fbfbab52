/* What the files that answer from the arena share. */
#ifndef CAIRN_FUSE_CHAN_HOT_H
#define CAIRN_FUSE_CHAN_HOT_H

#include "fuse_chan_impl.h"

/* May anything be answered from the arena now? */
static inline int fc_may_answer(struct fc_chan *chan)
{
    return atomic_load(&chan->follows) && !atomic_load(&chan->arena->h->hush) && ar_fresh(chan->arena);
}

/* What is known of an inode that nobody must look at more closely. */
int fc_find(struct fc_chan *chan, uint64_t ino, struct ar_attr *attr);

/* May the kernel be told of these? Not of a file that others have changed while it has pages of before: the last of these would show
 * zeros between what was the end and what is. Python waits until it has dropped them, or has it ask again. */
int fc_is_told(struct fc_chan *chan, const struct ar_attr *attr);

/* Both. */
int fc_find_told(struct fc_chan *chan, uint64_t ino, struct ar_attr *attr);

/* A name's inode, as LOOKUP and READDIRPLUS show it. Into zeroed room. */
void fc_fill_entry(struct fc_chan *chan, const struct ar_attr *attr, struct fw_entry_out *out);

/* Write a reply; one that the kernel refuses becomes EIO. 0 when it was taken. */
int fc_reply_body(struct fc_lane *lane, void *body, size_t n_bytes);

/* Room for a reply behind the request, which stays as it is: Python may have to serve it yet. NULL when there is not enough. */
static inline uint8_t *fc_room_behind(struct fc_lane *lane, size_t n_bytes)
{
    if (lane->entry != NULL)
        return fu_room(lane, n_bytes);
    size_t begin = (lane->n_bytes + 63) & ~(size_t)63;
    size_t room = lane->chan->read_bytes;
    return begin > room || n_bytes > room - begin ? NULL : lane->buf + begin;
}

/* Directories (fuse_chan_dir.c): is the present listing kept? The others: 1 = answered. */
int fc_has_listing(struct fc_chan *chan, const struct ar_attr *dir);
int fc_open_dir(struct fc_lane *lane, const struct fw_in_header *header, struct fc_cursor *cursor);
int fc_read_dir(struct fc_lane *lane, const struct fw_in_header *header, struct fc_cursor *cursor);
int fc_release_dir(struct fc_lane *lane, const struct fw_in_header *header, struct fc_cursor *cursor);

/* Writing (fuse_chan_write.c); 1 = answered. */
int fc_write_file(struct fc_lane *lane, const struct fw_in_header *header, struct fc_cursor *cursor);
int fc_flush_clean(struct fc_lane *lane, const struct fw_in_header *header);

#endif
