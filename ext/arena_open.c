/* Handles that compiled code has given out, and marks that keep it away from an inode. */
#include "arena_impl.h"

#include <errno.h>

enum { MARK_BITS = 8, ONE_HANDLE = 1 << MARK_BITS };

static struct ar_bucket *open_bucket(const struct ar_arena *arena, uint64_t ino)
{
    return ar_bucket_of(arena, &arena->h->opens, ar_ino_hash(ino), AR_OPEN_WAYS, sizeof(struct ar_open));
}

/* The entry of an inode, NULL when there is none; its lock is held. */
static struct ar_open *find(struct ar_bucket *bucket, uint64_t ino)
{
    struct ar_open *entries = ar_entries(bucket);
    for (int i = 0; i < AR_OPEN_WAYS; i++)
        if (atomic_load(&entries[i].word) && atomic_load(&entries[i].ino) == ino)
            return &entries[i];
    return NULL;
}

/* A free entry among the first `ways`, already of the inode; it counts once its word is set. */
static struct ar_open *add(struct ar_bucket *bucket, uint64_t ino, int ways)
{
    struct ar_open *entries = ar_entries(bucket);
    for (int i = 0; i < ways; i++) {
        if (!atomic_load(&entries[i].word)) {
            atomic_store(&entries[i].ino, ino);
            return &entries[i];
        }
    }
    return NULL;
}

int ar_open(struct ar_arena *arena, uint64_t ino, int (*admit)(void *context), void *context)
{
    struct ar_bucket *bucket = open_bucket(arena, ino);
    pthread_mutex_t *lock = ar_lock_of(arena, ar_ino_hash(ino));
    int counted = 0;
    ar_lock(arena, lock);
    struct ar_open *entry = find(bucket, ino);
    uint64_t word = entry == NULL ? 0 : atomic_load(&entry->word);
    if ((word & AR_LEFT_ALONE) == 0 && !atomic_load(&arena->h->hush) && admit(context)) {
        if (entry == NULL)
            entry = add(bucket, ino, AR_OPEN_WAYS - AR_OPEN_SPARE);
        if (entry != NULL) {
            atomic_store(&entry->word, word + ONE_HANDLE);
            counted = 1;
        }
    }
    ar_unlock(lock);
    return counted;
}

int64_t ar_close(struct ar_arena *arena, uint64_t ino, int adopted)
{
    struct ar_bucket *bucket = open_bucket(arena, ino);
    pthread_mutex_t *lock = ar_lock_of(arena, ar_ino_hash(ino));
    int64_t left = -1;
    ar_lock(arena, lock);
    struct ar_open *entry = find(bucket, ino);
    uint64_t word = entry == NULL ? 0 : atomic_load(&entry->word);
    if (word >= ONE_HANDLE && (adopted || !(word & AR_ADOPTED))) {
        word -= ONE_HANDLE;
        if (word < ONE_HANDLE)
            word &= ~(uint64_t)AR_ADOPTED;
        atomic_store(&entry->word, word);
        left = (int64_t)(word >> MARK_BITS);
    }
    ar_unlock(lock);
    return left;
}

/* Add `marks`, or `with_handles` when there are any. */
static int64_t mark(struct ar_arena *arena, uint64_t ino, uint32_t marks, uint32_t with_handles)
{
    struct ar_bucket *bucket = open_bucket(arena, ino);
    pthread_mutex_t *lock = ar_lock_of(arena, ar_ino_hash(ino));
    int64_t n_open = -ENFILE;
    ar_lock(arena, lock);
    struct ar_open *entry = find(bucket, ino);
    if (entry == NULL)
        entry = add(bucket, ino, AR_OPEN_WAYS);
    if (entry != NULL) {
        uint64_t word = atomic_load(&entry->word);
        n_open = (int64_t)(word >> MARK_BITS);
        atomic_store(&entry->word, word | (n_open ? with_handles : marks));
    }
    ar_unlock(lock);
    return n_open;
}

int64_t ar_mark(struct ar_arena *arena, uint64_t ino, uint32_t marks)
{
    return mark(arena, ino, marks, marks);
}

int64_t ar_bar(struct ar_arena *arena, uint64_t ino)
{
    return mark(arena, ino, AR_BARRED, AR_ADOPTED);
}

