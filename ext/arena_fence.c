/* The fence: one look at memory that the store's every commit changes, whoever makes it.
 *
 * `seen` is what the store showed at a moment from which everything is known. While it still shows that, nothing was committed since.
 * A commit of one's own changes it too; between that and ar_applied() nothing is answered from the arena, so that what a
 * commit changed is never seen in its old state after somebody saw the new one.
 *
 * A store on another machine shows nothing. There a lease says until when the log counts as read; commits of this mount are applied before
 * they are answered, those of others as the log brings them, and opens ask for the log's end first (log_end_impl.h, or Python's fence).
 */
#include "arena_impl.h"

#include <time.h>

static int is_leased(const struct ar_header *h)
{
    int64_t until_ns = atomic_load_explicit(&h->leased_until_ns, memory_order_relaxed);
    struct timespec now;
    if (until_ns == 0)
        return 0;
    clock_gettime(CLOCK_BOOTTIME, &now); /* others go on while this machine is suspended */
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec < until_ns;
}

int ar_fresh_for_open(const struct ar_arena *arena)
{
    int is_watched = __atomic_load_n(&arena->watch, __ATOMIC_RELAXED) != NULL;
    if (atomic_load_explicit(&arena->h->is_careful, memory_order_acquire))
        return 0;
    return ar_fresh(arena) && (is_watched || atomic_load_explicit(&arena->h->is_pushed, memory_order_relaxed));
}

int ar_fresh(const struct ar_arena *arena)
{
    struct ar_header *h = arena->h;
    const uint8_t *watch = __atomic_load_n(&arena->watch, __ATOMIC_RELAXED);
    if (watch == NULL)
        return is_leased(h);
    uint64_t now[AR_MARK_BYTES / 8], seen[AR_MARK_BYTES / 8];
    uint32_t seq = atomic_load_explicit(&h->seen_seq, memory_order_acquire);
    ar_copy(now, watch, AR_MARK_BYTES);
    ar_copy(seen, h->seen, AR_MARK_BYTES);
    int valid = (int)__atomic_load_n(&h->seen_valid, __ATOMIC_RELAXED);
    atomic_thread_fence(memory_order_acquire);
    if ((seq & 1) || atomic_load_explicit(&h->seen_seq, memory_order_relaxed) != seq)
        return 0;
    return valid && memcmp(now, seen, AR_MARK_BYTES) == 0;
}

/* Around changes of `seen` and `usage`; the caller holds seen_lock. */
static void begin(struct ar_header *h)
{
    atomic_fetch_add_explicit(&h->seen_seq, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
}

static void end(struct ar_header *h)
{
    atomic_fetch_add_explicit(&h->seen_seq, 1, memory_order_release);
}

static void set_seen(struct ar_header *h, uint64_t position, const uint8_t *mark)
{
    begin(h);
    h->beyond = position - h->applied < 64 ? h->beyond >> (position - h->applied) : 0;
    for (; h->beyond & 1; h->beyond >>= 1)
        position++;
    __atomic_store_n(&h->applied, position, __ATOMIC_RELEASE);
    h->seen_valid = mark != NULL;
    if (mark != NULL)
        memcpy(h->seen, mark, AR_MARK_BYTES);
    end(h);
}

void ar_repair_seen(struct ar_header *h)
{
    atomic_store(&h->seen_seq, atomic_load(&h->seen_seq) | 1);
    h->usage_at = 0;
    h->beyond = 0; /* perhaps of another `applied` */
    __atomic_store_n(&h->seen_valid, 0, __ATOMIC_SEQ_CST); /* before readers look again at what is perhaps half written */
    end(h);
}

void ar_committing(struct ar_arena *arena)
{
    atomic_fetch_add(&arena->h->n_committing, 1);
}

void ar_refused(struct ar_arena *arena)
{
    atomic_fetch_sub(&arena->h->n_committing, 1);
}

void ar_saw(struct ar_arena *arena, uint64_t position, const uint8_t *mark)
{
    struct ar_header *h = arena->h;
    ar_lock(arena, &h->seen_lock);
    if (position >= h->applied && atomic_load(&h->n_committing) == 0)
        set_seen(h, position, mark);
    ar_unlock(&h->seen_lock);
}

/* One commit more is known. */
static void add_seen(struct ar_arena *arena, uint64_t position, const uint8_t *mark)
{
    struct ar_header *h = arena->h;
    if (position == h->applied + 1)
        set_seen(h, position, mark);
    else if (arena->watch == NULL && position > h->applied && position - h->applied <= 64) /* something before it is not known yet */
        h->beyond |= UINT64_C(1) << (position - h->applied - 1);
}

void ar_applied(struct ar_arena *arena, uint64_t position, const uint8_t *mark)
{
    struct ar_header *h = arena->h;
    ar_lock(arena, &h->seen_lock);
    add_seen(arena, position, mark);
    atomic_fetch_sub(&h->n_committing, 1);
    ar_unlock(&h->seen_lock);
}

void ar_heard(struct ar_arena *arena, uint64_t position)
{
    ar_lock(arena, &arena->h->seen_lock);
    add_seen(arena, position, NULL);
    ar_unlock(&arena->h->seen_lock);
}

uint64_t ar_known_to(const struct ar_arena *arena)
{
    return __atomic_load_n(&arena->h->applied, __ATOMIC_ACQUIRE);
}

/* ---- usage of the volume: a row of the store that every other commit changes, so it is of one position only, and counts as long as no
 * later one was told of, not even one before which something is missing ---- */

void ar_usage_put(struct ar_arena *arena, uint64_t position, const uint64_t usage[AR_N_USAGE])
{
    struct ar_header *h = arena->h;
    ar_lock(arena, &h->seen_lock);
    if (h->applied == position && atomic_load(&h->newest) == position && ar_fresh(arena)) {
        begin(h);
        h->usage_at = position + 1;
        memcpy(h->usage, usage, sizeof h->usage);
        end(h);
    }
    ar_unlock(&h->seen_lock);
}

int ar_usage_find(const struct ar_arena *arena, uint64_t usage[AR_N_USAGE])
{
    struct ar_header *h = arena->h;
    uint32_t seq = atomic_load_explicit(&h->seen_seq, memory_order_acquire);
    uint64_t at = ar_load(&h->usage_at), applied = ar_load(&h->applied);
    ar_copy(usage, h->usage, sizeof h->usage);
    atomic_thread_fence(memory_order_acquire);
    if ((seq & 1) || atomic_load_explicit(&h->seen_seq, memory_order_relaxed) != seq)
        return 0;
    return at == applied + 1 && atomic_load(&h->newest) == applied;
}

void ar_usage_drop(struct ar_arena *arena)
{
    struct ar_header *h = arena->h;
    ar_lock(arena, &h->seen_lock);
    begin(h);
    h->usage_at = 0;
    end(h);
    ar_unlock(&h->seen_lock);
}
