/* Products of panels with rows by vector instructions, for any processor. */

#pragma once

#include "gemm/panels.h"

#define DEPTH 256 /* inputs at once: a panel of them stays in a processor's first-level cache */

/* `span` vectors of a panel's outputs times `rows` rows, both constants where this is inlined; to_RP: (rows, 32). With
   every two inputs, `lines` cache lines from `next` on are prefetched, because the hardware prefetcher is too late. */
static inline __attribute__((always_inline)) void tile_of(const element *panel, const float *x_RK, long K, long stride,
                                                          const int rows, const int span, const char *next,
                                                          const int lines, float *to_RP)
{
    vec sum[TILE][SPLIT][PANEL / WIDTH] = {0}, some[PANEL / WIDTH];
    long k = 0;
    for (; k + 1 < K; k += 2) {
        for (int i = 0; i < lines; i++, next += LINE)
            __builtin_prefetch(next, 0, 2);
#pragma GCC unroll 2
        for (int odd = 0; odd < 2; odd++) {
#pragma GCC unroll 8
            for (int v = 0; v < span; v++)
                some[v] = keep_in_register(weight(panel, k, odd, v));
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) {
                const float x = x_RK[r * stride + k + odd];
#pragma GCC unroll 8
                for (int v = 0; v < span; v++)
                    sum[r][odd % SPLIT][v] += some[v] * x;
            }
        }
    }
#pragma GCC unroll 6
    for (int r = 0; k < K && r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < span; v++)
            sum[r][0][v] += weight(panel, k, 0, v) * x_RK[r * stride + k];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < span; v++)
            store_f(to_RP + r * PANEL + v * WIDTH, SPLIT == 2 ? sum[r][0][v] + sum[r][SPLIT - 1][v] : sum[r][0][v]);
}

static inline void tile(const element *panel, const float *x_RK, long K, long stride, long rows, const char *next,
                        int lines, float *to_RP)
{
#define CALL(count) tile_of(panel, x_RK, K, stride, count, SPAN, next, lines, to_RP)
    BY_ROWS
#undef CALL
}

/* As multiply in gemm.h. */
static inline void multiply_generic(const element *matrix, const float *x_NK, long apart, long N, long K, long O,
                                    long first, long last, int how, float *y_NO, long stride)
{
    float some[TILE * PANEL], sums[BLOCK * PANEL];
    for (long p = first; p < last; p++)
        for (long begin = 0; begin < N; begin += BLOCK) {
            const long block = N - begin < BLOCK ? N - begin : BLOCK;
            for (long k = 0; k < K; k += DEPTH) {
                const long depth = K - k < DEPTH ? K - k : DEPTH;
                const element *panel = matrix + (p * padded(K) + k) * PANEL;
                /* The next part of the matrix is prefetched in equal shares, by all tiles of rows or by the first one.
                 */
                const char *next = (const char *)(panel + depth * PANEL);
                const float *x = x_NK + begin * apart + k;
                if (block == 1) {
                    tile_of(panel, x, depth, apart, 1, PANEL / WIDTH, next, LINES, k ? some : sums);
                    for (long i = 0; k && i < PANEL; i++)
                        sums[i] += some[i];
                    continue;
                }
                const int lines = block <= 3 * TILE ? LINES / 2 : 1;
                /* Otherwise a tile of two rows may remain, which takes as long as four. Of few rows in float32, weights
                 * take longer. */
                const int is_balanced = block > (sizeof(element) < sizeof(float) ? TILE : 3 * TILE);
                const long tiles = ceil_div(block, TILE), all = depth / 2 * LINES,
                           count = PANEL / (SPAN * WIDTH) * tiles;
                for (long o = 0, asked = 0, turn = 0; o < PANEL; o += SPAN * WIDTH)
                    for (long t = 0; t < tiles; t++, turn++) {
                        const long n = is_balanced ? block * t / tiles : t * TILE;
                        const long rows = is_balanced        ? block * (t + 1) / tiles - n
                                          : block - n < TILE ? block - n
                                                             : TILE;
                        const int now = asked < all && asked * count <= all * turn ? lines : 0;
                        const char *then = next + asked * LINE;
                        asked += depth / 2 * now;
                        float *to = k ? some : sums + n * PANEL + o;
                        tile(panel + o * INTERLEAVE, x + n * apart, depth, apart, rows, then, now, to);
                        for (long r = 0; k && r < rows; r++)
                            for (long i = 0; i < SPAN * WIDTH; i++)
                                sums[(n + r) * PANEL + o + i] += some[r * PANEL + i];
                    }
            }
            store_panel(sums, block, p, O, how, y_NO + begin * stride, stride);
        }
}
