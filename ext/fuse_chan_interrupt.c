/* INTERRUPT, and the requests that it names.
 *
 * The kernel sends INTERRUPT U only after some lane's read() has returned U, but another lane may read the INTERRUPT
 * before that lane has registered U. Asking the kernel to send it again (EAGAIN) does not help with clones: the kernel
 * looks for U in the queue of the clone that answers. So an unknown U is remembered, and looked for at registration:
 *
 *   registering lane: unique = U, then look through early[]
 *   interrupting lane: look through lanes; not found: early[i] = U, then look through lanes again
 *
 * Each side writes before it looks, so at least one sees the other. A U that was already answered stays in early[] until
 * overwritten, harmlessly: numbers are never used twice.
 */
#include "fuse_chan_impl.h"

static int mark_interrupted(struct fc_chan *chan, uint64_t unique)
{
    int n_slots = atomic_load(&chan->n_slots);
    for (int i = 0; i < n_slots; i++) {
        struct fc_lane *lane = &chan->lanes[i];
        if (atomic_load(&lane->unique) == unique) {
            atomic_store(&lane->interrupted, unique);
            return 1;
        }
    }
    return 0;
}

/* Who takes over finds the request in its slot, registered or not: early[] goes with this process. */
static void mark_for_successor(struct fc_chan *chan, uint64_t unique)
{
    for (int i = 0; chan->slots != NULL && i < chan->slots->n_slots; i++) {
        struct fc_slot *slot = fc_slot_at(chan->slots, i);
        const struct fw_in_header *header = (const struct fw_in_header *)fc_slot_request(slot);
        if (header->len != 0 && header->unique == unique)
            atomic_store(&slot->interrupted, unique);
    }
}

void fc_interrupt(struct fc_chan *chan, uint64_t unique)
{
    if (unique == 0)
        return;
    mark_for_successor(chan, unique);
    if (mark_interrupted(chan, unique))
        return;
    uint32_t i = atomic_fetch_add(&chan->n_early, 1) % FC_N_EARLY;
    atomic_store(&chan->early[i], unique);
    mark_interrupted(chan, unique);
}

void fc_register(struct fc_lane *lane, uint64_t unique)
{
    struct fc_chan *chan = lane->chan;
    atomic_store(&lane->unique, unique);
    if (atomic_load(&chan->n_early) == 0)
        return;
    for (int i = 0; i < FC_N_EARLY; i++)
        if (atomic_load(&chan->early[i]) == unique)
            atomic_store(&lane->interrupted, unique);
}
