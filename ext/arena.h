/* The arena: what one mount knows, in one piece of memory that any of its processes may map.
 *
 * A memfd, reserved before it is used (running out is an error, never SIGBUS), sealed against resizing, versioned. It holds
 *
 *   attributes  inode -> attributes and, for a small file, where its bytes are stored      8 ways a bucket, 128 bytes an entry
 *   names       (parent, name) -> inode, or the knowledge that there is none               8 ways, 32 bytes
 *   shown       inode -> content that the kernel's pages show                              8 ways in 2 buckets, 16 bytes
 *   opens       inode -> handles that compiled code has given out, and marks (enum ar_mark) 16 ways, 16 bytes
 *   index, log  (pack, offset) -> plain bytes of a small slice, or a page of a listing     8 ways, 32 bytes; segments
 *               (listing_impl.h), or the row of a file of several slices (engine/meta/passed_on.py)
 *   filter      names of whole directories                                                 bits; arena_whole.c
 *
 * Everything is a hint but `opens`: whatever is not found is asked for elsewhere.
 *
 * Offset table of the header (struct ar_header): 0 u64 magic, 8 u32 version, 12 u32 names that gave way, 16 u64 total bytes, 24 .. tables as
 * (u64 offset, u64 buckets) pairs, in the order above; then the log's numbers and the filter's. `security` is one word. Processes get it by fork, or by its descriptor
 * (shm_impl.h). Buckets of a table lie behind one another: a 16-byte head (u32 seq, u32 hand, u64 stamp), then its entries.
 *
 * Positions decide what may be kept. `newest` is the greatest position of a commit that was told of. Whoever fetches rows takes
 * a token before (ar_token: newest, and the epoch above bit 48) and puts them with it; whoever tells of a change stamps the bucket with
 * the position of its commit. What is older than the stamp of its bucket is refused, so a row fetched before a change never
 * overwrites what came after it. ar_drop_all() begins a new epoch: entries and tokens of earlier ones count no more.
 *
 * Invariants; ar_check() is their executable form, for a quiet arena
 *   (1) magic, version, sizes and offsets are those that ar_create() computes for `total`
 *   (2) the sequence number of every bucket is even
 *   (3) an entry stands in the bucket its key hashes to, and once there
 *   (4) no stamp is greater than `newest`
 *   (5) no two entries of `opens` that have handles or marks are of one inode
 *   (6) fill of a segment <= its size; segments beyond n_reserved are empty; slice_bytes is the sum of all
 *   (7) an index entry of the present generation of its segment lies within the fill of that segment
 *   (8) whole are directories only, not the root, by a generation up to the filter's; the filter has at most 4 bits for each name counted
 *
 * Concurrency. Readers take no lock: they copy an entry and look whether the bucket's sequence number is even and unchanged.
 * Writers hold one of AR_N_LOCKS robust, process-shared mutexes, chosen by the bucket's number; the log has one of its own. No two are
 * ever held together, but for the log's, which may be taken last. The filter is read and added to without a lock; who empties it has one. What the death of a holder leaves: buckets with an odd sequence number; the
 * next holder of the lock empties these. In `opens`, which is no hint, handles and marks of an inode are one word, so that each change is one
 * store and a death leaves nothing half done. A slice is found only after all its bytes are there.
 *
 * A reader of a slice copies it, then looks whether its segment is still of the same generation; a writer that needs room
 * changes the generation of the least used segment before it overwrites the first byte.
 */
#ifndef CAIRN_ARENA_H
#define CAIRN_ARENA_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define AR_MAGIC UINT64_C(0x31414e5249414343) /* "CCAIRNA1" */
#define AR_MAX_BYTES (UINT64_C(1) << 43) /* so that a segment is shorter than 2**32 bytes */

enum {
    AR_VERSION = 5,
    AR_N_LOCKS = 64,
    AR_WAYS = 8,
    AR_OPEN_WAYS = 16,
    AR_OPEN_SPARE = 4, /* ways of a bucket of `opens` that handles leave to marks */
    AR_MARK_BYTES = 40, /* what a watched store shows of its newest commit */
    AR_N_USAGE = 4,     /* numbers of a volume: total bytes, used bytes, total inodes, used inodes */
    AR_MAX_SEGMENTS = 4096,
    AR_MIN_BYTES = 1 << 20,
    AR_FORMAT_BITS = 0170000, /* of a mode */
    AR_LOOKS = 2,             /* of `is_careful` */
    AR_DIRECTORY = 0040000,
};

