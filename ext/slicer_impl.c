/* Loops over slice layouts; the format, the invariants and the contract are in slicer_impl.h. */
#include "slicer_impl.h"

#include <string.h>

#if CAIRN_CHECK
#include <stdio.h>
#include <stdlib.h>
#define CHECK(condition)                                                                          \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition);         \
            abort();                                                                              \
        }                                                                                         \
    } while (0)
#endif

static uint32_t load4(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void store4(uint8_t *p, uint32_t value)
{
    p[0] = (uint8_t)(value >> 24);
    p[1] = (uint8_t)(value >> 16);
    p[2] = (uint8_t)(value >> 8);
    p[3] = (uint8_t)value;
}

static uint64_t end_of(const slicer_record *record)
{
    return (uint64_t)record->pos + record->length;
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

const char *slicer_error(int code)
{
    static const char *const phrases[] = {
        "is well formed",
        "is not a whole record",
        "covers nothing",
        "reaches beyond its slice",
        "has no valid place in its pack",
        "reaches beyond the chunk",
        "overlaps or precedes the record before it",
        "has non-zero padding",
    };
    return code <= 0 && code >= SLICER_E_PADDING ? phrases[-code] : "is malformed";
}

int slicer_check_record(const slicer_record *record, uint64_t chunk_bytes)
{
    if (record->length == 0)
        return SLICER_E_EMPTY;
    if ((uint64_t)record->off + record->length > record->plain_len)
        return SLICER_E_SLICE;
    if (record->stored_len == 0 || (uint64_t)record->stored_off + record->stored_len > UINT64_C(1) << 32)
        return SLICER_E_STORED;
    if (end_of(record) > chunk_bytes)
        return SLICER_E_BOUNDS;
    return 0;
}

void slicer_encode(const slicer_record *record, uint8_t out[SLICER_RECORD_BYTES])
{
    store4(out, record->pos);
    store4(out + 4, record->length);
    store4(out + 8, record->off);
    store4(out + 12, record->plain_len);
    store4(out + 16, (uint32_t)(record->pack >> 32));
    store4(out + 20, (uint32_t)record->pack);
    store4(out + 24, record->stored_off);
    store4(out + 28, record->stored_len);
    store4(out + 32, record->crc);
    out[36] = record->codec;
    memset(out + 37, 0, 3);
}

static void decode(const uint8_t in[SLICER_RECORD_BYTES], slicer_record *record)
{
    record->pos = load4(in);
    record->length = load4(in + 4);
    record->off = load4(in + 8);
    record->plain_len = load4(in + 12);
    record->pack = (uint64_t)load4(in + 16) << 32 | load4(in + 20);
    record->stored_off = load4(in + 24);
    record->stored_len = load4(in + 28);
    record->crc = load4(in + 32);
    record->codec = in[36];
}

void slicer_start(slicer_cursor *cursor, const uint8_t *data, size_t n_bytes, uint64_t chunk_bytes)
{
    *cursor = (slicer_cursor){.next = data, .left_bytes = n_bytes, .chunk_bytes = chunk_bytes};
}

int slicer_next(slicer_cursor *cursor, slicer_record *record)
{
    if (cursor->left_bytes == 0)
        return SLICER_END;
    if (cursor->left_bytes < SLICER_RECORD_BYTES)
        return SLICER_E_SIZE;
    const uint8_t *in = cursor->next;
    decode(in, record);
    int code = slicer_check_record(record, cursor->chunk_bytes);
    if (code < 0)
        return code;
    if (record->pos < cursor->end)
        return SLICER_E_ORDER;
    if (in[37] | in[38] | in[39])
        return SLICER_E_PADDING;
    cursor->next += SLICER_RECORD_BYTES;
    cursor->left_bytes -= SLICER_RECORD_BYTES;
    cursor->end = end_of(record);
    cursor->n_read++;
    return SLICER_ITEM;
}

int slicer_check(slicer_cursor *cursor)
{
    slicer_record record;
    int code;
    do
        code = slicer_next(cursor, &record);
    while (code == SLICER_ITEM);
    return code;
}

/* Holds the last record back, so that the next one can be joined to it. */
typedef struct {
    uint8_t *out;
    size_t n_bytes;
    slicer_record last;
    int has_last;
} emitter;

static int continues(const slicer_record *next, const slicer_record *last)
{
    return next->pos == end_of(last) && next->off == (uint64_t)last->off + last->length && next->pack == last->pack &&
           next->stored_off == last->stored_off && next->stored_len == last->stored_len &&
           next->plain_len == last->plain_len && next->crc == last->crc && next->codec == last->codec;
}

static void flush(emitter *to)
{
    if (!to->has_last)
        return;
    slicer_encode(&to->last, to->out + to->n_bytes);
    to->n_bytes += SLICER_RECORD_BYTES;
    to->has_last = 0;
}

static void emit(emitter *to, const slicer_record *record)
{
    if (to->has_last && continues(record, &to->last)) {
        to->last.length += record->length; /* cannot wrap: off + length <= plain_len holds for the sum */
        return;
    }
    flush(to);
    to->last = *record;
    to->has_last = 1;
}

/* Emit what a record covers of [start, end), which lies within it and is not empty. */
static void emit_part(emitter *to, const slicer_record *record, uint64_t start, uint64_t end)
{
    slicer_record cut = *record;
    cut.pos = (uint32_t)start;
    cut.length = (uint32_t)(end - start);
    cut.off += (uint32_t)(start - record->pos);
    emit(to, &cut);
}

#if CAIRN_CHECK
static uint64_t covered_by(slicer_cursor layout)
{
    uint64_t n_bytes;
    CHECK(slicer_covered(&layout, 0, SLICER_MAX_CHUNK_BYTES, &n_bytes) == 0);
    return n_bytes;
}

/* What slicer_overlay() guarantees of its output. */
static void check_overlay(const slicer_cursor *before, uint64_t start, uint64_t end, const slicer_record *record,
                          const uint8_t *out, size_t n_out_bytes, const slicer_freed *freed, size_t n_freed)
{
    slicer_cursor after;
    uint64_t n_freed_bytes = 0, n_there;
    CHECK(n_out_bytes <= before->left_bytes + 2 * SLICER_RECORD_BYTES);
    CHECK(n_freed <= before->left_bytes / SLICER_RECORD_BYTES);
    slicer_start(&after, out, n_out_bytes, SLICER_MAX_CHUNK_BYTES);
    for (size_t i = 0; i < n_freed; i++)
        n_freed_bytes += freed[i].n_bytes;
    CHECK(covered_by(after) == covered_by(*before) - n_freed_bytes + (record != NULL ? record->length : 0));
    CHECK(slicer_covered(&after, start, end, &n_there) == 0);
    CHECK(n_there == (record != NULL ? end - start : 0));
}
#endif

int slicer_overlay(slicer_cursor *layout, uint64_t start, uint64_t end, const slicer_record *record,
                   uint8_t *out, size_t *n_out_bytes, slicer_freed *freed, size_t *n_freed)
{
#if CAIRN_CHECK
    const slicer_cursor before = *layout;
    const slicer_record *given = record;
#endif
    emitter to = {.out = out};
    slicer_record old;
    int code;
    *n_freed = 0;
    while ((code = slicer_next(layout, &old)) == SLICER_ITEM) {
        uint64_t cut_start = later(old.pos, start), cut_end = sooner(end_of(&old), end);
        if (old.pos < start)
            emit_part(&to, &old, old.pos, sooner(end_of(&old), start));
        if (cut_start < cut_end)
            freed[(*n_freed)++] = (slicer_freed){old.pack, cut_end - cut_start};
        if (end_of(&old) > end) {
            if (record != NULL)
                emit(&to, record);
            record = NULL;
            emit_part(&to, &old, later(old.pos, end), end_of(&old));
        }
    }
    if (record != NULL)
        emit(&to, record);
    flush(&to);
    *n_out_bytes = to.n_bytes;
#if CAIRN_CHECK
    if (code == SLICER_END)
        check_overlay(&before, start, end, given, out, *n_out_bytes, freed, *n_freed);
#endif
    return code;
}

int slicer_covered(slicer_cursor *layout, uint64_t start, uint64_t end, uint64_t *n_bytes)
{
    slicer_record record;
    int code;
    *n_bytes = 0;
    while ((code = slicer_next(layout, &record)) == SLICER_ITEM) {
        uint64_t from = later(record.pos, start), to = sooner(end_of(&record), end);
        if (from < to)
            *n_bytes += to - from;
    }
    return code;
}

/* Move on to the first record that ends after `at`; SLICER_END when there is none. */
static int seek(slicer_extents *extents)
{
    while (!extents->has_record || end_of(&extents->record) <= extents->at) {
        int code = slicer_next(&extents->layout, &extents->record);
        extents->has_record = code == SLICER_ITEM;
        if (code != SLICER_ITEM)
            return code;
    }
    return SLICER_ITEM;
}

int slicer_next_extent(slicer_extents *extents, slicer_extent *extent)
{
    uint64_t at = extents->at;
    if (at >= extents->end)
        return slicer_check(&extents->layout);
    int code = seek(extents);
    if (code < 0)
        return code;
    const slicer_record *record = &extents->record;
    if (code == SLICER_ITEM && record->pos <= at)
        *extent = (slicer_extent){at, sooner(end_of(record), extents->end) - at, record->off + (at - record->pos),
                                  (int64_t)extents->layout.n_read - 1};
    else
        *extent = (slicer_extent){at, (code == SLICER_ITEM ? sooner(record->pos, extents->end) : extents->end) - at, 0, -1};
    extents->at += extent->length;
    return SLICER_ITEM;
}

int slicer_next_data(slicer_cursor *layout, uint64_t start, int64_t *position)
{
    slicer_record record;
    int code;
    *position = -1;
    while ((code = slicer_next(layout, &record)) == SLICER_ITEM)
        if (*position < 0 && end_of(&record) > start)
            *position = (int64_t)later(record.pos, start);
    return code;
}

int slicer_next_hole(slicer_cursor *layout, uint64_t start, int64_t *position)
{
    slicer_record record;
    int code;
    while ((code = slicer_next(layout, &record)) == SLICER_ITEM)
        if (record.pos <= start && end_of(&record) > start)
            start = end_of(&record);
    *position = (int64_t)start;
    return code;
}
