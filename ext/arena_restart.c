/* The store has gone back: one that lacks the newest commits has taken its place, and positions are given a second time. */
#include "arena_impl.h"

static void clear(struct ar_arena *arena, const struct ar_table *table, size_t entry_bytes)
{
    for (uint64_t i = 0; i < table->n_buckets; i++) {
        struct ar_bucket *bucket = ar_bucket_of(arena, table, i, AR_WAYS, entry_bytes);
        pthread_mutex_t *lock = ar_lock_of(arena, i);
        ar_lock(arena, lock);
        ar_begin(bucket);
        bucket->stamp = 0;
        memset(ar_entries(bucket), 0, AR_WAYS * entry_bytes);
        ar_end(bucket);
        ar_unlock(lock);
    }
}

static void clear_log(struct ar_arena *arena)
{
    struct ar_header *h = arena->h;
    ar_lock(arena, &h->log_lock);
    for (uint32_t i = 0; i < h->n_reserved; i++) {
        atomic_fetch_add(&h->segments[i].generation, 1);
        atomic_thread_fence(memory_order_seq_cst);
        atomic_fetch_sub(&h->slice_bytes, h->segments[i].fill);
        h->segments[i].fill = 0;
    }
    ar_unlock(&h->log_lock);
}

void ar_restart(struct ar_arena *arena, uint64_t position)
{
    struct ar_header *h = arena->h;
    ar_drop_all(arena); /* tokens count no more, so that nothing of before is put into what is cleared */
    ar_lock(arena, &h->seen_lock);
    h->beyond = 0;
    if (position < h->applied) /* what is given a second time is not known */
        __atomic_store_n(&h->applied, position, __ATOMIC_RELEASE);
    ar_unlock(&h->seen_lock);
    atomic_store(&h->newest, position); /* before stamps go: commits that come now are beyond it */
    clear(arena, &h->attrs, sizeof(struct ar_attr));
    clear(arena, &h->names, sizeof(struct ar_name));
    clear_log(arena);
}