/* Why compiled code must leave an inode, or its closes, to others. */
enum ar_mark {
    AR_DIRTY = 1,   /* something written is not committed: attributes and content are not what is stored */
    AR_BARRED = 2,  /* its last name is being removed: it must not be opened */
    AR_ADOPTED = 4, /* somebody counts on being told when the last handle goes; whatever else is asked may be answered */
    AR_LEFT_ALONE = AR_DIRTY | AR_BARRED,
};

/* What is known of where a file's bytes are. */
enum ar_layout {
    AR_OTHER = 0, /* no regular file */
    AR_EMPTY = 1, /* a regular file of 0 bytes */
    AR_SLICE = 2, /* all of a regular file is one piece of one slice */
    AR_PIECES = 3, /* a regular file of any other layout, which is kept elsewhere */
};

/* Whether any inode of the volume was ever given an attribute in the namespace security. */
enum ar_security {
    AR_SECURITY_UNKNOWN = 0,
    AR_SECURITY_NEVER = 1,
    AR_SECURITY_GIVEN = 2, /* or nobody has kept account of it */
};
enum { AR_SECURITY_BITS = 8 };

struct ar_attr {
    uint64_t ino; /* 0: a free entry */
    uint64_t version;
    uint64_t size;
    uint64_t alloc_bytes;
    int64_t atime_ns, mtime_ns, ctime_ns, btime_ns;
    uint64_t data_version;
    uint64_t pack;
    uint32_t stored_off, plain_len, off; /* of the slice, and where in it the file begins */
    uint32_t uid, gid, rdev, nlink;
    uint16_t mode;
    uint8_t flags;  /* of the inode record */
    uint8_t layout; /* enum ar_layout */
    uint32_t epoch;
    uint32_t stored_len, crc; /* of the slice */
    uint8_t codec;
    uint8_t spare;
    uint16_t whole; /* of a directory: the generation of the filter that has all its names, 0: none */
};
_Static_assert(sizeof(struct ar_attr) == 128, "an entry is 128 bytes");

struct ar_name {
    uint64_t key[2]; /* keyed hash of parent and name; both 0: a free entry */
    uint64_t ino;    /* 0: there is no such name */
    uint32_t epoch;
    uint32_t spare;
};
_Static_assert(sizeof(struct ar_name) == 32, "an entry is 32 bytes");

struct ar_shown {
    uint64_t ino;
    uint64_t value; /* version, and two bits of arena_shown.c */
};

struct ar_open {
    _Atomic uint64_t ino;
    _Atomic uint64_t word; /* handles << 8 | marks; 0: a free entry, whatever `ino` says */
};

struct ar_slice {
    uint64_t pack;
    uint32_t stored_off;
    uint32_t n_bytes; /* 0: a free entry */
    uint32_t segment;
    uint32_t at;
    uint64_t generation;
};
_Static_assert(sizeof(struct ar_slice) == 32, "an entry is 32 bytes");

struct ar_bucket {
    _Atomic uint32_t seq;
    _Atomic uint32_t hand; /* the entry whose turn it is to make room; from bit AR_USED on, which were used since their last turn */
    uint64_t stamp;
};

enum { AR_USED = 24 };
_Static_assert(AR_USED + AR_WAYS <= 32, "a bit for each entry");

/* By readers, who hold no lock. A bit that is lost, or set for what was just replaced, makes a worse choice and nothing else. */
static inline void ar_note_use(struct ar_bucket *bucket, int way)
{
    uint32_t bit = UINT32_C(1) << (AR_USED + way);
    if (!(atomic_load_explicit(&bucket->hand, memory_order_relaxed) & bit))
        atomic_fetch_or_explicit(&bucket->hand, bit, memory_order_relaxed);
}

