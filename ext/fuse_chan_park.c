/* Lanes that wait for a lock: they do not count as working, so that those who could free it find a thread. */
#include "fuse_chan_impl.h"

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
    if (fc_wants_lane(chan))
        fc_chan_want(chan);
    return 1;
}

void fc_unpark(struct fc_lane *lane)
{
    if (lane->entry != NULL)
        fu_unpark(lane);
    else
        atomic_fetch_sub(&lane->chan->n_parked, 1);
}
