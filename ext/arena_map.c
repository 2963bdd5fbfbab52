/* Making, mapping and locking an arena. */
#define _GNU_SOURCE
#include "arena_impl.h"
#include "robust_lock.h"
#include "shm_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

enum { PAGE = 4096, MAX_SEGMENT = 4 << 20, MIN_SEGMENT = 64 << 10, SHOWN_BYTES = 40 << 20 /* 2^18 buckets: two million inodes */ };

static uint64_t round_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

/* The greatest power of two of buckets that fits, at least AR_N_LOCKS. Places the table at *end and moves that on. */
static struct ar_table place(uint64_t *end, uint64_t n_bytes, size_t ways, size_t size)
{
    size_t bucket = sizeof(struct ar_bucket) + ways * size;
    struct ar_table table = {.offset = *end, .n_buckets = AR_N_LOCKS};
    while (table.n_buckets * 2 * bucket <= n_bytes)
        table.n_buckets *= 2;
    *end = round_up(*end + table.n_buckets * bucket, PAGE);
    return table;
}

/* Sizes and offsets of an arena of `total` bytes; reserved bytes at its start in *fixed. */
static void plan(struct ar_header *h, uint64_t total, uint64_t *fixed)
{
    uint64_t end = round_up(sizeof *h, PAGE);
    uint64_t shown = total / 4 < SHOWN_BYTES ? total / 4 : SHOWN_BYTES;
    h->magic = AR_MAGIC;
    h->version = AR_VERSION;
    h->attrs = place(&end, total / 8, AR_WAYS, sizeof(struct ar_attr));
    h->names = place(&end, total / 32, AR_WAYS, sizeof(struct ar_name));
    h->opens = place(&end, total / 128, AR_OPEN_WAYS, sizeof(struct ar_open));
    h->index = place(&end, total / 32, AR_WAYS, sizeof(struct ar_slice)); /* of files of a kilobyte as many as names */
    h->shown = place(&end, shown < total / 8 ? total / 8 : shown, AR_WAYS, sizeof(struct ar_shown));
    h->filter_offset = end;
    for (h->filter_bits = 64; h->filter_bits / 8 * 2 <= total / 128;)
        h->filter_bits *= 2;
    end = round_up(end + h->filter_bits / 8, PAGE);
    *fixed = end;
    uint64_t left = total > end ? total - end : 0;
    h->segment_bytes = MAX_SEGMENT;
    while (h->segment_bytes > MIN_SEGMENT && left / h->segment_bytes < 16)
        h->segment_bytes /= 2;
    while (left / h->segment_bytes > AR_MAX_SEGMENTS)
        h->segment_bytes *= 2;
    h->segments_offset = end;
    h->n_segments = (uint32_t)(left / h->segment_bytes);
    h->max_slice = (uint32_t)(h->segment_bytes / 4);
    h->total = end + h->n_segments * h->segment_bytes;
}

/* A secret, or the first 16 bytes of CAIRN_HASH_SEED, for runs in which the same names are to meet in the same buckets. */
static int draw_salt(uint64_t salt[2])
{
    const char *seed = secure_getenv("CAIRN_HASH_SEED");
    size_t n_bytes = seed == NULL ? 0 : strnlen(seed, 2 * sizeof *salt);
    if (n_bytes > 0)
        memcpy(salt, seed, n_bytes);
    else if (getrandom(salt, 2 * sizeof *salt, 0) != 2 * sizeof *salt)
        return EIO;
    return 0;
}

static int initialise(struct ar_header *h, const struct ar_header *planned)
{
    h->version = planned->version;
    h->total = planned->total;
    h->attrs = planned->attrs;
    h->names = planned->names;
    h->opens = planned->opens;
    h->index = planned->index;
    h->shown = planned->shown;
    h->segments_offset = planned->segments_offset;
    h->segment_bytes = planned->segment_bytes;
    h->n_segments = planned->n_segments;
    h->max_slice = planned->max_slice;
    h->filter_offset = planned->filter_offset;
    h->filter_bits = planned->filter_bits;
    h->n_emptied = 1;
    atomic_store(&h->generation, 1);
    int error = draw_salt(h->salt);
    if (!error)
        error = rl_make(&h->log_lock);
    if (!error)
        error = rl_make(&h->seen_lock);
    if (!error)
        error = rl_make(&h->filter_lock);
    for (size_t i = 0; i < AR_N_LOCKS && !error; i++)
        error = rl_make(&h->locks[i]);
    h->magic = planned->magic;
    return error;
}

