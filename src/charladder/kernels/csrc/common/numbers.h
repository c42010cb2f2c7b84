/* Conversion between float32 and bfloat16, the exponential, and the division of rows among threads.

   `element` is the dtype of matrix products: bfloat16 with BFLOAT16, otherwise float32. */

#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef BFLOAT16
typedef uint16_t element;

static inline float to_float(element x)
{
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}

/* Rounds to nearest, ties to even. Rounding overflows for a NaN whose lower bits are all set, so the result would be 0.
   A NaN from bfloat16 has no such bits; for other inputs use to_element_nan_safe or canonical_nans. */
static inline element to_element(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (element)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static inline element to_element_nan_safe(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (bits & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : to_element(x);
}
#else
typedef float element;
static inline float to_float(element x) { return x; }
static inline element to_element(float x) { return x; }
static inline element to_element_nan_safe(float x) { return x; }
#endif

/* A copy in which all NaNs have the same bits, so that to_element keeps them. The caller frees it. */
static inline float *canonical_nans(const float *x, long count)
{
    float *y = malloc(count * sizeof(float));
    for (long i = 0; i < count; i++)
        y[i] = x[i] == x[i] ? x[i] : NAN;
    return y;
}

/* e^x with an error of at most two units in the last place. The result is 0 below -87.7 and infinite above 88.4; NaN
   stays NaN. Adding the rounding constant, 1.5 * 2^23, rounds to an integer. ln(2) is split in two, so that the first
   product is exact. */
static inline float fast_exp(float x)
{
    const float log2_e = 1.44269504f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f,
                rounding_constant = 12582912.0f;
    x = x < -88.0f ? -88.0f : x;
    x = x > 89.0f ? 89.0f : x;
    float rounded = x * log2_e + rounding_constant, n = rounded - rounding_constant, r = x - n * ln2_high - n * ln2_low,
          scale;
    uint32_t bits;
    memcpy(&bits, &rounded, 4);
    bits = (bits + 127) << 23;
    memcpy(&scale, &bits, 4);
    float p = 1.0f / 720 * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    return scale * (p * r * r + r + 1.0f);
}

/* Writes e^(x - maximum) of each number to `exps`, and their maximum to `maximum_out`. Returns the sum of `exps`. */
static inline float exp_and_sum(const element *x, long count, float *exps, float *maximum_out)
{
    float maximum = -INFINITY, sum = 0;
#pragma omp simd reduction(max : maximum)
    for (long i = 0; i < count; i++)
        maximum = to_float(x[i]) > maximum ? to_float(x[i]) : maximum;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < count; i++) {
        exps[i] = fast_exp(to_float(x[i]) - maximum);
        sum += exps[i];
    }
    *maximum_out = maximum;
    return sum;
}

/* Divides rows into `threads` parts, even if fewer threads run: sums do not depend on the number of running threads. */
#define FOR_EACH_PART                                                                                                  \
    _Pragma("omp parallel for num_threads(threads) schedule(static, 1)") for (long part = 0; part < threads; part++)
#define PART_RANGE(count, first, last)                                                                                 \
    const long first = (count) * part / threads, last = (count) * (part + 1) / threads