void ar_unmark(struct ar_arena *arena, uint64_t ino, uint32_t marks)
{
    struct ar_bucket *bucket = open_bucket(arena, ino);
    pthread_mutex_t *lock = ar_lock_of(arena, ar_ino_hash(ino));
    ar_lock(arena, lock);
    struct ar_open *entry = find(bucket, ino);
    if (entry != NULL)
        atomic_store(&entry->word, atomic_load(&entry->word) & ~(uint64_t)marks);
    ar_unlock(lock);
}

uint32_t ar_marks(const struct ar_arena *arena, uint64_t ino)
{
    struct ar_open *entries = ar_entries(open_bucket(arena, ino));
    for (int i = 0; i < AR_OPEN_WAYS; i++) {
        uint64_t word = atomic_load(&entries[i].word);
        /* An entry changes hands only when its word is 0 in between; read again, the word is of the inode that was read. */
        if (word && atomic_load(&entries[i].ino) == ino)
            return (uint32_t)(atomic_load(&entries[i].word) & (ONE_HANDLE - 1));
    }
    return 0;
}

uint64_t ar_n_open(const struct ar_arena *arena)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < arena->h->opens.n_buckets; i++) {
        struct ar_open *entries =
            ar_entries(ar_bucket_of(arena, &arena->h->opens, i, AR_OPEN_WAYS, sizeof(struct ar_open)));
        for (int way = 0; way < AR_OPEN_WAYS; way++)
            n += atomic_load(&entries[way].word) >> MARK_BITS;
    }
    return n;
}

void ar_resume(struct ar_arena *arena)
{
    struct ar_header *h = arena->h;
    for (size_t i = 0; i < AR_N_LOCKS; i++) { /* repairs what was being written */
        ar_lock(arena, &h->locks[i]);
        ar_unlock(&h->locks[i]);
    }
    ar_lock(arena, &h->log_lock);
    ar_unlock(&h->log_lock);
    ar_lock(arena, &h->seen_lock);
    ar_unlock(&h->seen_lock);
    for (uint64_t i = 0; i < h->opens.n_buckets; i++) {
        struct ar_open *entries = ar_entries(ar_bucket_of(arena, &h->opens, i, AR_OPEN_WAYS, sizeof(struct ar_open)));
        for (int way = 0; way < AR_OPEN_WAYS; way++)
            atomic_store(&entries[way].word, atomic_load(&entries[way].word) & ~(uint64_t)(ONE_HANDLE - 1));
    }
    atomic_store(&h->hush, 0);
    atomic_store(&h->n_committing, 0);
    h->beyond = 0;
    atomic_store(&h->leased_until_ns, 0);
    ar_drop_all(arena);
}

uint64_t ar_next_open(const struct ar_arena *arena, uint64_t *at, uint64_t *ino)
{
    const struct ar_table *table = &arena->h->opens;
    while (*at < table->n_buckets * AR_OPEN_WAYS) {
        struct ar_open *entries = ar_entries(ar_bucket_of(arena, table, *at / AR_OPEN_WAYS, AR_OPEN_WAYS, sizeof(struct ar_open)));
        struct ar_open *entry = &entries[(*at)++ % AR_OPEN_WAYS];
        uint64_t n_handles = atomic_load(&entry->word) >> MARK_BITS;
        *ino = atomic_load(&entry->ino);
        if (n_handles)
            return n_handles;
    }
    return 0;
}

int ar_check_opens(struct ar_arena *arena)
{
    for (uint64_t i = 0; i < arena->h->opens.n_buckets; i++) {
        struct ar_open *entries =
            ar_entries(ar_bucket_of(arena, &arena->h->opens, i, AR_OPEN_WAYS, sizeof(struct ar_open)));
        for (int way = 0; way < AR_OPEN_WAYS; way++) {
            if (!atomic_load(&entries[way].word))
                continue;
            uint64_t ino = atomic_load(&entries[way].ino);
            if ((ar_ino_hash(ino) & (arena->h->opens.n_buckets - 1)) != i)
                return 3;
            for (int other = 0; other < way; other++)
                if (atomic_load(&entries[other].word) && atomic_load(&entries[other].ino) == ino)
                    return 5;
        }
    }
    return 0;
}
