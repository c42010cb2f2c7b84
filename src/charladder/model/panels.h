/* Matrices in panels of 32 outputs, and their products with a few rows: a sum over K needs no sum across a vector, and
   is the same however many rows there are. In 32 bits a panel is (K, 32); in 16 bits inputs lie in pairs, (K / 2, 32, 2),
   and K is filled up with zeros to a multiple of 32, as tiles.h wants them.

   Shapes: N rows, O outputs and K inputs of a matrix, P 32, D width.
*/

#pragma once

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include "numbers.h"

#define PANEL 32
#define LANES 16
#define LINE 64
#define LINES (2 * PANEL * (int)sizeof(half) / LINE) /* of the cache, for the weights of two inputs */

/* As wide as the machine's own: a compiler takes wider vectors apart into single numbers. */
#if defined(__AVX512F__)
#define WIDTH 16
#elif defined(__AVX__)
#define WIDTH 8
#else
#define WIDTH 4
#endif
#define TILE 6 /* rows at once */
#define SPAN 2 /* vectors of outputs at once */
/* Sums of each: one for even inputs and one for odd ones where there are 32 registers, else one for all. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define SPLIT 2
#else
#define SPLIT 1
#endif

typedef float vec __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t words __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t halves __attribute__((vector_size(2 * WIDTH)));

static inline long up(long number, long to) { return (number + to - 1) / to; }

#ifdef HALF
#define TOGETHER 2 /* inputs that lie side by side */
static inline long filled(long K) { return up(K, 32) * 32; }
#else
#define TOGETHER 1
static inline long filled(long K) { return K; }
#endif

static inline vec load_f(const float *from)
{
    vec v;
    memcpy(&v, from, sizeof v);
    return v;
}

static inline void store_f(float *to, vec v) { memcpy(to, &v, sizeof v); }

static inline vec load(const half *from)
{
#if defined(HALF) && defined(__AVX512F__)
    /* In one instruction, which __builtin_convertvector is not. */
    return (vec)((words)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)) << 16);
#elif defined(HALF) && defined(__AVX2__)
    return (vec)((words)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from)) << 16);
#elif defined(HALF)
    halves h;
    memcpy(&h, from, sizeof h);
    return (vec)(__builtin_convertvector(h, words) << 16);
#else
    return load_f(from);
#endif
}

/* What lies in a register from here on: else a compiler loads it again for every row. */
static inline vec kept(vec v)
{
#if defined(__AVX512F__)
    __asm__("" : "+v"(v));
#elif defined(__AVX__)
    __asm__("" : "+x"(v));
#endif
    return v;
}

/* The weights of input k, which is even, or the one after it: vector v of the outputs. */
static inline __attribute__((always_inline)) vec weight(const half *panel, long k, const int odd, const int v)
{
#ifdef HALF
    words both;
    memcpy(&both, panel + k * PANEL + TOGETHER * v * WIDTH, sizeof both);
    return (vec)(odd ? both & 0xFFFF0000u : both << 16);
#else
    return load_f(panel + (k + odd) * PANEL + v * WIDTH);
#endif
}

/* `span` vectors of a panel's outputs times `rows` rows, constants where this is inlined; to_RP: (rows, 32). With every
   two inputs so many lines of what comes next are asked for, from `next` on: the processor alone does not ask early
   enough. */
