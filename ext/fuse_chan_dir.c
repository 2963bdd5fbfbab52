/* Directories answered from kept listings (listing_impl.h), under the fence of fuse_chan_hot.c.
 *
 * The handle is FC_COMPILED_FH | version << 1: which listing its reader sees. So it needs no table, nobody counts it, and whoever
 * has to serve it instead knows from handle, inode and cookie where its reader is. A reader goes on in the listing it has
 * begun, whatever has become of the directory; from the beginning it gets the present one, as POSIX wants of a rewind.
 * Only the present listing may come with attributes: the kernel takes an inode of READDIRPLUS for what the name stands for now.
 *
 * What the kernel holds (fuse_chan_known.c) comes without: with them, it would forget the ACL that it keeps. It asks for attributes at
 * the beginning of a directory, and from there on as long as somebody looks at an inode that has just come with them. So where all
 * were left out it goes on with names only, which are four times as many in a reply; unless others follow that it does not hold, or
 * whose names READDIRPLUS has to put right: then one entry has its attributes nevertheless.
 */
#include "fuse_chan_hot.h"
#include "listing_impl.h"
#include "page_impl.h"

#include <string.h>
#include <sys/stat.h>

enum {
    MAX_DIR_REPLY = 128 << 10, /* as in fuse_files.pyx */
    DIRECTORY = S_IFDIR >> 12,
    AHEAD = 1 << 16,      /* entries looked at to know whether to go on with names only: some milliseconds at most */
    HELD_PER_MISS = 256,  /* so many held ones save more requests than the one costs that is not */
};

/* A reply in work. */
struct listing {
    struct fc_chan *chan;
    uint8_t *out;
    size_t room, n_bytes;
    int plus;       /* entries have room for attributes, */
    int with_attrs; /* and get them, */
    int leaves_out; /* but for those that the kernel holds: */
    size_t n_attrs;
    struct fw_entry_out *left_out; /* the last one that was, NULL: none; */
    uint64_t left_out_ino;         /* and whose attributes these would be */
};

/* Is the next entry to have its attributes? */
static int wants_attr(const struct listing *reply, uint64_t ino)
{
    return reply->with_attrs && !(reply->leaves_out && fc_holds(reply->chan, ino) > 0);
}

/* One more entry, as a name only when `attr` is NULL. 0 = it does not fit. */
static int put(struct listing *reply, const struct ls_entry *entry, const struct ar_attr *attr)
{
    size_t n_plus = reply->plus ? sizeof(struct fw_entry_out) : 0;
    size_t n_bytes = n_plus + ((sizeof(struct fw_dirent) + entry->n_name + 7) & ~(size_t)7);
    uint8_t *out = reply->out + reply->n_bytes;
    if (n_bytes > reply->room - reply->n_bytes)
        return 0;
    memset(out, 0, n_bytes);
    if (attr != NULL) {
        if (fc_give(reply->chan, attr) < 0)
            return 0;
        fc_fill_entry(reply->chan, attr, (struct fw_entry_out *)out);
        reply->n_attrs++;
    }
    struct fw_dirent *dirent = (struct fw_dirent *)(out + n_plus);
    dirent->ino = entry->ino;
    dirent->off = entry->cookie;
    dirent->namelen = entry->n_name;
    dirent->type = entry->type;
    memcpy(dirent + 1, entry->name, entry->n_name);
    reply->n_bytes += n_bytes;
    return 1;
}

/* The kernel did not take the reply, so it does not know its inodes. */
static void take_back(struct listing *reply)
{
    for (size_t at = 0; reply->plus && at < reply->n_bytes;) {
        const struct fw_entry_out *entry = (const struct fw_entry_out *)(reply->out + at);
        const struct fw_dirent *dirent = (const struct fw_dirent *)(entry + 1);
        if (entry->nodeid)
            fc_known(reply->chan, entry->nodeid, -1);
        at += sizeof *entry + ((sizeof *dirent + dirent->namelen + 7) & ~(size_t)7);
    }
}

