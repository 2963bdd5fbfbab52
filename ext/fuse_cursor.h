/* A checked cursor over one request: the only way bytes from the kernel are read.
 *
 * Every function either returns a pointer into the request with the promised number of readable bytes behind it and
 * moves past them, or returns NULL and does not move. Pointers are valid until the lane reads its next request.
 * Fixed parts lie at multiples of 8 bytes from the start of the (page-aligned) buffer, so they may be read in place.
 */
#ifndef CAIRN_FUSE_CURSOR_H
#define CAIRN_FUSE_CURSOR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct fc_cursor {
    const uint8_t *at; /* next byte */
    size_t left;       /* readable bytes from `at` on */
};

/* The next n bytes. */
static inline const void *fc_take(struct fc_cursor *cursor, size_t n)
{
    if (cursor->left < n)
        return NULL;
    const uint8_t *taken = cursor->at;
    cursor->at += n;
    cursor->left -= n;
    return taken;
}

/* The next n records of `size` bytes; n comes from the kernel, so the product is never computed before it is known to fit. */
static inline const void *fc_take_array(struct fc_cursor *cursor, size_t n, size_t size)
{
    if (n > cursor->left / size)
        return NULL;
    return fc_take(cursor, n * size);
}

/* The next name, up to its NUL, which must be there; *n_bytes is its length without the NUL. */
static inline const char *fc_take_name(struct fc_cursor *cursor, size_t *n_bytes)
{
    const uint8_t *end = cursor->left ? memchr(cursor->at, 0, cursor->left) : NULL;
    if (end == NULL)
        return NULL;
    *n_bytes = (size_t)(end - cursor->at);
    return fc_take(cursor, *n_bytes + 1);
}

#endif
