/* The log of slices: segments filled one after the other, the least used emptied for room. */
#define _GNU_SOURCE
#include "arena_impl.h"

#include <errno.h>

enum { LOOKED_AT = 64 }; /* segments among which the one to empty is looked for; more would only cost time */

static struct ar_bucket *slice_bucket(const struct ar_arena *arena, uint64_t pack, uint32_t stored_off)
{
    return ar_bucket_of(arena, &arena->h->index, ar_slice_hash(pack, stored_off), AR_WAYS, sizeof(struct ar_slice));
}

static int is_here(const struct ar_arena *arena, const struct ar_slice *slice)
{
    return slice->n_bytes && slice->segment < arena->h->n_segments &&
           atomic_load(&arena->h->segments[slice->segment].generation) == slice->generation;
}

static int find(const struct ar_arena *arena, uint64_t pack, uint32_t stored_off, struct ar_slice *out)
{
    struct ar_bucket *bucket = slice_bucket(arena, pack, stored_off);
    const struct ar_slice *entries = ar_entries(bucket);
    for (int tries = 0; tries < AR_TRIES; tries++) {
        uint32_t seq = ar_read_begin(bucket);
        int found = 0;
        for (int i = 0; i < AR_WAYS && !found; i++) {
            ar_copy(out, &entries[i], sizeof *out);
            found = out->pack == pack && out->stored_off == stored_off && out->n_bytes;
            if (found)
                ar_note_use(bucket, i);
        }
        if (ar_read_ok(bucket, seq))
            return found && is_here(arena, out);
    }
    return 0;
}

static const uint8_t *bytes_of(const struct ar_arena *arena, const struct ar_slice *slice)
{
    return ar_at(arena, arena->h->segments_offset + slice->segment * arena->h->segment_bytes + slice->at);
}

int ar_slice_copy(struct ar_arena *arena, uint64_t pack, uint32_t stored_off, uint64_t off, size_t length, void *out)
{
    struct ar_header *h = arena->h;
    struct ar_slice slice;
    int found = find(arena, pack, stored_off, &slice) && off <= slice.n_bytes && length <= slice.n_bytes - off;
    if (found) {
        memcpy(out, bytes_of(arena, &slice) + off, length);
        atomic_thread_fence(memory_order_acquire);
        found = atomic_load_explicit(&h->segments[slice.segment].generation, memory_order_relaxed) == slice.generation;
    }
    if (!found) {
        atomic_fetch_add_explicit(&h->misses, 1, memory_order_relaxed);
        return 0;
    }
    atomic_fetch_add_explicit(&h->segments[slice.segment].used, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->hits, 1, memory_order_relaxed);
    return 1;
}

uint32_t ar_slice_bytes(const struct ar_arena *arena, uint64_t pack, uint32_t stored_off)
{
    struct ar_slice slice;
    return find(arena, pack, stored_off, &slice) ? slice.n_bytes : 0;
}

/* ---- writing; the log's lock is held ---- */

/* Reserve memory for another segment. Its number, or -1 when there are no more or there is no memory. */
static int64_t reserve(struct ar_arena *arena)
{
    struct ar_header *h = arena->h;
    if (h->n_reserved == h->n_segments)
        return -1;
    uint64_t offset = h->segments_offset + h->n_reserved * h->segment_bytes;
    if (madvise(ar_at(arena, offset), h->segment_bytes, MADV_POPULATE_WRITE) < 0 && errno != EINVAL) /* EINVAL: reserved by ar_create() */
        return -1;
    return h->n_reserved++;
}

static uint32_t least_used(struct ar_header *h)
{
    uint32_t best = (h->writing + 1) % h->n_reserved;
    uint32_t n = h->n_reserved - 1 < LOOKED_AT ? h->n_reserved - 1 : LOOKED_AT;
    uint32_t best_used = UINT32_MAX;
    for (uint32_t i = 1; i <= n; i++) {
        uint32_t at = (h->writing + i) % h->n_reserved;
        uint32_t used = atomic_load_explicit(&h->segments[at].used, memory_order_relaxed);
        if (used < best_used) {
            best = at;
            best_used = used;
        }
        atomic_store_explicit(&h->segments[at].used, used / 2, memory_order_relaxed);
    }
    return best;
}

/* Make `writing` a segment with room for n_bytes. 0 = there is none. */
static int make_room(struct ar_arena *arena, size_t n_bytes)
{
    struct ar_header *h = arena->h;
    if (h->n_reserved && h->segments[h->writing].fill + n_bytes <= h->segment_bytes)
        return 1;
    int64_t fresh = reserve(arena);
    if (fresh < 0 && h->n_reserved < 2)
        return 0;
    uint32_t at = fresh >= 0 ? (uint32_t)fresh : least_used(h);
    struct ar_segment *segment = &h->segments[at];
    atomic_fetch_add(&segment->generation, 1);
    atomic_thread_fence(memory_order_seq_cst); /* before the first byte changes */
    if (segment->fill)
        atomic_fetch_add_explicit(&h->evictions, 1, memory_order_relaxed);
    atomic_fetch_sub(&h->slice_bytes, segment->fill);
    segment->fill = 0;
    atomic_store(&segment->used, 1);
    h->writing = at;
    return 1;
}

