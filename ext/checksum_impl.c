/* CRC32C variants; the contract is in checksum_impl.h.
 *
 * The step from one state to the next is linear over GF(2), and so is its repetition. Hence, with state(s, X) the state
 * after the bytes X from s:
 *     state(s, A followed by B) = Z(state(s, A)) ^ state(0, B),    Z = the step for |B| zero bytes
 * Slice-by-8 uses it for eight single bytes (table[k] is Z for k zero bytes after one byte); the hardware variants use it
 * for three long streams, because the instruction has a latency of three cycles and a throughput of one.
 */
#include "checksum_impl.h"

#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#define HW_VARIANT CRC32C_SSE42
#define HW_TARGET __attribute__((target("sse4.2")))
#define HW_STEP8(state, word) _mm_crc32_u64((state), (word))
#define HW_STEP1(state, byte) _mm_crc32_u8((uint32_t)(state), (byte))
#define HW_HERE() (__builtin_cpu_supports("sse4.2") != 0)
#elif defined(__aarch64__) && defined(__AARCH64EL__) && defined(__linux__)
#include <arm_acle.h>
#include <sys/auxv.h>
#define HW_VARIANT CRC32C_ARMV8
#ifdef __clang__
#define HW_TARGET __attribute__((target("crc")))
#else
#define HW_TARGET __attribute__((target("+crc")))
#endif
#define HW_STEP8(state, word) __crc32cd((uint32_t)(state), (word))
#define HW_STEP1(state, byte) __crc32cb((uint32_t)(state), (byte))
#define HW_HERE() ((getauxval(AT_HWCAP) & (1UL << 7)) != 0) /* HWCAP_CRC32 */
#endif

#define POLYNOMIAL 0x82F63B78u

static uint32_t table[8][256];

static void init_table(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t state = byte;
        for (int bit = 0; bit < 8; bit++)
            state = state >> 1 ^ (POLYNOMIAL & (0u - (state & 1)));
        table[0][byte] = state;
    }
    for (int k = 1; k < 8; k++)
        for (int byte = 0; byte < 256; byte++)
            table[k][byte] = table[k - 1][byte] >> 8 ^ table[0][table[k - 1][byte] & 0xFF];
}

static uint32_t crc32c_scalar(uint32_t crc, const uint8_t *data, size_t n)
{
    uint32_t state = ~crc;
    for (; n >= 8; n -= 8, data += 8)
        state = table[7][(state ^ data[0]) & 0xFF] ^ table[6][(state >> 8 ^ data[1]) & 0xFF] ^
                table[5][(state >> 16 ^ data[2]) & 0xFF] ^ table[4][state >> 24 ^ data[3]] ^
                table[3][data[4]] ^ table[2][data[5]] ^ table[1][data[6]] ^ table[0][data[7]];
    for (; n > 0; n--, data++)
        state = state >> 8 ^ table[0][(state ^ *data) & 0xFF];
    return ~state;
}

#ifdef HW_VARIANT
/* Bytes per stream. LONG keeps joining the streams (eight look-ups for 12 KiB) a few per cent of the time, and a 64 KiB page
 * is five rounds of it and 4 KiB over; SHORT serves what is over and small files. */
#define LONG_BYTES 4096
#define SHORT_BYTES 256

typedef uint32_t zeros_table[4][256]; /* Z for a fixed number of zero bytes, by byte of the state */

static zeros_table zeros_long, zeros_short;

static void init_zeros(zeros_table zeros, size_t n_bytes)
{
    for (int bit = 0; bit < 32; bit++) {
        uint32_t state = 1u << bit;
        for (size_t i = 0; i < n_bytes; i++)
            state = state >> 8 ^ table[0][state & 0xFF];
        zeros[bit / 8][1 << bit % 8] = state;
    }
    for (int k = 0; k < 4; k++)
        for (int byte = 1; byte < 256; byte++)
            zeros[k][byte] = zeros[k][byte & -byte] ^ zeros[k][byte & (byte - 1)];
}

static inline uint64_t skip_zeros(const zeros_table zeros, uint64_t state)
{
    return zeros[0][state & 0xFF] ^ zeros[1][state >> 8 & 0xFF] ^ zeros[2][state >> 16 & 0xFF] ^ zeros[3][state >> 24 & 0xFF];
}

static inline uint64_t load8(const uint8_t *data)
{
    uint64_t word;
    memcpy(&word, data, sizeof word);
    return word;
}

/* One round: three neighbouring streams of stream_bytes each, joined. */
HW_TARGET static inline uint64_t three_streams(uint64_t state, const uint8_t *data, size_t stream_bytes, const zeros_table zeros)
{
    uint64_t second = 0, third = 0;
    for (const uint8_t *end = data + stream_bytes; data < end; data += 8) {
        state = HW_STEP8(state, load8(data));
        second = HW_STEP8(second, load8(data + stream_bytes));
        third = HW_STEP8(third, load8(data + 2 * stream_bytes));
    }
    state = skip_zeros(zeros, state) ^ second;
    return skip_zeros(zeros, state) ^ third;
}

HW_TARGET static uint32_t crc32c_hw(uint32_t crc, const uint8_t *data, size_t n)
{
    uint64_t state = (uint32_t)~crc;
    for (; n >= 3 * LONG_BYTES; n -= 3 * LONG_BYTES, data += 3 * LONG_BYTES)
        state = three_streams(state, data, LONG_BYTES, zeros_long);
    for (; n >= 3 * SHORT_BYTES; n -= 3 * SHORT_BYTES, data += 3 * SHORT_BYTES)
        state = three_streams(state, data, SHORT_BYTES, zeros_short);
    for (; n >= 8; n -= 8, data += 8)
        state = HW_STEP8(state, load8(data));
    for (; n > 0; n--, data++)
        state = HW_STEP1(state, *data);
    return ~(uint32_t)state;
}
#endif

void crc32c_init(void)
{
    init_table();
#ifdef HW_VARIANT
    init_zeros(zeros_long, LONG_BYTES);
    init_zeros(zeros_short, SHORT_BYTES);
#endif
}

const char *crc32c_name(enum crc32c_variant variant)
{
    static const char *const names[CRC32C_N_VARIANTS] = {"scalar", "sse42", "armv8"};
    return names[variant];
}

const char *crc32c_why_not(enum crc32c_variant variant)
{
    if (variant == CRC32C_SCALAR)
        return NULL;
#ifdef HW_VARIANT
    if (variant == HW_VARIANT)
        return HW_HERE() ? NULL : "this CPU lacks the CRC32C instruction";
#endif
    return "it is for another kind of CPU";
}

crc32c_fn crc32c_function(enum crc32c_variant variant)
{
    if (crc32c_why_not(variant) != NULL)
        return NULL;
#ifdef HW_VARIANT
    if (variant == HW_VARIANT)
        return crc32c_hw;
#endif
    return crc32c_scalar;
}

enum crc32c_variant crc32c_default(void)
{
#ifdef HW_VARIANT
    if (HW_HERE())
        return HW_VARIANT;
#endif
    return CRC32C_SCALAR;
}

void crc32c_each_page(crc32c_fn function, const uint8_t *data, size_t n, size_t page_bytes, uint8_t *out)
{
    for (size_t at = 0; at < n; out += 4) {
        size_t length = n - at < page_bytes ? n - at : page_bytes;
        uint32_t crc = function(0, data + at, length);
        out[0] = (uint8_t)(crc >> 24);
        out[1] = (uint8_t)(crc >> 16);
        out[2] = (uint8_t)(crc >> 8);
        out[3] = (uint8_t)crc;
        at += length;
    }
}
