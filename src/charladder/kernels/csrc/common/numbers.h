/* Numbers in float32 and bfloat16, and the division of work among threads. */

#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef BFLOAT16
typedef uint16_t element;

static inline float to_float(element h)
{
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

/* Rounds to the nearest, ties to even. A NaN whose lower bits are all set would become 0. A NaN that was bfloat16
   before has no such bits; for float32 inputs use to_element_nan_safe or canonical_nans. */
static inline element to_element(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return (element)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static inline element to_element_nan_safe(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return (bits & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : to_element(f);
}
#else
typedef float element;
static inline float to_float(element h) { return h; }
static inline element to_element(float f) { return f; }
static inline element to_element_nan_safe(float f) { return f; }
#endif

/* A copy in which all NaNs have the same bits; the caller frees it. */
static inline float *canonical_nans(const float *from, long count)
{
    float *to = malloc(count * sizeof(float));
    for (long i = 0; i < count; i++)
        to[i] = from[i] == from[i] ? from[i] : NAN;
    return to;
}

/* e^x within two units in the last place; 0 below -87.7, infinite above 88.4; NaN stays NaN. */
static inline float fast_exp(float x)
{
    const float log2e = 1.44269504f, high = 0.693359375f, low = -2.12194440e-4f, round = 12582912.0f;
    x = x < -88.0f ? -88.0f : x;
    x = x > 89.0f ? 89.0f : x;
    float shifted = x * log2e + round, n = shifted - round, r = x - n * high - n * low, scale;
    uint32_t bits;
    memcpy(&bits, &shifted, 4);
    bits = (bits + 127) << 23;
    memcpy(&scale, &bits, 4);
    float p = 1.0f / 720 * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    return scale * (p * r * r + r + 1.0f);
}

/* e^(x - highest) of each number; sets `highest` to the largest number and returns the sum. */
static inline float exp_and_sum(const element *x, long count, float *raised, float *highest)
{
    float most = -INFINITY, sum = 0;
#pragma omp simd reduction(max : most)
    for (long i = 0; i < count; i++)
        most = to_float(x[i]) > most ? to_float(x[i]) : most;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < count; i++) {
        raised[i] = fast_exp(to_float(x[i]) - most);
        sum += raised[i];
    }
    *highest = most;
    return sum;
}

/* Divides rows into as many parts as threads are requested, even if fewer threads run: sums do not depend on that. */
#define FOR_EACH_THREAD                                                                                                \
    _Pragma("omp parallel for num_threads(threads) schedule(static, 1)") for (long me = 0; me < threads; me++)
#define THREAD_RANGE(count, first, last) const long first = (count) * me / threads, last = (count) * (me + 1) / threads
