/* Requests in work, in memory that outlives the process that works on them.
 *
 * A region of shared memory, made before the processes that use it: pages of its own, then one slot a lane.
 *
 *   page    0 u32 agreed (0: INIT is not answered yet), 4 u32 minor, 8 u64 caps, 16 u64 read_bytes, 64 .. marks (enum fc_mark),
 *           4160 .. requests read by opcode (64 times u64), 4672 u64 bytes of files in answers without Python,
 *           4680 .. how many of these took how long, by opcode (64 times struct fc_times), 20480 .. jobs (fuse_jobs.h)
 *   slot    0 u64 answered, 8 u64 interrupted, 16 i32 error, 20 u32 n_reply, 24 u32 n_tries, 32 u64 began, 40 .. reply; from byte
 *           FC_SLOT_PAGE on the request
 *
 * States of a slot, by what is in it, and what a successor does with it:
 *   header.len == 0                          nothing
 *   header.len != 0                          the request was read: serve it
 *   header.len != 0, answered == unique      its effects are there, and so is the reply: give it (again)
 * What the owner does, in this order: read the request; began = where the log is, if Python is to serve it; serve it; put the reply into
 * the slot; answered = unique; write the reply; began = 0; header.len = 0. A request whose reply does not fit may be served twice, and is of a kind that may (READ, READDIR, xattrs). */
#ifndef CAIRN_FUSE_SLOT_H
#define CAIRN_FUSE_SLOT_H

#include "fuse_jobs.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* A request that so many processes have died of gets EIO. Waiting for a lock does not count: it may last through any number of deaths. */
enum { FC_MAX_TRIES = 20 };

enum { FC_SLOT_PAGE = 4096, FC_SLOT_REPLY = 512, FC_JOBS_AT = 20480, FC_SHARED_BYTES = 28672 };

enum { FC_N_BUCKETS = 26 }; /* as in engine/metrics.py: up to 1 us, 2 us, 4 us, ... 16.8 s, and what took longer */

struct fc_slot {
    _Atomic uint64_t answered;
    _Atomic uint64_t interrupted; /* the last request of this slot that an INTERRUPT named */
    int32_t error;
    uint32_t n_reply;
    uint32_t n_tries; /* of processes that died with the request */
    uint32_t spare;
    uint64_t began; /* a position in the change log, plus 1: what the request commits comes after it; 0: it commits nothing (yet) */
    uint8_t reply[FC_SLOT_REPLY];
};

/* How long something took, from the end of the read that brought the request to the end of the write of its reply. */
struct fc_times {
    _Atomic uint64_t buckets[FC_N_BUCKETS];
    _Atomic uint64_t sum_ns;
};

struct fc_shared {
    _Atomic uint32_t agreed;
    uint32_t minor;
    uint64_t caps;
    uint64_t read_bytes;
    uint64_t spare[5];
    _Atomic uint8_t marks[4096];
    _Atomic uint64_t counts[64]; /* requests read, by opcode */
    _Atomic uint64_t answered_bytes;
    struct fc_times answers[64];
};
_Static_assert(sizeof(struct fc_shared) <= FC_JOBS_AT, "jobs lie behind it");
_Static_assert(FC_JOBS_AT + sizeof(struct fc_jobs) <= FC_SHARED_BYTES, "slots lie behind them");
_Static_assert(sizeof(struct fc_slot) <= FC_SLOT_PAGE, "a slot's page");

struct fc_slots {
    uint8_t *base;
    size_t slot_bytes; /* page and request */
    int n_slots;
};

static inline struct fc_shared *fc_shared_of(const struct fc_slots *slots)
{
    return (struct fc_shared *)slots->base;
}

static inline struct fc_jobs *fc_jobs_of(const struct fc_slots *slots)
{
    return (struct fc_jobs *)(slots->base + FC_JOBS_AT);
}

static inline struct fc_slot *fc_slot_at(const struct fc_slots *slots, int i)
{
    return (struct fc_slot *)(slots->base + FC_SHARED_BYTES + (size_t)i * slots->slot_bytes);
}

static inline uint8_t *fc_slot_request(struct fc_slot *slot)
{
    return (uint8_t *)slot + FC_SLOT_PAGE;
}

#endif