static void publish(struct ar_arena *arena, const struct ar_slice *slice)
{
    struct ar_bucket *bucket = slice_bucket(arena, slice->pack, slice->stored_off);
    struct ar_slice *entries = ar_entries(bucket);
    int way = -1;
    for (int i = 0; i < AR_WAYS && way < 0; i++)
        if (entries[i].pack == slice->pack && entries[i].stored_off == slice->stored_off)
            way = i;
    for (int i = 0; i < AR_WAYS && way < 0; i++)
        if (!is_here(arena, &entries[i]))
            way = i;
    if (way < 0)
        way = ar_oldest(bucket);
    ar_begin(bucket);
    entries[way] = *slice;
    ar_end(bucket);
}

int ar_slice_put(struct ar_arena *arena, uint64_t pack, uint32_t stored_off, const void *plain, size_t n_bytes)
{
    struct ar_header *h = arena->h;
    if (n_bytes == 0 || n_bytes > h->max_slice || h->n_segments < 2)
        return 0;
    if (ar_slice_bytes(arena, pack, stored_off) == n_bytes)
        return 1;
    ar_lock(arena, &h->log_lock);
    int kept = make_room(arena, n_bytes);
    if (kept) {
        struct ar_segment *segment = &h->segments[h->writing];
        struct ar_slice slice = {pack, stored_off, (uint32_t)n_bytes, h->writing, segment->fill, atomic_load(&segment->generation)};
        segment->fill += (uint32_t)((n_bytes + 63) & ~(size_t)63);
        if (segment->fill > h->segment_bytes)
            segment->fill = (uint32_t)h->segment_bytes;
        atomic_fetch_add(&h->slice_bytes, segment->fill - slice.at);
        memcpy((uint8_t *)bytes_of(arena, &slice), plain, n_bytes);
        publish(arena, &slice);
    }
    ar_unlock(&h->log_lock);
    return kept;
}

void ar_slice_drop(struct ar_arena *arena, uint64_t pack, uint32_t stored_off)
{
    struct ar_bucket *bucket = slice_bucket(arena, pack, stored_off);
    struct ar_slice *entries = ar_entries(bucket);
    ar_lock(arena, &arena->h->log_lock);
    ar_begin(bucket);
    for (int i = 0; i < AR_WAYS; i++)
        if (entries[i].pack == pack && entries[i].stored_off == stored_off)
            entries[i].n_bytes = 0;
    ar_end(bucket);
    ar_unlock(&arena->h->log_lock);
}

/* ---- deaths and invariants ---- */

void ar_repair_log(struct ar_arena *arena)
{
    struct ar_header *h = arena->h;
    uint64_t taken = 0;
    for (uint64_t i = 0; i < h->index.n_buckets; i++) {
        struct ar_bucket *bucket = ar_bucket_of(arena, &h->index, i, AR_WAYS, sizeof(struct ar_slice));
        if (atomic_load(&bucket->seq) & 1) {
            memset(ar_entries(bucket), 0, AR_WAYS * sizeof(struct ar_slice));
            ar_end(bucket);
        }
    }
    /* A segment was perhaps being emptied: its generation has changed then, and its fill says where to go on. */
    for (uint32_t i = 0; i < h->n_reserved; i++)
        taken += h->segments[i].fill;
    atomic_store(&h->slice_bytes, taken);
}

int ar_check_log(struct ar_arena *arena)
{
    const struct ar_header *h = arena->h;
    uint64_t taken = 0;
    for (uint32_t i = 0; i < AR_MAX_SEGMENTS; i++) {
        if (h->segments[i].fill > (i < h->n_reserved ? h->segment_bytes : 0))
            return 6;
        taken += h->segments[i].fill;
    }
    if (h->n_reserved > h->n_segments || taken != atomic_load(&h->slice_bytes))
        return 6;
    for (uint64_t i = 0; i < h->index.n_buckets; i++) {
        struct ar_bucket *bucket = ar_bucket_of(arena, &h->index, i, AR_WAYS, sizeof(struct ar_slice));
        const struct ar_slice *entries = ar_entries(bucket);
        if (atomic_load(&bucket->seq) & 1)
            return 2;
        for (int way = 0; way < AR_WAYS; way++) {
            if (!is_here(arena, &entries[way]))
                continue;
            if ((ar_slice_hash(entries[way].pack, entries[way].stored_off) & (h->index.n_buckets - 1)) != i)
                return 3;
            for (int other = 0; other < way; other++)
                if (entries[other].pack == entries[way].pack && entries[other].stored_off == entries[way].stored_off)
                    return 3;
            if ((uint64_t)entries[way].at + entries[way].n_bytes > h->segments[entries[way].segment].fill)
                return 7;
        }
    }
    return 0;
}
