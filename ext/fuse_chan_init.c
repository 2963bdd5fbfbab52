/* Agreeing with the kernel on version, limits and features, once per mount. */
#include "fuse_chan_impl.h"

#include <poll.h>
#include <string.h>

#include "fuse_cursor.h"

enum {
    PAGE_BYTES = 4096,
    DEFAULT_MAX_PAGES = 32,   /* what a kernel without FW_CAP_MAX_PAGES allows per request */
    LONGEST_OTHER = 72 << 10, /* SETXATTR: 64 KiB of value, a name, headers */
};

/* Locks are left to the kernel where OPEN is refused: it then sends nothing at a close, so ours would never be given back.
 * No WRITEBACK_CACHE: sizes and times must be the volume's, not this kernel's. No AUTO_INVAL_DATA: whoever serves knows when
 * pages are stale and says so. */
static const uint64_t WANTED =
    FW_CAP_ASYNC_READ | FW_CAP_POSIX_LOCKS | FW_CAP_FLOCK_LOCKS | FW_CAP_ATOMIC_O_TRUNC | FW_CAP_EXPORT_SUPPORT |
    FW_CAP_BIG_WRITES | FW_CAP_DONT_MASK | FW_CAP_DO_READDIRPLUS | FW_CAP_READDIRPLUS_AUTO | FW_CAP_ASYNC_DIO |
    FW_CAP_PARALLEL_DIROPS | FW_CAP_HANDLE_KILLPRIV_V2 | FW_CAP_POSIX_ACL | FW_CAP_MAX_PAGES | FW_CAP_CACHE_SYMLINKS |
    FW_CAP_EXPLICIT_INVAL_DATA | FW_CAP_INIT_EXT | FW_CAP_SETXATTR_EXT | FW_CAP_HAS_EXPIRE_ONLY |
    FW_CAP_DIRECT_IO_ALLOW_MMAP;

/* Features of the kernel; the upper half only counts when both halves are said to exist. */
static uint64_t offered(const struct fw_init_in *in, struct fc_cursor *rest)
{
    uint64_t caps = in->flags;
    const struct fw_init_in_ext *ext = fc_take(rest, sizeof *ext);
    if ((caps & FW_CAP_INIT_EXT) && ext != NULL)
        caps |= (uint64_t)ext->flags2 << 32;
    return caps;
}

int fc_negotiate(struct fc_chan *chan, const uint8_t *message, size_t n_bytes, const struct fc_limits *limits,
                 struct fw_init_out *out)
{
    struct fc_cursor cursor = {message, n_bytes};
    const struct fw_in_header *header = fc_take(&cursor, sizeof *header);
    const struct fw_init_in *in = header == NULL ? NULL : fc_take(&cursor, sizeof *in);
    if (in == NULL || header->opcode != FW_INIT || header->len != n_bytes)
        return -EPROTO;
    memset(out, 0, sizeof *out);
    out->major = FW_MAJOR;
    out->minor = FW_MINOR;
    if (in->major > FW_MAJOR)
        return 0;
    if (in->major < FW_MAJOR || in->minor < FW_MIN_MINOR)
        return -EPROTONOSUPPORT;

    uint64_t given = offered(in, &cursor);
    uint64_t caps = given & WANTED;
    if (chan->uring != NULL && limits->max_write >= LONGEST_OTHER)
        caps |= given & FW_CAP_OVER_IO_URING;
    if (chan->no_open)
        caps &= ~(FW_CAP_POSIX_LOCKS | FW_CAP_FLOCK_LOCKS);
    uint32_t max_pages = caps & FW_CAP_MAX_PAGES ? limits->max_write / PAGE_BYTES : DEFAULT_MAX_PAGES;
    if (max_pages == 0)
        max_pages = 1;
    uint32_t max_write = limits->max_write < max_pages * PAGE_BYTES ? limits->max_write : max_pages * PAGE_BYTES;
    uint32_t longest = max_write > LONGEST_OTHER ? max_write : LONGEST_OTHER;

    chan->minor = in->minor < FW_MINOR ? in->minor : FW_MINOR;
    chan->caps = caps;
    chan->read_bytes = longest + PAGE_BYTES;
    /* The kernel takes this or what is set for the mount's device, whichever is less. */
    out->max_readahead = max_write > in->max_readahead ? max_write : in->max_readahead;
    out->flags = (uint32_t)caps;
    out->flags2 = (uint32_t)(caps >> 32);
    out->max_background = limits->max_background;
    out->congestion_threshold = limits->max_background * 3 / 4;
    out->max_write = max_write;
    out->max_pages = (uint16_t)max_pages;
    out->time_gran = 1;
    return 1;
}

ssize_t fc_read_one(struct fc_chan *chan, void *buf, size_t n_bytes, int timeout_ms)
{
    struct pollfd readable[2] = {{.fd = chan->dev_fd, .events = POLLIN}, {.fd = chan->stop_fd, .events = POLLIN}};
    ssize_t n = read(chan->dev_fd, buf, n_bytes);
    if (n < 0 && errno == EAGAIN) {
        int ready = poll(readable, 2, timeout_ms);
        if (ready < 0)
            return -errno;
        if (readable[1].revents)
            return 0;
        n = ready == 0 ? (errno = EAGAIN, -1) : read(chan->dev_fd, buf, n_bytes);
    }
    return n < 0 ? -errno : n;
}
