/* Requests answered from the arena, without Python.
 *
 * What may be answered at all: while somebody follows the change log, nobody reads the access log, and the fence says that
 * everything committed is known (ar_fresh), so that no answer is older than the request; or under a lease, where names and attributes are as
 * old as the log's way here, and only opens, and names that are absent, ask first (is_fenced). An inode with marks is left to Python, and
 * so is whatever is not found. Each function returns 1 when the request has its reply.
 */
#include "fuse_chan_hot.h"

#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/stat.h>

enum {
    DIR_BYTES = 4096,   /* as in fuse_req.pyx */
    BLOCK_BYTES = 4096,
    DIR_BLOCK_BYTES = 64 << 10, /* as in fuse_req.pyx, too */
    HAS_XATTR = 1,      /* a flag of the inode record: it has, or had, extended attributes */
    ALL_STATX = 0xFFF,  /* as in fuse_names.pyx */
    NANO = 1000000000,
    MAX_NAME = 255,
};

static void split_ns(int64_t ns, uint64_t *seconds, uint32_t *rest)
{
    int64_t whole = ns / NANO - (ns % NANO < 0);
    *seconds = (uint64_t)whole;
    *rest = (uint32_t)(ns - whole * NANO);
}

static void fill_attr(struct fc_chan *chan, const struct ar_attr *attr, struct fw_attr *out)
{
    memset(out, 0, sizeof *out);
    out->ino = attr->ino;
    out->size = S_ISDIR(attr->mode) ? DIR_BYTES : attr->size;
    out->blocks = (attr->alloc_bytes + 511) / 512;
    split_ns(attr->atime_ns, &out->atime, &out->atimensec);
    split_ns(attr->mtime_ns, &out->mtime, &out->mtimensec);
    split_ns(attr->ctime_ns, &out->ctime, &out->ctimensec);
    out->mode = attr->mode;
    out->nlink = attr->nlink;
    out->uid = attr->uid;
    out->gid = attr->gid;
    out->rdev = attr->rdev;
    out->blksize = S_ISDIR(attr->mode) ? DIR_BLOCK_BYTES : BLOCK_BYTES;
    if (attr->mode & (S_ISUID | S_ISGID))
        fc_mark(chan, attr->ino, FC_MARK_SUID);
}

int fc_find(struct fc_chan *chan, uint64_t ino, struct ar_attr *attr)
{
    /* Marks first: an inode that is marked only after this has been changed by somebody who is not answered yet. */
    return !(ar_marks(chan->arena, ino) & AR_LEFT_ALONE) && ar_attr_find(chan->arena, ino, attr);
}

void fc_fill_entry(struct fc_chan *chan, const struct ar_attr *attr, struct fw_entry_out *out)
{
    const struct fc_span *entry = S_ISDIR(attr->mode) ? &chan->dir_entry_valid : &chan->entry_valid;
    fill_attr(chan, attr, &out->attr);
    out->nodeid = attr->ino;
    out->generation = 1;
    out->entry_valid = entry->s;
    out->entry_valid_nsec = entry->ns;
    out->attr_valid = chan->attr_valid.s;
    out->attr_valid_nsec = chan->attr_valid.ns;
}

int fc_reply_body(struct fc_lane *lane, void *body, size_t n_bytes)
{
    struct iovec iov[2] = {[1] = {body, n_bytes}};
    int result = fc_reply(lane, 0, iov, 2);
    if (result < 0)
        fc_reply_error(lane, EIO); /* the kernel still waits */
    return result;
}

/* ---- the fence ---- */

enum { LOOKS = 20 }; /* for commits of this mount that are told of just now; more, and Python's log may as well bring them */

/* Is everything known that was committed before this call? Where the store cannot be watched, it is asked. */
static int is_fenced(struct fc_chan *chan)
{
    struct ar_arena *arena = chan->arena;
    if (ar_fresh_for_open(arena))
        return 1;
    if (chan->log_end == NULL || __atomic_load_n(&arena->watch, __ATOMIC_RELAXED) != NULL || atomic_load(&arena->h->is_careful))
        return 0;
    uint64_t before = ar_known_to(arena);
    int64_t end = le_ask(chan->log_end);
    if (end < 0 || (uint64_t)end < before) /* a store that lacks what is known here: Python sees to it */
        return 0;
    for (int i = 0; ar_known_to(arena) < (uint64_t)end; i++) {
        if (i == LOOKS)
            return 0;
        sched_yield();
    }
    return fc_may_answer(chan) && !atomic_load(&arena->h->is_careful);
}

