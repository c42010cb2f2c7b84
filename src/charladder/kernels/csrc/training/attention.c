/* Causal attention of a training step, forward and backward, for processors with AVX512-BF16 and without AMX.

   One head is computed at a time, so that the working set of a thread stays in its caches. Attention weights are not
   saved: the backward pass recomputes them from the log-sum-exp of each query, as Dao et al. (2022) do on GPUs.

   Score matrices have a row for each key and a column for each query. So maxima and sums are vectors over queries, no
   horizontal sums are needed, and weights already have the layout that the gradients of values and keys need. Sums are
   in float32; weights and their gradients are rounded to bfloat16. Each head is computed by one thread, so results do
   not depend on the number of threads.

   Shapes: B windows, T characters, H heads, E head size (a multiple of 32), D = H E, R = B T rows, N = B H heads of all
   windows; P is T rounded up to a multiple of 64, with zeros past T. A pair is two adjacent bfloat16 numbers, 32 bits.
*/

#include "common/numbers.h"

#if defined(BFLOAT16) && defined(__AVX512BF16__) && !defined(__AMX_BF16__)

#include <immintrin.h>

#define BLOCK 64        /* keys and queries of a block */
#define TILE_ROWS 8     /* rows of the result of matmul_tile */
#define TILE_COLUMNS 32 /* columns of the result of matmul_tile: two vectors */

typedef struct {
    long T, E, P;
} Shape;

int has_attention(void) { return 1; }

static void *allocate(long bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

/* c = a b, or c += a b with `accumulate`, for TILE_ROWS rows and TILE_COLUMNS columns of c. Pair p of row r of a is at
   a[r * a_row_stride + p * a_pair_stride]; pair p of all columns of b is at b + p * b_stride. */
static inline __attribute__((always_inline)) void matmul_tile(const uint32_t *a, long a_row_stride, long a_pair_stride,
                                                              const uint32_t *b, long b_stride, long pairs,
                                                              int accumulate, float *c, long c_stride)
{
    __m512 sum[TILE_ROWS][2];
#pragma GCC unroll 8
    for (int r = 0; r < TILE_ROWS; r++)
        for (int v = 0; v < 2; v++)
            sum[r][v] = accumulate ? _mm512_loadu_ps(c + r * c_stride + 16 * v) : _mm512_setzero_ps();
    for (long p = 0; p < pairs; p++) {
        const __m512bh low = (__m512bh)_mm512_loadu_si512(b + p * b_stride);
        const __m512bh high = (__m512bh)_mm512_loadu_si512(b + p * b_stride + 16);
#pragma GCC unroll 8
        for (int r = 0; r < TILE_ROWS; r++) {
            const __m512bh x = (__m512bh)_mm512_set1_epi32((int)a[r * a_row_stride + p * a_pair_stride]);
            sum[r][0] = _mm512_dpbf16_ps(sum[r][0], low, x);
            sum[r][1] = _mm512_dpbf16_ps(sum[r][1], high, x);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < TILE_ROWS; r++)
        for (int v = 0; v < 2; v++)
            _mm512_storeu_ps(c + r * c_stride + 16 * v, sum[r][v]);
}

/* The same for `rows` rows, a multiple of TILE_ROWS, and `columns` columns, a multiple of TILE_COLUMNS. */
static void matmul(const uint32_t *a, long a_row_stride, long a_pair_stride, const uint32_t *b, long b_stride,
                   long pairs, int accumulate, float *c, long c_stride, long rows, long columns)
{
    for (long column = 0; column < columns; column += TILE_COLUMNS)
        for (long r = 0; r < rows; r += TILE_ROWS)
            matmul_tile(a + r * a_row_stride, a_row_stride, a_pair_stride, b + column, b_stride, pairs, accumulate,
                        c + r * c_stride + column, c_stride);
}

/* e^x as fast_exp in numbers.h, including subnormal results. */
static inline __m512 exp_ps(__m512 x)
{
    x = _mm512_max_ps(_mm512_set1_ps(-150.0f), x); /* in this order NaN stays NaN, and -infinity becomes 0 */
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 y = _mm512_set1_ps(1.0f / 720);
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.0f / 120));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.0f / 24));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.0f / 6));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(0.5f));
    y = _mm512_fmadd_ps(_mm512_mul_ps(y, r), r, _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(y, n);
}

static inline __m256i to_bfloat16(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

/* 16 pairs: pair i is element i of the first vector and element i of the second. */
static inline __m512i interleave(__m256i first, __m256i second)
{
    return _mm512_or_si512(_mm512_cvtepu16_epi32(first), _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
}

static inline __m512 load_as_floats(const element *x)
{
    return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x)), 16);
}