/* An entry comes without attributes because the kernel holds them. */
static void leave_out(struct listing *reply, const struct ls_entry *entry)
{
    size_t n_bytes = sizeof(struct fw_entry_out) + ((sizeof(struct fw_dirent) + entry->n_name + 7) & ~(size_t)7);
    reply->left_out = (struct fw_entry_out *)(reply->out + reply->n_bytes - n_bytes);
    reply->left_out_ino = entry->ino;
}

/* Have the kernel ask for attributes when it reads on. */
static void keep_asking(struct listing *reply)
{
    struct ar_attr attr;
    if (fc_find_told(reply->chan, reply->left_out_ino, &attr) && fc_give(reply->chan, &attr) == 0)
        fc_fill_entry(reply->chan, &attr, reply->left_out);
}

/* Does the kernel hold as good as all entries from where `page` is, and have every name? */
static int holds_rest(struct listing *reply, struct ls_page *page)
{
    struct ls_entry entry;
    uint32_t n = 0, n_missing = 0;
    for (;;) {
        for (; ls_take(page, &entry); n++) {
            int holds = fc_holds(reply->chan, entry.ino);
            if (holds < 0)
                return 0;
            n_missing += !holds;
        }
        if (page->head.is_last || n >= AHEAD || !ls_open(reply->chan->arena, page->head.dir, page->head.version, page->index, page))
            return n_missing <= n / HELD_PER_MISS;
    }
}

/* "." and "..": not counted as looked up, so without attributes. */
static int put_dots(struct listing *reply, uint64_t dir, uint64_t parent, uint64_t cookie)
{
    struct ls_entry dot = {.ino = dir, .name = (const uint8_t *)"..", .cookie = 1, .n_name = 1, .type = DIRECTORY};
    struct ls_entry dotdot = {.ino = parent, .name = dot.name, .cookie = 2, .n_name = 2, .type = DIRECTORY};
    if (cookie < dot.cookie && !put(reply, &dot, NULL))
        return 0;
    return cookie >= dotdot.cookie || put(reply, &dotdot, NULL);
}

/* Entries from where `page` is, as long as they fit and are known. How many; 0 at the end of the listing as well: *at_end. */
static uint32_t put_entries(struct listing *reply, struct ls_page *page, uint64_t moved, int *at_end)
{
    struct ar_arena *arena = reply->chan->arena;
    struct ls_entry entry;
    struct ar_attr attr;
    uint32_t n = 0;
    for (;;) {
        while (ls_take(page, &entry)) {
            int wants = wants_attr(reply, entry.ino);
            if (wants && !fc_find(reply->chan, entry.ino, &attr))
                return n;
            entry.cookie |= moved;
            if (!put(reply, &entry, wants && fc_is_told(reply->chan, &attr) ? &attr : NULL))
                return n;
            if (reply->with_attrs && !wants)
                leave_out(reply, &entry);
            n++;
        }
        *at_end = page->head.is_last;
        if (*at_end || !ls_open(arena, page->head.dir, page->head.version, page->index, page))
            return n;
    }
}

int fc_has_listing(struct fc_chan *chan, const struct ar_attr *dir)
{
    struct ls_page page;
    return ls_open(chan->arena, dir->ino, dir->version, 0, &page);
}

/* Does the name of a row still stand for its inode? 0 = not known, or for another one; -1 = it is gone. */
static int still_stands(const struct fc_chan *chan, const struct fc_batch *batch, const struct pg_row *row, uint64_t ino)
{
    uint64_t now = ino;
    if (batch->is_old && !ar_name_find(chan->arena, batch->dir, row->key, row->n_key, &now))
        return 0;
    return now == ino ? 1 : -(now == 0);
}