/* Which entry of a full bucket makes room: the next in turn that was not used since (the clock algorithm). Its lock is held. */
static inline int ar_oldest(struct ar_bucket *bucket)
{
    for (int i = 0; i < AR_WAYS; i++) {
        int way = (int)(atomic_fetch_add_explicit(&bucket->hand, 1, memory_order_relaxed) % AR_WAYS);
        uint32_t bit = UINT32_C(1) << (AR_USED + way);
        if (!(atomic_fetch_and_explicit(&bucket->hand, ~bit, memory_order_relaxed) & bit))
            return way;
    }
    return (int)(atomic_fetch_add_explicit(&bucket->hand, 1, memory_order_relaxed) % AR_WAYS);
}

struct ar_segment {
    _Atomic uint64_t generation; /* grows whenever the segment is emptied */
    _Atomic uint32_t used;       /* how often something of it was found, halved now and then */
    uint32_t fill;               /* bytes taken */
};

struct ar_table {
    uint64_t offset;
    uint64_t n_buckets;
};

struct ar_header {
    uint64_t magic;
    uint32_t version;
    _Atomic uint32_t evicted_names; /* that gave way to others */
    uint64_t total;
    struct ar_table attrs, names, shown, opens, index;
    uint64_t segments_offset;
    uint64_t segment_bytes;
    uint32_t n_segments;
    uint32_t n_reserved; /* segments that have their memory; the log's lock */
    uint32_t writing;    /* the segment that is being filled; the log's lock */
    uint32_t max_slice;  /* longest slice that is kept */
    uint64_t salt[2];    /* of the hash of names */
    uint64_t filter_offset;
    uint64_t filter_bits;         /* a power of two, 64 at least */
    _Atomic uint64_t n_filtered;  /* names put into the filter since it was empty */
    _Atomic uint32_t generation;  /* of the filter; 0 while it is being emptied */
    uint32_t n_emptied;           /* filter_lock */
    _Atomic uint64_t newest;
    _Atomic uint32_t epoch;
    _Atomic uint32_t hush;       /* while not 0 compiled code answers nothing */
    _Atomic uint64_t n_handles;  /* numbers given to handles so far */
    _Atomic uint64_t slice_bytes; /* taken in segments */
    _Atomic uint64_t hits, misses; /* of slices */
    _Atomic uint64_t evictions;    /* segments emptied for room */
    _Atomic uint32_t seen_seq;
    uint32_t seen_valid;
    _Atomic uint32_t n_committing; /* commits of this mount that may be in the store and are not applied here yet */
    _Atomic uint32_t evicted_attrs; /* that gave way to others */
    _Atomic int64_t leased_until_ns; /* CLOCK_BOOTTIME; of stores that cannot be watched */
    _Atomic uint32_t is_pushed;  /* under a lease, opens need no fence of their own */
    _Atomic uint32_t is_careful; /* opens, and names that do not exist, are left to Python, whatever else says that all is fresh;
                                  AR_LOOKS: names that exist, too */
    uint64_t applied;            /* every commit up to this position is known; seen_lock and seen_seq */
    uint64_t beyond;             /* bit i: so is that at applied + 1 + i, of a store that is not watched; bit 0 is 0. seen_lock */
    uint8_t seen[AR_MARK_BYTES]; /* what the watched store showed then */
    uint64_t usage_at;           /* position at which `usage` was right, plus 1; 0: none. As `applied` */
    uint64_t usage[AR_N_USAGE];
    _Atomic uint64_t security;   /* enum ar_security, and above AR_SECURITY_BITS the epoch that it is of */
    pthread_mutex_t locks[AR_N_LOCKS];
    pthread_mutex_t log_lock;
    pthread_mutex_t seen_lock;
    pthread_mutex_t filter_lock;
    struct ar_segment segments[AR_MAX_SEGMENTS];
};

/* One process's way to an arena. */
struct ar_arena {
    struct ar_header *h;
    int fd;
    const uint8_t *watch; /* AR_MARK_BYTES that change with every commit of anybody, or NULL */
};

/* ---- arena_map.c ---- */

/* Make an arena of about `total` bytes, AR_MIN_BYTES to AR_MAX_BYTES. 0, or a negative errno (-ENOSPC: no memory to reserve). */
int ar_create(struct ar_arena *arena, uint64_t total);

/* Map the arena of `total` bytes that another process has made; `fd` belongs to it from then on. 0, or a negative errno: -EINVAL
 * when it is not one of that size, or (1) does not hold. */
