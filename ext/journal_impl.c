#define _DEFAULT_SOURCE
#include "journal_impl.h"
#include "robust_lock.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* 1 = locked, 0 = somebody has it. Nothing is ever left half done by a holder that died. */
static int take_lock(pthread_mutex_t *lock, int wait)
{
    int error = wait ? pthread_mutex_lock(lock) : pthread_mutex_trylock(lock);
    if (error == EOWNERDEAD)
        pthread_mutex_consistent(lock);
    return error == 0 || error == EOWNERDEAD;
}

int jn_attach(struct jn_journal *journal, void *base, uint64_t ring_bytes)
{
    struct jn_header *h = base;
    journal->h = h;
    journal->ring = (uint8_t *)base + JN_RING_AT;
    if (h->magic == JN_MAGIC)
        return h->ring_bytes == ring_bytes ? 0 : -EINVAL;
    if (ring_bytes % 8 || h->magic)
        return -EINVAL;
    int error = rl_make(&h->lock);
    for (size_t i = 0; i < JN_SETS * JN_WAYS && !error; i++)
        error = rl_make(&h->grants[i].lock);
    h->ring_bytes = ring_bytes;
    h->magic = JN_MAGIC;
    return -error;
}

int jn_lock_ring(struct jn_journal *journal, int wait)
{
    return take_lock(&journal->h->lock, wait);
}

void jn_unlock_ring(struct jn_journal *journal)
{
    pthread_mutex_unlock(&journal->h->lock);
}

/* ---- the ring ---- */

struct jn_record *jn_at(const struct jn_journal *journal, uint64_t place)
{
    return (struct jn_record *)(journal->ring + place % journal->h->ring_bytes);
}

static uint64_t bytes_of(size_t n_bytes)
{
    return sizeof(struct jn_record) + (n_bytes + 7) / 8 * 8;
}

/* Where the record or filler at `place` ends. */
static uint64_t end_of(const struct jn_journal *journal, uint64_t place)
{
    const struct jn_record *record = jn_at(journal, place);
    if (atomic_load(&record->state) == JN_FILLER)
        return place + journal->h->ring_bytes - place % journal->h->ring_bytes;
    return place + bytes_of(record->n_bytes);
}

/* Have memory for the ring up to `end`. */
static int has_memory(struct jn_journal *journal, uint64_t end)
{
    struct jn_header *h = journal->h;
    uint64_t from = atomic_load(&h->reserved) / JN_STEP * JN_STEP, to = (end + JN_STEP - 1) / JN_STEP * JN_STEP;
    if (end <= atomic_load(&h->reserved))
        return 1;
    if (to > h->ring_bytes)
        to = h->ring_bytes;
    if (madvise(journal->ring + from, to - from, MADV_POPULATE_WRITE) < 0 && errno != EINVAL) /* EINVAL: a Linux that cannot do it */
        return 0;
    atomic_store(&h->reserved, to);
    return 1;
}

int64_t jn_reserve(struct jn_journal *journal, uint64_t ino, uint64_t offset, size_t n_bytes, uint64_t request, int64_t when_ns)
{
    struct jn_header *h = journal->h;
    uint64_t head = atomic_load(&h->head), tail = atomic_load(&h->tail);
    uint64_t at = head % h->ring_bytes, n_used = bytes_of(n_bytes);
    uint64_t filler = at + n_used > h->ring_bytes ? h->ring_bytes - at : 0;
    if (head - tail + filler + n_used > h->ring_bytes || !has_memory(journal, filler ? h->ring_bytes : at + n_used))
        return -1;
    if (filler)
        atomic_store(&jn_at(journal, head)->state, JN_FILLER);
    uint64_t place = head + filler;
    struct jn_record *record = jn_at(journal, place);
    record->n_bytes = (uint32_t)n_bytes;
    record->ino = ino;
    record->offset = offset;
    record->request = request;
    record->when_ns = when_ns;
    atomic_store(&record->state, JN_FILLING);
    atomic_store(&h->head, place + n_used);
    return (int64_t)place;
}

