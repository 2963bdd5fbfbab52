/* Listings: the names of a directory as they were at one version of its row, in pages that the arena's log of slices keeps.
 *
 * Who changes the entries of a directory changes its row too, so that a listing is the directory's present one as long as the row
 * has the listing's version. Nothing is ever invalidated; pages of old versions go when the log needs room. Until then they
 * serve readers that have begun with them.
 *
 * A page is the slice (pack, stored_off) = (1 << 63 | directory, version * LS_SPREAD + page number modulo 2^32): packs are
 * numbered from 1 up, and pages of two versions that fall on one place tell themselves apart by their heads. Every page but the
 * last has ls_page_entries() entries, so an entry's index says in which page it is. Native byte order:
 *
 *   head (struct ls_head, 48 bytes)            each entry
 *    0 u32 magic                                0 u64 inode, not 0
 *    4 u32 bytes of the page                    8 u8  type, S_IFMT bits >> 12
 *    8 u64 directory                            9 u8  bytes of the name, not 0
 *   16 u64 version of its row                  10     the name
 *   24 u64 what ".." stands for
 *   32 u32 index of the first entry
 *   36 u32 hash of the name that follows the last entry, 0 when none does
 *   40 u16 entries
 *   42 u8  1: the last page
 *   43     zero
 *
 * A cookie says where to go on: bits 0 to 29 the index of the entry it comes with plus 3 (0: the beginning, 1 ".", 2 ".."), bit
 * 30 whether the listing is another than that of the handle's version (LS_MOVED), bits 31 to 61 the hash of the *next* name, 0
 * at the end. Where the pages are gone, that name is looked for in the directory as it is then: whether or not the entries
 * before it are still there, those that were given stand before it and those that were not stand from it on.
 *
 * Invariants, checked whenever a page is opened; what breaks one counts as not there
 *   (1) the head's length is the slice's; magic, directory, version and first index are those asked for
 *   (2) the entries, each with an inode and a name, end where the page ends
 *   (3) a page that is not the last is full and says what follows; the last one says 0. Only an empty directory has an empty page
 */
#ifndef CAIRN_LISTING_IMPL_H
#define CAIRN_LISTING_IMPL_H

#include <stddef.h>
#include <stdint.h>

#include "arena.h"

enum {
    LS_MAGIC = 0x3150534c, /* "LSP1" */
    LS_PAGE_ENTRIES = 128, /* fewer where such a page could be longer than a slice may be */
    LS_ENTRY_BYTES = 10,   /* before the name */
    LS_MAX_NAME = 255,
    LS_HEAD_BYTES = 48,
    LS_MAX_PAGE = LS_HEAD_BYTES + LS_PAGE_ENTRIES * (LS_ENTRY_BYTES + LS_MAX_NAME),
    LS_FIRST_COOKIE = 3,
    LS_INDEX_BITS = 30,
    LS_HASH_SHIFT = 31,
};

#define LS_PACK (UINT64_C(1) << 63)
#define LS_SPREAD UINT32_C(0x9E3779B1)
#define LS_INDEX_MASK ((UINT64_C(1) << LS_INDEX_BITS) - 1)
#define LS_MOVED (UINT64_C(1) << LS_INDEX_BITS)

struct ls_head {
    uint32_t magic;
    uint32_t n_bytes;
    uint64_t dir;
    uint64_t version;
    uint64_t parent;
    uint32_t first;
    uint32_t next_hash;
    uint16_t n_entries;
    uint8_t is_last;
    uint8_t zero[5];
};
_Static_assert(sizeof(struct ls_head) == LS_HEAD_BYTES, "a head is 48 bytes");

struct ls_entry {
    uint64_t ino;
    const uint8_t *name;
    uint64_t cookie; /* that comes with it, without LS_MOVED */
    uint8_t n_name;
    uint8_t type;
};

/* A page that was found to be whole, and where its reader is. */
struct ls_page {
    struct ls_head head;
    const uint8_t *at;
    uint32_t index; /* of the entry at `at` */
    uint8_t bytes[LS_MAX_PAGE];
};

/* Entries of a full page; 0 when this arena keeps no listings. */
uint32_t ls_page_entries(const struct ar_arena *arena);

/* Bytes of pages that one listing may take: an eighth of the log. */
uint64_t ls_max_bytes(const struct ar_arena *arena);

/* Where a page is. */
uint64_t ls_pack(uint64_t dir);
uint32_t ls_stored_off(uint64_t version, uint32_t page_no);

/* 1 to 2^31 - 1. */
uint32_t ls_hash(const void *name, size_t n_bytes);

static inline uint64_t ls_cookie(uint32_t index, uint32_t next_hash)
{
    return (uint64_t)next_hash << LS_HASH_SHIFT | ((uint64_t)index + LS_FIRST_COOKIE);
}

/* Copy the page with entry `index` (or the end of the listing, if that is there) and go to it. 1, or 0 when it is not there. */
int ls_open(struct ar_arena *arena, uint64_t dir, uint64_t version, uint32_t index, struct ls_page *page);

/* The page where a reader with `cookie` goes on, and there: its next name is the one the cookie means. Not for a cookie at the
 * end (no hash). 1, or 0 when it is not there. */
int ls_resume(struct ar_arena *arena, uint64_t dir, uint64_t version, uint64_t cookie, struct ls_page *page);

/* The next entry of a page. 0 at its end. */
int ls_take(struct ls_page *page, struct ls_entry *out);

/* Keep a page whose entries, from `entries` on, are laid out already; the head's magic and length are filled in. 1 = kept. */
int ls_keep(struct ar_arena *arena, struct ls_head *head, const void *entries, size_t n_bytes);

#endif