int ar_attach(struct ar_arena *arena, int fd, uint64_t total);

/* Unmap it here and close its descriptor; it goes with the last of both. */
void ar_destroy(struct ar_arena *arena);

/* 0, or the number of the invariant that does not hold. No other thread or process may use the arena meanwhile. */
int ar_check(struct ar_arena *arena);

/* Take a lock; repairs what a dead holder left. */
void ar_lock(struct ar_arena *arena, pthread_mutex_t *lock);
void ar_unlock(pthread_mutex_t *lock);

/* ---- arena_fence.c: is everything known that anybody has committed? ---- */

/* 1 when it is, by the watched store; where that cannot be watched, when the log was read as late as the lease wants. */
int ar_fresh(const struct ar_arena *arena);
/* 1 when it is fresh enough to open a file by: a lease alone is not, unless changes are pushed. */
int ar_fresh_for_open(const struct ar_arena *arena);

/* A commit begins: until ar_applied() or ar_refused(), it may be in the store without being known here. */
void ar_committing(struct ar_arena *arena);
void ar_refused(struct ar_arena *arena);

/* Everything up to `position` is known, and the store showed `mark` (NULL: not known) before that was found out. */
void ar_saw(struct ar_arena *arena, uint64_t position, const uint8_t *mark);

/* The process's own commit at `position` has been applied; `mark` is what the store showed right after it, NULL when unknown. */
void ar_applied(struct ar_arena *arena, uint64_t position, const uint8_t *mark);

/* So has somebody else's, found in the log: own ones of before may still be on their way. */
void ar_heard(struct ar_arena *arena, uint64_t position);

/* The position up to which every commit is known. */
uint64_t ar_known_to(const struct ar_arena *arena);

/* Keep the usage of the volume, read after the arena had `applied` == position; nothing happens when there was a commit since. */
void ar_usage_put(struct ar_arena *arena, uint64_t position, const uint64_t usage[AR_N_USAGE]);
/* 1 = *usage is right at the newest position that is known; ar_fresh() says whether that is the newest of all. */
int ar_usage_find(const struct ar_arena *arena, uint64_t usage[AR_N_USAGE]);
void ar_usage_drop(struct ar_arena *arena);

/* ---- arena_meta.c: attributes and names ---- */

/* An inode record (engine/meta/records.py) as an entry. 0, or -1 for one that cannot be read. */
int ar_parse(uint64_t ino, uint64_t version, const uint8_t *record, size_t n_bytes, struct ar_attr *out);

/* Taken before rows are fetched, given back with them. */
#define AR_TOKEN(epoch, position) ((uint64_t)((epoch) & 0xFFFF) << 48 | (position))
uint64_t ar_token(const struct ar_arena *arena);

/* 1 = found and copied. */
int ar_attr_find(const struct ar_arena *arena, uint64_t ino, struct ar_attr *out);
/* Keep attributes fetched after `token` was taken (of one's own commit: AR_TOKEN of the epoch before it and its position). 1 = kept. */
int ar_attr_put(struct ar_arena *arena, const struct ar_attr *attr, uint64_t token);
/* A commit of this mount at `position` has given the inode these attributes; `token` is that of ar_attr_put(). A directory stays whole
 * if it was so by `generation`, which was taken before the names that the commit adds went into the filter. */
void ar_attr_commit(struct ar_arena *arena, const struct ar_attr *attr, uint64_t position, uint64_t token, uint32_t generation);
/* A commit of others at `position` has changed the inode, or one of this mount has deleted it. */
void ar_attr_drop(struct ar_arena *arena, uint64_t ino, uint64_t position);
/* Drop what is known of the inode, of whatever version. */
void ar_attr_forget(struct ar_arena *arena, uint64_t ino);

/* Keep what was fetched after `token` was taken. Within an epoch GIVEN stays, since it is for ever: no position is needed. */
void ar_security_put(struct ar_arena *arena, enum ar_security security, uint64_t token);
enum ar_security ar_security_find(const struct ar_arena *arena);

