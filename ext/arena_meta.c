/* Attributes, names, and what the kernel's pages show. */
#include "arena_impl.h"

#include "slicer_impl.h"

/* ---- an inode record, as engine/meta/records.py lays it out: big-endian, version 1 ---- */

enum { RECORD_VERSION = 1, RECORD_BYTES = 88, REGULAR = 0100000 };

static uint64_t be(const uint8_t *at, size_t n_bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < n_bytes; i++)
        value = value << 8 | at[i];
    return value;
}

static int64_t be_time(const uint8_t *at)
{
    return (int64_t)(be(at, 8) ^ UINT64_C(1) << 63);
}

/* Is the whole of a file of `size` bytes one record of its layout? */
static void parse_layout(struct ar_attr *out, const uint8_t *tail, size_t n_bytes)
{
    slicer_cursor cursor;
    slicer_record record;
    out->layout = AR_OTHER;
    if ((out->mode & AR_FORMAT_BITS) != REGULAR)
        return;
    out->layout = AR_PIECES;
    if (out->size == 0 && n_bytes == 0)
        out->layout = AR_EMPTY;
    if (n_bytes != SLICER_RECORD_BYTES)
        return;
    slicer_start(&cursor, tail, n_bytes, SLICER_MAX_CHUNK_BYTES);
    if (slicer_next(&cursor, &record) != SLICER_ITEM || record.pos != 0 || record.length != out->size)
        return;
    out->pack = record.pack;
    out->stored_off = record.stored_off;
    out->plain_len = record.plain_len;
    out->off = record.off;
    out->stored_len = record.stored_len;
    out->crc = record.crc;
    out->codec = record.codec;
    out->layout = AR_SLICE;
}

int ar_parse(uint64_t ino, uint64_t version, const uint8_t *record, size_t n_bytes, struct ar_attr *out)
{
    if (ino == 0 || n_bytes < RECORD_BYTES || record[0] != RECORD_VERSION)
        return -1;
    memset(out, 0, sizeof *out);
    out->ino = ino;
    out->version = version;
    out->flags = record[1];
    out->mode = (uint16_t)be(record + 2, 2);
    out->uid = (uint32_t)be(record + 4, 4);
    out->gid = (uint32_t)be(record + 8, 4);
    out->rdev = (uint32_t)be(record + 12, 4);
    out->nlink = (uint32_t)be(record + 16, 8);
    out->size = be(record + 24, 8);
    out->atime_ns = be_time(record + 32);
    out->mtime_ns = be_time(record + 40);
    out->ctime_ns = be_time(record + 48);
    out->btime_ns = be_time(record + 56);
    out->alloc_bytes = be(record + 72, 8);
    out->data_version = be(record + 80, 8);
    parse_layout(out, record + RECORD_BYTES, n_bytes - RECORD_BYTES);
    return 0;
}

/* ---- attributes ---- */

static struct ar_bucket *attr_bucket(const struct ar_arena *arena, uint64_t ino)
{
    return ar_bucket_of(arena, &arena->h->attrs, ar_ino_hash(ino), AR_WAYS, sizeof(struct ar_attr));
}

int ar_attr_find(const struct ar_arena *arena, uint64_t ino, struct ar_attr *out)
{
    struct ar_bucket *bucket = attr_bucket(arena, ino);
    const struct ar_attr *entries = ar_entries(bucket);
    for (int tries = 0; tries < AR_TRIES; tries++) {
        uint32_t seq = ar_read_begin(bucket);
        int found = 0;
        for (int i = 0; i < AR_WAYS && !found; i++) {
            if (ar_load(&entries[i].ino) == ino) {
                ar_copy(out, &entries[i], sizeof *out);
                ar_note_use(bucket, i);
                found = 1;
            }
        }
        if (ar_read_ok(bucket, seq))
            return found && ino && out->epoch == atomic_load(&arena->h->epoch);
    }
    return 0;
}

/* The way of an inode, else a free one, else the one that makes room. */
static int choose_attr(const struct ar_arena *arena, struct ar_bucket *bucket, uint64_t ino)
{
    const struct ar_attr *entries = ar_entries(bucket);
    uint32_t epoch = atomic_load(&arena->h->epoch);
    int spare = -1;
    for (int i = 0; i < AR_WAYS; i++) {
        if (entries[i].ino == ino)
            return i;
        if (spare < 0 && (entries[i].ino == 0 || entries[i].epoch != epoch))
            spare = i;
    }
    return spare >= 0 ? spare : ar_oldest(bucket);
}