/* Copies T rows of x to contiguous rows, and sets the rows past T to 0. */
static void copy_padded(const element *x, long row_stride, const Shape *s, element *y_PE)
{
    for (long t = 0; t < s->T; t++)
        memcpy(y_PE + t * s->E, x + t * row_stride, s->E * sizeof(element));
    memset(y_PE + s->T * s->E, 0, (s->P - s->T) * s->E * sizeof(element));
}

/* Transposes (P, E) as a matrix of pairs of adjacent features: (E / 2, P). In blocks of 16 by 16 pairs: the stages
   exchange units of 32, 64 and 128 bits. */
static void transpose_pairs(const element *x_PE, const Shape *s, uint32_t *y)
{
    const uint32_t *x = (const uint32_t *)x_PE;
    for (long t = 0; t < s->P; t += 16)
        for (long p = 0; p < s->E / 2; p += 16) {
            __m512i row[16], unpacked[16];
            for (int i = 0; i < 16; i++)
                row[i] = _mm512_loadu_si512(x + (t + i) * s->E / 2 + p);
            for (int i = 0; i < 16; i += 2) {
                unpacked[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
                unpacked[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
            }
            for (int i = 0; i < 16; i += 4) {
                row[i] = _mm512_unpacklo_epi64(unpacked[i], unpacked[i + 2]);
                row[i + 1] = _mm512_unpackhi_epi64(unpacked[i], unpacked[i + 2]);
                row[i + 2] = _mm512_unpacklo_epi64(unpacked[i + 1], unpacked[i + 3]);
                row[i + 3] = _mm512_unpackhi_epi64(unpacked[i + 1], unpacked[i + 3]);
            }
            /* row[4 k + i] holds the pairs i, 4 + i, 8 + i, 12 + i of rows 4 k to 4 k + 3. */
            for (int i = 0; i < 4; i++) {
                const __m512i even_low = _mm512_shuffle_i32x4(row[i], row[4 + i], 0x88);
                const __m512i odd_low = _mm512_shuffle_i32x4(row[i], row[4 + i], 0xDD);
                const __m512i even_high = _mm512_shuffle_i32x4(row[8 + i], row[12 + i], 0x88);
                const __m512i odd_high = _mm512_shuffle_i32x4(row[8 + i], row[12 + i], 0xDD);
                uint32_t *destination = y + (p + i) * s->P + t;
                _mm512_storeu_si512(destination, _mm512_shuffle_i32x4(even_low, even_high, 0x88));
                _mm512_storeu_si512(destination + 4 * s->P, _mm512_shuffle_i32x4(odd_low, odd_high, 0x88));
                _mm512_storeu_si512(destination + 8 * s->P, _mm512_shuffle_i32x4(even_low, even_high, 0xDD));
                _mm512_storeu_si512(destination + 12 * s->P, _mm512_shuffle_i32x4(odd_low, odd_high, 0xDD));
            }
        }
}

/* Interleaves rows 2 i and 2 i + 1 of (P, E): (P / 2, E) pairs of adjacent characters. */
static void interleave_rows(const element *x_PE, const Shape *s, uint32_t *y)
{
    for (long t = 0; t < s->P; t += 2)
        for (long e = 0; e < s->E; e += 16) {
            const __m256i *first = (const __m256i *)(x_PE + t * s->E + e);
            const __m256i *second = (const __m256i *)(x_PE + (t + 1) * s->E + e);
            _mm512_storeu_si512(y + t / 2 * s->E + e,
                                interleave(_mm256_loadu_si256(first), _mm256_loadu_si256(second)));
        }
}

/* The mask of the 16 queries from `first_query` on: a bit is set where the query attends to the key. */
static inline __mmask16 causal_mask(long first_query, long key)
{
    const long masked = key - first_query;
    return masked <= 0 ? 0xFFFF : masked >= 16 ? 0 : (__mmask16)(0xFFFF << masked);
}

/* Buffers of a thread for one head. *_transposed: (E / 2, P). *_interleaved: (P / 2, E). */
typedef struct {
    element *q_PE, *k_PE, *v_PE, *grad_y_PE;
    uint32_t *q_transposed, *grad_y_transposed;
    uint32_t *q_interleaved, *k_interleaved, *v_interleaved, *grad_y_interleaved;
    uint32_t *key_pairs; /* weights (forward) or gradients of scores (backward) of pairs of adjacent keys */
    float *score;        /* of all keys, by TILE_COLUMNS queries */
    float *accumulator;  /* of some queries: weighted sums of values (forward), gradients of queries (backward) */
    float *grad_k_PE, *grad_v_PE;
    float *dot_P; /* the dot product of the output and its gradient, for each query */
} Workspace;

/* Attention of TILE_COLUMNS queries from `begin` on. Writes their outputs to y, and the log-sum-exp of their scores,
   which the backward pass needs. */
static void attend_tile(const Workspace *ws, const Shape *s, long begin, element *y, long row_stride,
                        float *log_sum_exp_T)
{
    const long E = s->E, keys = begin + TILE_COLUMNS,
               queries = s->T - begin < TILE_COLUMNS ? s->T - begin : TILE_COLUMNS;
    matmul((const uint32_t *)ws->k_PE, E / 2, 1, ws->q_transposed + begin, s->P, E / 2, 0, ws->score, TILE_COLUMNS,
           keys, TILE_COLUMNS);
    float inverse_sum[TILE_COLUMNS];
    for (int v = 0; v < 2; v++) {
        float *score = ws->score + 16 * v;
        const __m512 minus_infinity = _mm512_set1_ps(-INFINITY);
        __m512 maximum = minus_infinity, sum = _mm512_setzero_ps();
        for (long j = begin; j < keys; j++) {
            const __mmask16 mask = causal_mask(begin + 16 * v, j);
            _mm512_storeu_ps(score + j * TILE_COLUMNS,
                             _mm512_mask_loadu_ps(minus_infinity, mask, score + j * TILE_COLUMNS));
        }
        for (long j = 0; j < keys; j++)
            maximum = _mm512_max_ps(maximum, _mm512_loadu_ps(score + j * TILE_COLUMNS));
        for (long j = 0; j < keys; j += 2) {
            const __m512 first = exp_ps(_mm512_sub_ps(_mm512_loadu_ps(score + j * TILE_COLUMNS), maximum));
            const __m512 second = exp_ps(_mm512_sub_ps(_mm512_loadu_ps(score + (j + 1) * TILE_COLUMNS), maximum));
            sum = _mm512_add_ps(sum, _mm512_add_ps(first, second));
            _mm512_storeu_si512(ws->key_pairs + j / 2 * TILE_COLUMNS + 16 * v,
                                interleave(to_bfloat16(first), to_bfloat16(second)));
        }
        float sums[16], maxima[16];
        _mm512_storeu_ps(sums, sum);
        _mm512_storeu_ps(maxima, maximum);
        for (long i = 0; i < 16 && 16 * v + i < queries; i++) {
            log_sum_exp_T[begin + 16 * v + i] = maxima[i] + logf(sums[i]);
            inverse_sum[16 * v + i] = 1.0f / sums[i];
        }
    }
    matmul(ws->key_pairs, 1, TILE_COLUMNS, ws->v_interleaved, E, keys / 2, 0, ws->accumulator, E, TILE_COLUMNS, E);
    for (long i = 0; i < queries; i++)
        for (long e = 0; e < E; e += 16)
            _mm256_storeu_si256((__m256i *)(y + (begin + i) * row_stride + e),
                                to_bfloat16(_mm512_mul_ps(_mm512_loadu_ps(ws->accumulator + i * E + e),
                                                          _mm512_set1_ps(inverse_sum[i]))));
}

/* y_RD: concatenated heads. log_sum_exp_NT: of the scores of each query. */
void attention_forward(const element *qkv_3NTE, element *y_RD, float *log_sum_exp_NT, long B, long T, long H, long E,
                       int threads)
{
    const long N = B * H, P = (T + BLOCK - 1) / BLOCK * BLOCK;
    const Shape shape = {T, E, P}, *s = &shape;
    FOR_EACH_PART
    {
        PART_RANGE(N, first, last);
        Workspace ws = {.q_PE = allocate(P * E * 2),
                        .k_PE = allocate(P * E * 2),
                        .q_transposed = allocate(P * E * 2),
                        .v_interleaved = allocate(P * E * 2),
                        .key_pairs = allocate(P * TILE_COLUMNS * 2),
                        .score = allocate(P * TILE_COLUMNS * 4),
                        .accumulator = allocate(TILE_COLUMNS * E * 4)};
        for (long n = first; n < last; n++) {
            copy_padded(qkv_3NTE + (2 * N + n) * T * E, E, s, ws.q_PE); /* values: no queries are in this buffer yet */
            interleave_rows(ws.q_PE, s, ws.v_interleaved);
            copy_padded(qkv_3NTE + n * T * E, E, s, ws.q_PE);
            transpose_pairs(ws.q_PE, s, ws.q_transposed);
            copy_padded(qkv_3NTE + (N + n) * T * E, E, s, ws.k_PE);
            for (long begin = 0; begin < T; begin += TILE_COLUMNS)
                attend_tile(&ws, s, begin, y_RD + n / H * T * H * E + n % H * E, H * E, log_sum_exp_NT + n * T);
        }
        free(ws.q_PE), free(ws.k_PE), free(ws.q_transposed), free(ws.v_interleaved);
        free(ws.key_pairs), free(ws.score), free(ws.accumulator);
    }
}

/* Recomputes the weights of BLOCK keys from `key` on by BLOCK queries from `query` on, and computes the gradients of
   their scores: both as (keys, queries), the gradients also as pairs of adjacent keys, (keys / 2, queries).
   log_sum_exp_P: infinite for queries past T, so that their weights are 0. */
static void recompute_weights_and_grad_scores(const Workspace *ws, const Shape *s, const float *log_sum_exp_P,
                                              long query, long key, element *weight, element *grad_score,
                                              uint32_t *pairs)
{
    const long E = s->E;
    float score[TILE_ROWS * TILE_COLUMNS], grad_weight[TILE_ROWS * TILE_COLUMNS];
    for (long j = 0; j < BLOCK; j += TILE_ROWS)
        for (long i = 0; i < BLOCK; i += TILE_COLUMNS) {
            if (key + j >= query + i + TILE_COLUMNS) { /* no query attends to any of the keys */
                for (int r = 0; r < TILE_ROWS; r++) {
                    memset(weight + (j + r) * BLOCK + i, 0, TILE_COLUMNS * sizeof(element));
                    memset(grad_score + (j + r) * BLOCK + i, 0, TILE_COLUMNS * sizeof(element));
                    memset(pairs + (j + r) / 2 * BLOCK + i, 0, TILE_COLUMNS * sizeof(uint32_t));
                }
                continue;
            }
            const uint32_t *k = (const uint32_t *)ws->k_PE + (key + j) * E / 2;
            const uint32_t *v = (const uint32_t *)ws->v_PE + (key + j) * E / 2;
            matmul_tile(k, E / 2, 1, ws->q_transposed + query + i, s->P, E / 2, 0, score, TILE_COLUMNS);
            matmul_tile(v, E / 2, 1, ws->grad_y_transposed + query + i, s->P, E / 2, 0, grad_weight, TILE_COLUMNS);
            for (int lane = 0; lane < TILE_COLUMNS; lane += 16) {
                const __m512 log_sum_exp = _mm512_loadu_ps(log_sum_exp_P + query + i + lane);
                const __m512 dot = _mm512_loadu_ps(ws->dot_P + query + i + lane);
                __m256i previous = _mm256_setzero_si256();
                for (int r = 0; r < TILE_ROWS; r++) {
                    const __mmask16 mask = causal_mask(query + i + lane, key + j + r);
                    const __m512 x = _mm512_sub_ps(_mm512_loadu_ps(score + r * TILE_COLUMNS + lane), log_sum_exp);
                    const __m512 w = _mm512_maskz_mov_ps(mask, exp_ps(x));
                    const __m512 grad = _mm512_sub_ps(_mm512_loadu_ps(grad_weight + r * TILE_COLUMNS + lane), dot);
                    const __m256i current = to_bfloat16(_mm512_maskz_mul_ps(mask, w, grad));
                    const long offset = (j + r) * BLOCK + i + lane;
                    _mm256_storeu_si256((__m256i *)(weight + offset), to_bfloat16(w));
                    _mm256_storeu_si256((__m256i *)(grad_score + offset), current);
                    if (r % 2)
                        _mm512_storeu_si512(pairs + (j + r) / 2 * BLOCK + i + lane, interleave(previous, current));
                    previous = current;
                }
            }
        }
}

static void convert_to_bfloat16(const float *x, long count, element *y)
{
    for (long i = 0; i < count; i += 16)
        _mm256_storeu_si256((__m256i *)(y + i), to_bfloat16(_mm512_loadu_ps(x + i)));
}

/* grad_y_RD and y_RD: concatenated heads. All elements of grad_qkv_3NTE are written. */
void attention_backward(const element *grad_y_RD, const element *qkv_3NTE, const element *y_RD,
                        const float *log_sum_exp_NT, element *grad_qkv_3NTE, long B, long T, long H, long E,
                        int threads)
{
    const long N = B * H, D = H * E, P = (T + BLOCK - 1) / BLOCK * BLOCK, TE = T * E;
    const Shape shape = {T, E, P}, *s = &shape;
    FOR_EACH_PART
    {
        PART_RANGE(N, first, last);
        Workspace ws = {.q_PE = allocate(P * E * 2),
                        .k_PE = allocate(P * E * 2),
                        .v_PE = allocate(P * E * 2),
                        .grad_y_PE = allocate(P * E * 2),
                        .q_transposed = allocate(P * E * 2),
                        .grad_y_transposed = allocate(P * E * 2),
                        .q_interleaved = allocate(P * E * 2),
                        .k_interleaved = allocate(P * E * 2),
                        .grad_y_interleaved = allocate(P * E * 2),
                        .key_pairs = allocate(BLOCK * BLOCK * 2),
                        .accumulator = allocate(BLOCK * E * 4),
                        .grad_k_PE = allocate(P * E * 4),
                        .grad_v_PE = allocate(P * E * 4),
                        .dot_P = allocate(P * 4)};
        element *weight = allocate(BLOCK * BLOCK * 2), *grad_score = allocate(BLOCK * BLOCK * 2);
        float *log_sum_exp_P = allocate(P * 4);
        for (long n = first; n < last; n++) {
            const long offset = n / H * T * D + n % H * E;
            copy_padded(qkv_3NTE + n * TE, E, s, ws.q_PE);
            copy_padded(qkv_3NTE + (N + n) * TE, E, s, ws.k_PE);
            copy_padded(qkv_3NTE + (2 * N + n) * TE, E, s, ws.v_PE);
            copy_padded(grad_y_RD + offset, D, s, ws.grad_y_PE);
            transpose_pairs(ws.q_PE, s, ws.q_transposed);
            transpose_pairs(ws.grad_y_PE, s, ws.grad_y_transposed);
            interleave_rows(ws.q_PE, s, ws.q_interleaved);
            interleave_rows(ws.k_PE, s, ws.k_interleaved);
            interleave_rows(ws.grad_y_PE, s, ws.grad_y_interleaved);
            for (long t = 0; t < P; t++) {
                __m512 sum = _mm512_setzero_ps();
                for (long e = 0; t < T && e < E; e += 16)
                    sum = _mm512_fmadd_ps(load_as_floats(ws.grad_y_PE + t * E + e),
                                          load_as_floats(y_RD + offset + t * D + e), sum);
                ws.dot_P[t] = _mm512_reduce_add_ps(sum);
                log_sum_exp_P[t] = t < T ? log_sum_exp_NT[n * T + t] : INFINITY;
            }
            for (long query = 0; query < P; query += BLOCK) {
                for (long key = 0; key <= query; key += BLOCK) {
                    /* The block of queries at the position of the keys is the first that attends to them. */
                    const int accumulate = key < query;
                    recompute_weights_and_grad_scores(&ws, s, log_sum_exp_P, query, key, weight, grad_score,
                                                      ws.key_pairs);
                    matmul((uint32_t *)weight, BLOCK / 2, 1, ws.grad_y_interleaved + query / 2 * E, E, BLOCK / 2,
                           accumulate, ws.grad_v_PE + key * E, E, BLOCK, E);
                    matmul((uint32_t *)grad_score, BLOCK / 2, 1, ws.q_interleaved + query / 2 * E, E, BLOCK / 2,
                           accumulate, ws.grad_k_PE + key * E, E, BLOCK, E);
                    matmul(ws.key_pairs, 1, BLOCK, ws.k_interleaved + key / 2 * E, E, BLOCK / 2, key > 0,
                           ws.accumulator, E, BLOCK, E);
                }
                const long queries = T - query < BLOCK ? T - query : BLOCK;
                convert_to_bfloat16(ws.accumulator, queries * E, grad_qkv_3NTE + n * TE + query * E);
            }
            convert_to_bfloat16(ws.grad_k_PE, TE, grad_qkv_3NTE + (N + n) * TE);
            convert_to_bfloat16(ws.grad_v_PE, TE, grad_qkv_3NTE + (2 * N + n) * TE);
        }
        free(ws.q_PE), free(ws.k_PE), free(ws.v_PE), free(ws.grad_y_PE);
        free(ws.q_transposed), free(ws.grad_y_transposed);
        free(ws.q_interleaved), free(ws.k_interleaved), free(ws.grad_y_interleaved);
        free(ws.key_pairs), free(ws.accumulator), free(ws.grad_k_PE), free(ws.grad_v_PE), free(ws.dot_P);
        free(weight), free(grad_score), free(log_sum_exp_P);
    }
}

#else

int has_attention(void) { return 0; }

#endif