/* ---- names and attributes ---- */

/* The kernel may keep the answer where it is told of names that appear. */
static int answer_absent(struct fc_lane *lane)
{
    const struct fc_span *valid = &lane->chan->negative_valid;
    struct fw_entry_out out = {.entry_valid = valid->s, .entry_valid_nsec = valid->ns};
    if (valid->s == 0 && valid->ns == 0)
        fc_reply_error(lane, ENOENT);
    else
        fc_reply_body(lane, &out, sizeof out);
    return 1;
}

static int lookup(struct fc_lane *lane, const struct fw_in_header *header, struct fc_cursor *cursor)
{
    struct fc_chan *chan = lane->chan;
    struct fw_entry_out out = {0};
    struct ar_attr attr;
    uint64_t ino;
    size_t n_bytes;
    const char *name = fc_take_name(cursor, &n_bytes);
    if (name == NULL || (atomic_load(&chan->arena->h->is_careful) & AR_LOOKS))
        return 0;
    if (!ar_name_find(chan->arena, header->nodeid, name, n_bytes, &ino))
        return 0;
    if (ino == 0) {
        /* Whoever opens it must see what others have made. */
        if (!is_fenced(chan) || !ar_name_find(chan->arena, header->nodeid, name, n_bytes, &ino))
            return 0;
        if (ino == 0)
            return answer_absent(lane);
    }
    if (!fc_find_told(chan, ino, &attr) || fc_give(chan, &attr) < 0)
        return 0;
    fc_fill_entry(chan, &attr, &out);
    if (fc_reply_body(lane, &out, sizeof out) != 0)
        fc_known(chan, ino, -1);
    return 1;
}

static int forget(struct fc_lane *lane, const struct fw_in_header *header, struct fc_cursor *cursor)
{
    /* Whatever is counted twice or not at all when this process dies here must be counted too high, never too low: so these, and
     * RELEASE, are over for a successor before they are counted. */
    struct fc_chan *chan = lane->chan;
    if (header->opcode == FW_FORGET) {
        const struct fw_forget_in *in = fc_take(cursor, sizeof *in);
        if (in == NULL || header->nodeid >= chan->fleeting_from)
            return 0;
        uint64_t nodeid = header->nodeid;
        int64_t n = (int64_t)in->nlookup;
        fc_retire(lane);
        fc_known(chan, nodeid, -n);
        return 1;
    }
    const struct fw_batch_forget_in *in = fc_take(cursor, sizeof *in);
    const struct fw_forget_one *ones = in == NULL ? NULL : fc_take_array(cursor, in->count, sizeof *ones);
    if (ones == NULL)
        return 0;
    for (uint32_t i = 0; i < in->count; i++)
        if (ones[i].nodeid >= chan->fleeting_from)
            return 0;
    fc_retire(lane);
    for (uint32_t i = 0; i < in->count; i++)
        fc_known(chan, ones[i].nodeid, -(int64_t)ones[i].nlookup);
    return 1;
}

static int get_attr(struct fc_lane *lane, const struct fw_in_header *header)
{
    struct fc_chan *chan = lane->chan;
    struct fw_attr_out out = {0};
    struct ar_attr attr;
    if (!fc_find_told(chan, header->nodeid, &attr))
        return 0;
    fill_attr(chan, &attr, &out.attr);
    out.attr_valid = chan->attr_valid.s;
    out.attr_valid_nsec = chan->attr_valid.ns;
    fc_reply_body(lane, &out, sizeof out);
    return 1;
}

static void fill_time(int64_t ns, struct fw_time *out)
{
    uint64_t seconds;
    split_ns(ns, &seconds, &out->nsec);
    out->sec = (int64_t)seconds;
}

