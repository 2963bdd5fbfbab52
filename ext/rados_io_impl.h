/* One pool of a Ceph cluster through librados, which is loaded when it is first wanted.
 *
 * librados.so.2 is opened by name and its functions are declared here: its C interface has been stable for ten years, so the
 * build needs no Ceph headers, and a machine without librados can use every other kind of storage.
 *
 * Ownership: a struct rados_io belongs to one process (it has threads and sockets, which a fork does not copy). Every function
 * but rados_io_close may be called by several threads at once; a queue is for one thread at a time. Names are NUL-terminated. All functions block; none needs the
 * GIL. Return codes: negative errno of librados, or what the function says.
 *
 * (1) Buffers: what the caller lends is used only until the call returns, also after ETIMEDOUT: librados copies what is
 *     written when it is handed over, and lets go of a reader's buffer when it gives the request up. What is lent to a
 *     request of a queue for reading into is used until rados_io_next returns its slot, or the queue is closed.
 * (2) put is one operation on the object: it is there whole, or not at all.
 * (3) Writes to a full pool fail at once with ENOSPC or EDQUOT; librados would otherwise hold them back until there is room.
 */
#ifndef CAIRN_RADOS_IO_H
#define CAIRN_RADOS_IO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include <time.h>

struct rados_io;
struct rados_io_list;
struct rados_io_queue;

/* Where rados_io_open failed. */
enum rados_io_step {
    RADOS_IO_CREATE,  /* the name of the user is malformed */
    RADOS_IO_CONF,    /* the configuration file cannot be read, or none was found */
    RADOS_IO_SETTING, /* a setting was refused */
    RADOS_IO_CONNECT, /* no monitor answers, or it refuses the user */
    RADOS_IO_POOL,    /* the pool does not exist, or may not be used */
    RADOS_IO_N_STEPS,
};

struct rados_io_found {
    uint64_t n_bytes;
    time_t mtime;
};

/* Load librados. NULL when it is there; else why not, in words that stay valid. May be called again. */
const char *rados_io_load(void);

/* Version of librados's interface; after rados_io_load. */
void rados_io_version(int *major, int *minor, int *extra);

/* Connect as `user` (TYPE.ID) and open a pool; `conf` NULL: where ceph looks. `settings`: n_settings pairs of name and value
 * that go before those of the file. On failure *step says at which step. */
int rados_io_open(struct rados_io **made, const char *user, const char *conf, const char *pool, const char *ns,
                  const char *const *settings, size_t n_settings, enum rados_io_step *step);

/* Waits for nothing: no call may be under way. */
void rados_io_close(struct rados_io *io);

/* Have a monitor answer; ETIMEDOUT when none does. What it says is not wanted. */
int rados_io_ask_monitors(struct rados_io *io);

/* Store a new object. EEXIST when there is one of that name, ENOMEM. */
int rados_io_put(struct rados_io *io, const char *name, const struct iovec *parts, size_t n_parts);

/* Read into `data`; the number of bytes, less than asked for at the end of the object. n_bytes must be at least 1 and at most INT_MAX. */
int rados_io_get(struct rados_io *io, const char *name, uint64_t offset, void *data, size_t n_bytes);

int rados_io_stat(struct rados_io *io, const char *name, struct rados_io_found *found);

int rados_io_remove(struct rados_io *io, const char *name);

/* Requests of one thread, up to `depth` under way at a time. A submission returns the number of a slot, from 0 to depth - 1, that is
 * the request's until rados_io_next returns it; ENOMEM, also when all are in use; or why the request cannot be made.
 *
 *   caller             submit --> slot            rados_io_next waits ----> takes the first of `done`
 *   librados's thread             answer, or timeout --> `done`, and wakes the caller
 */
struct rados_io_queue *rados_io_queue_open(struct rados_io *io, size_t depth);

/* Waits for what is under way: until it is answered, or times out. */
void rados_io_queue_close(struct rados_io_queue *queue);

int rados_io_submit_get(struct rados_io_queue *queue, const char *name, uint64_t offset, void *data, size_t n_bytes);
int rados_io_submit_put(struct rados_io_queue *queue, const char *name, const struct iovec *parts, size_t n_parts);
int rados_io_submit_remove(struct rados_io_queue *queue, const char *name);
int rados_io_submit_stat(struct rados_io_queue *queue, const char *name, struct rados_io_found *found);

/* Wait for the next answer, in whatever order they come; something must be under way. The slot, and what the blocking call would
 * have returned in *result. */
int rados_io_next(struct rados_io_queue *queue, int *result);

/* List the objects of the pool and namespace, in no order. The list must be closed before its rados_io. */
int rados_io_list_open(struct rados_io *io, struct rados_io_list **made);

/* Names that begin with `prefix`, each with its NUL, as many as fit into `out` (which must be longer than any name: 4 KiB will do); the
 * number of bytes written, 0 at the end of the list. */
int rados_io_list_next(struct rados_io_list *list, const char *prefix, char *out, size_t n_out);

void rados_io_list_close(struct rados_io_list *list);

#endif