static void note_append(struct jn_header *h, uint64_t request)
{
    atomic_store(&h->appends[atomic_fetch_add(&h->n_appends, 1) % JN_N_APPENDS], request);
}

void jn_fill(struct jn_journal *journal, uint64_t place, const void *data)
{
    struct jn_header *h = journal->h;
    struct jn_record *record = jn_at(journal, place);
    memcpy(record + 1, data, record->n_bytes);
    atomic_store(&record->state, JN_LIVE);
    if (record->request)
        note_append(h, record->request);
}

void jn_kill(struct jn_journal *journal, uint64_t place)
{
    atomic_store(&jn_at(journal, place)->state, JN_DEAD);
}

void jn_move_tail(struct jn_journal *journal)
{
    struct jn_header *h = journal->h;
    uint64_t head = atomic_load(&h->head), tail = atomic_load(&h->tail);
    while (tail < head) {
        uint32_t state = atomic_load(&jn_at(journal, tail)->state);
        if (state != JN_DEAD && state != JN_FILLER)
            break;
        tail = end_of(journal, tail);
    }
    if (tail < head) {
        atomic_store(&h->tail, tail);
        return;
    }
    tail = (head + h->ring_bytes - 1) / h->ring_bytes * h->ring_bytes;
    atomic_store(&h->tail, tail); /* the tail first: what is not before the head is nothing */
    atomic_store(&h->head, tail);
}

struct jn_record *jn_next(const struct jn_journal *journal, uint64_t *place)
{
    uint64_t head = atomic_load(&journal->h->head);
    while (*place < head) {
        struct jn_record *record = jn_at(journal, *place);
        if (atomic_load(&record->state) == JN_LIVE)
            return record;
        *place = end_of(journal, *place);
    }
    return NULL;
}

int jn_appended(const struct jn_journal *journal, uint64_t request)
{
    for (size_t i = 0; i < JN_N_APPENDS; i++)
        if (atomic_load(&journal->h->appends[i]) == request)
            return 1;
    return 0;
}

void jn_resume(struct jn_journal *journal)
{
    struct jn_header *h = journal->h;
    take_lock(&h->lock, 1);
    if (atomic_load(&h->head) < atomic_load(&h->tail))
        atomic_store(&h->head, atomic_load(&h->tail));
    for (uint64_t place = atomic_load(&h->tail); place < atomic_load(&h->head); place = end_of(journal, place)) {
        const struct jn_record *record = jn_at(journal, place);
        uint32_t state = atomic_load(&record->state);
        if (state == JN_FILLING)
            jn_kill(journal, place);
        else if (state == JN_LIVE && record->request && !jn_appended(journal, record->request))
            note_append(h, record->request);
    }
    jn_move_tail(journal);
    pthread_mutex_unlock(&h->lock);
    for (size_t i = 0; i < JN_SETS * JN_WAYS; i++) {
        struct jn_grant *grant = &h->grants[i];
        if (atomic_load(&grant->ino) == 0)
            continue; /* its lock, if somebody died with it, is the next holder's to repair */
        take_lock(&grant->lock, 1);
        atomic_store(&grant->ino, 0);
        atomic_store(&grant->n_places, 0);
        pthread_mutex_unlock(&grant->lock);
    }
}

/* ---- grants ---- */

static struct jn_grant *set_of(const struct jn_journal *journal, uint64_t ino)
{
    return &journal->h->grants[(ino * UINT64_C(0x9E3779B97F4A7C15) >> 58) % JN_SETS * JN_WAYS];
}

static struct jn_grant *find(const struct jn_journal *journal, uint64_t ino)
{
    struct jn_grant *set = set_of(journal, ino);
    for (int way = 0; way < JN_WAYS; way++)
        if (atomic_load(&set[way].ino) == ino)
            return &set[way];
    return NULL;
}

