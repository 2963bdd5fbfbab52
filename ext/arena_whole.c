/* Whole directories: of which every name is known, so that any other does not exist.
 *
 * Who fills a directory asks for each name before it makes it, and each is a new one. A directory without entries is whole; it stays so
 * while all that is added to it are commits of this mount, because their names go into a filter (Bloom, 1970) of all whole directories
 * together: a name that is not in it does not exist. Nothing is ever taken out of the filter, so a name that was removed is asked for.
 * When the filter is full it is emptied, and begins another generation; directories of earlier ones are whole no more.
 *
 * Why a name that exists is never taken for absent. An entry is whole by the generation it carries, and loses that when others change the
 * directory (drop_attr of arena_meta.c) before any answer counts on it, for the fence comes first. What this mount adds is in the filter
 * before its commit is told of; if the filter was emptied meanwhile, the generation that was taken before differs, and the commit
 * leaves the directory not whole. No generation counts while the filter is being emptied (0).
 */
#include "arena_impl.h"

enum {
    BITS_A_NAME = 10,
    LAST_GENERATION = UINT16_MAX,
    MAX_NAME = 255, /* a longer name is an error of another kind */
};

static uint64_t bit_of(const struct ar_header *h, const uint64_t key[2], int probe)
{
    return (key[0] + (uint64_t)probe * key[1]) & (h->filter_bits - 1);
}

static _Atomic uint64_t *word_of(const struct ar_arena *arena, uint64_t bit)
{
    return (_Atomic uint64_t *)ar_at(arena, arena->h->filter_offset) + bit / 64;
}

uint32_t ar_whole_generation(const struct ar_arena *arena)
{
    return atomic_load(&arena->h->generation);
}

uint16_t ar_whole_if_empty(const struct ar_arena *arena, const struct ar_attr *attr)
{
    int is_empty_dir = (attr->mode & AR_FORMAT_BITS) == AR_DIRECTORY && attr->size == 0 && attr->ino != AR_ROOT;
    return is_empty_dir ? (uint16_t)ar_whole_generation(arena) : 0;
}

static int is_full(const struct ar_header *h)
{
    return atomic_load(&h->n_filtered) >= h->filter_bits / BITS_A_NAME;
}

/* Who dies in here leaves a filter that is full, without a generation: the next one begins again. */
static void empty(struct ar_arena *arena)
{
    struct ar_header *h = arena->h;
    ar_lock(arena, &h->filter_lock);
    if (is_full(h)) {
        uint32_t next = h->n_emptied % LAST_GENERATION + 1;
        if (next == 1)
            ar_drop_all(arena); /* generations are given a second time */
        atomic_store(&h->generation, 0);
        for (uint64_t bit = 0; bit < h->filter_bits; bit += 64)
            atomic_store_explicit(word_of(arena, bit), 0, memory_order_relaxed);
        h->n_emptied++;
        atomic_store(&h->n_filtered, 0);
        atomic_store(&h->generation, next);
    }
    ar_unlock(&h->filter_lock);
}

/* 1 = the filter has the name, or may have it. */
static int may_have(const struct ar_arena *arena, const uint64_t key[2])
{
    for (int i = 0; i < AR_FILTER_PROBES; i++) {
        uint64_t bit = bit_of(arena->h, key, i);
        if (!(atomic_load(word_of(arena, bit)) >> bit % 64 & 1))
            return 0;
    }
    return 1;
}

void ar_whole_add(struct ar_arena *arena, uint64_t parent, const void *name, size_t n_bytes)
{
    struct ar_header *h = arena->h;
    uint64_t key[2];
    if (is_full(h))
        empty(arena);
    ar_name_key(arena, parent, name, n_bytes, key);
    if (may_have(arena, key))
        return;
    atomic_fetch_add(&h->n_filtered, 1); /* first, for who dies in here */
    for (int i = 0; i < AR_FILTER_PROBES; i++) {
        uint64_t bit = bit_of(h, key, i);
        atomic_fetch_or(word_of(arena, bit), UINT64_C(1) << bit % 64);
    }
}

int ar_whole_lacks(const struct ar_arena *arena, uint64_t parent, const char *name, size_t n_bytes, const uint64_t key[2])
{
    struct ar_attr dir;
    int is_dot = name[0] == '.' && (n_bytes == 1 || (n_bytes == 2 && name[1] == '.'));
    if (n_bytes == 0 || n_bytes > MAX_NAME || is_dot || !ar_attr_find(arena, parent, &dir) || dir.whole == 0)
        return 0;
    /* The generation last: had the filter been emptied before the look at it was over, it would be another one. */
    return !may_have(arena, key) && ar_whole_generation(arena) == dir.whole;
}
