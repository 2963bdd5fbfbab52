/* Pages of listings: keeping, finding and walking them. */
#include "listing_impl.h"

#include <string.h>

uint32_t ls_page_entries(const struct ar_arena *arena)
{
    uint32_t max_slice = arena->h->n_segments < 2 ? 0 : arena->h->max_slice;
    if (max_slice >= LS_MAX_PAGE)
        return LS_PAGE_ENTRIES;
    return max_slice < LS_HEAD_BYTES ? 0 : (max_slice - LS_HEAD_BYTES) / (LS_ENTRY_BYTES + LS_MAX_NAME);
}

uint64_t ls_max_bytes(const struct ar_arena *arena)
{
    return arena->h->n_segments * arena->h->segment_bytes / 8;
}

uint64_t ls_pack(uint64_t dir)
{
    return LS_PACK | dir;
}

uint32_t ls_stored_off(uint64_t version, uint32_t page_no)
{
    return (uint32_t)version * LS_SPREAD + page_no;
}

uint32_t ls_hash(const void *name, size_t n_bytes)
{
    const uint8_t *at = name;
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a, whose low bits are its worst */
    for (size_t i = 0; i < n_bytes; i++)
        hash = (hash ^ at[i]) * UINT64_C(0x100000001b3);
    hash ^= hash >> 32;
    return (uint32_t)(hash % ((UINT32_C(1) << 31) - 1)) + 1;
}

/* Do the entries end where the page ends? */
static int is_whole(const uint8_t *at, const uint8_t *end, uint32_t n_entries)
{
    for (uint32_t i = 0; i < n_entries; i++) {
        if (end - at < LS_ENTRY_BYTES)
            return 0;
        uint64_t ino;
        memcpy(&ino, at, sizeof ino);
        if (ino == 0 || at[9] == 0 || end - at - LS_ENTRY_BYTES < at[9])
            return 0;
        at += LS_ENTRY_BYTES + at[9];
    }
    return at == end;
}

static int is_good(const struct ls_head *head, uint32_t n_bytes, uint32_t full)
{
    if (head->magic != LS_MAGIC || head->n_bytes != n_bytes || head->n_entries > full || head->is_last > 1)
        return 0;
    if (head->is_last)
        return head->next_hash == 0 && (head->n_entries > 0 || head->first == 0);
    return head->next_hash != 0 && head->n_entries == full;
}

int ls_open(struct ar_arena *arena, uint64_t dir, uint64_t version, uint32_t index, struct ls_page *page)
{
    uint32_t full = ls_page_entries(arena);
    if (full == 0 || index > LS_INDEX_MASK - LS_FIRST_COOKIE)
        return 0;
    uint32_t page_no = index / full;
    uint32_t stored_off = ls_stored_off(version, page_no);
    struct ls_head *head = &page->head;
    uint32_t n_bytes = ar_slice_bytes(arena, ls_pack(dir), stored_off);
    if (n_bytes < LS_HEAD_BYTES || n_bytes > LS_MAX_PAGE)
        return 0;
    if (!ar_slice_copy(arena, ls_pack(dir), stored_off, 0, n_bytes, page->bytes))
        return 0;
    memcpy(head, page->bytes, sizeof *head);
    if (!is_good(head, n_bytes, full) || head->dir != dir || head->version != version || head->first != page_no * full)
        return 0;
    if (!is_whole(page->bytes + LS_HEAD_BYTES, page->bytes + n_bytes, head->n_entries) || index - head->first > head->n_entries)
        return 0;
    page->at = page->bytes + LS_HEAD_BYTES;
    for (page->index = head->first; page->index < index; page->index++)
        page->at += LS_ENTRY_BYTES + page->at[9];
    return 1;
}

int ls_resume(struct ar_arena *arena, uint64_t dir, uint64_t version, uint64_t cookie, struct ls_page *page)
{
    uint64_t given = cookie & LS_INDEX_MASK;
    if (cookie < LS_FIRST_COOKIE)
        return ls_open(arena, dir, version, 0, page);
    if (given < LS_FIRST_COOKIE || !ls_open(arena, dir, version, (uint32_t)given - LS_FIRST_COOKIE + 1, page))
        return 0;
    if (page->index - page->head.first == page->head.n_entries)
        return 0;
    return ls_hash(page->at + LS_ENTRY_BYTES, page->at[9]) == cookie >> LS_HASH_SHIFT;
}

int ls_take(struct ls_page *page, struct ls_entry *out)
{
    uint32_t left = page->head.n_entries - (page->index - page->head.first);
    if (left == 0)
        return 0;
    const uint8_t *at = page->at;
    memcpy(&out->ino, at, sizeof out->ino);
    out->type = at[8];
    out->n_name = at[9];
    out->name = at + LS_ENTRY_BYTES;
    page->at = at = out->name + out->n_name;
    out->cookie = ls_cookie(page->index++, left == 1 ? page->head.next_hash : ls_hash(at + LS_ENTRY_BYTES, at[9]));
    return 1;
}

int ls_keep(struct ar_arena *arena, struct ls_head *head, const void *entries, size_t n_bytes)
{
    uint8_t page[LS_MAX_PAGE];
    uint32_t full = ls_page_entries(arena);
    if (n_bytes > LS_MAX_PAGE - LS_HEAD_BYTES || full == 0)
        return 0;
    uint64_t pack = ls_pack(head->dir);
    uint32_t stored_off = ls_stored_off(head->version, head->first / full);
    struct ls_head there;
    head->magic = LS_MAGIC;
    head->n_bytes = LS_HEAD_BYTES + (uint32_t)n_bytes;
    memset(head->zero, 0, sizeof head->zero);
    if (ar_slice_bytes(arena, pack, stored_off) >= sizeof there &&
        ar_slice_copy(arena, pack, stored_off, 0, sizeof there, &there) && memcmp(&there, head, sizeof there) != 0)
        ar_slice_drop(arena, pack, stored_off); /* of another version: it would be taken for this one, being as long */
    memcpy(page, head, sizeof *head);
    if (n_bytes)
        memcpy(page + sizeof *head, entries, n_bytes);
    return ar_slice_put(arena, pack, stored_off, page, head->n_bytes);
}