/* Whether attributes may take the place of an entry, which is that of choose_attr(). */
static int is_newest(const struct ar_attr *entry, const struct ar_attr *attr, uint32_t epoch)
{
    return entry->ino != attr->ino || entry->epoch != epoch || entry->version <= attr->version;
}

/* The bucket is being changed. A directory without entries is whole; else `whole` says by which generation. */
static void write_attr(const struct ar_arena *arena, struct ar_attr *entry, const struct ar_attr *attr, uint32_t epoch, uint16_t whole)
{
    uint16_t empty = ar_whole_if_empty(arena, attr);
    if (entry->ino && entry->ino != attr->ino && entry->epoch == epoch)
        atomic_fetch_add_explicit(&arena->h->evicted_attrs, 1, memory_order_relaxed);
    *entry = *attr;
    entry->epoch = epoch;
    entry->whole = empty ? empty : whole;
}

/* The generation by which the inode is whole. If others have added names to it, the log tells of it before anybody counts on that. */
static uint16_t whole_by(const struct ar_attr *entry, uint64_t ino, uint32_t epoch)
{
    return entry->ino == ino && entry->epoch == epoch ? entry->whole : 0;
}

int ar_attr_put(struct ar_arena *arena, const struct ar_attr *attr, uint64_t token)
{
    struct ar_bucket *bucket = attr_bucket(arena, attr->ino);
    struct ar_attr *entries = ar_entries(bucket);
    pthread_mutex_t *lock = ar_lock_of(arena, ar_ino_hash(attr->ino));
    ar_lock(arena, lock);
    uint32_t epoch;
    int kept = ar_is_current(arena, bucket, token, &epoch);
    if (kept) {
        struct ar_attr *entry = &entries[choose_attr(arena, bucket, attr->ino)];
        kept = is_newest(entry, attr, epoch);
        if (kept) {
            ar_begin(bucket);
            write_attr(arena, entry, attr, epoch, whole_by(entry, attr->ino, epoch));
            ar_end(bucket);
        }
    }
    ar_unlock(lock);
    return kept;
}

/* In a bucket that is being changed. */
static void drop_from(struct ar_bucket *bucket, uint64_t ino, uint64_t newest_dropped)
{
    struct ar_attr *entries = ar_entries(bucket);
    for (int i = 0; i < AR_WAYS; i++) {
        if (entries[i].ino != ino)
            continue;
        entries[i].whole = 0;
        if (entries[i].version <= newest_dropped)
            entries[i].ino = 0;
    }
}

void ar_attr_commit(struct ar_arena *arena, const struct ar_attr *attr, uint64_t position, uint64_t token, uint32_t generation)
{
    struct ar_bucket *bucket = attr_bucket(arena, attr->ino);
    struct ar_attr *entries = ar_entries(bucket);
    pthread_mutex_t *lock = ar_lock_of(arena, ar_ino_hash(attr->ino));
    uint32_t epoch;
    ar_advance(arena, position);
    ar_lock(arena, lock);
    ar_begin(bucket);
    ar_stamp(bucket, position);
    int is_current = ar_is_current(arena, bucket, token, &epoch);
    struct ar_attr *entry = &entries[choose_attr(arena, bucket, attr->ino)];
    uint16_t whole = whole_by(entry, attr->ino, epoch);
    if (whole != generation)
        whole = 0;
    if (is_current && is_newest(entry, attr, epoch))
        write_attr(arena, entry, attr, epoch, whole);
    else if (!whole || entry->version <= position) /* else a later commit of this mount was told of before */
        drop_from(bucket, attr->ino, position);
    ar_end(bucket);
    ar_unlock(lock);
}

/* Stamp the bucket with `position` and drop the inode, unless its version is greater than `newest_dropped`. */
static void drop_attr(struct ar_arena *arena, uint64_t ino, uint64_t position, uint64_t newest_dropped)
{
    struct ar_bucket *bucket = attr_bucket(arena, ino);
    pthread_mutex_t *lock = ar_lock_of(arena, ar_ino_hash(ino));
    ar_lock(arena, lock);
    ar_begin(bucket);
    ar_stamp(bucket, position);
    drop_from(bucket, ino, newest_dropped);
    ar_end(bucket);
    ar_unlock(lock);
}

