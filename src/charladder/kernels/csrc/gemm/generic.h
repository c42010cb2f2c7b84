/* Matrix products with panels by vector instructions, for any processor. */

#pragma once

#include "gemm/panels.h"

#define K_BLOCK 256 /* inputs of a block: a panel's weights of them stay in the first-level cache */

/* Multiplies `rows` rows by `vectors` vectors of a panel's outputs; both are constants after inlining. For every two
   inputs it prefetches `prefetch_lines` cache lines from `prefetch_at` on, because the hardware prefetcher is too late.
   sums_RP: rows with the stride PANEL_WIDTH. */
static inline __attribute__((always_inline)) void generic_microkernel(const element *panel, const float *x_RK, long K,
                                                                      long x_stride, const int rows, const int vectors,
                                                                      const char *prefetch_at, const int prefetch_lines,
                                                                      float *sums_RP)
{
    vec sum[TILE_ROWS][ACCUMULATORS][PANEL_WIDTH / VECTOR_WIDTH] = {0}, weights[PANEL_WIDTH / VECTOR_WIDTH];
    long k = 0;
    for (; k + 1 < K; k += 2) {
        for (int i = 0; i < prefetch_lines; i++, prefetch_at += CACHE_LINE_BYTES)
            __builtin_prefetch(prefetch_at, 0, 2);
#pragma GCC unroll 2
        for (int odd = 0; odd < 2; odd++) {
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++)
                weights[v] = keep_in_register(load_weights(panel, k, odd, v));
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) {
                const float x = x_RK[r * x_stride + k + odd];
#pragma GCC unroll 8
                for (int v = 0; v < vectors; v++)
                    sum[r][odd % ACCUMULATORS][v] += weights[v] * x;
            }
        }
    }
#pragma GCC unroll 6
    for (int r = 0; k < K && r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
            sum[r][0][v] += load_weights(panel, k, 0, v) * x_RK[r * x_stride + k];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
            store_floats(sums_RP + r * PANEL_WIDTH + v * VECTOR_WIDTH,
                         ACCUMULATORS == 2 ? sum[r][0][v] + sum[r][ACCUMULATORS - 1][v] : sum[r][0][v]);
}

static inline void generic_microkernel_for_rows(const element *panel, const float *x_RK, long K, long x_stride,
                                                long rows, const char *prefetch_at, int prefetch_lines, float *sums_RP)
{
#define CALL_MICROKERNEL(count)                                                                                        \
    generic_microkernel(panel, x_RK, K, x_stride, count, TILE_VECTORS, prefetch_at, prefetch_lines, sums_RP)
    DISPATCH_ROWS
#undef CALL_MICROKERNEL
}

/* See multiply in gemm.h. */
static inline void multiply_generic(const element *matrix, const float *x_NK, long x_stride, long N, long K, long O,
                                    long first_panel, long last_panel, int epilogue, float *y_NO, long y_stride)
{
    float partial_sums[TILE_ROWS * PANEL_WIDTH], sums[ROW_BLOCK * PANEL_WIDTH];
    for (long p = first_panel; p < last_panel; p++)
        for (long begin = 0; begin < N; begin += ROW_BLOCK) {
            const long block_rows = N - begin < ROW_BLOCK ? N - begin : ROW_BLOCK;
            for (long k = 0; k < K; k += K_BLOCK) {
                const long block_inputs = K - k < K_BLOCK ? K - k : K_BLOCK;
                const element *panel = matrix + (p * padded_inputs(K) + k) * PANEL_WIDTH;
                /* The next block of the matrix is prefetched in equal shares, by tiles spread evenly over all tiles. */
                const char *next_block = (const char *)(panel + block_inputs * PANEL_WIDTH);
                const float *x = x_NK + begin * x_stride + k;
                if (block_rows == 1) {
                    generic_microkernel(panel, x, block_inputs, x_stride, 1, PANEL_WIDTH / VECTOR_WIDTH, next_block,
                                        LINES_PER_INPUT_PAIR, k ? partial_sums : sums);
                    for (long i = 0; k && i < PANEL_WIDTH; i++)
                        sums[i] += partial_sums[i];
                    continue;
                }
                const int max_lines = block_rows <= 3 * TILE_ROWS ? LINES_PER_INPUT_PAIR / 2 : 1;
                /* Full tiles may leave a last tile of two rows, which takes as long as one of four; tiles of equal size
                   avoid that. With few rows in float32, loading the weights dominates. */
                const int split_evenly = block_rows > (sizeof(element) < sizeof(float) ? TILE_ROWS : 3 * TILE_ROWS);
                const long row_tiles = ceil_div(block_rows, TILE_ROWS),
                           total_lines = block_inputs / 2 * LINES_PER_INPUT_PAIR,
                           tile_count = PANEL_WIDTH / (TILE_VECTORS * VECTOR_WIDTH) * row_tiles;
                for (long o = 0, prefetched_lines = 0, tile_index = 0; o < PANEL_WIDTH;
                     o += TILE_VECTORS * VECTOR_WIDTH)
                    for (long t = 0; t < row_tiles; t++, tile_index++) {
                        const long n = split_evenly ? block_rows * t / row_tiles : t * TILE_ROWS;
                        const long rows = split_evenly                 ? block_rows * (t + 1) / row_tiles - n
                                          : block_rows - n < TILE_ROWS ? block_rows - n
                                                                       : TILE_ROWS;
                        const int prefetch_lines =
                            prefetched_lines < total_lines && prefetched_lines * tile_count <= total_lines * tile_index
                                ? max_lines
                                : 0;
                        const char *prefetch_at = next_block + prefetched_lines * CACHE_LINE_BYTES;
                        prefetched_lines += block_inputs / 2 * prefetch_lines;
                        float *tile_sums = k ? partial_sums : sums + n * PANEL_WIDTH + o;
                        generic_microkernel_for_rows(panel + o * INTERLEAVE, x + n * x_stride, block_inputs, x_stride,
                                                     rows, prefetch_at, prefetch_lines, tile_sums);
                        for (long r = 0; k && r < rows; r++)
                            for (long i = 0; i < TILE_VECTORS * VECTOR_WIDTH; i++)
                                sums[(n + r) * PANEL_WIDTH + o + i] += partial_sums[r * PANEL_WIDTH + i];
                    }
            }
            store_panel(sums, block_rows, p, O, epilogue, y_NO + begin * y_stride, y_stride);
        }
}