static int get_statx(struct fc_lane *lane, const struct fw_in_header *header)
{
    struct fc_chan *chan = lane->chan;
    struct fw_statx_out out = {0};
    struct fw_attr basic;
    struct ar_attr attr;
    if (!fc_find_told(chan, header->nodeid, &attr))
        return 0;
    fill_attr(chan, &attr, &basic);
    out.attr_valid = chan->attr_valid.s;
    out.attr_valid_nsec = chan->attr_valid.ns;
    out.mask = ALL_STATX;
    out.blksize = basic.blksize;
    out.nlink = basic.nlink;
    out.uid = basic.uid;
    out.gid = basic.gid;
    out.mode = (uint16_t)basic.mode;
    out.ino = basic.ino;
    out.size = basic.size;
    out.blocks = basic.blocks;
    fill_time(attr.atime_ns, &out.atime);
    fill_time(attr.btime_ns, &out.btime);
    fill_time(attr.ctime_ns, &out.ctime);
    fill_time(attr.mtime_ns, &out.mtime);
    out.rdev_major = basic.rdev >> 8 & 0xFFF;
    out.rdev_minor = (basic.rdev & 0xFF) | (basic.rdev >> 12 & 0xFFF00);
    fc_reply_body(lane, &out, sizeof out);
    return 1;
}

/* ---- files ---- */

struct opening {
    struct fc_chan *chan;
    struct ar_attr attr;
};

/* May compiled code open it? Nobody removes its last name while this is asked (ar_open). */
static int admit(void *context)
{
    struct opening *opening = context;
    struct ar_attr *attr = &opening->attr;
    return ar_attr_find(opening->chan->arena, attr->ino, attr) && attr->layout != AR_OTHER && attr->nlink > 0;
}

static uint64_t new_handle(struct fc_chan *chan, uint64_t data_version)
{
    uint64_t number = atomic_fetch_add(&chan->arena->h->n_handles, 1) + 1;
    uint64_t version = (data_version & FC_FH_VERSION_MASK) << FC_FH_VERSION_AT;
    return FC_COMPILED_FH | version | (number << 1 & ((UINT64_C(1) << FC_FH_VERSION_AT) - 1)) | 1;
}

/* The kernel uses a handle: so it has done what it was told when it got it. */
static void used(struct fc_chan *chan, uint64_t ino, uint64_t fh)
{
    if ((fh & FC_COMPILED_FH) && (fh & FC_DROPS_FH))
        ar_shown_dropped(chan->arena, ino, fh >> FC_FH_VERSION_AT, FC_FH_VERSION_MASK);
}

static int open_fresh(struct fc_lane *lane, const struct fw_in_header *header, struct fc_cursor *cursor)
{
    struct fc_chan *chan = lane->chan;
    struct opening opening = {.chan = chan, .attr.ino = header->nodeid};
    const struct fw_open_in *in = fc_take(cursor, sizeof *in);
    if (in == NULL || (in->flags & (O_ACCMODE | O_TRUNC)) || in->open_flags)
        return 0;
    /* Locks are Python's, with the handles they were taken through. */
    if (fc_is_marked(chan, header->nodeid, FC_MARK_LOCKED) || !ar_open(chan->arena, header->nodeid, admit, &opening))
        return 0;
    struct fw_open_out out = {.fh = new_handle(chan, opening.attr.data_version), .open_flags = FW_FOPEN_NOFLUSH};
    if (ar_shown_opened(chan->arena, header->nodeid, opening.attr.data_version))
        out.open_flags |= FW_FOPEN_KEEP_CACHE;
    else
        out.fh |= FC_DROPS_FH;
    if (fc_reply_body(lane, &out, sizeof out) == 0 || ar_close(chan->arena, header->nodeid, 0) >= 0)
        return 1;
    /* Nobody took the handle, and Python has begun to count on it: serve the RELEASE that the kernel will not send. */
    struct fw_in_header *made = (struct fw_in_header *)lane->buf;
    struct fw_release_in body = {.fh = out.fh};
    made->opcode = FW_RELEASE;
    memcpy(made + 1, &body, sizeof body);
    lane->n_bytes = made->len = sizeof *made + sizeof body;
    made->total_extlen = 0;
    lane->replied = 1;
    return 0;
}

int fc_wants_fence(struct fc_chan *chan, uint64_t ino)
{
    struct ar_attr attr;
    if (chan->arena == NULL || !fc_may_answer(chan) || fc_is_marked(chan, ino, FC_MARK_LOCKED) || !fc_find(chan, ino, &attr))
        return 0;
    if (S_ISDIR(attr.mode)) /* all requests of a listing follow from who has opened it */
        return fc_has_listing(chan, &attr);
    return attr.layout != AR_OTHER && __atomic_load_n(&chan->arena->watch, __ATOMIC_RELAXED) == NULL;
}

