#include "resp_impl.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

int64_t rs_line(const uint8_t *buf, size_t *at, size_t *text_at, size_t *text_bytes)
{
    size_t i = *at + 1;
    int64_t number = 0;
    int is_negative = buf[i] == '-';
    *text_at = i;
    for (i += (size_t)is_negative; buf[i] >= '0' && buf[i] <= '9' && number <= INT64_MAX / 10 - 1; i++)
        number = number * 10 + (buf[i] - '0');
    while (buf[i] != '\r')
        i++;
    *text_bytes = i - *text_at;
    *at = i + 2;
    return is_negative ? -number : number;
}

int rs_scan(struct rs_scan *scan, const uint8_t *buf, size_t n)
{
    while (scan->n_left > 0) {
        size_t at = scan->at, text_at, text_bytes;
        const uint8_t *end = at < n ? memchr(buf + at, '\r', n - at) : NULL;
        if (end == NULL || end + 1 >= buf + n)
            return 0;
        if (end[1] != '\n')
            return -1;
        uint8_t type = buf[at];
        int64_t number = rs_line(buf, &at, &text_at, &text_bytes);
        switch (type) {
        case '$':
        case '=':
            if (number < -1 || number > RS_MAX_BYTES)
                return -1;
            if (number >= 0) {
                at += (size_t)number + 2;
                if (at > n)
                    return 0;
                if (buf[at - 2] != '\r' || buf[at - 1] != '\n')
                    return -1;
            }
            break;
        case '*':
        case '~':
        case '>':
        case '%':
            if (number < -1 || number > RS_MAX_BYTES)
                return -1;
            if (number > 0)
                scan->n_left += type == '%' ? 2 * number : number;
            break;
        case '+':
        case '-':
        case ':':
        case '_':
        case '#':
        case ',':
            break;
        default:
            return -1;
        }
        scan->n_left--;
        scan->at = at;
    }
    return 1;
}

int rs_send(int fd, const uint8_t *request, size_t n, size_t *sent)
{
    while (*sent < n) {
        ssize_t done = send(fd, request + *sent, n - *sent, MSG_NOSIGNAL);
        if (done < 0)
            return -errno;
        *sent += (size_t)done;
    }
    return 0;
}