struct jn_grant *jn_enter(struct jn_journal *journal, uint64_t ino, int wait, int *busy)
{
    struct jn_grant *grant = find(journal, ino);
    *busy = 0;
    if (grant == NULL)
        return NULL;
    if (!take_lock(&grant->lock, wait)) {
        *busy = 1;
        return NULL;
    }
    if (atomic_load(&grant->ino) == ino)
        return grant;
    pthread_mutex_unlock(&grant->lock);
    return NULL;
}

struct jn_grant *jn_enter_new(struct jn_journal *journal, uint64_t ino)
{
    struct jn_grant *set = set_of(journal, ino);
    for (int way = 0; way < JN_WAYS; way++) {
        struct jn_grant *grant = &set[way];
        if (atomic_load(&grant->ino) || !take_lock(&grant->lock, 0))
            continue;
        if (atomic_load(&grant->ino) == 0) {
            grant->n_held = grant->plain = grant->marked = 0;
            grant->left_bytes = 0;
            atomic_store(&grant->n_places, 0);
            atomic_store(&grant->ino, ino);
            return grant;
        }
        pthread_mutex_unlock(&grant->lock);
    }
    return NULL;
}

void jn_leave(struct jn_grant *grant)
{
    pthread_mutex_unlock(&grant->lock);
}

uint32_t jn_pending(const struct jn_journal *journal, uint64_t ino)
{
    const struct jn_grant *grant = find(journal, ino);
    return grant == NULL ? 0 : atomic_load(&grant->n_places);
}

int jn_add_granted(struct jn_journal *journal, struct jn_grant *grant, uint64_t offset, const void *data, size_t n_bytes, int64_t when_ns)
{
    jn_lock_ring(journal, 1);
    int64_t place = jn_reserve(journal, grant->ino, offset, n_bytes, 0, when_ns);
    jn_unlock_ring(journal);
    if (place < 0)
        return 0;
    jn_fill(journal, (uint64_t)place, data);
    grant->left_bytes -= n_bytes;
    grant->places[grant->n_places] = (uint64_t)place;
    atomic_fetch_add(&grant->n_places, 1);
    return 1;
}

/* ---- invariants ---- */

static int check_ring(const struct jn_journal *journal)
{
    uint64_t head = atomic_load(&journal->h->head), tail = atomic_load(&journal->h->tail);
    uint64_t ring_bytes = journal->h->ring_bytes, last = head - 1;
    uint64_t end = tail / ring_bytes == last / ring_bytes ? last % ring_bytes + 1 : ring_bytes;
    if (tail < head && atomic_load(&journal->h->reserved) < end)
        return 5;
    if (tail > head || head - tail > journal->h->ring_bytes || head % 8 || tail % 8)
        return 1;
    while (tail < head) {
        uint32_t state = atomic_load(&jn_at(journal, tail)->state);
        uint64_t end = end_of(journal, tail);
        uint64_t lap_end = tail + journal->h->ring_bytes - tail % journal->h->ring_bytes;
        if (state < JN_LIVE || state > JN_FILLING || end > lap_end)
            return 2;
        tail = end;
    }
    return tail == head ? 0 : 2;
}

static int check_places(const struct jn_journal *journal, const struct jn_grant *grant)
{
    uint64_t from = atomic_load(&journal->h->tail);
    uint32_t n_places = atomic_load(&grant->n_places);
    if (n_places > JN_PLACES)
        return 3;
    for (uint32_t i = 0; i < n_places; i++) {
        struct jn_record *record;
        while ((record = jn_next(journal, &from)) != NULL && from != grant->places[i])
            from = end_of(journal, from);
        if (record == NULL || record->ino != grant->ino)
            return 3;
    }
    return 0;
}

int jn_check(const struct jn_journal *journal)
{
    int broken = check_ring(journal);
    for (size_t i = 0; i < JN_SETS * JN_WAYS && !broken; i++) {
        const struct jn_grant *grant = &journal->h->grants[i];
        if (grant->ino == 0)
            continue;
        if (find(journal, grant->ino) != grant) /* of two of one inode, the first would be found */
            return 4;
        broken = check_places(journal, grant);
    }
    return broken;
}