static int open_file(struct fc_lane *lane, const struct fw_in_header *header, struct fc_cursor *cursor)
{
    struct fc_chan *chan = lane->chan;
    struct fc_cursor peek = *cursor;
    const struct fw_open_in *in = fc_take(&peek, sizeof *in);
    if (in == NULL || (in->flags & (O_ACCMODE | O_TRUNC)))
        return 0;
    if (!ar_fresh_for_open(chan->arena) && !(fc_wants_fence(chan, header->nodeid) && is_fenced(chan)))
        return 0;
    return atomic_load(&chan->leaves) ? 0 : open_fresh(lane, header, cursor);
}

static int open_dir(struct fc_lane *lane, const struct fw_in_header *header, struct fc_cursor *cursor)
{
    struct fc_chan *chan = lane->chan;
    if (!ar_fresh_for_open(chan->arena) && !(fc_wants_fence(chan, header->nodeid) && is_fenced(chan)))
        return 0;
    return fc_open_dir(lane, header, cursor);
}

int fc_open_fenced(struct fc_lane *lane)
{
    const struct fw_in_header *header = (const struct fw_in_header *)lane->buf;
    struct fc_cursor cursor = {lane->buf + sizeof *header, lane->n_bytes - sizeof *header};
    if (!fc_may_answer(lane->chan))
        return 0;
    return header->opcode == FW_OPENDIR ? fc_open_dir(lane, header, &cursor) : open_fresh(lane, header, &cursor);
}

static int release(struct fc_lane *lane, const struct fw_in_header *header, struct fc_cursor *cursor)
{
    const struct fw_release_in *in = fc_take(cursor, sizeof *in);
    if (in == NULL || !(in->fh & FC_COMPILED_FH) || (in->release_flags & FW_RELEASE_FLOCK_UNLOCK))
        return 0;
    used(lane->chan, header->nodeid, in->fh);
    struct iovec none[1];
    fc_keep_answer(lane, 0, none, 1);
    if (ar_close(lane->chan->arena, header->nodeid, 0) < 0) {
        if (lane->slot != NULL)
            atomic_store(&lane->slot->answered, 0);
        return 0;
    }
    fc_reply_error(lane, 0);
    return 1;
}

static int read_file(struct fc_lane *lane, const struct fw_in_header *header, struct fc_cursor *cursor)
{
    struct fc_chan *chan = lane->chan;
    struct ar_attr attr;
    const struct fw_read_in *in = fc_take(cursor, sizeof *in);
    if (in == NULL || !fc_find(chan, header->nodeid, &attr) || attr.layout == AR_OTHER)
        return 0;
    used(chan, header->nodeid, in->fh);
    if (attr.layout == AR_PIECES)
        return 0;
    if (in->offset >= attr.size || in->size == 0) {
        fc_reply_error(lane, 0);
        return 1;
    }
    uint64_t left = attr.size - in->offset;
    size_t n_bytes = in->size < left ? in->size : (size_t)left;
    uint8_t *out = fc_room_behind(lane, n_bytes);
    if (out == NULL || !ar_slice_copy(chan->arena, attr.pack, attr.stored_off, attr.off + in->offset, n_bytes, out))
        return 0;
    atomic_fetch_add_explicit(chan->answered_bytes, n_bytes, memory_order_relaxed);
    fc_reply_body(lane, out, n_bytes);
    return 1;
}

/* ---- the rest ---- */

/* A name that an inode without extended attributes has no value for; any other is no name at all, and Python says why. */
static int is_xattr_name(const char *name)
{
    static const char *const spaces[] = {"user.", "trusted.", "security."};
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++) {
        size_t n_bytes = strlen(spaces[i]);
        if (strncmp(name, spaces[i], n_bytes) == 0)
            return name[n_bytes] != 0;
    }
    return strcmp(name, "system.posix_acl_access") == 0 || strcmp(name, "system.posix_acl_default") == 0;
}

static int get_xattr(struct fc_lane *lane, const struct fw_in_header *header, struct fc_cursor *cursor)
{
    struct ar_attr attr;
    size_t n_name;
    const char *name = fc_take(cursor, sizeof(struct fw_getxattr_in)) == NULL ? NULL : fc_take_name(cursor, &n_name);
    if (name == NULL || !is_xattr_name(name))
        return 0;
    if (!ar_attr_find(lane->chan->arena, header->nodeid, &attr) || (attr.flags & HAS_XATTR))
        return 0;
    int error = ENODATA;
    if (strncmp(name, "security.", strlen("security.")) == 0) {
        enum ar_security security = ar_security_find(lane->chan->arena);
        if (security == AR_SECURITY_UNKNOWN)
            return 0;
        if (security == AR_SECURITY_NEVER) /* whoever asks for it of every file need not go on */
            error = EOPNOTSUPP;
    }
    fc_reply_error(lane, error);
    return 1;
}

