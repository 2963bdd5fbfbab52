#include "ino_map_impl.h"

#include <stdlib.h>

static size_t home_of(const struct im_map *map, uint64_t ino)
{
    return (size_t)((ino * 0x9E3779B97F4A7C15ULL) >> 20) & (map->n_slots - 1);
}

static size_t after(const struct im_map *map, size_t at)
{
    return (at + 1) & (map->n_slots - 1);
}

struct im_slot *im_find(const struct im_map *map, uint64_t ino)
{
    if (map->n_slots == 0 || ino == 0)
        return NULL;
    for (size_t at = home_of(map, ino); map->slots[at].ino != 0; at = after(map, at))
        if (map->slots[at].ino == ino)
            return &map->slots[at];
    return NULL;
}

/* Into a table that has room and does not have the inode. */
static void place(struct im_map *map, uint64_t ino, uint64_t value)
{
    size_t at = home_of(map, ino);
    while (map->slots[at].ino != 0)
        at = after(map, at);
    map->slots[at] = (struct im_slot){ino, value};
}

static int resize(struct im_map *map, size_t n_slots)
{
    struct im_map grown = *map;
    grown.slots = calloc(n_slots, sizeof *grown.slots);
    if (grown.slots == NULL)
        return -1;
    grown.n_slots = n_slots;
    grown.hand = 0;
    for (size_t at = 0; at < map->n_slots; at++)
        if (map->slots[at].ino != 0)
            place(&grown, map->slots[at].ino, map->slots[at].value);
    free(map->slots);
    *map = grown;
    return 0;
}

/* Free a slot, moving up whatever would not be found any more: invariant (3). */
static void clear(struct im_map *map, size_t hole)
{
    for (size_t at = after(map, hole); map->slots[at].ino != 0; at = after(map, at)) {
        size_t from_home = (at - home_of(map, map->slots[at].ino)) & (map->n_slots - 1);
        size_t from_hole = (at - hole) & (map->n_slots - 1);
        if (from_home >= from_hole) {
            map->slots[hole] = map->slots[at];
            hole = at;
        }
    }
    map->slots[hole] = (struct im_slot){0, 0};
    map->n--;
}

static void make_room(struct im_map *map)
{
    while (map->slots[map->hand].ino == 0)
        map->hand = after(map, map->hand);
    clear(map, map->hand);
    map->hand = after(map, map->hand);
}

int im_put(struct im_map *map, uint64_t ino, uint64_t value)
{
    struct im_slot *slot = im_find(map, ino);
    if (slot != NULL) {
        slot->value = value;
        return 0;
    }
    if (map->n == map->limit)
        make_room(map);
    else if (map->n_slots == 0 && resize(map, IM_MIN_SLOTS) < 0)
        return -1;
    else if (map->n + 1 > map->n_slots / 8 * 7 && resize(map, 2 * map->n_slots) < 0)
        return -1;
    place(map, ino, value);
    map->n++;
    return 0;
}

int im_remove(struct im_map *map, uint64_t ino)
{
    struct im_slot *slot = im_find(map, ino);
    if (slot == NULL)
        return 0;
    clear(map, (size_t)(slot - map->slots));
    if (map->n < map->n_slots / 8 && map->n_slots > IM_MIN_SLOTS)
        resize(map, map->n_slots / 2); /* without memory for a smaller one the large one stays */
    return 1;
}

void im_mask_all(struct im_map *map, uint64_t mask)
{
    for (size_t at = 0; at < map->n_slots; at++)
        map->slots[at].value &= mask;
}

void im_inos(const struct im_map *map, uint64_t *out)
{
    for (size_t at = 0; at < map->n_slots; at++)
        if (map->slots[at].ino != 0)
            *out++ = map->slots[at].ino;
}

void im_free(struct im_map *map)
{
    free(map->slots);
    map->slots = NULL;
    map->n_slots = map->n = map->hand = 0;
}

int im_check(const struct im_map *map)
{
    size_t n = 0;
    if (map->n_slots & (map->n_slots - 1) || map->n > map->n_slots / 8 * 7)
        return 1;
    for (size_t at = 0; at < map->n_slots; at++) {
        if (map->slots[at].ino == 0)
            continue;
        n++;
        const struct im_slot *found = im_find(map, map->slots[at].ino);
        if (found == NULL)
            return 3;
        if (found != &map->slots[at])
            return 2;
    }
    if (n != map->n)
        return 2;
    return map->n > map->limit ? 4 : 0;
}
