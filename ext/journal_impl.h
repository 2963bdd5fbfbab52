/* The journal: what was written and is not committed, in memory that outlives the process that took it.
 *
 * A ring of records, and grants: leave for compiled code to take writes of an inode by itself. Region, made zeroed:
 *   header  0 u64 magic, 8 u64 ring bytes, 16 u64 head, 24 u64 tail (both count bytes ever used; places in the ring are modulo its
 *           size), 32 u64 bytes of the ring that memory is reserved for, then the ring's lock, requests of the latest appends, grants
 *   ring    from JN_RING_AT on
 *   record  0 u32 state, 4 u32 length, 8 u64 inode, 16 u64 file offset, 24 u64 request (of an append, whose offset a second try would
 *           not find again; else 0), 32 i64 when, in ns (0: not known, -1: the
 *           modification time of its inode was set since), 40 .. the bytes, padded to a multiple of 8
 *
 * States of a record, each set by one store:
 *   (behind the head) -> FILLING, the head has passed it and its bytes are being copied -> LIVE, it counts -> DEAD, it does not any more
 * A record that was being filled when its process died was never acknowledged, and is made DEAD by who takes over (jn_resume).
 * A filler (FILLER) is dead space up to the end of the ring, where the next record would not fit.
 *
 * A grant is for one inode and one handle of it. Compiled code marks the inode DIRTY in the arena, then adds the record, then notes its
 * place in the grant. Whoever is to see what the inode is like *takes* these places first, and puts the bytes where its own are.
 *
 * Invariants
 *   (1) tail <= head <= tail + ring bytes; both are multiples of 8
 *   (2) from tail to head there are records and fillers without a gap
 *   (3) a grant's places are of LIVE records of its inode, in the order in which they were written
 *   (4) no two grants are of one inode; a grant stands in the set its inode hashes to
 *   (5) where records are, memory is reserved: its want is no room for a record, never SIGBUS (before Linux 5.14 it cannot be reserved)
 *
 * Concurrency. The ring's lock is held to reserve a record and to move the tail, not while bytes are copied. A grant's lock is held while
 * a record is made for it, so that its order is that of the writes. Order of locks: a grant's, then the ring's or one of the arena's.
 * They are robust: what the death of a holder leaves is whole, because head, state and number of places are each written last.
 */
#ifndef CAIRN_JOURNAL_IMPL_H
#define CAIRN_JOURNAL_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define JN_MAGIC UINT64_C(0x314e524a4e524943) /* "CIRNJRN1" */

enum jn_state { JN_LIVE = 1, JN_DEAD = 2, JN_FILLER = 3, JN_FILLING = 4 };

enum {
    JN_N_APPENDS = 1024, /* more than requests can be in work at a time */
    JN_SETS = 64,
    JN_WAYS = 8,
    JN_STEP = 1 << 20, /* bytes that are reserved at a time */
    JN_PLACES = 128, /* records of a grant that nobody has taken; with that many, the next write goes to Python */
};

struct jn_record {
    _Atomic uint32_t state;
    uint32_t n_bytes;
    uint64_t ino;
    uint64_t offset;
    uint64_t request;
    int64_t when_ns;
};
_Static_assert(sizeof(struct jn_record) == 40, "the bytes follow at 40");

struct jn_grant {
    pthread_mutex_t lock;
    _Atomic uint64_t ino;      /* 0: a free entry */
    uint64_t fh;               /* the handler's number of the handle */
    uint64_t left_bytes;       /* that may be written before somebody is asked again */
    uint64_t max_end;          /* no byte at or beyond this file offset */
    uint32_t n_held;           /* while not 0, writes are left to Python */
    uint32_t plain;            /* there are no privileges for a write to take away */
    uint32_t marked;           /* the inode was marked DIRTY for this grant */
    _Atomic uint32_t n_places; /* records that nobody has taken yet */
    uint64_t places[JN_PLACES];
};

struct jn_header {
    uint64_t magic;
    uint64_t ring_bytes;
    _Atomic uint64_t head, tail;
    _Atomic uint64_t reserved;
    pthread_mutex_t lock;
    _Atomic uint64_t n_appends;
    _Atomic uint64_t appends[JN_N_APPENDS];
    struct jn_grant grants[JN_SETS * JN_WAYS];
};

enum { JN_RING_AT = (sizeof(struct jn_header) + 4095) / 4096 * 4096 };

/* One process's way to a journal. */
struct jn_journal {
    struct jn_header *h;
    uint8_t *ring;
};

/* Use a region of JN_RING_AT + ring_bytes (a multiple of 8); the first to do so prepares it. 0, or -EINVAL when it is of another size. */
int jn_attach(struct jn_journal *journal, void *base, uint64_t ring_bytes);

/* Locks; `wait` is 0 for whoever must not: then 0 may come back, for "somebody has it". */
int jn_lock_ring(struct jn_journal *journal, int wait);
void jn_unlock_ring(struct jn_journal *journal);

/* A place for a record of n_bytes, FILLING, or -1 when there is no room, or no memory for it. The ring's lock is held. */
int64_t jn_reserve(struct jn_journal *journal, uint64_t ino, uint64_t offset, size_t n_bytes, uint64_t request, int64_t when_ns);
/* Its bytes; from here on it counts. No lock is needed. */
void jn_fill(struct jn_journal *journal, uint64_t place, const void *data);
/* A record is needed no longer. No lock is needed; the room comes back with jn_move_tail(). */
void jn_kill(struct jn_journal *journal, uint64_t place);
/* Give back what is dead at the tail. An empty ring begins at its beginning again, so that little of it is ever touched. Lock held. */
void jn_move_tail(struct jn_journal *journal);

/* The first record at or after `place` that is LIVE, NULL when there is none; `place` becomes its own. Lock held. */
struct jn_record *jn_next(const struct jn_journal *journal, uint64_t *place);
struct jn_record *jn_at(const struct jn_journal *journal, uint64_t place);
/* Whether an append of this request is, or was, in the ring. */
int jn_appended(const struct jn_journal *journal, uint64_t request);
/* Every process that used the journal has died: records that were being filled are dead, grants are over. */
void jn_resume(struct jn_journal *journal);

/* ---- grants ---- */

/* The grant of an inode, locked; NULL when there is none. With `wait` 0 *busy says that somebody has it. */
struct jn_grant *jn_enter(struct jn_journal *journal, uint64_t ino, int wait, int *busy);
/* The same, or a free entry made the inode's; NULL when there is none free. */
struct jn_grant *jn_enter_new(struct jn_journal *journal, uint64_t ino);
void jn_leave(struct jn_grant *grant);
/* Note a write under a grant, whose lock is held: 1, or 0 when there is no room. */
int jn_add_granted(struct jn_journal *journal, struct jn_grant *grant, uint64_t offset, const void *data, size_t n_bytes, int64_t when_ns);
/* Records of an inode that nobody has taken; 0 when it has no grant. No lock. */
uint32_t jn_pending(const struct jn_journal *journal, uint64_t ino);

/* The number of an invariant that does not hold, 0 when all do. Nobody may use the journal meanwhile. */
int jn_check(const struct jn_journal *journal);

#endif
