/* Attention of one head of one character to the KV cache of its sequence, for decode.c.

   Keys are stored in groups of 16 positions, (ceil(C / 16), E, 16), so that scores need no horizontal sums. Values are
   stored as (C, Z).

   Shapes: L layers, D width, H heads, E head size, Z the head size rounded up to a multiple of 16, F feed-forward
   width, V symbols, C characters of context, S slots of sequences.
*/

#pragma once

#include "common/rms_norm.h"
#include "gemm/gemm.h"

typedef struct {
    long L, D, H, E, F, V, C;
    float epsilon;
    const float *embedding_VD, *final_gain_D, *cos_CE, *sin_CE;
    const element *output;
    const void *const *layers; /* the tensors of each layer, in the order of the enum in decode.c */
    element *const *cache;     /* keys (S, H, groups, E, 16) and values (S, H, C, Z) of each layer */
} Network;

#define PREFETCH_DISTANCE_BYTES 8192 /* how far ahead of its use memory is prefetched */
/* With many sequences in float32, prefetching the array that is being read slows down AVX2 processors, because their
   hardware prefetcher already does it. Then only the array that follows is prefetched. */
#if defined(__AVX2__) && !defined(__AVX512F__) && !defined(BFLOAT16)
#define SKIP_PREFETCH 1
#else
#define SKIP_PREFETCH 0
#endif

/* Normalizes the query or key of one head and applies the rotary embedding of a position. */
static void norm_and_rotate(const float *x_E, const float *gain_E, float epsilon, float scale, const float *cos,
                            const float *sin, long E, float *y_E)
{
    const long half_E = E / 2;
    rms_norm(x_E, gain_E, epsilon, scale, E, y_E);
    for (long e = 0; e < half_E; e++) {
        const float low = y_E[e], high = y_E[e + half_E];
        y_E[e] = low * cos[e] - high * sin[e];
        y_E[e + half_E] = high * cos[e] + low * sin[e];
    }
}

/* Prefetches `count` numbers that are PREFETCH_DISTANCE_BYTES ahead of `offset` in the array `current`; past its
   `length`, they are in the array that is read next, `following`. The hardware prefetcher is too late. The target is
   the second-level cache, because the first-level cache has few entries for outstanding loads. */
static inline void prefetch(const element *current, long offset, long length, const element *following, long count,
                            const int many_sequences)
{
    offset += PREFETCH_DISTANCE_BYTES / (long)sizeof(element);
    if (SKIP_PREFETCH && many_sequences && offset < length)
        return;
    const element *address = offset < length ? current + offset : following + offset - length;
    for (long n = 0; n < count; n += CACHE_LINE_BYTES / (long)sizeof(element))
        __builtin_prefetch(address + n, 0, 2);
}

#define LANE_VECTORS (LANES / VECTOR_WIDTH) /* vectors that hold 16 numbers */
/* Independent accumulators of each sum of values: as many as there are registers for. */
#define VALUE_ACCUMULATORS (VECTOR_WIDTH == 16 ? 4 : 1)

/* The weighted sum, times `scale`, of the first `vectors` vectors (a constant after inlining) of `length` values. */
static inline __attribute__((always_inline)) void weighted_values(const element *values, const float *weights,
                                                                  long length, long Z, const int vectors,
                                                                  const element *following, const int many_sequences,
                                                                  float scale, float *y)
{
    vec sum[VALUE_ACCUMULATORS][4 * LANE_VECTORS] = {0};
    long s = 0;
    for (; s + VALUE_ACCUMULATORS - 1 < length; s += VALUE_ACCUMULATORS) {
        if (following)
            prefetch(values, s * Z, length * Z, following, VALUE_ACCUMULATORS * Z, many_sequences);
#pragma GCC unroll 4
        for (int i = 0; i < VALUE_ACCUMULATORS; i++)
#pragma GCC unroll 16
            for (int v = 0; v < vectors; v++)
                sum[i][v] += load_as_floats(values + (s + i) * Z + v * VECTOR_WIDTH) * weights[s + i];
    }
    for (; s < length; s++)
#pragma GCC unroll 16
        for (int v = 0; v < vectors; v++)
            sum[0][v] += load_as_floats(values + s * Z + v * VECTOR_WIDTH) * weights[s];
#pragma GCC unroll 16
    for (int v = 0; v < vectors; v++) {
        const vec total = VALUE_ACCUMULATORS == 1
                              ? sum[0][v]
                              : (sum[0][v] + sum[VALUE_ACCUMULATORS / 4][v]) +
                                    (sum[VALUE_ACCUMULATORS / 2][v] + sum[VALUE_ACCUMULATORS - 1][v]);
        store_floats(y + v * VECTOR_WIDTH, total * scale);
    }
}

