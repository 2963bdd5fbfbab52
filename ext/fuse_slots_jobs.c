/* Jobs, from the side of those who do them. */
#include "fuse_slots_jobs.h"

static int take(const struct fc_slots *slots, uint32_t worker)
{
    struct fc_jobs *jobs = fc_jobs_of(slots);
    for (int i = 0; i < slots->n_slots; i++) {
        uint32_t wanted = FC_JOB_WANTED | worker;
        if (atomic_load_explicit(&jobs->job[i], memory_order_relaxed) == wanted
            && atomic_compare_exchange_strong(&jobs->job[i], &wanted, FC_JOB_TAKEN | worker))
            return i;
    }
    return -1;
}

int fc_take_job(const struct fc_slots *slots, uint32_t worker, uint32_t timeout_ms)
{
    struct fc_jobs *jobs = fc_jobs_of(slots);
    uint32_t rung = atomic_load(&jobs->bell[worker]);
    int slot = take(slots, worker);
    if (slot >= 0)
        return slot;
    atomic_fetch_add(&jobs->sleeps[worker], 1);
    fc_futex_wait(&jobs->bell[worker], rung, timeout_ms);
    atomic_fetch_sub(&jobs->sleeps[worker], 1);
    return take(slots, worker);
}

void fc_end_job(const struct fc_slots *slots, uint32_t worker, int slot)
{
    _Atomic uint32_t *job = &fc_jobs_of(slots)->job[slot];
    uint32_t taken = FC_JOB_TAKEN | worker;
    if (atomic_compare_exchange_strong(job, &taken, FC_JOB_DONE))
        fc_futex_wake(job, 1);
}

void fc_end_jobs_of(const struct fc_slots *slots, uint32_t worker)
{
    atomic_store(&fc_jobs_of(slots)->sleeps[worker], 0);
    for (int i = 0; i < slots->n_slots; i++)
        fc_end_job(slots, worker, i);
}

int fc_read_job(const struct fc_slots *slots, int slot, struct fc_wanted *out)
{
    const uint8_t *request = fc_slot_request(fc_slot_at(slots, slot));
    struct fw_in_header header;
    memcpy(&header, request, sizeof header);
    out->opcode = header.opcode;
    out->ino = header.nodeid;
    out->n_name = 0;
    if (header.opcode != FW_LOOKUP)
        return 1;
    if (header.len <= sizeof header || header.len - sizeof header > sizeof out->name)
        return 0;
    memcpy(out->name, request + sizeof header, header.len - sizeof header);
    const char *end = memchr(out->name, 0, header.len - sizeof header);
    if (end == NULL)
        return 0;
    out->n_name = (size_t)(end - out->name);
    return 1;
}