size_t fc_put_page(struct fc_chan *chan, struct fc_batch *batch, uint8_t *out, size_t room)
{
    struct listing reply = {.chan = chan, .out = out, .room = room, .plus = batch->plus};
    struct ls_entry entry;
    struct pg_row row;
    struct ar_attr attr;
    if (chan->arena == NULL || (batch->plus && !fc_may_answer(chan)) || !put_dots(&reply, batch->dir, batch->parent, batch->offset))
        return 0;
    reply.with_attrs = batch->plus;
    reply.leaves_out = batch->plus && fc_may_leave_out(chan);
    for (; batch->n_passed < batch->n_rows; batch->n_passed++) {
        pg_row_at(batch->bytes + batch->places[batch->n_passed], &row);
        if (row.n_key == 0 || row.n_key > LS_MAX_NAME || pg_dentry(&row, &entry.ino, &entry.type) != 0)
            break;
        int stands = still_stands(chan, batch, &row, entry.ino);
        if (stands < 0) {
            if (batch->n_given > 0)
                break;
            continue;
        }
        int wants = stands && wants_attr(&reply, entry.ino);
        if (wants && !fc_find(chan, entry.ino, &attr))
            break;
        entry.name = row.key;
        entry.n_name = (uint8_t)row.n_key;
        entry.cookie = batch->cookie + batch->n_given;
        if (!put(&reply, &entry, wants && fc_is_told(chan, &attr) ? &attr : NULL))
            break;
        if (batch->plus && stands && !wants)
            leave_out(&reply, &entry);
        batch->n_given++;
    }
    if (reply.left_out != NULL && reply.n_attrs == 0) /* nobody knows what follows */
        keep_asking(&reply);
    return reply.n_bytes;
}

int fc_open_dir(struct fc_lane *lane, const struct fw_in_header *header, struct fc_cursor *cursor)
{
    struct fc_chan *chan = lane->chan;
    struct ar_attr attr;
    if (fc_take(cursor, sizeof(struct fw_open_in)) == NULL || !fc_find(chan, header->nodeid, &attr) || !S_ISDIR(attr.mode))
        return 0;
    if (!fc_has_listing(chan, &attr))
        return 0;
    struct fw_open_out out = {.fh = FC_COMPILED_FH | attr.version << 1};
    fc_reply_body(lane, &out, sizeof out);
    return 1;
}

int fc_read_dir(struct fc_lane *lane, const struct fw_in_header *header, struct fc_cursor *cursor)
{
    struct fc_chan *chan = lane->chan;
    const struct fw_read_in *in = fc_take(cursor, sizeof *in);
    struct ar_attr attr;
    struct ls_page page;
    if (in == NULL || !(in->fh & FC_COMPILED_FH))
        return 0;
    if (in->offset >= LS_FIRST_COOKIE && !(in->offset >> LS_HASH_SHIFT)) {
        fc_reply_error(lane, 0); /* the end */
        return 1;
    }
    struct listing reply = {.chan = chan, .room = in->size < MAX_DIR_REPLY ? in->size : MAX_DIR_REPLY};
    uint64_t own = (in->fh & ~FC_COMPILED_FH) >> 1;
    int known = fc_find(chan, header->nodeid, &attr);
    int begins_anew = in->offset < LS_FIRST_COOKIE || (in->offset & LS_MOVED);
    if (begins_anew && !known)
        return 0;
    uint64_t version = begins_anew ? attr.version : own;
    reply.out = fc_room_behind(lane, reply.room);
    if (reply.out == NULL || !ls_resume(chan->arena, header->nodeid, version, in->offset, &page))
        return 0;
    reply.plus = header->opcode == FW_READDIRPLUS;
    reply.with_attrs = reply.plus && known && attr.version == version;
    reply.leaves_out = reply.with_attrs && fc_may_leave_out(chan);
    int at_end = 0;
    if (!put_dots(&reply, page.head.dir, page.head.parent, in->offset))
        return 0;
    if (put_entries(&reply, &page, version == own ? 0 : LS_MOVED, &at_end) == 0 && !at_end)
        return 0;
    if (reply.left_out != NULL && reply.n_attrs == 0 && !at_end && !holds_rest(&reply, &page))
        keep_asking(&reply);
    if (reply.n_bytes == 0)
        fc_reply_error(lane, 0);
    else if (fc_reply_body(lane, reply.out, reply.n_bytes) != 0)
        take_back(&reply);
    return 1;
}

int fc_release_dir(struct fc_lane *lane, const struct fw_in_header *header, struct fc_cursor *cursor)
{
    const struct fw_release_in *in = fc_take(cursor, sizeof *in);
    (void)header;
    if (in == NULL || !(in->fh & FC_COMPILED_FH))
        return 0;
    fc_reply_error(lane, 0);
    return 1;
}