void ar_attr_drop(struct ar_arena *arena, uint64_t ino, uint64_t position)
{
    ar_advance(arena, position);
    drop_attr(arena, ino, position, position);
}

void ar_attr_forget(struct ar_arena *arena, uint64_t ino)
{
    drop_attr(arena, ino, atomic_load(&arena->h->newest), UINT64_MAX);
}

/* ---- names ---- */

#define ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
#define SIPROUND                                                                                                       \
    do {                                                                                                               \
        v0 += v1; v1 = ROTL(v1, 13); v1 ^= v0; v0 = ROTL(v0, 32);                                                      \
        v2 += v3; v3 = ROTL(v3, 16); v3 ^= v2;                                                                         \
        v0 += v3; v3 = ROTL(v3, 21); v3 ^= v0;                                                                         \
        v2 += v1; v1 = ROTL(v1, 17); v1 ^= v2; v2 = ROTL(v2, 32);                                                      \
    } while (0)

/* SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, 2012) of the parent's number and the name, keyed by the arena's salt:
 * nobody can make two names that collide. */
void ar_name_key(const struct ar_arena *arena, uint64_t parent, const uint8_t *name, size_t n_bytes, uint64_t key[2])
{
    const uint64_t *salt = arena->h->salt;
    uint64_t v0 = salt[0] ^ UINT64_C(0x736f6d6570736575), v1 = salt[1] ^ UINT64_C(0x646f72616e646f6d) ^ 0xee;
    uint64_t v2 = salt[0] ^ UINT64_C(0x6c7967656e657261), v3 = salt[1] ^ UINT64_C(0x7465646279746573);
    uint64_t word = parent;
    size_t left = n_bytes;
    for (;;) {
        v3 ^= word;
        SIPROUND;
        SIPROUND;
        v0 ^= word;
        if (left < 8)
            break;
        memcpy(&word, name, 8);
        name += 8;
        left -= 8;
    }
    word = (uint64_t)(n_bytes + 8) << 56;
    for (size_t i = 0; i < left; i++)
        word |= (uint64_t)name[i] << (8 * i);
    v3 ^= word;
    SIPROUND;
    SIPROUND;
    v0 ^= word;
    v2 ^= 0xee;
    for (int i = 0; i < 4; i++)
        SIPROUND;
    key[0] = v0 ^ v1 ^ v2 ^ v3;
    v1 ^= 0xdd;
    for (int i = 0; i < 4; i++)
        SIPROUND;
    key[1] = (v0 ^ v1 ^ v2 ^ v3) | 1; /* never the key of a free entry */
}

static struct ar_bucket *name_bucket(const struct ar_arena *arena, const uint64_t key[2])
{
    return ar_bucket_of(arena, &arena->h->names, key[0], AR_WAYS, sizeof(struct ar_name));
}

int ar_name_find(const struct ar_arena *arena, uint64_t parent, const void *name, size_t n_bytes, uint64_t *ino)
{
    uint64_t key[2];
    struct ar_name copy = {0};
    ar_name_key(arena, parent, name, n_bytes, key);
    struct ar_bucket *bucket = name_bucket(arena, key);
    const struct ar_name *entries = ar_entries(bucket);
    for (int tries = 0; tries < AR_TRIES; tries++) {
        uint32_t seq = ar_read_begin(bucket);
        int found = 0;
        for (int i = 0; i < AR_WAYS && !found; i++) {
            if (ar_load(&entries[i].key[0]) == key[0] && ar_load(&entries[i].key[1]) == key[1]) {
                ar_copy(&copy, &entries[i], sizeof copy);
                ar_note_use(bucket, i);
                found = 1;
            }
        }
        if (ar_read_ok(bucket, seq)) {
            *ino = 0;
            if (!found || copy.epoch != atomic_load(&arena->h->epoch))
                return ar_whole_lacks(arena, parent, name, n_bytes, key);
            *ino = copy.ino;
            return 1;
        }
    }
    return 0;
}

