/* Redis's protocol (RESP 2 and 3) as far as replies to scripts and plain commands need it: where a reply ends.
 *
 * A reply is a line (type, number or text, CR LF), after `$` and `=` so many bytes and CR LF, after `*`, `~`, `>`, `%` so many
 * elements, which are replies. Nothing is copied here.
 */
#ifndef CAIRN_RESP_H
#define CAIRN_RESP_H

#include <stddef.h>
#include <stdint.h>

enum { RS_MAX_DEPTH = 8, RS_MAX_BYTES = 0x7fffffff };

/* How far a reply has been looked through. Zeroes at first but for `n_left`, which is 1. */
struct rs_scan {
    size_t at;      /* bytes that belong to it and are here */
    int64_t n_left; /* elements that are still to come */
};

/* Go on with the `n` bytes of `buf` that are here by now. 1 = all of the reply is here, and `at` is its length; 0 = not yet;
 * -1 = it is none. */
int rs_scan(struct rs_scan *scan, const uint8_t *buf, size_t n);

/* The line at *at, which is whole: its number (of `$`, `*`, `:` and their like) or 0; *at is behind it afterwards. */
int64_t rs_line(const uint8_t *buf, size_t *at, size_t *text_at, size_t *text_bytes);

/* Send all of a request on a blocking socket with time limits, as send(2). 0, or a negative errno: -EINTR with *sent as it is, -EAGAIN
 * when time is up. */
int rs_send(int fd, const uint8_t *request, size_t n, size_t *sent);

#endif