/* One head of one row: writes its key and value into the cache, and computes its attention to all positions up to its
   own. following: the keys that are read after this head's values, which are prefetched. score: LANES floats for each
   group of positions. y_E may be the memory of the query. */
static void attend_head(const Network *network, float *qkv_3D, const float *gain_2E, element *keys, element *values,
                        const element *following, const int many_sequences, long position, long h, float *score,
                        float *y_E)
{
    const long E = network->E, D = network->D, chunks = ceil_div(E, LANES), Z = chunks * LANES, length = position + 1;
    const long groups = ceil_div(length, LANES);
    const float *cos = network->cos_CE + position * E, *sin = network->sin_CE + position * E;
    float query[E], key[E];
    norm_and_rotate(qkv_3D + h * E, gain_2E, network->epsilon, 1.0f / sqrtf((float)E), cos, sin, E, query);
    norm_and_rotate(qkv_3D + D + h * E, gain_2E + E, network->epsilon, 1.0f, cos, sin, E, key);
    element *cached_key = keys + position / LANES * E * LANES + position % LANES;
    for (long e = 0; e < E; e++)
        cached_key[e * LANES] = to_element_nan_safe(key[e]);
    for (long e = 0; e < E; e++)
        values[position * Z + e] = to_element_nan_safe(qkv_3D[2 * D + h * E + e]);

    float maximum = -INFINITY, sum = 0;
    for (long g = 0; g < groups; g++) {
        const element *group = keys + g * E * LANES;
        vec partial[4][LANE_VECTORS] = {0};
        long e = 0;
        for (; e + 3 < E; e += 4) {
            prefetch(keys, (g * E + e) * LANES, groups * E * LANES, values, 4 * LANES, many_sequences);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
#pragma GCC unroll 4
                for (int v = 0; v < LANE_VECTORS; v++)
                    partial[i][v] += load_as_floats(group + (e + i) * LANES + v * VECTOR_WIDTH) * query[e + i];
        }
        for (; e < E; e++)
            for (int v = 0; v < LANE_VECTORS; v++)
                partial[0][v] += load_as_floats(group + e * LANES + v * VECTOR_WIDTH) * query[e];
        for (int v = 0; v < LANE_VECTORS; v++)
            store_floats(score + g * LANES + v * VECTOR_WIDTH,
                         (partial[0][v] + partial[1][v]) + (partial[2][v] + partial[3][v]));
    }
    for (long s = length; s < groups * LANES; s++)
        score[s] = -INFINITY;
#pragma omp simd reduction(max : maximum)
    for (long s = 0; s < length; s++)
        maximum = score[s] > maximum ? score[s] : maximum;
#pragma omp simd reduction(+ : sum)
    for (long s = 0; s < groups * LANES; s++) {
        score[s] = fast_exp(score[s] - maximum); /* masked positions become 0 */
        sum += score[s];
    }
    const float inverse_sum = 1.0f / sum;
    for (long c = 0; c < chunks; c += 4) {
        float outputs[4 * LANES];
        const element *chunk_values = values + c * LANES, *chunk_following = c ? 0 : following;
        switch (chunks - c) {
        case 1:
            weighted_values(chunk_values, score, length, Z, LANE_VECTORS, chunk_following, many_sequences, inverse_sum,
                            outputs);
            break;
        case 2:
            weighted_values(chunk_values, score, length, Z, 2 * LANE_VECTORS, chunk_following, many_sequences,
                            inverse_sum, outputs);
            break;
        case 3:
            weighted_values(chunk_values, score, length, Z, 3 * LANE_VECTORS, chunk_following, many_sequences,
                            inverse_sum, outputs);
            break;
        default:
            weighted_values(chunk_values, score, length, Z, 4 * LANE_VECTORS, chunk_following, many_sequences,
                            inverse_sum, outputs);
        }
        memcpy(y_E + c * LANES, outputs, (E - c * LANES < 4 * LANES ? E - c * LANES : 4 * LANES) * sizeof(float));
    }
}
