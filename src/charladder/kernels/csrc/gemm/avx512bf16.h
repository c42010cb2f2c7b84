/* Products of bfloat16 panels with AVX512-BF16, which multiplies inputs in pairs, on processors that have it and no
   AMX: twice the rate of float32. Inputs are rounded to bfloat16. Sums are in float32, over inputs in the same order
   for every row, so that a row's result does not depend on the other rows.
*/

#pragma once

#include "gemm/panels.h"

#define DEEP 384 /* inputs of a block, a multiple of 32: a panel of them stays in the first-level cache */

#if defined(BFLOAT16) && defined(__AVX512BF16__)

static inline int has_avx512bf16(void) { return 1; }

/* One panel times `rows` rows (a constant where this is inlined) over K inputs, a multiple of 4; x_RK is rounded.
   Otherwise as tile_of in generic.h. */
static inline __attribute__((always_inline)) void pair_tile(const element *panel, const element *x_RK, long K,
                                                            long stride, const int rows, const char *next,
                                                            const int lines, float *to_RP)
{
    __m512 sum[TILE][2][2];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < 4; i++)
            sum[r][i / 2][i % 2] = _mm512_setzero_ps();
    for (long k = 0; k < K; k += 4) {
        for (int i = 0; i < 2 * lines; i++, next += LINE)
            __builtin_prefetch(next, 0, 2);
        for (int odd = 0; odd < 2; odd++) {
            const element *from = panel + (k + 2 * odd) * PANEL;
            const __m512bh low = (__m512bh)_mm512_loadu_si512(from), high = (__m512bh)_mm512_loadu_si512(from + PANEL);
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) {
                int two;
                memcpy(&two, x_RK + r * stride + k + 2 * odd, sizeof two);
                const __m512bh x = (__m512bh)_mm512_set1_epi32(two);
                sum[r][odd][0] = _mm512_dpbf16_ps(sum[r][odd][0], low, x);
                sum[r][odd][1] = _mm512_dpbf16_ps(sum[r][odd][1], high, x);
            }
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        _mm512_storeu_ps(to_RP + r * PANEL, _mm512_add_ps(sum[r][0][0], sum[r][1][0]));
        _mm512_storeu_ps(to_RP + r * PANEL + LANES, _mm512_add_ps(sum[r][0][1], sum[r][1][1]));
    }
}

static inline void pair_tiles(const element *panel, const element *x_RK, long K, long stride, long rows,
                              const char *next, int lines, float *to_RP)
{
#define CALL(count) pair_tile(panel, x_RK, K, stride, count, next, lines, to_RP)
    BY_ROWS
#undef CALL
}

/* As multiply in gemm.h. rounded: scratch_size(N, K) floats. */
static inline void multiply_avx512bf16(const element *matrix, const float *x_NK, long apart, long N, long K, long O,
                                       long first, long last, int how, float *y_NO, long stride, element *rounded)
{
    const long wide = padded(K);
    float some[TILE * PANEL], sums[BLOCK * PANEL];
    for (long begin = 0; begin < N; begin += BLOCK) {
        const long block = N - begin < BLOCK ? N - begin : BLOCK;
        round_rows(x_NK + begin * apart, apart, block, K, rounded);
        for (long p = first; p < last; p++) {
            for (long k = 0; k < wide; k += DEEP) {
                const long depth = wide - k < DEEP ? wide - k : DEEP;
                const element *panel = matrix + (p * wide + k) * PANEL;
                const char *next = (const char *)(panel + depth * PANEL);
                const int lines = block <= TILE ? LINES : block <= 3 * TILE ? LINES / 2 : 1;
                for (long n = 0, asked = 0; n < block; n += TILE, asked += depth / 2 * lines) {
                    const long rows = block - n < TILE ? block - n : TILE;
                    const int now = asked < depth / 2 * LINES ? lines : 0;
                    float *to = k ? some : sums + n * PANEL;
                    pair_tiles(panel, rounded + n * wide + k, depth, wide, rows, next + asked * LINE, now, to);
                    for (long i = 0; k && i < rows * PANEL; i++)
                        sums[n * PANEL + i] += some[i];
                }
            }
            store_panel(sums, block, p, O, how, y_NO + begin * stride, stride);
        }
    }
}

#else

static inline int has_avx512bf16(void) { return 0; }
static inline void multiply_avx512bf16(const element *matrix, const float *x_NK, long apart, long N, long K, long O,
                                       long first, long last, int how, float *y_NO, long stride, element *rounded)
{
    (void)matrix, (void)x_NK, (void)apart, (void)N, (void)K, (void)O, (void)first, (void)last, (void)how, (void)y_NO,
        (void)stride;
    (void)rounded;
}

#endif
