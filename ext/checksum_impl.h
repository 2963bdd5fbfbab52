/* CRC32C: the Castagnoli polynomial 0x1EDC6F41, reflected, start and end inverted (RFC 3720 appendix B.4).
 *
 * Contract
 *   crc32c_init() builds the tables. It runs once, before anything else here, while no other thread can be inside;
 *   afterwards everything is read-only, so all functions may run on any number of threads.
 *   A crc32c_fn takes a finished checksum (0 to start) and returns a finished checksum:
 *       f(f(0, a), b) == f(0, a followed by b)
 *   It reads exactly n bytes at data, at any alignment, keeps no pointer, and cannot fail. data may be NULL when n is 0.
 *   Every variant gives the same 32 bits for the same bytes; CRC32C_SCALAR is the definition.
 *
 * In pseudo-code, for every variant:
 *   state = ~crc
 *   for each byte: state ^= byte; 8 times: state = state >> 1 ^ (0x82F63B78 if the bit shifted out was 1)
 *   return ~state
 */
#ifndef CAIRN_CHECKSUM_IMPL_H
#define CAIRN_CHECKSUM_IMPL_H

#include <stddef.h>
#include <stdint.h>

typedef uint32_t (*crc32c_fn)(uint32_t crc, const uint8_t *data, size_t n);

enum crc32c_variant {
    CRC32C_SCALAR, /* eight tables, any CPU */
    CRC32C_SSE42,  /* the crc32 instruction of x86-64, three streams */
    CRC32C_ARMV8,  /* the crc32c instruction of AArch64, three streams */
    CRC32C_N_VARIANTS
};

void crc32c_init(void);

/* The name a user chooses a variant by. */
const char *crc32c_name(enum crc32c_variant variant);

/* NULL when the variant runs on this CPU, else why not, as a phrase. */
const char *crc32c_why_not(enum crc32c_variant variant);

/* The variant's function, NULL when crc32c_why_not() gives a reason. */
crc32c_fn crc32c_function(enum crc32c_variant variant);

/* The fastest variant that runs here. */
enum crc32c_variant crc32c_default(void);

/* Checksum each page of page_bytes (> 0; the last may be short) and write 4 bytes, big-endian, for each to out, which
 * must hold 4 * ceil(n / page_bytes) bytes. */
void crc32c_each_page(crc32c_fn function, const uint8_t *data, size_t n, size_t page_bytes, uint8_t *out);

#endif
