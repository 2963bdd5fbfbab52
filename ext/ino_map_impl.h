/* A compact table: inode number -> 64-bit value. Open addressing with linear probing, 16 bytes per slot.
 *
 *   slot: offset 0 u64 ino, 0 = free; offset 8 u64 value
 *
 * Invariants
 *   (1) n_slots is 0 or a power of two of at least IM_MIN_SLOTS; n <= 7/8 of it
 *   (2) an inode stands in at most one slot
 *   (3) between the slot an inode hashes to and the one it stands in no slot is free (removal moves later ones up)
 *   (4) n <= limit; what is added beyond takes the place of another, chosen by a hand that goes round the table
 * Inode 0 does not exist, and is refused.
 *
 * Which one makes room: the hand follows neither age nor use. A loop over more inodes than fit would find nothing at
 * all in a table that keeps the latest; here it finds the share that fits.
 *
 * Concurrency: none here; the caller's lock covers every call (the channel's known_lock, in tests the GIL).
 */
#ifndef CAIRN_INO_MAP_IMPL_H
#define CAIRN_INO_MAP_IMPL_H

#include <stddef.h>
#include <stdint.h>

enum { IM_MIN_SLOTS = 64 };

struct im_slot {
    uint64_t ino;
    uint64_t value;
};

struct im_map {
    struct im_slot *slots;
    size_t n_slots;
    size_t n;
    size_t limit; /* most entries, at least 1 */
    size_t hand;
};

/* The slot of an inode, NULL when it is not there. Good until the next change of the table. */
struct im_slot *im_find(const struct im_map *map, uint64_t ino);

/* Set the value of an inode. 0, or -1 when there is no memory (nothing has changed then). */
int im_put(struct im_map *map, uint64_t ino, uint64_t value);

/* 1 = removed, 0 = was not there. */
int im_remove(struct im_map *map, uint64_t ino);

/* Keep only the bits of `mask` in every value. */
void im_mask_all(struct im_map *map, uint64_t mask);

/* Every inode number, in no order; `out` has room for map->n. */
void im_inos(const struct im_map *map, uint64_t *out);

void im_free(struct im_map *map);

/* 0 when the invariants hold, else the number of the one that does not. */
int im_check(const struct im_map *map);

#endif
