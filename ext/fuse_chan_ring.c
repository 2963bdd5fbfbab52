/* A ring of io_uring(7) with 128-byte submissions, by its system calls; of one thread, which submits everything before it goes on. */
#define _GNU_SOURCE
#include "fuse_uring.h"

#include <sys/mman.h>
#include <sys/syscall.h>

/* Flags of io_uring_setup(2) that headers before Linux 6.1 do not have. */
enum {
    SETUP_SQE128 = 1 << 10,
    SETUP_SINGLE_ISSUER = 1 << 12,
    SETUP_DEFER_TASKRUN = 1 << 13,
};

enum { N_SUBMISSIONS = 4 };

void fu_ring_close(struct fu_ring *ring)
{
    if (ring->sqes != NULL)
        munmap(ring->sqes, ring->n_sqes);
    if (ring->rings != NULL)
        munmap(ring->rings, ring->n_rings);
    if (ring->fd >= 0)
        close(ring->fd);
    *ring = (struct fu_ring){.fd = -1};
}

static void *map_ring(int fd, size_t n_bytes, off_t at)
{
    void *mapped = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, at);
    return mapped == MAP_FAILED ? NULL : mapped;
}

/* Only the calling thread may use it. 0, or a negative errno. */
int fu_ring_open(struct fu_ring *ring)
{
    struct io_uring_params p = {.flags = SETUP_SQE128 | SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN};
    *ring = (struct fu_ring){.fd = (int)syscall(SYS_io_uring_setup, N_SUBMISSIONS, &p)};
    if (ring->fd < 0)
        return -errno;
    size_t n_sq = p.sq_off.array + p.sq_entries * sizeof(uint32_t);
    size_t n_cq = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
    ring->n_rings = n_sq > n_cq ? n_sq : n_cq;
    ring->n_sqes = p.sq_entries * sizeof(struct fu_sqe);
    if (p.features & IORING_FEAT_SINGLE_MMAP)
        ring->rings = map_ring(ring->fd, ring->n_rings, IORING_OFF_SQ_RING);
    if (ring->rings != NULL)
        ring->sqes = map_ring(ring->fd, ring->n_sqes, IORING_OFF_SQES);
    if (ring->sqes == NULL) {
        fu_ring_close(ring);
        return -ENOMEM;
    }
    uint8_t *base = ring->rings;
    ring->sq_head = (_Atomic uint32_t *)(base + p.sq_off.head);
    ring->sq_tail = (_Atomic uint32_t *)(base + p.sq_off.tail);
    ring->sq_mask = *(uint32_t *)(base + p.sq_off.ring_mask);
    ring->cq_head = (_Atomic uint32_t *)(base + p.cq_off.head);
    ring->cq_tail = (_Atomic uint32_t *)(base + p.cq_off.tail);
    ring->cq_mask = *(uint32_t *)(base + p.cq_off.ring_mask);
    ring->cqes = (struct io_uring_cqe *)(base + p.cq_off.cqes);
    for (uint32_t i = 0; i <= ring->sq_mask; i++)
        ((uint32_t *)(base + p.sq_off.array))[i] = i;
    return 0;
}

/* The next submission, zeroed. There is always room: everything is submitted before the thread goes on. */
struct fu_sqe *fu_ring_next(struct fu_ring *ring)
{
    struct fu_sqe *sqe = &ring->sqes[atomic_load_explicit(ring->sq_tail, memory_order_relaxed) & ring->sq_mask];
    memset(sqe, 0, sizeof *sqe);
    return sqe;
}

void fu_ring_push(struct fu_ring *ring)
{
    atomic_fetch_add_explicit(ring->sq_tail, 1, memory_order_release);
}

/* Submit what was pushed, and wait for `n_wait` completions. 0, or a negative errno. */
int fu_ring_enter(struct fu_ring *ring, unsigned n_wait)
{
    uint32_t n_taken = atomic_load_explicit(ring->sq_head, memory_order_acquire); /* fewer when a call was interrupted */
    uint32_t n_submit = atomic_load_explicit(ring->sq_tail, memory_order_relaxed) - n_taken;
    long n = syscall(SYS_io_uring_enter, ring->fd, n_submit, n_wait, IORING_ENTER_GETEVENTS, NULL, 0);
    return n < 0 ? -errno : 0;
}

/* The next completion, or NULL. */
const struct io_uring_cqe *fu_ring_look(const struct fu_ring *ring)
{
    uint32_t head = atomic_load_explicit(ring->cq_head, memory_order_relaxed);
    return head == atomic_load_explicit(ring->cq_tail, memory_order_acquire) ? NULL : &ring->cqes[head & ring->cq_mask];
}

/* Take it. 0 = there is none. */
int fu_ring_take(struct fu_ring *ring, struct io_uring_cqe *out)
{
    const struct io_uring_cqe *next = fu_ring_look(ring);
    if (next == NULL)
        return 0;
    *out = *next;
    atomic_fetch_add_explicit(ring->cq_head, 1, memory_order_release);
    return 1;
}
