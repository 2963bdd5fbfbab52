/* Pages: rows of one partition of a metadata store, each with the row that it names, in one string, as servers send them.
 *
 * For each row, big-endian:
 *    0 u16 bytes of the key
 *    2 u32 bytes of the row
 *    6 u32 bytes of the row that it names, 0 when there is none
 *   10     key, row, named row
 * A row is its version (u64) and its value. An empty string is a page without rows.
 *
 * Pages come from the network and are not trusted. Invariants; pg_count() is their executable form, and the other functions may be
 * called for strings it has accepted only
 *   (1) the last row ends where the string ends, which is shorter than 2^32 bytes
 *   (2) a row has 8 bytes or more; so has a named row, if there is one
 *
 * pg_index() gives the rows in order of their keys. Whoever walks a page holds these places and the string; nothing here is kept, and
 * there are no locks.
 */
#ifndef CAIRN_PAGE_IMPL_H
#define CAIRN_PAGE_IMPL_H

#include <stddef.h>
#include <stdint.h>

struct ar_arena;

enum {
    PG_HEAD_BYTES = 10,
    PG_VERSION_BYTES = 8,
    PG_DENTRY_BYTES = 9, /* value of a name's row (engine/meta/records.py): u64 inode, u8 type */
};

struct pg_row {
    const uint8_t *key, *value, *named; /* `named` is NULL when there is no such row */
    size_t n_key, n_value, n_named;
    uint64_t version, named_version;
};

static inline uint64_t pg_u64(const uint8_t *at)
{
    uint64_t value;
    __builtin_memcpy(&value, at, sizeof value);
    return __builtin_bswap64(value);
}

static inline uint32_t pg_u32(const uint8_t *at)
{
    uint32_t value;
    __builtin_memcpy(&value, at, sizeof value);
    return __builtin_bswap32(value);
}

static inline size_t pg_n_key(const uint8_t *at)
{
    return (size_t)at[0] << 8 | at[1];
}

/* The row at `at`. */
static inline void pg_row_at(const uint8_t *at, struct pg_row *row)
{
    size_t n_row = pg_u32(at + 2), n_named = pg_u32(at + 6);
    row->n_key = pg_n_key(at);
    row->key = at + PG_HEAD_BYTES;
    const uint8_t *version = row->key + row->n_key, *named = version + n_row;
    row->version = pg_u64(version);
    row->value = version + PG_VERSION_BYTES;
    row->n_value = n_row - PG_VERSION_BYTES;
    row->named = n_named ? named + PG_VERSION_BYTES : NULL;
    row->named_version = n_named ? pg_u64(named) : 0;
    row->n_named = n_named ? n_named - PG_VERSION_BYTES : 0;
}

/* What a name's row says. 0, or -1 when it is not one. */
static inline int pg_dentry(const struct pg_row *row, uint64_t *ino, uint8_t *type)
{
    if (row->n_value != PG_DENTRY_BYTES || (*ino = pg_u64(row->value)) == 0)
        return -1;
    *type = row->value[8];
    return 0;
}

/* How many rows there are; -1: an invariant does not hold. */
int64_t pg_count(const uint8_t *bytes, size_t n_bytes);

/* Where each row begins, in order of keys (bytewise). Room for pg_count() places. */
void pg_index(const uint8_t *bytes, size_t n_bytes, uint32_t *places);

/* Places of rows, from `places` on, whose keys are not greater than `key`: they come first. */
size_t pg_n_up_to(const uint8_t *bytes, const uint32_t *places, size_t n_rows, const uint8_t *key, size_t n_key);

/* Keep the names of a directory, and the inode records that they name, of rows fetched after `token` was taken. */
void pg_note(struct ar_arena *arena, uint64_t dir, const uint8_t *bytes, const uint32_t *places, size_t n_rows, uint64_t token);

#endif