/* (1), for memory of `n_bytes`. What it says of places is then within the memory. */
static int header_holds(const struct ar_header *h, uint64_t n_bytes)
{
    const struct ar_table *tables[] = {&h->attrs, &h->names, &h->opens, &h->index, &h->shown};
    static const size_t entries[] = {AR_WAYS * sizeof(struct ar_attr), AR_WAYS * sizeof(struct ar_name), AR_OPEN_WAYS * sizeof(struct ar_open),
                                     AR_WAYS * sizeof(struct ar_slice), AR_WAYS * sizeof(struct ar_shown)};
    if (h->magic != AR_MAGIC || h->version != AR_VERSION || h->total != n_bytes)
        return 0;
    uint64_t end = round_up(sizeof *h, PAGE);
    for (size_t i = 0; i < 5; i++) {
        uint64_t n = tables[i]->n_buckets, bucket = sizeof(struct ar_bucket) + entries[i];
        if (n < AR_N_LOCKS || (n & (n - 1)) || n > n_bytes / bucket || tables[i]->offset < end || tables[i]->offset > n_bytes - n * bucket)
            return 0;
        end = tables[i]->offset + n * bucket;
    }
    if (h->filter_bits < 64 || (h->filter_bits & (h->filter_bits - 1)) || h->filter_bits / 8 > n_bytes || h->filter_offset < end ||
        h->filter_offset > n_bytes - h->filter_bits / 8)
        return 0;
    end = h->filter_offset + h->filter_bits / 8;
    if (h->n_segments > AR_MAX_SEGMENTS || h->n_reserved > h->n_segments || h->writing > h->n_segments)
        return 0;
    if (h->segment_bytes < MIN_SEGMENT || h->segment_bytes > UINT32_MAX || h->max_slice > h->segment_bytes / 4)
        return 0;
    return h->segments_offset >= end && h->segments_offset <= n_bytes &&
           h->n_segments * h->segment_bytes == n_bytes - h->segments_offset;
}

/* The arena of a descriptor and its mapping; both are given back when there was an error. */
static int keep(struct ar_arena *arena, int fd, void *base, uint64_t n_bytes, int error)
{
    if (error) {
        if (base != NULL)
            munmap(base, n_bytes);
        close(fd);
        return error;
    }
    arena->h = base;
    arena->fd = fd;
    arena->watch = NULL;
    return 0;
}

int ar_create(struct ar_arena *arena, uint64_t total)
{
    struct ar_header planned = {0};
    uint64_t fixed;
    if (total < AR_MIN_BYTES || total > AR_MAX_BYTES)
        return -EINVAL;
    plan(&planned, total, &fixed);
    int fd = shm_create("cairnfs-arena", planned.total, fixed);
    if (fd < 0)
        return fd;
    void *base = NULL;
    int error = shm_map(fd, planned.total, &base);
    /* Before Linux 5.14 memory cannot be reserved segment by segment. */
    if (!error && madvise(base, PAGE, MADV_POPULATE_WRITE) < 0 && errno == EINVAL)
        error = -posix_fallocate(fd, (off_t)fixed, (off_t)(planned.total - fixed));
    if (!error)
        error = -initialise(base, &planned);
    return keep(arena, fd, base, planned.total, error);
}

int ar_attach(struct ar_arena *arena, int fd, uint64_t total)
{
    void *base;
    if (total < sizeof(struct ar_header) || total > AR_MAX_BYTES)
        return -EINVAL;
    int error = shm_map(fd, total, &base);
    if (error)
        return error;
    if (!header_holds(base, total)) {
        munmap(base, total);
        return -EINVAL;
    }
    return keep(arena, fd, base, total, 0);
}

void ar_destroy(struct ar_arena *arena)
{
    if (arena->h == NULL)
        return;
    munmap(arena->h, arena->h->total);
    close(arena->fd);
    arena->h = NULL;
}

void ar_lock(struct ar_arena *arena, pthread_mutex_t *lock)
{
    if (pthread_mutex_lock(lock) != EOWNERDEAD)
        return;
    struct ar_header *h = arena->h;
    if (lock == &h->log_lock)
        ar_repair_log(arena);
    else if (lock == &h->seen_lock)
        ar_repair_seen(h);
    else if (lock != &h->filter_lock) /* whoever takes that one sees how far the last one came */
        ar_repair_meta(arena, (size_t)(lock - h->locks));
    pthread_mutex_consistent(lock);
}

void ar_unlock(pthread_mutex_t *lock)
{
    pthread_mutex_unlock(lock);
}

int ar_check(struct ar_arena *arena)
{
    if (!header_holds(arena->h, arena->h->total))
        return 1;
    int broken = ar_check_meta(arena);
    if (!broken)
        broken = ar_check_opens(arena);
    return broken ? broken : ar_check_log(arena);
}
