/* The slicing kernel: canonical layouts of one chunk.
 *
 * A layout says where the bytes of one chunk are: a run of slice records of 40 bytes, all integers big-endian.
 *
 *   offset size type field       what
 *        0    4 u32  pos         first byte covered, within the chunk
 *        4    4 u32  length      bytes covered
 *        8    4 u32  off         where they begin in the plain bytes of the slice
 *       12    4 u32  plain_len   plain bytes of the whole slice
 *       16    8 u64  pack        the pack that holds the slice
 *       24    4 u32  stored_off  where the slice begins in the pack
 *       28    4 u32  stored_len  bytes of it there, as stored
 *       32    4 u32  crc         CRC32C of the plain bytes of the whole slice
 *       36    1 u8   codec       how plain bytes became stored bytes; not interpreted here
 *       37    3      zero
 *
 * Invariants of a layout
 *   (1) its size is a multiple of 40; a chunk that is all hole has an empty layout
 *   (2) every record covers something: length > 0
 *   (3) every record lies within its slice: off + length <= plain_len
 *   (4) every slice is stored somewhere: stored_len > 0 and stored_off + stored_len <= 2**32
 *   (5) every record ends within the chunk: pos + length <= chunk_bytes <= 2**32
 *   (6) records are sorted and do not overlap: pos >= pos + length of the record before
 *   (7) bytes 37..39 of a record are zero
 * What no record covers is a hole. slicer_overlay() also leaves no two neighbours that could be one record; layouts that
 * have such neighbours are read all the same.
 *
 * Trust: layouts come from storage and from other machines. They are read only through slicer_next(), which checks (1) to
 * (7) before it moves, so that no function here reads outside the given bytes or writes more than it says, whatever they
 * hold. Every function that takes a cursor reads it to the end: a layout that breaks an invariant anywhere is refused, even
 * if the answer lies before the damage.
 *
 * Ownership: nothing is allocated or kept; buffers belong to the caller. All functions are reentrant.
 */
#ifndef CAIRN_SLICER_IMPL_H
#define CAIRN_SLICER_IMPL_H

#include <stddef.h>
#include <stdint.h>

#define SLICER_RECORD_BYTES 40
#define SLICER_MAX_CHUNK_BYTES (UINT64_C(1) << 32)

typedef struct {
    uint64_t pack;
    uint32_t pos, length, off, plain_len, stored_off, stored_len, crc;
    uint8_t codec;
} slicer_record;

/* Results of functions: 1 an item, 0 the end or success, negative an invariant broken, by its number above. */
enum {
    SLICER_END = 0,
    SLICER_ITEM = 1,
    SLICER_E_SIZE = -1,
    SLICER_E_EMPTY = -2,
    SLICER_E_SLICE = -3,
    SLICER_E_STORED = -4,
    SLICER_E_BOUNDS = -5,
    SLICER_E_ORDER = -6,
    SLICER_E_PADDING = -7
};

/* What an error code means, as a phrase about a record. */
const char *slicer_error(int code);

/* Invariants (2) to (5) of one record on its own; 0 or an error. */
int slicer_check_record(const slicer_record *record, uint64_t chunk_bytes);

/* Write the 40 bytes of a record that slicer_check_record() accepts. */
void slicer_encode(const slicer_record *record, uint8_t out[SLICER_RECORD_BYTES]);

/* A checked cursor over a layout. After an error, n_read is the number (from 0) of the record at fault. */
typedef struct {
    const uint8_t *next;
    size_t left_bytes;
    uint64_t chunk_bytes;
    uint64_t end; /* of the last record read */
    size_t n_read;
} slicer_cursor;

/* Start at the first record; chunk_bytes <= 2**32. data may be NULL when n_bytes is 0. */
void slicer_start(slicer_cursor *cursor, const uint8_t *data, size_t n_bytes, uint64_t chunk_bytes);

/* Check and read one record: SLICER_ITEM, SLICER_END, or an error, in which case the cursor has not moved. */
int slicer_next(slicer_cursor *cursor, slicer_record *record);

/* Walk a whole layout: 0, or the first invariant it breaks. Tests, check builds and volume checks call this one. */
int slicer_check(slicer_cursor *cursor);

/* Bytes of `pack` that a layout references no longer. */
typedef struct {
    uint64_t pack;
    uint64_t n_bytes;
} slicer_freed;

/* Put a record, or a hole when it is NULL, over [start, end).
 *
 *   for each record r of the layout, in order:
 *     emit what of r lies before start; count what lies within as freed; emit the new record once r reaches end;
 *     emit what of r lies after end
 * where emitting joins a record to the one before when both show neighbouring bytes of the same slice. One pass, O(n).
 *
 * Requires start <= end <= 2**32; record->pos == start and record->pos + record->length == end when given, and that
 * slicer_check_record() accepts it. `out` must hold the layout's bytes plus two records, `freed` one entry for each record
 * of the layout. Sets n_out_bytes and n_freed. Guarantees on success: the output keeps (1) to (7), and
 *     covered(output) == covered(layout) - sum of freed + length of the new record.
 */
int slicer_overlay(slicer_cursor *layout, uint64_t start, uint64_t end, const slicer_record *record,
                   uint8_t *out, size_t *n_out_bytes, slicer_freed *freed, size_t *n_freed);

/* How many bytes of [start, end) records cover. */
int slicer_covered(slicer_cursor *layout, uint64_t start, uint64_t end, uint64_t *n_bytes);

/* A run of bytes of a chunk: in record number `index` from `off` of its slice on, or in a hole (index -1, off 0). */
typedef struct {
    uint64_t pos, length, off;
    int64_t index;
} slicer_extent;

/* Iterates over [at, end) as extents, in order and without gaps; neighbouring holes are one. The caller sets layout (by
 * slicer_start), at and end, and zeroes the rest. */
typedef struct {
    slicer_cursor layout;
    uint64_t at, end;
    slicer_record record; /* the one being looked at, when has_record */
    int has_record;
} slicer_extents;

/* SLICER_ITEM and an extent, SLICER_END (the rest of the layout has been checked too), or an error. */
int slicer_next_extent(slicer_extents *extents, slicer_extent *extent);

/* First covered position >= start, or -1. */
int slicer_next_data(slicer_cursor *layout, uint64_t start, int64_t *position);

/* First position >= start that no record covers; may lie past the last record, up to 2**32. */
int slicer_next_hole(slicer_cursor *layout, uint64_t start, int64_t *position);

#endif
