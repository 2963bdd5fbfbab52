#include "rados_io_impl.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

typedef void *handle; /* rados_t, rados_ioctx_t, rados_completion_t, rados_write_op_t, rados_list_ctx_t */

enum { CREATE_EXCLUSIVE = 1 };

/* Every function of librados that is used: return type, name without prefix, parameters. */
#define FUNCTIONS(F)                                                                                   \
    F(void, version, (int *, int *, int *))                                                            \
    F(int, create2, (handle *, const char *, const char *, uint64_t))                                  \
    F(int, conf_read_file, (handle, const char *))                                                     \
    F(int, conf_parse_env, (handle, const char *))                                                     \
    F(int, conf_set, (handle, const char *, const char *))                                             \
    F(int, conf_get, (handle, const char *, char *, size_t))                                           \
    F(int, connect, (handle))                                                                          \
    F(void, shutdown, (handle))                                                                        \
    F(int, cluster_stat, (handle, uint64_t *))                                                         \
    F(int, ioctx_create, (handle, const char *, handle *))                                             \
    F(void, ioctx_destroy, (handle))                                                                   \
    F(void, ioctx_set_namespace, (handle, const char *))                                               \
    F(void, set_pool_full_try, (handle))                                                               \
    F(handle, create_write_op, (void))                                                                 \
    F(void, release_write_op, (handle))                                                                \
    F(void, write_op_create, (handle, int, const char *))                                              \
    F(void, write_op_write_full, (handle, const char *, size_t))                                       \
    F(int, write_op_operate, (handle, handle, const char *, time_t *, int))                            \
    F(int, read, (handle, const char *, char *, size_t, uint64_t))                                     \
    F(int, stat, (handle, const char *, uint64_t *, time_t *))                                         \
    F(int, remove, (handle, const char *))                                                             \
    F(int, aio_create_completion2, (void *, void (*)(handle, void *), handle *))                       \
    F(int, aio_read, (handle, const char *, handle, char *, size_t, uint64_t))                         \
    F(int, aio_write_op_operate, (handle, handle, handle, const char *, time_t *, int))                \
    F(int, aio_remove, (handle, const char *, handle))                                                 \
    F(int, aio_stat, (handle, const char *, handle, uint64_t *, time_t *))                             \
    F(int, aio_get_return_value, (handle))                                                             \
    F(void, aio_release, (handle))                                                                     \
    F(int, nobjects_list_open, (handle, handle *))                                                     \
    F(int, nobjects_list_next, (handle, const char **, const char **, const char **))                  \
    F(void, nobjects_list_close, (handle))

#define MEMBER(type, name, parameters) type(*name) parameters;
static struct { FUNCTIONS(MEMBER) } rados;

struct rados_io {
    handle cluster;
    handle pool;
};

struct slot {
    struct rados_io_queue *queue;
    handle completion;
    handle op; /* of a put; else NULL */
    struct slot *next; /* in one of the queue's lists */
};

/* `free` is the caller's. The lock is for `done`, which librados's threads put slots into. */
struct rados_io_queue {
    struct rados_io *io;
    size_t n_under_way; /* submitted and not yet given back by rados_io_next */
    struct slot *free;
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct slot *done, **done_end; /* in the order of their answers */
    struct slot slots[];
};

struct rados_io_list {
    handle at;
    const char *waiting; /* a name that did not fit; librados keeps it until the next one is asked for */
};

