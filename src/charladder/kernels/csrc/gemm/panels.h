/* The layout of matrices in panels of 32 outputs, for products with few rows. A sum over K needs no horizontal sum, and
   does not depend on the number of rows. In float32 a panel is (K, 32). In bfloat16 a panel holds pairs of adjacent
   inputs, (K / 2, 32, 2), and K is padded with zeros to a multiple of 32, as amx.h requires.

   Shapes: N rows, R rows of a tile, O outputs and K inputs of a matrix, P outputs of a panel.
*/

#pragma once

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include "common/numbers.h"

#define PANEL_WIDTH 32 /* outputs of a panel */
#define LANES 16       /* half a panel; also the number of keys in a group of the KV cache */
#define CACHE_LINE_BYTES 64
/* Cache lines of a panel's weights of two inputs. */
#define LINES_PER_INPUT_PAIR (2 * PANEL_WIDTH * (int)sizeof(element) / CACHE_LINE_BYTES)

/* Floats in a vector register: compilers split wider vectors into scalars. */
#if defined(__AVX512F__)
#define VECTOR_WIDTH 16
#elif defined(__AVX__)
#define VECTOR_WIDTH 8
#else
#define VECTOR_WIDTH 4
#endif
#define TILE_ROWS 6    /* rows of a tile: the sums that a microkernel keeps in registers */
#define TILE_VECTORS 2 /* vectors of outputs of a tile */
/* Accumulators of each output: one for even and one for odd inputs if there are 32 vector registers, otherwise one for
   all. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define ACCUMULATORS 2
#else
#define ACCUMULATORS 1
#endif

typedef float vec __attribute__((vector_size(4 * VECTOR_WIDTH)));
typedef uint32_t u32_vec __attribute__((vector_size(4 * VECTOR_WIDTH)));
typedef uint16_t u16_vec __attribute__((vector_size(2 * VECTOR_WIDTH)));

static inline long ceil_div(long numerator, long denominator) { return (numerator + denominator - 1) / denominator; }

#ifdef BFLOAT16
#define INTERLEAVE 2 /* adjacent inputs of an output in memory */
static inline long padded_inputs(long K) { return ceil_div(K, 32) * 32; }
#else
#define INTERLEAVE 1
static inline long padded_inputs(long K) { return K; }
#endif

static inline vec load_floats(const float *x)
{
    vec v;
    memcpy(&v, x, sizeof v);
    return v;
}

static inline void store_floats(float *y, vec v) { memcpy(y, &v, sizeof v); }

static inline vec load_as_floats(const element *x)
{
#if defined(BFLOAT16) && defined(__AVX512F__)
    /* One instruction; __builtin_convertvector takes several. */
    return (vec)((u32_vec)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x)) << 16);
#elif defined(BFLOAT16) && defined(__AVX2__)
    return (vec)((u32_vec)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)x)) << 16);
#elif defined(BFLOAT16)
    u16_vec h;
    memcpy(&h, x, sizeof h);
    return (vec)(__builtin_convertvector(h, u32_vec) << 16);
#else
    return load_floats(x);
#endif
}

/* Keeps a value in a register. Without this, the compiler loads it again for every row. */
static inline vec keep_in_register(vec v)
{
#if defined(__AVX512F__)
    __asm__("" : "+v"(v));
#elif defined(__AVX__)
    __asm__("" : "+x"(v));
#endif
    return v;
}

/* Vector v of the weights of input k + odd. k is even, odd is 0 or 1. */
static inline __attribute__((always_inline)) vec load_weights(const element *panel, long k, const int odd, const int v)
{
#ifdef BFLOAT16
    u32_vec pair;
    memcpy(&pair, panel + k * PANEL_WIDTH + INTERLEAVE * v * VECTOR_WIDTH, sizeof pair);
    return (vec)(odd ? pair & 0xFFFF0000u : pair << 16);
#else
    return load_floats(panel + (k + odd) * PANEL_WIDTH + v * VECTOR_WIDTH);
#endif
}

/* CALL_MICROKERNEL(rows), with `rows` as a constant in each case. */
#define ROWS_CASE(count)                                                                                               \
    case count:                                                                                                        \
        CALL_MICROKERNEL(count);                                                                                       \
        break;
#define DISPATCH_ROWS                                                                                                  \
    switch (rows) {                                                                                                    \
        ROWS_CASE(1)                                                                                                   \
        ROWS_CASE(2)                                                                                                   \
        ROWS_CASE(3)                                                                                                   \
        ROWS_CASE(4)                                                                                                   \
        ROWS_CASE(5)                                                                                                   \
    default:                                                                                                           \
        CALL_MICROKERNEL(TILE_ROWS);                                                                                   \
    }

#define ROW_BLOCK 120 /* rows whose sums are kept on the stack, a multiple of TILE_ROWS */

enum { EPILOGUE_STORE, EPILOGUE_ADD, EPILOGUE_SWIGLU };

/* Stores the sums of panel p, (rows, 32), in y_NO. EPILOGUE_STORE writes them, EPILOGUE_ADD adds them.
   EPILOGUE_SWIGLU: the panel has 16 gates and 16 values, and silu(gate) * value is written, half as many outputs. */
static inline void store_panel(const float *sums, long rows, long p, long O, int epilogue, float *y_NO, long y_stride)
{
    for (long n = 0; n < rows; n++) {
        const float *row_sums = sums + n * PANEL_WIDTH;
        if (epilogue == EPILOGUE_SWIGLU) {
            float *y = y_NO + n * y_stride + p * LANES, gated[LANES];
            const long count = y_stride - p * LANES < LANES ? y_stride - p * LANES : LANES;
#pragma omp simd
            for (long i = 0; i < LANES; i++)
                gated[i] = row_sums[i] / (1.0f + fast_exp(-row_sums[i])) * row_sums[i + LANES];
            memcpy(y, gated, count * sizeof(float));
        } else {
            float *y = y_NO + n * y_stride + p * PANEL_WIDTH;
            const long count = O - p * PANEL_WIDTH < PANEL_WIDTH ? O - p * PANEL_WIDTH : PANEL_WIDTH;
            if (epilogue == EPILOGUE_ADD)
                for (long i = 0; i < count; i++)
                    y[i] += row_sums[i];
            else if (count == PANEL_WIDTH)
                memcpy(y, row_sums, PANEL_WIDTH * sizeof(float));
            else
                memcpy(y, row_sums, count * sizeof(float));
        }
    }
}

/* Converts N rows of K inputs to bfloat16 and pads them with zeros. */
static inline void round_rows(const float *x_NK, long x_stride, long N, long K, element *y)
{
    const long padded_K = padded_inputs(K);
    for (long n = 0; n < N; n++) {
        for (long k = 0; k < K; k++)
            y[n * padded_K + k] = to_element_nan_safe(x_NK[n * x_stride + k]);
        memset(y + n * padded_K + K, 0, (padded_K - K) * sizeof(element));
    }
}
