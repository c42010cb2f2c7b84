/* Attention of one head of one character to the KV cache of its sequence, for decode.c.

   Keys lie in groups of 16 positions, (ceil(C / 16), E, 16), so that there is no horizontal sum; values as (C, Z).

   Shapes: D width, E head size, Z the next multiple of 16, C characters of context.
*/

#pragma once

#include "common/rms_norm.h"
#include "gemm/gemm.h"

typedef struct {
    long L, D, H, E, F, V, C;
    float epsilon;
    const float *embedding_VD, *final_gain_D, *cos_CE, *sin_CE;
    const element *output;
    const void *const
        *layers;           /* seven for each layer: gain, qkv, query and key gains, output, gain, gate and up, down */
    element *const *cache; /* two for each layer: keys (S, H, groups, E, 16), values (S, H, C, Z) */
} Network;

#define PREFETCH_BYTES 8192 /* how many bytes ahead memory is prefetched */
/* With many sequences, prefetching the rest of the current stretch slows down AVX2 processors in float32, because their
   hardware prefetcher already does it. Then only the memory that is read afterwards is prefetched. */
#if defined(__AVX2__) && !defined(__AVX512F__) && !defined(BFLOAT16)
#define SKIP_PREFETCH 1
#else
#define SKIP_PREFETCH 0
#endif

/* Normalizes the query or key of one head and applies the rotary embedding of a position. */
static void norm_and_rotate(const float *x_E, const float *gain_E, float epsilon, float times, const float *cos,
                            const float *sin, long E, float *y_E)
{
    const long half_E = E / 2;
    rms_norm(x_E, gain_E, epsilon, times, E, y_E);
    for (long e = 0; e < half_E; e++) {
        const float low = y_E[e], high = y_E[e + half_E];
        y_E[e] = low * cos[e] - high * sin[e];
        y_E[e + half_E] = high * cos[e] + low * sin[e];
    }
}

/* Prefetches `count` numbers some way ahead of place `at` in a stretch of `used` numbers, and past its end in the
   memory that is read after it, because the hardware prefetcher is too late. It prefetches into the second-level cache,
   because the first-level cache has few entries for outstanding loads. */
static inline void prefetch(const element *stretch, long at, long used, const element *after, long count,
                            const int many)
{
    at += PREFETCH_BYTES / (long)sizeof(element);
    if (SKIP_PREFETCH && many && at < used)
        return;
    const element *ahead = at < used ? stretch + at : after + at - used;
    for (long n = 0; n < count; n += LINE / (long)sizeof(element))
        __builtin_prefetch(ahead + n, 0, 2);
}

#define VECS (LANES / WIDTH)             /* vectors of 16 numbers */
#define VALUE_SUMS (WIDTH == 16 ? 4 : 1) /* independent accumulators of values: as many as there are registers for */

/* The weighted sum of `count` vectors (a constant where this is inlined) of all values up to `seen`. */
static inline __attribute__((always_inline)) void weighted_values(const element *values, const float *score, long seen,
                                                                  long Z, const int count, const element *next,
                                                                  const int many, float by, float *to)
{
    vec sum[VALUE_SUMS][4 * VECS] = {0};
    long s = 0;
    for (; s + VALUE_SUMS - 1 < seen; s += VALUE_SUMS) {
        if (next)
            prefetch(values, s * Z, seen * Z, next, VALUE_SUMS * Z, many);
#pragma GCC unroll 4
        for (int i = 0; i < VALUE_SUMS; i++)
#pragma GCC unroll 16
            for (int v = 0; v < count; v++)
                sum[i][v] += load(values + (s + i) * Z + v * WIDTH) * score[s + i];
    }
    for (; s < seen; s++)
#pragma GCC unroll 16
        for (int v = 0; v < count; v++)
            sum[0][v] += load(values + s * Z + v * WIDTH) * score[s];
#pragma GCC unroll 16
    for (int v = 0; v < count; v++) {
        const vec all = VALUE_SUMS == 1
                            ? sum[0][v]
                            : (sum[0][v] + sum[VALUE_SUMS / 4][v]) + (sum[VALUE_SUMS / 2][v] + sum[VALUE_SUMS - 1][v]);
        store_f(to + v * WIDTH, all * by);
    }
}

/* One head of one row: writes its key and value into the cache, and attends to all positions up to its own. y_E
   overwrites the query; score has room for all groups. */
static void attend_head(const Network *net, float *qkv_3D, const float *gain_2E, element *keys, element *values,
                        const element *next, const int many, long place, long h, float *score, float *y_E)
{
    const long E = net->E, D = net->D, chunks = ceil_div(E, LANES), Z = chunks * LANES, seen = place + 1;
    const long groups = ceil_div(seen, LANES);
    const float *cos = net->cos_CE + place * E, *sin = net->sin_CE + place * E;
    float query[E], key[E];
    norm_and_rotate(qkv_3D + h * E, gain_2E, net->epsilon, 1.0f / sqrtf((float)E), cos, sin, E, query);
    norm_and_rotate(qkv_3D + D + h * E, gain_2E + E, net->epsilon, 1.0f, cos, sin, E, key);
    element *own = keys + place / LANES * E * LANES + place % LANES;
    for (long e = 0; e < E; e++)
        own[e * LANES] = to_element_nan_safe(key[e]);
    for (long e = 0; e < E; e++)
        values[place * Z + e] = to_element_nan_safe(qkv_3D[2 * D + h * E + e]);

    float most = -INFINITY, sum = 0;
    for (long g = 0; g < groups; g++) {
        const element *group = keys + g * E * LANES;
        vec part[4][VECS] = {0};
        long e = 0;
        for (; e + 3 < E; e += 4) {
            prefetch(keys, (g * E + e) * LANES, groups * E * LANES, values, 4 * LANES, many);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
#pragma GCC unroll 4
                for (int v = 0; v < VECS; v++)
                    part[i][v] += load(group + (e + i) * LANES + v * WIDTH) * query[e + i];
        }
        for (; e < E; e++)
            for (int v = 0; v < VECS; v++)
                part[0][v] += load(group + e * LANES + v * WIDTH) * query[e];
        for (int v = 0; v < VECS; v++)
            store_f(score + g * LANES + v * WIDTH, (part[0][v] + part[1][v]) + (part[2][v] + part[3][v]));
    }
    for (long s = seen; s < groups * LANES; s++)
        score[s] = -INFINITY;
#pragma omp simd reduction(max : most)
    for (long s = 0; s < seen; s++)
        most = score[s] > most ? score[s] : most;
#pragma omp simd reduction(+ : sum)
    for (long s = 0; s < groups * LANES; s++) {
        score[s] = fast_exp(score[s] - most); /* masked positions become 0 */
        sum += score[s];
    }
    const float by = 1.0f / sum;
    for (long c = 0; c < chunks; c += 4) {
        float all[4 * LANES];
        const element *from = values + c * LANES, *then = c ? 0 : next;
        switch (chunks - c) {
        case 1:
            weighted_values(from, score, seen, Z, VECS, then, many, by, all);
            break;
        case 2:
            weighted_values(from, score, seen, Z, 2 * VECS, then, many, by, all);
            break;
        case 3:
            weighted_values(from, score, seen, Z, 3 * VECS, then, many, by, all);
            break;
        default:
            weighted_values(from, score, seen, Z, 4 * VECS, then, many, by, all);
        }
        memcpy(y_E + c * LANES, all, (E - c * LANES < 4 * LANES ? E - c * LANES : 4 * LANES) * sizeof(float));
    }
}
