/* What is counted: inodes that the kernel knows, requests.
 *
 * An inode is *held* while the kernel is taken to have its only name and its attributes, both valid for long: one reply gave both, and
 * nothing has happened since that makes it ask again. READDIRPLUS leaves out the attributes of what is held. No answer is wrong by that,
 * for the kernel goes by what it has, or asks: it costs a request where it is not so. A name that it drops takes the inode along (the
 * kernel's FUSE keeps none without a name or a user), and FORGET says so.
 *
 * The value of the table is a count and, from bit ROUND_AT on, the round in which the inode came to be held: it is while that is the
 * present one. A round ends, and with it every hold, when the kernel was made to forget everything, and when half the time is over for
 * which it may keep what it was given.
 */
#include "fuse_chan_hot.h"

#include <sys/stat.h>

enum {
    ROUND_AT = 40,
    CHANGED = 0xFFFFFF, /* in place of a round: the kernel was told to forget attributes, and may have the name to forget yet */
    LONG_S = 60,        /* what the kernel keeps for less is not held */
};
#define COUNT_MASK ((UINT64_C(1) << ROUND_AT) - 1)

/* Requests after which the kernel asks for the attributes of their inode again, for its time of access or of change. Whatever else
 * changes one is committed before it is answered, and then the kernel is told. */
#define UNSETTLING                                                                                                                 \
    (UINT64_C(1) << FW_READ | UINT64_C(1) << FW_READLINK | UINT64_C(1) << FW_READDIR | UINT64_C(1) << FW_READDIRPLUS |             \
     UINT64_C(1) << FW_WRITE)

static void begin_round(struct fc_chan *chan)
{
    chan->round = chan->round + 1 == CHANGED ? 1 : chan->round + 1;
    chan->round_began_ns = fc_now_ns();
}

int fc_count_known(struct fc_chan *chan, uint64_t ino, int64_t n)
{
    pthread_mutex_lock(&chan->known_lock);
    const struct im_slot *slot = im_find(&chan->known, ino);
    uint64_t value = slot == NULL ? 0 : slot->value;
    int64_t count = n + (int64_t)(value & COUNT_MASK);
    int result = 0;
    if (count <= 0)
        im_remove(&chan->known, ino);
    else if (ino != 0) /* who forgets holds nothing, whatever is on its way */
        result = im_put(&chan->known, ino, (uint64_t)count | (n < 0 ? 0 : value & ~COUNT_MASK));
    pthread_mutex_unlock(&chan->known_lock);
    return result;
}

int fc_give(struct fc_chan *chan, const struct ar_attr *attr)
{
    pthread_mutex_lock(&chan->known_lock);
    const struct im_slot *slot = im_find(&chan->known, attr->ino);
    uint64_t value = slot == NULL ? 0 : slot->value;
    uint64_t round = S_ISDIR(attr->mode) || attr->nlink == 1 ? chan->round : 0;
    int result = im_put(&chan->known, attr->ino, ((value & COUNT_MASK) + 1) | round << ROUND_AT);
    pthread_mutex_unlock(&chan->known_lock);
    return result;
}

int fc_holds(struct fc_chan *chan, uint64_t ino)
{
    pthread_mutex_lock(&chan->known_lock);
    const struct im_slot *slot = im_find(&chan->known, ino);
    uint64_t since = slot == NULL ? CHANGED : slot->value >> ROUND_AT;
    int holds = since == CHANGED ? -1 : since != 0 && since == chan->round;
    pthread_mutex_unlock(&chan->known_lock);
    return holds;
}

void fc_let_go(struct fc_chan *chan, uint64_t ino)
{
    pthread_mutex_lock(&chan->known_lock);
    struct im_slot *slot = im_find(&chan->known, ino);
    if (slot != NULL)
        slot->value = (slot->value & COUNT_MASK) | (uint64_t)CHANGED << ROUND_AT;
    else if (ino == 0 && chan->round != 0)
        begin_round(chan);
    pthread_mutex_unlock(&chan->known_lock);
}

int fc_may_leave_out(struct fc_chan *chan)
{
    uint64_t valid_s = chan->attr_valid.s;
    valid_s = chan->entry_valid.s < valid_s ? chan->entry_valid.s : valid_s;
    valid_s = chan->dir_entry_valid.s < valid_s ? chan->dir_entry_valid.s : valid_s;
    if (valid_s < LONG_S || !atomic_load(&chan->follows))
        return 0;
    pthread_mutex_lock(&chan->known_lock);
    if (chan->round == 0 || (fc_now_ns() - chan->round_began_ns) / 1000000000 >= valid_s / 2)
        begin_round(chan);
    pthread_mutex_unlock(&chan->known_lock);
    return 1;
}

/* The kernel has the name still. */
static void unsettle(struct fc_chan *chan, uint64_t ino)
{
    pthread_mutex_lock(&chan->known_lock);
    struct im_slot *slot = im_find(&chan->known, ino);
    if (slot != NULL && slot->value >> ROUND_AT != CHANGED)
        slot->value &= COUNT_MASK;
    pthread_mutex_unlock(&chan->known_lock);
}

void fc_count_request(struct fc_chan *chan, const struct fw_in_header *header)
{
    uint32_t opcode = header->opcode < FW_N_OPCODES ? header->opcode : 0;
    atomic_fetch_add(&chan->counts[opcode], 1);
    if ((UNSETTLING >> opcode & 1) && !chan->no_open) /* a read-only mount has no times of access */
        unsettle(chan, header->nodeid);
}

int fc_is_known(struct fc_chan *chan, uint64_t ino)
{
    pthread_mutex_lock(&chan->known_lock);
    int found = im_find(&chan->known, ino) != NULL;
    pthread_mutex_unlock(&chan->known_lock);
    return found;
}

int fc_is_told(struct fc_chan *chan, const struct ar_attr *attr)
{
    /* In this order: what is known is left to be told of before it counts as known. */
    if (!S_ISREG(attr->mode) || (attr->version <= ar_known_to(chan->arena) && !atomic_load(&chan->leaves)))
        return 1;
    return !chan->no_open && !ar_shown_older(chan->arena, attr->ino, attr->data_version);
}

int fc_find_told(struct fc_chan *chan, uint64_t ino, struct ar_attr *attr)
{
    return fc_find(chan, ino, attr) && fc_is_told(chan, attr);
}

size_t fc_n_known(struct fc_chan *chan)
{
    pthread_mutex_lock(&chan->known_lock);
    size_t n = chan->known.n;
    pthread_mutex_unlock(&chan->known_lock);
    return n;
}

size_t fc_copy_known(struct fc_chan *chan, uint64_t *out, size_t room)
{
    pthread_mutex_lock(&chan->known_lock);
    size_t n = chan->known.n;
    if (n <= room)
        im_inos(&chan->known, out);
    pthread_mutex_unlock(&chan->known_lock);
    return n;
}

uint64_t fc_answered_bytes(struct fc_chan *chan)
{
    return atomic_load(chan->answered_bytes);
}

uint64_t fc_count(struct fc_chan *chan, int opcode)
{
    return atomic_load(&chan->counts[opcode]);
}

int fc_n_left(const struct fc_chan *chan)
{
    int n = 0;
    for (int i = 0; chan->slots != NULL && i < chan->slots->n_slots; i++)
        if (((const struct fw_in_header *)fc_slot_request(fc_slot_at(chan->slots, i)))->len)
            n = i + 1;
    return n;
}
