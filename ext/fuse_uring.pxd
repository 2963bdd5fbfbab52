"""What fuse_uring.h declares, for fuse_chan."""

from cairnfs.ext.fuse_req cimport fc_chan, fc_lane


cdef extern from "fuse_uring.h" nogil:
    enum:
        FU_FIRST_LANES

    int fu_prepare(fc_chan *chan, unsigned int n_queues)
    int fu_settle(fc_chan *chan)
    int fu_runs(const fc_chan *chan)
    int fu_error(const fc_chan *chan)
    int fu_n_lanes(const fc_chan *chan)
    int fu_wants_lane(fc_chan *chan)
    void fu_retry(fc_chan *chan)
    fc_lane *fu_lane_open(fc_chan *chan, unsigned int queue, int *error)
    int fu_lane_start(fc_lane *lane)
