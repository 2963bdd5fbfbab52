/* Pages of rows: checking, ordering, and keeping them in the arena. */
#define _GNU_SOURCE
#include "page_impl.h"

#include <stdlib.h>
#include <string.h>

#include "arena.h"

/* Bytes of the row at `at`, 0 when it does not end within `left`. */
static size_t row_bytes(const uint8_t *at, size_t left)
{
    if (left < PG_HEAD_BYTES)
        return 0;
    size_t n_key = pg_n_key(at), n_row = pg_u32(at + 2), n_named = pg_u32(at + 6); /* their sum cannot overflow 64 bits */
    if (n_row < PG_VERSION_BYTES || (n_named > 0 && n_named < PG_VERSION_BYTES))
        return 0;
    size_t n_bytes = PG_HEAD_BYTES + n_key + n_row + n_named;
    return n_bytes > left ? 0 : n_bytes;
}

int64_t pg_count(const uint8_t *bytes, size_t n_bytes)
{
    int64_t n_rows = 0;
    if (n_bytes > UINT32_MAX)
        return -1;
    for (size_t at = 0; at < n_bytes; n_rows++) {
        size_t n = row_bytes(bytes + at, n_bytes - at);
        if (n == 0)
            return -1;
        at += n;
    }
    return n_rows;
}

static int compare(const uint8_t *a, size_t n_a, const uint8_t *b, size_t n_b)
{
    int order = memcmp(a, b, n_a < n_b ? n_a : n_b);
    return order ? order : (n_a > n_b) - (n_a < n_b);
}

static int by_key(const void *a, const void *b, void *bytes)
{
    const uint8_t *one = (const uint8_t *)bytes + *(const uint32_t *)a, *other = (const uint8_t *)bytes + *(const uint32_t *)b;
    return compare(one + PG_HEAD_BYTES, pg_n_key(one), other + PG_HEAD_BYTES, pg_n_key(other));
}

void pg_index(const uint8_t *bytes, size_t n_bytes, uint32_t *places)
{
    size_t n_rows = 0;
    int in_order = 1;
    for (size_t at = 0; at < n_bytes; at += row_bytes(bytes + at, n_bytes - at)) {
        places[n_rows] = (uint32_t)at;
        if (n_rows > 0 && by_key(&places[n_rows - 1], &places[n_rows], (void *)bytes) > 0)
            in_order = 0;
        n_rows++;
    }
    if (!in_order)
        qsort_r(places, n_rows, sizeof *places, by_key, (void *)bytes);
}

size_t pg_n_up_to(const uint8_t *bytes, const uint32_t *places, size_t n_rows, const uint8_t *key, size_t n_key)
{
    size_t low = 0, high = n_rows;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const uint8_t *at = bytes + places[middle];
        if (compare(at + PG_HEAD_BYTES, pg_n_key(at), key, n_key) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void pg_note(struct ar_arena *arena, uint64_t dir, const uint8_t *bytes, const uint32_t *places, size_t n_rows, uint64_t token)
{
    struct pg_row row;
    struct ar_attr attr;
    uint64_t ino;
    uint8_t type;
    for (size_t i = 0; i < n_rows; i++) {
        pg_row_at(bytes + places[i], &row);
        if (pg_dentry(&row, &ino, &type) != 0)
            continue;
        ar_name_put(arena, dir, row.key, row.n_key, ino, token);
        if (row.named != NULL && ar_parse(ino, row.named_version, row.named, row.n_named, &attr) == 0)
            ar_attr_put(arena, &attr, token);
    }
}
