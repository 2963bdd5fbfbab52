/* Doing jobs (fuse_jobs.h). No Python here; call without the GIL. */
#ifndef CAIRN_FUSE_SLOTS_JOBS_H
#define CAIRN_FUSE_SLOTS_JOBS_H

#include "fuse_slot.h"
#include "fuse_wire.h"

#include <string.h>

enum { FC_JOB_NAME = 256 }; /* longest name and its NUL */

struct fc_wanted {
    uint32_t opcode;
    uint64_t ino; /* LOOKUP: of the directory */
    size_t n_name;
    char name[FC_JOB_NAME];
};

/* The slot of a job for `worker`, now taken; -1 when none comes within the time. */
int fc_take_job(const struct fc_slots *slots, uint32_t worker, uint32_t timeout_ms);

/* What the request in a slot is about. 0 = it is not whole (any more). */
int fc_read_job(const struct fc_slots *slots, int slot, struct fc_wanted *out);

/* A job is over; all jobs of a worker are, because it has died. */
void fc_end_job(const struct fc_slots *slots, uint32_t worker, int slot);
void fc_end_jobs_of(const struct fc_slots *slots, uint32_t worker);

#endif
