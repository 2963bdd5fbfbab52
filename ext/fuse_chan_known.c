/* What is counted: inodes that the kernel knows, requests. */
#include "fuse_chan_impl.h"

int fc_count_known(struct fc_chan *chan, uint64_t ino, int64_t n)
{
    pthread_mutex_lock(&chan->known_lock);
    const struct im_slot *slot = im_find(&chan->known, ino);
    int64_t value = n + (slot == NULL ? 0 : (int64_t)slot->value);
    int result = 0;
    if (value <= 0)
        im_remove(&chan->known, ino);
    else if (ino != 0)
        result = im_put(&chan->known, ino, (uint64_t)value);
    pthread_mutex_unlock(&chan->known_lock);
    return result;
}

int fc_is_known(struct fc_chan *chan, uint64_t ino)
{
    pthread_mutex_lock(&chan->known_lock);
    int found = im_find(&chan->known, ino) != NULL;
    pthread_mutex_unlock(&chan->known_lock);
    return found;
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