/* 1 = known, *ino is its inode or 0 for a name that does not exist (also because its directory is whole); 0 = not known. */
int ar_name_find(const struct ar_arena *arena, uint64_t parent, const void *name, size_t n_bytes, uint64_t *ino);
int ar_name_put(struct ar_arena *arena, uint64_t parent, const void *name, size_t n_bytes, uint64_t ino, uint64_t token);
void ar_name_drop(struct ar_arena *arena, uint64_t parent, const void *name, size_t n_bytes, uint64_t position);

/* Forget attributes and names of everything. */
void ar_drop_all(struct ar_arena *arena);
/* Commits up to `position` are told of: nothing fetched from now on is older. */
void ar_advance(struct ar_arena *arena, uint64_t position);

/* ---- arena_whole.c ---- */

uint32_t ar_whole_generation(const struct ar_arena *arena);
/* A name is being made, or there. */
void ar_whole_add(struct ar_arena *arena, uint64_t parent, const void *name, size_t n_bytes);

/* ---- arena_restart.c ---- */

/* Everything is forgotten, slices and listings too, and `position` is the newest from now on, even if that is less than before. Not what
 * the kernel's pages show, nor handles. */
void ar_restart(struct ar_arena *arena, uint64_t position);

/* ---- arena_shown.c: which content the kernel's pages show; engine/vfs/pages.py says what the operations mean ---- */

int ar_shown_opened(struct ar_arena *arena, uint64_t ino, uint64_t version);
/* The kernel uses a handle that it was given for `version` without keeping pages. Only bits in `mask` are compared. */
void ar_shown_dropped(struct ar_arena *arena, uint64_t ino, uint64_t version, uint64_t mask);
int64_t ar_shown_newest(const struct ar_arena *arena, uint64_t ino);
int ar_shown_older(const struct ar_arena *arena, uint64_t ino, uint64_t version);
void ar_shown_committed(struct ar_arena *arena, uint64_t ino, uint64_t version);
void ar_shown_drop(struct ar_arena *arena, uint64_t ino);
void ar_shown_drop_all(struct ar_arena *arena);
void ar_shown_forget(struct ar_arena *arena, uint64_t ino);

/* ---- arena_open.c ---- */

/* Count another handle, if the arena is not hushed, the inode has no marks but AR_ADOPTED, and `admit` says yes while nobody can
 * mark it. 1 = counted. */
int ar_open(struct ar_arena *arena, uint64_t ino, int (*admit)(void *context), void *context);
/* One handle less, unless the inode is marked AR_ADOPTED and `adopted` is not set. Handles left, or -1 when nothing was done. */
int64_t ar_close(struct ar_arena *arena, uint64_t ino, int adopted);
/* Add marks. Handles that compiled code has given out, or -ENFILE when there is no room: the caller must then hush the arena and
 * try again, since there may be a handle by then. */
int64_t ar_mark(struct ar_arena *arena, uint64_t ino, uint32_t marks);
/* Add marks, AR_ADOPTED instead when there are handles. As ar_mark(). */
int64_t ar_bar(struct ar_arena *arena, uint64_t ino);
void ar_unmark(struct ar_arena *arena, uint64_t ino, uint32_t marks);
uint32_t ar_marks(const struct ar_arena *arena, uint64_t ino);
uint64_t ar_n_open(const struct ar_arena *arena);
/* Every process that used the arena has died: marks go, handles stay, attributes and names are forgotten. */
void ar_resume(struct ar_arena *arena);
/* Walk over inodes with handles; *at is 0 before the first. Handles of the inode in *ino, 0 at the end. */
uint64_t ar_next_open(const struct ar_arena *arena, uint64_t *at, uint64_t *ino);

/* ---- arena_log.c ---- */

/* Copy `length` bytes from `off` of a slice into `out`. 1 = done, 0 = not here (or not that long). */
int ar_slice_copy(struct ar_arena *arena, uint64_t pack, uint32_t stored_off, uint64_t off, size_t length, void *out);
/* How long a slice is that is here, 0 when it is not. */
uint32_t ar_slice_bytes(const struct ar_arena *arena, uint64_t pack, uint32_t stored_off);
/* Keep a slice. 1 = kept (or here already), 0 = too long or no memory. */
int ar_slice_put(struct ar_arena *arena, uint64_t pack, uint32_t stored_off, const void *plain, size_t n_bytes);
void ar_slice_drop(struct ar_arena *arena, uint64_t pack, uint32_t stored_off);

#endif