static inline __attribute__((always_inline)) void tile_of(const half *panel, const float *x_RK, long K, long stride,
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
                some[v] = kept(weight(panel, k, odd, v));
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

/* CALL(rows), where the number of rows is a constant in each. */
#define OF_ROWS(count)                                                                                                 \
    case count:                                                                                                        \
        CALL(count);                                                                                                   \
        break;
#define BY_ROWS                                                                                                        \
    switch (rows) {                                                                                                    \
        OF_ROWS(1)                                                                                                     \
        OF_ROWS(2)                                                                                                     \
        OF_ROWS(3)                                                                                                     \
        OF_ROWS(4)                                                                                                     \
        OF_ROWS(5)                                                                                                     \
    default:                                                                                                           \
        CALL(TILE);                                                                                                    \
    }

static inline void tile(const half *panel, const float *x_RK, long K, long stride, long rows, const char *next, int lines,
                        float *to_RP)
{
#define CALL(count) tile_of(panel, x_RK, K, stride, count, SPAN, next, lines, to_RP)
    BY_ROWS
#undef CALL
}

enum { SET, ADD, GATE };

#define DEPTH 256         /* inputs at once: a panel of them stays in a processor's first cache */
#define DEEP 384          /* the same in 16 bits, a multiple of 32 */
#define BLOCK 120         /* rows at once */

/* What one panel p gave, (rows, 32), goes into y_NO, is added to it, or, where gates and what they let through lie side
   by side, 16 and 16, becomes half as many outputs: silu(gate) * up. */
static inline void finish(const float *sums, long rows, long p, long O, int how, float *y_NO, long stride)
{
    for (long n = 0; n < rows; n++) {
        const float *from = sums + n * PANEL;
        if (how == GATE) {
            float *to = y_NO + n * stride + p * LANES, whole[LANES];
            const long count = stride - p * LANES < LANES ? stride - p * LANES : LANES;
#pragma omp simd
            for (long i = 0; i < LANES; i++)
                whole[i] = from[i] / (1.0f + exponential(-from[i])) * from[i + LANES];
            memcpy(to, whole, count * sizeof(float));
        } else {
            float *to = y_NO + n * stride + p * PANEL;
            const long count = O - p * PANEL < PANEL ? O - p * PANEL : PANEL;
            if (how == ADD)
                for (long i = 0; i < count; i++)
                    to[i] += from[i];
            else if (count == PANEL)
                memcpy(to, from, PANEL * sizeof(float));
            else
                memcpy(to, from, count * sizeof(float));
        }
    }
}

/* Rows of K in bfloat16, K filled up with zeros. */
static inline void round_rows(const float *x_NK, long apart, long N, long K, half *rounded)
{
    const long wide = filled(K);
    for (long n = 0; n < N; n++) {
        for (long k = 0; k < K; k++)
            rounded[n * wide + k] = put_any(x_NK[n * apart + k]);
        memset(rounded + n * wide + K, 0, (wide - K) * sizeof(half));
    }
}

#include "tiles.h"

#include "pairs.h"

/* Numbers' worth of room for what tiles.h rounds of N rows of K. */
static inline long scratch(long N, long K)
{
    const long rows = N > 16 ? up(N, 32) * 32 : N;
    return (rows < ROWS ? rows : ROWS) * up(K, 32) * 32 * sizeof(uint16_t) / sizeof(float);
}

/* Panels first to last of a matrix times all rows, which lie `apart` from each other. rounded: scratch(N, K). */
static inline void multiply(const half *matrix, const float *x_NK, long apart, long N, long K, long O, long first,
                            long last, int how, float *y_NO, long stride, half *rounded)
{
    if (tiles_here()) {
        multiply_tiles(matrix, x_NK, apart, N, K, O, first, last, how, y_NO, stride, rounded);
        return;
    }
    if (pairs_here()) {
        multiply_pairs(matrix, x_NK, apart, N, K, O, first, last, how, y_NO, stride, rounded);
        return;
    }
    float some[TILE * PANEL], sums[BLOCK * PANEL];
    for (long p = first; p < last; p++)
        for (long begin = 0; begin < N; begin += BLOCK) {
            const long block = N - begin < BLOCK ? N - begin : BLOCK;
            for (long k = 0; k < K; k += DEPTH) {
                const long depth = K - k < DEPTH ? K - k : DEPTH;
                const half *panel = matrix + (p * filled(K) + k) * PANEL;
                /* The next part of the matrix is asked for in equal shares, by all tiles of rows or by the first. */
                const char *next = (const char *)(panel + depth * PANEL);
                const float *x = x_NK + begin * apart + k;
                if (block == 1) {
                    tile_of(panel, x, depth, apart, 1, PANEL / WIDTH, next, LINES, k ? some : sums);
                    for (long i = 0; k && i < PANEL; i++)
                        sums[i] += some[i];
                    continue;
                }
                const int lines = block <= 3 * TILE ? LINES / 2 : 1;
                /* Else two rows may be left, which take as long as four. Of few rows in 32 bits the weights take longer. */
                const int even = block > (sizeof(half) < sizeof(float) ? TILE : 3 * TILE);
                const long tiles = up(block, TILE), all = depth / 2 * LINES, count = PANEL / (SPAN * WIDTH) * tiles;
                for (long o = 0, asked = 0, turn = 0; o < PANEL; o += SPAN * WIDTH)
                    for (long t = 0; t < tiles; t++, turn++) {
                        const long n = even ? block * t / tiles : t * TILE;
                        const long rows = even ? block * (t + 1) / tiles - n : block - n < TILE ? block - n : TILE;
                        const int now = asked < all && asked * count <= all * turn ? lines : 0;
                        const char *then = next + asked * LINE;
                        asked += depth / 2 * now;
                        float *to = k ? some : sums + n * PANEL + o;
                        tile(panel + o * TOGETHER, x + n * apart, depth, apart, rows, then, now, to);
                        for (long r = 0; k && r < rows; r++)
                            for (long i = 0; i < SPAN * WIDTH; i++)
                                sums[(n + r) * PANEL + o + i] += some[r * PANEL + i];
                    }
            }
            finish(sums, block, p, O, how, y_NO + begin * stride, stride);
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
