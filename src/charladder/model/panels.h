/* Matrices in panels of 32 outputs, (ceil(O / 32), K, 32), and their products with a few rows: a sum over K needs no
   sum across a vector, and is the same however many rows there are.

   Shapes: N rows, O outputs and K inputs of a matrix, P 32, D width.
*/

#pragma once

#include "numbers.h"

#define PANEL 32
#define LANES 16
#ifdef __AVX512F__
#define TILE 6
#else
#define TILE 2
#endif

typedef float vec __attribute__((vector_size(64)));
typedef uint32_t words __attribute__((vector_size(64)));
typedef uint16_t halves __attribute__((vector_size(32)));

static inline vec load_f(const float *from)
{
    vec v;
    memcpy(&v, from, sizeof v);
    return v;
}

static inline void store_f(float *to, vec v) { memcpy(to, &v, sizeof v); }

static inline vec load(const half *from)
{
#ifdef HALF
    halves h;
    memcpy(&h, from, sizeof h);
    words w = __builtin_convertvector(h, words) << 16;
    return (vec)w;
#else
    return load_f(from);
#endif
}

/* One panel times `rows` rows, a constant where this is inlined; to_RP: (rows, 32). */
static inline __attribute__((always_inline)) void tile(const half *panel, const float *x_RK, long K, long stride,
                                                       const int rows, float *to_RP)
{
    vec sum[TILE][2][2] = {0};
    long k = 0;
    for (; k + 1 < K; k += 2) {
        for (int odd = 0; odd < 2; odd++) {
            const vec low = load(panel + (k + odd) * PANEL), high = load(panel + (k + odd) * PANEL + LANES);
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) {
                const float x = x_RK[r * stride + k + odd];
                sum[r][odd][0] += low * x;
                sum[r][odd][1] += high * x;
            }
        }
    }
    if (k < K) {
        const vec low = load(panel + k * PANEL), high = load(panel + k * PANEL + LANES);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            sum[r][0][0] += low * x_RK[r * stride + k];
            sum[r][0][1] += high * x_RK[r * stride + k];
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        store_f(to_RP + r * PANEL, sum[r][0][0] + sum[r][1][0]);
        store_f(to_RP + r * PANEL + LANES, sum[r][0][1] + sum[r][1][1]);
    }
}

static inline void tiles(const half *panel, const float *x_RK, long K, long stride, long rows, float *to_RP)
{
    switch (rows) {
    case 1:
        tile(panel, x_RK, K, stride, 1, to_RP);
        break;
#if TILE == 6
    case 2:
        tile(panel, x_RK, K, stride, 2, to_RP);
        break;
    case 3:
        tile(panel, x_RK, K, stride, 3, to_RP);
        break;
    case 4:
        tile(panel, x_RK, K, stride, 4, to_RP);
        break;
    case 5:
        tile(panel, x_RK, K, stride, 5, to_RP);
        break;
#endif
    default:
        tile(panel, x_RK, K, stride, TILE, to_RP);
    }
}

enum { SET, ADD, GATE };

#define DEPTH 256         /* inputs at once: a panel of them stays in a processor's first cache */
#define BLOCK (20 * TILE) /* rows at once */

/* Panels first to last of a matrix times all rows: into y_NO, added to it, or, where gates and what they let through
   lie side by side, 16 and 16, as half as many outputs: silu(gate) * up. */
static inline void multiply(const half *matrix, const float *x_NK, long N, long K, long O, long first, long last, int how,
                            float *y_NO, long stride)
{
    float some[TILE * PANEL], sums[BLOCK * PANEL];
    for (long p = first; p < last; p++)
        for (long begin = 0; begin < N; begin += BLOCK) {
            const long block = N - begin < BLOCK ? N - begin : BLOCK;
            for (long k = 0; k < K; k += DEPTH) {
                const long depth = K - k < DEPTH ? K - k : DEPTH;
                const half *panel = matrix + (p * K + k) * PANEL;
                for (long n = 0; n < block; n += TILE) {
                    const long rows = block - n < TILE ? block - n : TILE;
                    const float *x = x_NK + (begin + n) * K + k;
                    if (k == 0) {
                        tiles(panel, x, depth, K, rows, sums + n * PANEL);
                        continue;
                    }
                    tiles(panel, x, depth, K, rows, some);
                    for (long i = 0; i < rows * PANEL; i++)
                        sums[n * PANEL + i] += some[i];
                }
            }
            for (long n = 0; n < block; n++) {
                const float *from = sums + n * PANEL;
                if (how == GATE) {
                    float *to = y_NO + (begin + n) * stride + p * LANES, whole[LANES];
                    const long count = stride - p * LANES < LANES ? stride - p * LANES : LANES;
#pragma omp simd
                    for (long i = 0; i < LANES; i++)
                        whole[i] = from[i] / (1.0f + exponential(-from[i])) * from[i + LANES];
                    memcpy(to, whole, count * sizeof(float));
                } else {
                    float *to = y_NO + (begin + n) * stride + p * PANEL;
                    const long count = O - p * PANEL < PANEL ? O - p * PANEL : PANEL;
                    if (how == ADD)
                        for (long i = 0; i < count; i++)
                            to[i] += from[i];
                    else
                        memcpy(to, from, count * sizeof(float));
                }
            }
        }
}

static inline void rms(const float *x, const float *gain, float epsilon, float times, long D, float *y)
{
    float square = 0;
#pragma omp simd reduction(+ : square)
    for (long d = 0; d < D; d++)
        square += x[d] * x[d];
    const float by = times / sqrtf(square / D + epsilon);
#pragma omp simd
    for (long d = 0; d < D; d++)
        y[d] = x[d] * by * gain[d];
}

static inline long up(long number, long to) { return (number + to - 1) / to; }
