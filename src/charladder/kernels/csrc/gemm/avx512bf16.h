/* Matrix products with bfloat16 panels by AVX512-BF16, on processors without AMX. Its instructions multiply pairs of
   inputs, at twice the rate of float32. Inputs are rounded to bfloat16. Sums are in float32, and add inputs in the same
   order for every row, so that a row's result does not depend on the other rows.
*/

#pragma once

#include "gemm/panels.h"

#define AVX512_K_BLOCK 384 /* inputs of a block, a multiple of 32: their weights stay in the first-level cache */

#if defined(BFLOAT16) && defined(__AVX512BF16__)

static inline int has_avx512bf16(void) { return 1; }

/* Multiplies `rows` rows (a constant after inlining) of K inputs, a multiple of 4, by one panel. x_RK is rounded to
   bfloat16. Prefetches as generic_microkernel does. */
static inline __attribute__((always_inline)) void avx512bf16_microkernel(const element *panel, const element *x_RK,
                                                                         long K, long x_stride, const int rows,
                                                                         const char *prefetch_at,
                                                                         const int prefetch_lines, float *sums_RP)
{
    __m512 sum[TILE_ROWS][2][2];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < 4; i++)
            sum[r][i / 2][i % 2] = _mm512_setzero_ps();
    for (long k = 0; k < K; k += 4) {
        for (int i = 0; i < 2 * prefetch_lines; i++, prefetch_at += CACHE_LINE_BYTES)
            __builtin_prefetch(prefetch_at, 0, 2);
        for (int pair = 0; pair < 2; pair++) {
            const element *weights = panel + (k + 2 * pair) * PANEL_WIDTH;
            const __m512bh low = (__m512bh)_mm512_loadu_si512(weights),
                           high = (__m512bh)_mm512_loadu_si512(weights + PANEL_WIDTH);
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) {
                int x_pair;
                memcpy(&x_pair, x_RK + r * x_stride + k + 2 * pair, sizeof x_pair);
                const __m512bh x = (__m512bh)_mm512_set1_epi32(x_pair);
                sum[r][pair][0] = _mm512_dpbf16_ps(sum[r][pair][0], low, x);
                sum[r][pair][1] = _mm512_dpbf16_ps(sum[r][pair][1], high, x);
            }
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        _mm512_storeu_ps(sums_RP + r * PANEL_WIDTH, _mm512_add_ps(sum[r][0][0], sum[r][1][0]));
        _mm512_storeu_ps(sums_RP + r * PANEL_WIDTH + LANES, _mm512_add_ps(sum[r][0][1], sum[r][1][1]));
    }
}

static inline void avx512bf16_microkernel_for_rows(const element *panel, const element *x_RK, long K, long x_stride,
                                                   long rows, const char *prefetch_at, int prefetch_lines,
                                                   float *sums_RP)
{
#define CALL_MICROKERNEL(count)                                                                                        \
    avx512bf16_microkernel(panel, x_RK, K, x_stride, count, prefetch_at, prefetch_lines, sums_RP)
    DISPATCH_ROWS
#undef CALL_MICROKERNEL
}

/* See multiply in gemm.h. */
static inline void multiply_avx512bf16(const element *matrix, const float *x_NK, long x_stride, long N, long K, long O,
                                       long first_panel, long last_panel, int epilogue, float *y_NO, long y_stride,
                                       element *scratch)
{
    const long padded_K = padded_inputs(K);
    float partial_sums[TILE_ROWS * PANEL_WIDTH], sums[ROW_BLOCK * PANEL_WIDTH];
    for (long begin = 0; begin < N; begin += ROW_BLOCK) {
        const long block_rows = N - begin < ROW_BLOCK ? N - begin : ROW_BLOCK;
        round_rows(x_NK + begin * x_stride, x_stride, block_rows, K, scratch);
        for (long p = first_panel; p < last_panel; p++) {
            for (long k = 0; k < padded_K; k += AVX512_K_BLOCK) {
                const long block_inputs = padded_K - k < AVX512_K_BLOCK ? padded_K - k : AVX512_K_BLOCK;
                const element *panel = matrix + (p * padded_K + k) * PANEL_WIDTH;
                const char *next_block = (const char *)(panel + block_inputs * PANEL_WIDTH);
                const int max_lines = block_rows <= TILE_ROWS       ? LINES_PER_INPUT_PAIR
                                      : block_rows <= 3 * TILE_ROWS ? LINES_PER_INPUT_PAIR / 2
                                                                    : 1;
                for (long n = 0, prefetched_lines = 0; n < block_rows;
                     n += TILE_ROWS, prefetched_lines += block_inputs / 2 * max_lines) {
                    const long rows = block_rows - n < TILE_ROWS ? block_rows - n : TILE_ROWS;
                    const int prefetch_lines =
                        prefetched_lines < block_inputs / 2 * LINES_PER_INPUT_PAIR ? max_lines : 0;
                    float *tile_sums = k ? partial_sums : sums + n * PANEL_WIDTH;
                    avx512bf16_microkernel_for_rows(panel, scratch + n * padded_K + k, block_inputs, padded_K, rows,
                                                    next_block + prefetched_lines * CACHE_LINE_BYTES, prefetch_lines,
                                                    tile_sums);
                    for (long i = 0; k && i < rows * PANEL_WIDTH; i++)
                        sums[n * PANEL_WIDTH + i] += partial_sums[i];
                }
            }
            store_panel(sums, block_rows, p, O, epilogue, y_NO + begin * y_stride, y_stride);
        }
    }
}

#else

static inline int has_avx512bf16(void) { return 0; }
static inline void multiply_avx512bf16(const element *matrix, const float *x_NK, long x_stride, long N, long K, long O,
                                       long first_panel, long last_panel, int epilogue, float *y_NO, long y_stride,
                                       element *scratch)
{
    (void)matrix, (void)x_NK, (void)x_stride, (void)N, (void)K, (void)O, (void)first_panel, (void)last_panel,
        (void)epilogue, (void)y_NO, (void)y_stride;
    (void)scratch;
}

#endif
