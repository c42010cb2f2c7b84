/* Products of bfloat16 panels with AMX tiles, on processors that have them: 16 rows cost little more than one. Inputs
   are rounded to bfloat16. Sums are in float32, over inputs in the same order for every row, so that a row's result
   does not depend on the other rows.

   Tiles have 16 rows of 64 bytes. Tiles 0 to 3 hold sums of 16 rows and 16 outputs; the others hold 32 inputs of 16
   rows, or 16 pairs of inputs of 16 outputs.
*/

#pragma once

#include "gemm/panels.h"

#define ROWS 128 /* rows of a block: their inputs stay in the second-level cache */

#if defined(BFLOAT16) && defined(__AMX_BF16__) && defined(__AMX_TILE__)

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Whether the system lets this process use AMX; it is asked once. */
static inline int has_amx(void)
{
    static int asked, allowed;
    if (!__atomic_load_n(&asked, __ATOMIC_ACQUIRE)) {
        const long permission = 0x1023, tile_data = 18;
        __atomic_store_n(&allowed, syscall(SYS_arch_prctl, permission, tile_data) == 0, __ATOMIC_RELAXED);
        __atomic_store_n(&asked, 1, __ATOMIC_RELEASE);
    }
    return __atomic_load_n(&allowed, __ATOMIC_RELAXED);
}

/* Call these before and after the products of N rows, in each thread. */
static inline void amx_begin(long N)
{
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    if (!has_amx())
        return;
    for (int i = 0; i < 8; i++) {
        shape.bytes[i] = 64;
        shape.rows[i] = i < 6 && N < 16 ? N : 16;
    }
    _tile_loadconfig(&shape);
}

static inline void amx_end(void)
{
    if (has_amx())
        _tile_release();
}

/* Adds to tile C, 16 outputs: the product of the rows in tile A and the weights, which are loaded into tile B. */
#define SUM(C, A, B, weights)                                                                                          \
    _tile_loadd(B, weights, 4 * PANEL);                                                                                \
    _tile_dpbf16ps(C, A, B)
#define NO_SUMS                                                                                                        \
    _tile_zero(0);                                                                                                     \
    _tile_zero(1);                                                                                                     \
    _tile_zero(2);                                                                                                     \
    _tile_zero(3)
#define STORE(C, to) _tile_stored(C, to, 4 * PANEL)

/* Up to 16 rows times two panels, or one: sums are (2, 16, 32). x_NK is rounded and padded. */
static inline void two_panels(const element *one, const element *two, const element *x_NK, long K, float *sums)
{
    NO_SUMS;
    for (long k = 0; k < K; k += 32) {
        _tile_loadd(4, x_NK + k, 2 * K);
        SUM(0, 4, 6, one + k * PANEL);
        SUM(1, 4, 7, one + k * PANEL + PANEL);
        if (two) {
            SUM(2, 4, 6, two + k * PANEL);
            SUM(3, 4, 7, two + k * PANEL + PANEL);
        }
    }
    STORE(0, sums);
    STORE(1, sums + LANES);
    STORE(2, sums + 16 * PANEL);
    STORE(3, sums + 16 * PANEL + LANES);
}

/* 32 rows times one panel: sums are (32, 32). With every 32 inputs, `lines` cache lines from `next` on are prefetched.
 */
static inline void two_tiles(const element *panel, const element *x_NK, long K, const char *next, int lines,
                             float *sums)
{
    NO_SUMS;
    for (long k = 0; k < K; k += 32) {
        for (int i = 0; i < lines; i++, next += LINE)
            __builtin_prefetch(next, 0, 2);
        _tile_loadd(4, x_NK + k, 2 * K);
        _tile_loadd(5, x_NK + 16 * K + k, 2 * K);
        SUM(0, 4, 6, panel + k * PANEL);
        SUM(1, 4, 7, panel + k * PANEL + PANEL);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    STORE(0, sums);
    STORE(1, sums + LANES);
    STORE(2, sums + 16 * PANEL);
    STORE(3, sums + 16 * PANEL + LANES);
}

/* As multiply in gemm.h. rounded: room for N padded rows; above 16, N is padded to a multiple of 32; at most ROWS. */
static inline void multiply_amx(const element *matrix, const float *x_NK, long apart, long N, long K, long O,
                                long first, long last, int how, float *y_NO, long stride, element *rounded)
{
    const long wide = padded(K), size = wide * PANEL;
    float sums[2 * 16 * PANEL];
    for (long begin = 0; begin < N; begin += ROWS) {
        const long block = N - begin < ROWS ? N - begin : ROWS;
        float *y = y_NO + begin * stride;
        round_rows(x_NK + begin * apart, apart, block, K, rounded);
        if (block <= 16) {
            for (long p = first; p < last; p += 2) {
                const element *one = matrix + p * size, *two = p + 1 < last ? one + size : NULL;
                two_panels(one, two, rounded, wide, sums);
                store_panel(sums, block, p, O, how, y, stride);
                if (two)
                    store_panel(sums + 16 * PANEL, block, p + 1, O, how, y, stride);
            }
            continue;
        }
        const int calls = ceil_div(block, 32), lines = ceil_div(16 * LINES, calls);
        for (long p = first; p < last; p++)
            for (long n = 0; n < block; n += 32) {
                const char *next = (const char *)(matrix + (p + 1) * size) + n / 32 * (wide / 32) * lines * LINE;
                two_tiles(matrix + p * size, rounded + n * wide, wide, next, lines, sums);
                store_panel(sums, block - n < 32 ? block - n : 32, p, O, how, y + n * stride, stride);
            }
    }
}

#else

static inline int has_amx(void) { return 0; }
static inline void amx_begin(long N) { (void)N; }
static inline void amx_end(void) {}
static inline void multiply_amx(const element *matrix, const float *x_NK, long apart, long N, long K, long O,
                                long first, long last, int how, float *y_NO, long stride, element *rounded)
{
    (void)matrix, (void)x_NK, (void)apart, (void)N, (void)K, (void)O, (void)first, (void)last, (void)how, (void)y_NO,
        (void)stride;
    (void)rounded;
}

#endif
