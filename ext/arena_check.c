/* Tables of attributes, names and what is shown: repair after a death, and the walk over their invariants. */
#include "arena_impl.h"

struct walked {
    const struct ar_table *table;
    size_t ways, size;
};

static void tables_of(const struct ar_arena *arena, struct walked out[3])
{
    const struct ar_header *h = arena->h;
    out[0] = (struct walked){&h->attrs, AR_WAYS, sizeof(struct ar_attr)};
    out[1] = (struct walked){&h->names, AR_WAYS, sizeof(struct ar_name)};
    out[2] = (struct walked){&h->shown, AR_WAYS, sizeof(struct ar_shown)};
}

void ar_repair_meta(struct ar_arena *arena, size_t lock_no)
{
    struct walked tables[3];
    tables_of(arena, tables);
    for (int t = 0; t < 3; t++) {
        for (uint64_t i = lock_no; i < tables[t].table->n_buckets; i += AR_N_LOCKS) {
            struct ar_bucket *bucket = ar_bucket_of(arena, tables[t].table, i, tables[t].ways, tables[t].size);
            if (atomic_load(&bucket->seq) & 1) {
                memset(ar_entries(bucket), 0, tables[t].ways * tables[t].size);
                bucket->stamp = atomic_load(&arena->h->newest); /* what was being stamped is not known */
                ar_end(bucket);
            }
        }
    }
}

/* Entries whose keys are right and whose values, `at` bytes into them, are not. */
static void tear(struct ar_bucket *bucket, size_t ways, size_t size, size_t at)
{
    ar_begin(bucket);
    for (size_t i = 0; i < ways; i++)
        ((uint8_t *)ar_entries(bucket))[i * size + at] ^= 0x40;
}

void ar_tear(struct ar_arena *arena, const pthread_mutex_t *lock)
{
    struct ar_header *h = arena->h;
    struct walked tables[3];
    tables_of(arena, tables);
    if (lock == &h->seen_lock) {
        atomic_fetch_add(&h->seen_seq, 1);
        h->seen_valid = 1;
        memset(h->seen, 0xA5, sizeof h->seen);
    } else if (lock == &h->log_lock) {
        for (uint64_t i = 0; i < h->index.n_buckets; i += 2)
            tear(ar_bucket_of(arena, &h->index, i, AR_WAYS, sizeof(struct ar_slice)), AR_WAYS, sizeof(struct ar_slice),
                 offsetof(struct ar_slice, at));
        atomic_fetch_add(&h->segments[h->writing].generation, 1);
        atomic_fetch_add(&h->slice_bytes, 0xA5);
    } else if (lock == &h->filter_lock) { /* full, and being emptied */
        atomic_store(&h->n_filtered, h->filter_bits);
        atomic_store(&h->generation, 0);
        memset(ar_at(arena, h->filter_offset), 0x5A, h->filter_bits / 16);
    } else {
        for (int t = 0; t < 3; t++)
            for (uint64_t i = (uint64_t)(lock - h->locks); i < tables[t].table->n_buckets; i += AR_N_LOCKS)
                tear(ar_bucket_of(arena, tables[t].table, i, tables[t].ways, tables[t].size), tables[t].ways, tables[t].size,
                     t == 1 ? offsetof(struct ar_name, ino) : sizeof(uint64_t));
    }
}

static uint64_t hash_at(int table, const void *entry)
{
    return table == 1 ? ((const struct ar_name *)entry)->key[0] : ar_ino_hash(*(const uint64_t *)entry);
}

static int is_free(int table, const void *entry)
{
    return table == 1 ? ((const struct ar_name *)entry)->key[1] == 0 : *(const uint64_t *)entry == 0;
}

static int same(int table, const void *a, const void *b)
{
    return memcmp(a, b, table == 1 ? 16 : 8) == 0;
}

/* (8), of one entry */
static int is_well_filtered(const struct ar_header *h, const struct ar_attr *attr)
{
    return !attr->whole || ((attr->mode & AR_FORMAT_BITS) == AR_DIRECTORY && attr->ino != AR_ROOT && attr->whole <= h->n_emptied);
}

static int check_filter(const struct ar_arena *arena)
{
    const uint64_t *words = ar_at(arena, arena->h->filter_offset);
    uint64_t n_set = 0;
    for (uint64_t i = 0; i < arena->h->filter_bits / 64; i++)
        n_set += (uint64_t)__builtin_popcountll(words[i]);
    return n_set <= AR_FILTER_PROBES * atomic_load(&arena->h->n_filtered) ? 0 : 8;
}

static int check_bucket(struct ar_arena *arena, int table, const struct walked *walked, uint64_t at)
{
    struct ar_bucket *bucket = ar_bucket_of(arena, walked->table, at, walked->ways, walked->size);
    const uint8_t *entries = ar_entries(bucket);
    if (atomic_load(&bucket->seq) & 1)
        return 2;
    if (bucket->stamp > atomic_load(&arena->h->newest))
        return 4;
    for (size_t i = 0; i < walked->ways; i++) {
        const uint8_t *entry = entries + i * walked->size;
        if (is_free(table, entry))
            continue;
        if (table == 0 && !is_well_filtered(arena->h, (const struct ar_attr *)entry))
            return 8;
        uint64_t wrong = (hash_at(table, entry) & (walked->table->n_buckets - 1)) ^ at;
        if (table == 2 ? wrong & (AR_N_LOCKS - 1) : wrong) /* of `shown` only the lock is certain */
            return 3;
        for (size_t other = 0; other < i; other++)
            if (!is_free(table, entries + other * walked->size) && same(table, entry, entries + other * walked->size))
                return 3;
    }
    return 0;
}

int ar_check_meta(struct ar_arena *arena)
{
    struct walked tables[3];
    tables_of(arena, tables);
    for (int t = 0; t < 3; t++) {
        for (uint64_t i = 0; i < tables[t].table->n_buckets; i++) {
            int broken = check_bucket(arena, t, &tables[t], i);
            if (broken)
                return broken;
        }
    }
    return check_filter(arena);
}
