/* The layout of matrices in panels of 32 outputs, for products with few rows. A sum over K needs no horizontal sum, and
   is the same whatever the number of rows. In float32 a panel is (K, 32). In bfloat16 inputs lie in pairs, (K / 2, 32,
   2), and K is padded with zeros to a multiple of 32, as amx.h requires.

   Shapes: N rows, O outputs and K inputs of a matrix, P 32, D width.
*/

#pragma once

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include "common/numbers.h"

#define PANEL 32
#define LANES 16
#define LINE 64
#define LINES (2 * PANEL * (int)sizeof(element) / LINE) /* cache lines of the weights of two inputs */

/* The width of the machine's own vectors: compilers split wider ones into scalars. */
#if defined(__AVX512F__)
#define WIDTH 16
#elif defined(__AVX__)
#define WIDTH 8
#else
#define WIDTH 4
#endif
#define TILE 6 /* rows of a tile */
#define SPAN 2 /* vectors of outputs of a tile */
/* Accumulators of each output: one for even and one for odd inputs where there are 32 registers, otherwise one. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define SPLIT 2
#else
#define SPLIT 1
#endif

typedef float vec __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t u32_vec __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t u16_vec __attribute__((vector_size(2 * WIDTH)));

static inline long ceil_div(long number, long to) { return (number + to - 1) / to; }

#ifdef BFLOAT16
#define INTERLEAVE 2 /* adjacent inputs of one output */
static inline long padded(long K) { return ceil_div(K, 32) * 32; }
#else
#define INTERLEAVE 1
static inline long padded(long K) { return K; }
#endif

static inline vec load_f(const float *from)
{
    vec v;
    memcpy(&v, from, sizeof v);
    return v;
}

static inline void store_f(float *to, vec v) { memcpy(to, &v, sizeof v); }

static inline vec load(const element *from)
{
#if defined(BFLOAT16) && defined(__AVX512F__)
    /* One instruction; __builtin_convertvector takes several. */
    return (vec)((u32_vec)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)) << 16);
#elif defined(BFLOAT16) && defined(__AVX2__)
    return (vec)((u32_vec)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from)) << 16);
#elif defined(BFLOAT16)
    u16_vec h;
    memcpy(&h, from, sizeof h);
    return (vec)(__builtin_convertvector(h, u32_vec) << 16);
#else
    return load_f(from);
#endif
}

/* Keeps a value in a register; otherwise the compiler loads it again for every row. */
static inline vec keep_in_register(vec v)
{
#if defined(__AVX512F__)
    __asm__("" : "+v"(v));
#elif defined(__AVX__)
    __asm__("" : "+x"(v));
#endif
    return v;
}

/* Vector v of the weights of input k, which is even, or of the input after it. */
static inline __attribute__((always_inline)) vec weight(const element *panel, long k, const int odd, const int v)
{
#ifdef BFLOAT16
    u32_vec both;
    memcpy(&both, panel + k * PANEL + INTERLEAVE * v * WIDTH, sizeof both);
    return (vec)(odd ? both & 0xFFFF0000u : both << 16);
#else
    return load_f(panel + (k + odd) * PANEL + v * WIDTH);
#endif
}

/* CALL(rows), with the number of rows as a constant in each case. */
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

#define BLOCK 120 /* rows of a block */

enum { SET, ADD, GATE };

/* Stores the sums of panel p, (rows, 32), into y_NO: SET writes them, ADD adds them. GATE: 16 gates and the 16 values
   that they gate lie side by side, and half as many outputs are written: silu(gate) * up. */
static inline void store_panel(const float *sums, long rows, long p, long O, int how, float *y_NO, long stride)
{
    for (long n = 0; n < rows; n++) {
        const float *from = sums + n * PANEL;
        if (how == GATE) {
            float *to = y_NO + n * stride + p * LANES, whole[LANES];
            const long count = stride - p * LANES < LANES ? stride - p * LANES : LANES;
#pragma omp simd
            for (long i = 0; i < LANES; i++)
                whole[i] = from[i] / (1.0f + fast_exp(-from[i])) * from[i + LANES];
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

/* Rounds rows of K to bfloat16, padded with zeros. */
static inline void round_rows(const float *x_NK, long apart, long N, long K, element *rounded)
{
    const long wide = padded(K);
    for (long n = 0; n < N; n++) {
        for (long k = 0; k < K; k++)
            rounded[n * wide + k] = to_element_nan_safe(x_NK[n * apart + k]);
        memset(rounded + n * wide + K, 0, (wide - K) * sizeof(element));
    }
}
