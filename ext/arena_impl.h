/* What the files of the arena share: buckets, their locks, and changing one so that readers notice. */
#ifndef CAIRN_ARENA_IMPL_H
#define CAIRN_ARENA_IMPL_H

#include <string.h>
#include <sys/mman.h>

#include "arena.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum {
    AR_ROOT = 1,          /* has names that the store does not know */
    AR_FILTER_PROBES = 4, /* bits of a name: with 10 bits for each name one in 80 absent ones is asked for */
};

#define AR_POSITION_MASK ((UINT64_C(1) << 48) - 1)

static inline uint64_t ar_mix(uint64_t x)
{
    x ^= x >> 33;
    x *= UINT64_C(0xff51afd7ed558ccd);
    x ^= x >> 33;
    x *= UINT64_C(0xc4ceb9fe1a85ec53);
    return x ^ x >> 33;
}

static inline void *ar_at(const struct ar_arena *arena, uint64_t offset)
{
    return (uint8_t *)arena->h + offset;
}

/* Buckets with `ways` entries of `size` bytes; hash chooses. */
static inline struct ar_bucket *ar_bucket_of(const struct ar_arena *arena, const struct ar_table *table, uint64_t hash,
                                             size_t ways, size_t size)
{
    return ar_at(arena, table->offset + (hash & (table->n_buckets - 1)) * (sizeof(struct ar_bucket) + ways * size));
}

static inline void *ar_entries(struct ar_bucket *bucket)
{
    return bucket + 1;
}

static inline pthread_mutex_t *ar_lock_of(const struct ar_arena *arena, uint64_t hash)
{
    return &arena->h->locks[hash & (AR_N_LOCKS - 1)];
}

/* Around a change of a bucket; its lock is held. */
static inline void ar_begin(struct ar_bucket *bucket)
{
    atomic_store_explicit(&bucket->seq, atomic_load_explicit(&bucket->seq, memory_order_relaxed) + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
}

static inline void ar_end(struct ar_bucket *bucket)
{
    atomic_store_explicit(&bucket->seq, atomic_load_explicit(&bucket->seq, memory_order_relaxed) + 1, memory_order_release);
}

/* Around a look at a bucket without its lock: start again unless ar_read_ok() says that nothing changed in between. */
static inline uint32_t ar_read_begin(const struct ar_bucket *bucket)
{
    return atomic_load_explicit(&bucket->seq, memory_order_acquire);
}

static inline int ar_read_ok(const struct ar_bucket *bucket, uint32_t seq)
{
    atomic_thread_fence(memory_order_acquire);
    return !(seq & 1) && atomic_load_explicit(&bucket->seq, memory_order_relaxed) == seq;
}

enum { AR_TRIES = 64 }; /* looks at a bucket that keeps changing, before it counts as a miss */

/* Copy an entry word by word: it may change meanwhile, which the caller finds out afterwards. */
static inline void ar_copy(void *to, const void *from, size_t n_bytes)
{
    uint64_t *out = to;
    const uint64_t *in = from;
    for (size_t i = 0; i < n_bytes / 8; i++)
        out[i] = __atomic_load_n(&in[i], __ATOMIC_RELAXED);
}

static inline uint64_t ar_load(const uint64_t *at)
{
    return __atomic_load_n(at, __ATOMIC_RELAXED);
}

/* May something fetched with `token` still be kept in this bucket? Its lock is held. *epoch is what the entry must then carry. */
static inline int ar_is_current(const struct ar_arena *arena, const struct ar_bucket *bucket, uint64_t token, uint32_t *epoch)
{
    *epoch = atomic_load(&arena->h->epoch);
    return token >> 48 == (*epoch & 0xFFFF) && (token & AR_POSITION_MASK) >= bucket->stamp;
}

static inline void ar_stamp(struct ar_bucket *bucket, uint64_t position)
{
    if (position > bucket->stamp)
        bucket->stamp = position;
}

/* Every hash that leads to the same bucket leads to the same lock, since tables have at least AR_N_LOCKS buckets. */
static inline uint64_t ar_ino_hash(uint64_t ino)
{
    return ar_mix(ino);
}

static inline uint64_t ar_slice_hash(uint64_t pack, uint32_t stored_off)
{
    return ar_mix(pack * UINT64_C(0x9E3779B97F4A7C15) + stored_off);
}

/* arena_meta.c: what a name is found by. */
void ar_name_key(const struct ar_arena *arena, uint64_t parent, const uint8_t *name, size_t n_bytes, uint64_t key[2]);

/* arena_whole.c: the generation by which a directory without entries is whole, 0 for anything else; */
uint16_t ar_whole_if_empty(const struct ar_arena *arena, const struct ar_attr *attr);
/* 1 = the directory is whole and has no such name. */
int ar_whole_lacks(const struct ar_arena *arena, uint64_t parent, const char *name, size_t n_bytes, const uint64_t key[2]);

/* After the death of a holder of a lock: empty what was being written (arena_check.c, arena_log.c, arena_fence.c). */
void ar_repair_meta(struct ar_arena *arena, size_t lock_no);
void ar_repair_log(struct ar_arena *arena);
void ar_repair_seen(struct ar_header *h);

/* For tests: every bucket of a lock that is held as a writer that dies leaves it at worst (arena_check.c). */
void ar_tear(struct ar_arena *arena, const pthread_mutex_t *lock);

int ar_check_meta(struct ar_arena *arena);
int ar_check_opens(struct ar_arena *arena);
int ar_check_log(struct ar_arena *arena);

#endif
