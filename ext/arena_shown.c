/* What the kernel's pages show. */
#include "arena_impl.h"

/* ---- shown: value = version << 2 | what is known of the pages ----
 *
 * An open that does not keep pages makes the kernel drop them only when it takes the reply; until then another open that was told to
 * keep them would read what is about to go. So such an open is AWAITED, until the kernel uses its handle.
 *
 * An inode may stand in either of two buckets, which share a lock: of a table that is nine tenths full, one in a hundred has been lost.
 */

enum {
    SHOWN = 1,   /* they show it */
    AWAITED = 2, /* they do once the kernel uses a handle that it was given for this version */
    STATES = SHOWN | AWAITED,
    VERSION_AT = 2,
};

static struct ar_bucket *shown_bucket(const struct ar_arena *arena, uint64_t ino, int second)
{
    uint64_t hash = ar_ino_hash(ino);
    if (second)
        hash ^= (hash >> 32 | 1) * AR_N_LOCKS;
    return ar_bucket_of(arena, &arena->h->shown, hash, AR_WAYS, sizeof(struct ar_shown));
}

static struct ar_shown *shown_in(struct ar_bucket *bucket, uint64_t ino)
{
    struct ar_shown *entries = ar_entries(bucket);
    for (int i = 0; i < AR_WAYS; i++)
        if (entries[i].ino == ino)
            return &entries[i];
    return NULL;
}

static int n_free(struct ar_bucket *bucket)
{
    const struct ar_shown *entries = ar_entries(bucket);
    int n = 0;
    for (int i = 0; i < AR_WAYS; i++)
        n += entries[i].ino == 0;
    return n;
}

/* The entry of an inode and its bucket, NULL when there is none; its lock is held. */
static struct ar_shown *shown_entry(const struct ar_arena *arena, uint64_t ino, struct ar_bucket **bucket)
{
    struct ar_shown *entry = NULL;
    for (int second = 0; second < 2 && entry == NULL; second++) {
        *bucket = shown_bucket(arena, ino, second);
        entry = shown_in(*bucket, ino);
    }
    return entry;
}

static void set_shown(struct ar_bucket *bucket, struct ar_shown *entry, uint64_t ino, uint64_t value)
{
    ar_begin(bucket);
    entry->ino = ino;
    entry->value = value;
    ar_end(bucket);
}

static void add_shown(const struct ar_arena *arena, uint64_t ino, uint64_t value)
{
    struct ar_bucket *bucket = shown_bucket(arena, ino, 0);
    struct ar_bucket *other = shown_bucket(arena, ino, 1);
    if (n_free(other) > n_free(bucket))
        bucket = other;
    struct ar_shown *entry = shown_in(bucket, 0);
    if (entry == NULL)
        entry = (struct ar_shown *)ar_entries(bucket) + ar_oldest(bucket);
    set_shown(bucket, entry, ino, value);
}

int ar_shown_opened(struct ar_arena *arena, uint64_t ino, uint64_t version)
{
    struct ar_bucket *bucket;
    pthread_mutex_t *lock = ar_lock_of(arena, ar_ino_hash(ino));
    ar_lock(arena, lock);
    struct ar_shown *entry = shown_entry(arena, ino, &bucket);
    int keep = entry != NULL && entry->value == (version << VERSION_AT | SHOWN);
    if (entry == NULL)
        add_shown(arena, ino, version << VERSION_AT | AWAITED);
    else if (version < entry->value >> VERSION_AT)
        set_shown(bucket, entry, ino, entry->value & ~(uint64_t)STATES);
    else if (!keep)
        set_shown(bucket, entry, ino, version << VERSION_AT | AWAITED);
    ar_unlock(lock);
    return keep;
}

static int is_awaited(const struct ar_shown *entry, uint64_t version, uint64_t mask)
{
    uint64_t value = ar_load(&entry->value);
    return (value & STATES) == AWAITED && ((value >> VERSION_AT ^ version) & mask) == 0;
}