const char *
rados_io_load(void)
{
    static void *library;
    if (library)
        return NULL;
    void *opened = dlopen("librados.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!opened)
        return "librados.so.2 is not installed";
#define FIND(type, name, parameters)                                 \
    if (!(*(void **)&rados.name = dlsym(opened, "rados_" #name))) { \
        dlclose(opened);                                             \
        return "librados.so.2 is too old: it has no rados_" #name;  \
    }
    FUNCTIONS(FIND)
    library = opened;
    return NULL;
}

void
rados_io_version(int *major, int *minor, int *extra)
{
    rados.version(major, minor, extra);
}

/* Whether the configuration names monitors at all. */
static bool
knows_monitors(handle cluster)
{
    char hosts[4096] = "";
    int code = rados.conf_get(cluster, "mon_host", hosts, sizeof hosts);
    return code == -ENAMETOOLONG || (code == 0 && hosts[0]);
}

static int
configure(handle cluster, const char *conf, const char *const *settings, size_t n_settings, enum rados_io_step *step)
{
    *step = RADOS_IO_CONF;
    int code = rados.conf_read_file(cluster, conf);
    if (code < 0 && (conf || code != -ENOENT))
        return code;
    *step = RADOS_IO_SETTING;
    if ((code = rados.conf_parse_env(cluster, "CEPH_ARGS")) < 0)
        return code;
    for (size_t i = 0; i < n_settings; i++)
        if ((code = rados.conf_set(cluster, settings[2 * i], settings[2 * i + 1])) < 0)
            return code;
    *step = RADOS_IO_CONF;
    return knows_monitors(cluster) ? 0 : -ENOENT;
}

int
rados_io_open(struct rados_io **made, const char *user, const char *conf, const char *pool, const char *ns,
              const char *const *settings, size_t n_settings, enum rados_io_step *step)
{
    struct rados_io *io = calloc(1, sizeof *io);
    *step = RADOS_IO_CREATE;
    if (!io)
        return -ENOMEM;
    int code = rados.create2(&io->cluster, "ceph", user, 0);
    if (code < 0) {
        free(io);
        return code;
    }
    code = configure(io->cluster, conf, settings, n_settings, step);
    if (code == 0) {
        *step = RADOS_IO_CONNECT;
        code = rados.connect(io->cluster);
    }
    if (code == 0) {
        *step = RADOS_IO_POOL;
        code = rados.ioctx_create(io->cluster, pool, &io->pool);
    }
    if (code < 0) {
        rados_io_close(io);
        return code;
    }
    rados.ioctx_set_namespace(io->pool, ns);
    rados.set_pool_full_try(io->pool);
    *made = io;
    return 0;
}

void
rados_io_close(struct rados_io *io)
{
    if (io->pool)
        rados.ioctx_destroy(io->pool);
    rados.shutdown(io->cluster);
    free(io);
}

int
rados_io_ask_monitors(struct rados_io *io)
{
    uint64_t usage[4]; /* struct rados_cluster_stat_t */
    return rados.cluster_stat(io->cluster, usage);
}

static handle
whole_op(const void *data, size_t n_bytes)
{
    handle op = rados.create_write_op();
    if (op) {
        rados.write_op_create(op, CREATE_EXCLUSIVE, NULL);
        rados.write_op_write_full(op, data, n_bytes);
    }
    return op;
}

/* The operation that stores an object, with a copy of its bytes; NULL without memory. */
static handle
put_op(const struct iovec *parts, size_t n_parts)
{
    if (n_parts == 1)
        return whole_op(parts[0].iov_base, parts[0].iov_len);
    /* One write_full and not one write for each part: an erasure-coded pool takes nothing else, and BlueStore would make small
     * unaligned pieces of the others. */
    size_t n_bytes = 0;
    for (size_t i = 0; i < n_parts; i++)
        n_bytes += parts[i].iov_len;
    char *whole = malloc(n_bytes ? n_bytes : 1), *at = whole;
    if (!whole)
        return NULL;
    for (size_t i = 0; i < n_parts; i++) {
        memcpy(at, parts[i].iov_base, parts[i].iov_len);
        at += parts[i].iov_len;
    }
    handle op = whole_op(whole, n_bytes);
    free(whole);
    return op;
}

int
rados_io_put(struct rados_io *io, const char *name, const struct iovec *parts, size_t n_parts)
{
    handle op = put_op(parts, n_parts);
    if (!op)
        return -ENOMEM;
    int code = rados.write_op_operate(op, io->pool, name, NULL, 0);
    rados.release_write_op(op);
    return code;
}

int
rados_io_get(struct rados_io *io, const char *name, uint64_t offset, void *data, size_t n_bytes)
{
    return rados.read(io->pool, name, data, n_bytes, offset);
}

int
rados_io_stat(struct rados_io *io, const char *name, struct rados_io_found *found)
{
    return rados.stat(io->pool, name, &found->n_bytes, &found->mtime);
}

int
rados_io_remove(struct rados_io *io, const char *name)
{
    return rados.remove(io->pool, name);
}

struct rados_io_queue *
rados_io_queue_open(struct rados_io *io, size_t depth)
{
    struct rados_io_queue *queue = calloc(1, sizeof *queue + depth * sizeof(struct slot));
    if (!queue)
        return NULL;
    queue->io = io;
    queue->done_end = &queue->done;
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->more, NULL);
    for (size_t i = depth; i-- > 0;) {
        queue->slots[i].queue = queue;
        queue->slots[i].next = queue->free;
        queue->free = &queue->slots[i];
    }
    return queue;
}

void
rados_io_queue_close(struct rados_io_queue *queue)
{
    int result;
    while (queue->n_under_way)
        rados_io_next(queue, &result);
    pthread_cond_destroy(&queue->more);
    pthread_mutex_destroy(&queue->lock);
    free(queue);
}

/* On a thread of librados. */
static void
answered(handle completion, void *of)
{
    (void)completion;
    struct slot *slot = of;
    struct rados_io_queue *queue = slot->queue;
    pthread_mutex_lock(&queue->lock);
    slot->next = NULL;
    *queue->done_end = slot;
    queue->done_end = &slot->next;
    pthread_cond_signal(&queue->more);
    pthread_mutex_unlock(&queue->lock);
}

/* A slot with a completion, NULL without memory. There is a free one, or the caller has not kept to the depth. */
static struct slot *
begin(struct rados_io_queue *queue)
{
    struct slot *slot = queue->free;
    if (!slot || rados.aio_create_completion2(slot, answered, &slot->completion) < 0)
        return NULL;
    queue->free = slot->next;
    queue->n_under_way++;
    return slot;
}

static void
end(struct slot *slot)
{
    rados.aio_release(slot->completion);
    if (slot->op)
        rados.release_write_op(slot->op);
    slot->op = NULL;
    slot->next = slot->queue->free;
    slot->queue->free = slot;
    slot->queue->n_under_way--;
}

/* What a submission returns, given what librados has. */
static int
begun(struct slot *slot, int code)
{
    if (code >= 0)
        return (int)(slot - slot->queue->slots);
    end(slot); /* which librados will not call back for */
    return code;
}

int
rados_io_submit_get(struct rados_io_queue *queue, const char *name, uint64_t offset, void *data, size_t n_bytes)
{
    struct slot *slot = begin(queue);
    return slot ? begun(slot, rados.aio_read(queue->io->pool, name, slot->completion, data, n_bytes, offset)) : -ENOMEM;
}

int
rados_io_submit_put(struct rados_io_queue *queue, const char *name, const struct iovec *parts, size_t n_parts)
{
    struct slot *slot = begin(queue);
    if (!slot)
        return -ENOMEM;
    slot->op = put_op(parts, n_parts);
    if (!slot->op)
        return begun(slot, -ENOMEM);
    return begun(slot, rados.aio_write_op_operate(slot->op, queue->io->pool, slot->completion, name, NULL, 0));
}

int
rados_io_submit_remove(struct rados_io_queue *queue, const char *name)
{
    struct slot *slot = begin(queue);
    return slot ? begun(slot, rados.aio_remove(queue->io->pool, name, slot->completion)) : -ENOMEM;
}

int
rados_io_submit_stat(struct rados_io_queue *queue, const char *name, struct rados_io_found *found)
{
    struct slot *slot = begin(queue);
    return slot ? begun(slot, rados.aio_stat(queue->io->pool, name, slot->completion, &found->n_bytes, &found->mtime)) : -ENOMEM;
}

int
rados_io_next(struct rados_io_queue *queue, int *result)
{
    pthread_mutex_lock(&queue->lock);
    while (!queue->done)
        pthread_cond_wait(&queue->more, &queue->lock);
    struct slot *slot = queue->done;
    queue->done = slot->next;
    if (!queue->done)
        queue->done_end = &queue->done;
    pthread_mutex_unlock(&queue->lock);
    *result = rados.aio_get_return_value(slot->completion);
    end(slot);
    return (int)(slot - queue->slots);
}

int
rados_io_list_open(struct rados_io *io, struct rados_io_list **made)
{
    struct rados_io_list *list = calloc(1, sizeof *list);
    if (!list)
        return -ENOMEM;
    int code = rados.nobjects_list_open(io->pool, &list->at);
    if (code < 0) {
        free(list);
        return code;
    }
    *made = list;
    return 0;
}

int
rados_io_list_next(struct rados_io_list *list, const char *prefix, char *out, size_t n_out)
{
    size_t n_prefix = strlen(prefix), n_written = 0;
    for (;;) {
        const char *name = list->waiting;
        list->waiting = NULL;
        int code = name ? 0 : rados.nobjects_list_next(list->at, &name, NULL, NULL);
        if (code == -ENOENT)
            return (int)n_written;
        if (code < 0)
            return code;
        if (strncmp(name, prefix, n_prefix))
            continue;
        size_t n_name = strlen(name) + 1;
        if (n_written + n_name > n_out) {
            list->waiting = name;
            return n_written ? (int)n_written : -ENAMETOOLONG;
        }
        memcpy(out + n_written, name, n_name);
        n_written += n_name;
    }
}

void
rados_io_list_close(struct rados_io_list *list)
{
    rados.nobjects_list_close(list->at);
    free(list);
}