static int list_xattr(struct fc_lane *lane, const struct fw_in_header *header, struct fc_cursor *cursor)
{
    struct fw_getxattr_out none = {0};
    struct ar_attr attr;
    const struct fw_getxattr_in *in = fc_take(cursor, sizeof *in);
    if (in == NULL || !ar_attr_find(lane->chan->arena, header->nodeid, &attr) || (attr.flags & HAS_XATTR))
        return 0;
    if (in->size == 0)
        fc_reply_body(lane, &none, sizeof none);
    else
        fc_reply_error(lane, 0);
    return 1;
}

static int may_access(struct fc_lane *lane, const struct fw_in_header *header, struct fc_cursor *cursor)
{
    struct ar_attr attr;
    const struct fw_access_in *in = fc_take(cursor, sizeof *in);
    if (in == NULL || (in->mask & W_OK) || !ar_attr_find(lane->chan->arena, header->nodeid, &attr))
        return 0;
    fc_reply_error(lane, 0);
    return 1;
}

/* As op_statfs() of fuse_files.pyx. */
static int stat_fs(struct fc_lane *lane)
{
    uint64_t usage[AR_N_USAGE];
    if (!ar_usage_find(lane->chan->arena, usage))
        return 0;
    uint64_t total = usage[0] / BLOCK_BYTES;
    uint64_t used = usage[1] / BLOCK_BYTES + (usage[1] % BLOCK_BYTES != 0);
    struct fw_statfs_out out = {.bsize = BLOCK_BYTES, .frsize = BLOCK_BYTES, .namelen = MAX_NAME, .blocks = total, .files = usage[2]};
    out.bfree = out.bavail = total - (used < total ? used : total);
    out.ffree = usage[2] - (usage[3] < usage[2] ? usage[3] : usage[2]);
    fc_reply_body(lane, &out, sizeof out);
    return 1;
}

int fc_put_known(struct fc_chan *chan, uint64_t ino, struct fw_entry_out *out)
{
    struct ar_attr attr;
    if (chan->arena == NULL || !atomic_load(&chan->follows) || !ar_fresh(chan->arena) || !fc_find_told(chan, ino, &attr))
        return 0;
    if (fc_give(chan, &attr) < 0)
        return 0;
    fc_fill_entry(chan, &attr, out);
    return 1;
}

static int answer(struct fc_lane *lane, const struct fw_in_header *header, struct fc_cursor *cursor)
{
    struct fc_chan *chan = lane->chan;
    if (chan->arena == NULL)
        return 0;
    switch (header->opcode) { /* what is only counted, or depends on nobody, needs no fence */
    case FW_FORGET:
    case FW_BATCH_FORGET:
        return forget(lane, header, cursor);
    case FW_RELEASE:
        return release(lane, header, cursor);
    case FW_RELEASEDIR:
        return fc_release_dir(lane, header, cursor);
    case FW_FLUSH:
        return fc_flush_clean(lane, header);
    case FW_WRITE:
        return fc_write_file(lane, header, cursor);
    }
    if (!fc_may_answer(chan))
        return 0;
    switch (header->opcode) {
    case FW_LOOKUP:
        return lookup(lane, header, cursor);
    case FW_GETATTR:
        return get_attr(lane, header);
    case FW_STATX:
        return get_statx(lane, header);
    case FW_OPEN:
        return open_file(lane, header, cursor);
    case FW_OPENDIR:
        return open_dir(lane, header, cursor);
    case FW_READDIR:
    case FW_READDIRPLUS:
        return fc_read_dir(lane, header, cursor);
    case FW_READ:
        return read_file(lane, header, cursor);
    case FW_GETXATTR:
        return get_xattr(lane, header, cursor);
    case FW_LISTXATTR:
        return list_xattr(lane, header, cursor);
    case FW_ACCESS:
        return may_access(lane, header, cursor);
    case FW_STATFS:
        return stat_fs(lane);
    }
    return 0;
}

int fc_answer_hot(struct fc_lane *lane, const struct fw_in_header *header, struct fc_cursor *cursor)
{
    lane->counts_as = header->opcode;
    int done = answer(lane, header, cursor);
    if (done)
        fc_count_answer(lane); /* what gets no reply */
    lane->counts_as = 0;
    return done;
}