void ar_shown_dropped(struct ar_arena *arena, uint64_t ino, uint64_t version, uint64_t mask)
{
    struct ar_bucket *bucket;
    struct ar_shown *entry = shown_entry(arena, ino, &bucket); /* most find that there is nothing to do, without a lock */
    if (entry == NULL || !is_awaited(entry, version, mask))
        return;
    pthread_mutex_t *lock = ar_lock_of(arena, ar_ino_hash(ino));
    ar_lock(arena, lock);
    entry = shown_entry(arena, ino, &bucket);
    if (entry != NULL && is_awaited(entry, version, mask))
        set_shown(bucket, entry, ino, entry->value ^ STATES);
    ar_unlock(lock);
}

/* -1: there is none; INT64_MAX: it is being changed again and again. */
static int64_t shown_value(const struct ar_arena *arena, uint64_t ino)
{
    int64_t value = -1;
    for (int second = 0; second < 2 && value < 0; second++) {
        struct ar_bucket *bucket = shown_bucket(arena, ino, second);
        const struct ar_shown *entries = ar_entries(bucket);
        int ok = 0;
        for (int tries = 0; tries < AR_TRIES && !ok; tries++) {
            uint32_t seq = ar_read_begin(bucket);
            value = -1;
            for (int i = 0; i < AR_WAYS; i++)
                if (ar_load(&entries[i].ino) == ino)
                    value = (int64_t)ar_load(&entries[i].value);
            ok = ar_read_ok(bucket, seq);
        }
        if (!ok)
            return INT64_MAX;
    }
    return value;
}

int64_t ar_shown_newest(const struct ar_arena *arena, uint64_t ino)
{
    int64_t value = shown_value(arena, ino); /* at INT64_MAX whoever asks takes nothing for the newest */
    return value < 0 || value == INT64_MAX ? value : value >> VERSION_AT;
}

int ar_shown_older(const struct ar_arena *arena, uint64_t ino, uint64_t version)
{
    int64_t value = shown_value(arena, ino);
    return value >= 0 && value != INT64_MAX && !(value & AWAITED) && (uint64_t)value >> VERSION_AT < version;
}

void ar_shown_committed(struct ar_arena *arena, uint64_t ino, uint64_t version)
{
    struct ar_bucket *bucket;
    pthread_mutex_t *lock = ar_lock_of(arena, ar_ino_hash(ino));
    ar_lock(arena, lock);
    struct ar_shown *entry = shown_entry(arena, ino, &bucket);
    if (entry != NULL) {
        uint64_t newest = entry->value >> VERSION_AT;
        uint64_t state = newest == version ? entry->value & STATES : newest + 1 == version ? entry->value & SHOWN : 0;
        set_shown(bucket, entry, ino, (newest > version ? newest : version) << VERSION_AT | state);
    }
    ar_unlock(lock);
}

void ar_shown_drop(struct ar_arena *arena, uint64_t ino)
{
    struct ar_bucket *bucket;
    pthread_mutex_t *lock = ar_lock_of(arena, ar_ino_hash(ino));
    ar_lock(arena, lock);
    struct ar_shown *entry = shown_entry(arena, ino, &bucket);
    if (entry != NULL)
        set_shown(bucket, entry, ino, entry->value & ~(uint64_t)STATES);
    ar_unlock(lock);
}

void ar_shown_forget(struct ar_arena *arena, uint64_t ino)
{
    struct ar_bucket *bucket;
    pthread_mutex_t *lock = ar_lock_of(arena, ar_ino_hash(ino));
    ar_lock(arena, lock);
    struct ar_shown *entry = shown_entry(arena, ino, &bucket);
    if (entry != NULL)
        set_shown(bucket, entry, 0, 0);
    ar_unlock(lock);
}

void ar_shown_drop_all(struct ar_arena *arena)
{
    const struct ar_table *table = &arena->h->shown;
    for (uint64_t i = 0; i < table->n_buckets; i++) {
        struct ar_bucket *bucket = ar_bucket_of(arena, table, i, AR_WAYS, sizeof(struct ar_shown));
        struct ar_shown *entries = ar_entries(bucket);
        pthread_mutex_t *lock = ar_lock_of(arena, i);
        ar_lock(arena, lock);
        ar_begin(bucket);
        for (int way = 0; way < AR_WAYS; way++)
            entries[way].value &= ~(uint64_t)STATES;
        ar_end(bucket);
        ar_unlock(lock);
    }
}