static int is_of(const struct ar_name *entry, const uint64_t key[2])
{
    return entry->key[0] == key[0] && entry->key[1] == key[1];
}

static int choose_name(const struct ar_arena *arena, struct ar_bucket *bucket, const uint64_t key[2])
{
    const struct ar_name *entries = ar_entries(bucket);
    uint32_t epoch = atomic_load(&arena->h->epoch);
    int spare = -1;
    for (int i = 0; i < AR_WAYS; i++) {
        if (is_of(&entries[i], key))
            return i;
        if (spare < 0 && (entries[i].key[1] == 0 || entries[i].epoch != epoch))
            spare = i;
    }
    return spare >= 0 ? spare : ar_oldest(bucket);
}

int ar_name_put(struct ar_arena *arena, uint64_t parent, const void *name, size_t n_bytes, uint64_t ino, uint64_t token)
{
    uint64_t key[2];
    ar_name_key(arena, parent, name, n_bytes, key);
    struct ar_bucket *bucket = name_bucket(arena, key);
    struct ar_name *entries = ar_entries(bucket);
    pthread_mutex_t *lock = ar_lock_of(arena, key[0]);
    ar_lock(arena, lock);
    uint32_t epoch;
    int kept = ar_is_current(arena, bucket, token, &epoch);
    if (kept) {
        int way = choose_name(arena, bucket, key);
        if (entries[way].key[1] && entries[way].epoch == epoch && !is_of(&entries[way], key))
            atomic_fetch_add_explicit(&arena->h->evicted_names, 1, memory_order_relaxed);
        ar_begin(bucket);
        entries[way] = (struct ar_name){.key = {key[0], key[1]}, .ino = ino, .epoch = epoch};
        ar_end(bucket);
    }
    ar_unlock(lock);
    return kept;
}

void ar_name_drop(struct ar_arena *arena, uint64_t parent, const void *name, size_t n_bytes, uint64_t position)
{
    uint64_t key[2];
    ar_name_key(arena, parent, name, n_bytes, key);
    struct ar_bucket *bucket = name_bucket(arena, key);
    struct ar_name *entries = ar_entries(bucket);
    pthread_mutex_t *lock = ar_lock_of(arena, key[0]);
    ar_advance(arena, position);
    ar_lock(arena, lock);
    ar_begin(bucket);
    ar_stamp(bucket, position);
    for (int i = 0; i < AR_WAYS; i++)
        if (entries[i].key[0] == key[0] && entries[i].key[1] == key[1])
            entries[i].key[0] = entries[i].key[1] = 0;
    ar_end(bucket);
    ar_unlock(lock);
}

/* ---- attributes in the namespace security. ---- */

enum ar_security ar_security_find(const struct ar_arena *arena)
{
    uint64_t word = atomic_load(&arena->h->security);
    return word >> AR_SECURITY_BITS == atomic_load(&arena->h->epoch) ? (enum ar_security)(word & 0xFF) : AR_SECURITY_UNKNOWN;
}

void ar_security_put(struct ar_arena *arena, enum ar_security security, uint64_t token)
{
    uint64_t epoch = atomic_load(&arena->h->epoch), word = atomic_load(&arena->h->security);
    if (token >> 48 != (epoch & 0xFFFF))
        return;
    while (word >> AR_SECURITY_BITS <= epoch && word != (epoch << AR_SECURITY_BITS | AR_SECURITY_GIVEN))
        if (atomic_compare_exchange_weak(&arena->h->security, &word, epoch << AR_SECURITY_BITS | security))
            return;
}

/* ---- everything ---- */

static void raise_to(_Atomic uint64_t *at, uint64_t value)
{
    uint64_t now = atomic_load(at);
    while (now < value && !atomic_compare_exchange_weak(at, &now, value))
        ;
}

void ar_advance(struct ar_arena *arena, uint64_t position)
{
    raise_to(&arena->h->newest, position);
}

uint64_t ar_token(const struct ar_arena *arena)
{
    /* The epoch first: when everything is dropped in between, the token is refused. */
    uint32_t epoch = atomic_load(&arena->h->epoch);
    return AR_TOKEN(epoch, atomic_load(&arena->h->newest));
}

void ar_drop_all(struct ar_arena *arena)
{
    atomic_fetch_add(&arena->h->epoch, 1);
}
