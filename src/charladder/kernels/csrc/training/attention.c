/* Causal attention of a training step, forward and backward, for processors with AVX512-BF16 and without AMX.

   One head is computed at a time, so that the working set of a thread stays in its caches. Attention weights are not
   saved: the backward pass recomputes them from the log-sum-exp of each query, as Dao et al. (2022) do on GPUs.

   A row of scores belongs to a key and its lanes to queries. So maxima and sums are vectors over queries, there is no
   horizontal sum, and a row of weights already has the layout that the gradients of values and keys need. Sums are in
   float32; weights and their gradients are rounded to bfloat16. Each head is computed by one thread, so results do not
   depend on the number of threads.

   Shapes: B windows, T characters, H heads, E head size (a multiple of 32), D = H E, R = B T rows, N = B H heads of all
   windows; P the next multiple of 64 after T, with zeros past T. Two adjacent bfloat16 numbers are a pair of 32 bits.
*/

#include "common/numbers.h"

#if defined(BFLOAT16) && defined(__AVX512BF16__) && !defined(__AMX_BF16__)

#include <immintrin.h>

#define SIDE 64 /* queries or keys in a block */
#define ROWS 8  /* queries or keys in a matrix product */
#define LANES 32

typedef struct {
    long T, E, P;
} Shape;

int has_attention(void) { return 1; }

static void *room(long bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

/* A product of 8 rows and 32 lanes: pair p of row r of the first factor is at a[r * row + p * pair], the pairs of all
   lanes of the second factor are at b + p * wide. add: adds to the destination. */
static inline __attribute__((always_inline)) void product(const uint32_t *a, long row, long pair, const uint32_t *b,
                                                          long wide, long pairs, int add, float *to, long apart)
{
    __m512 sum[ROWS][2];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < 2; v++)
            sum[r][v] = add ? _mm512_loadu_ps(to + r * apart + 16 * v) : _mm512_setzero_ps();
    for (long p = 0; p < pairs; p++) {
        const __m512bh low = (__m512bh)_mm512_loadu_si512(b + p * wide);
        const __m512bh high = (__m512bh)_mm512_loadu_si512(b + p * wide + 16);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const __m512bh x = (__m512bh)_mm512_set1_epi32((int)a[r * row + p * pair]);
            sum[r][0] = _mm512_dpbf16_ps(sum[r][0], low, x);
            sum[r][1] = _mm512_dpbf16_ps(sum[r][1], high, x);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < 2; v++)
            _mm512_storeu_ps(to + r * apart + 16 * v, sum[r][v]);
}

/* The same for any number of rows and lanes. */
static void multiply_add(const uint32_t *a, long row, long pair, const uint32_t *b, long wide, long pairs, int add,
                         float *to, long apart, long rows, long lanes)
{
    for (long l = 0; l < lanes; l += LANES)
        for (long r = 0; r < rows; r += ROWS)
            product(a + r * row, row, pair, b + l, wide, pairs, add, to + r * apart + l, apart);
}

static inline __m512 raised(__m512 x)
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

static inline __m256i rounded(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

/* 16 pairs: for each lane, the number of the first vector and that of the second. */
static inline __m512i paired(__m256i first, __m256i second)
{
    return _mm512_or_si512(_mm512_cvtepu16_epi32(first), _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
}

static inline __m512 wide(const element *from)
{
    return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16);
}

/* Copies rows with the stride `apart` to contiguous rows. */
static void gather(const element *x, long apart, const Shape *s, element *to_PE)
{
    for (long t = 0; t < s->T; t++)
        memcpy(to_PE + t * s->E, x + t * apart, s->E * sizeof(element));
    memset(to_PE + s->T * s->E, 0, (s->P - s->T) * s->E * sizeof(element));
}

/* Pairs of features by character: (E / 2, P) from (P, E). */
static void across(const element *x_PE, const Shape *s, uint32_t *to)
{
    const uint32_t *from = (const uint32_t *)x_PE;
    for (long t = 0; t < s->P; t += 16)
        for (long p = 0; p < s->E / 2; p += 16) {
            __m512i row[16], two[16];
            for (int i = 0; i < 16; i++)
                row[i] = _mm512_loadu_si512(from + (t + i) * s->E / 2 + p);
            for (int i = 0; i < 16; i += 2) {
                two[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
                two[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
            }
            for (int i = 0; i < 16; i += 4) {
                row[i] = _mm512_unpacklo_epi64(two[i], two[i + 2]);
                row[i + 1] = _mm512_unpackhi_epi64(two[i], two[i + 2]);
                row[i + 2] = _mm512_unpacklo_epi64(two[i + 1], two[i + 3]);
                row[i + 3] = _mm512_unpackhi_epi64(two[i + 1], two[i + 3]);
            }
            for (int i = 0; i < 4; i++) { /* row[4 k + i]: pairs i, 4 + i, 8 + i, 12 + i of characters 4 k to 4 k + 3 */
                const __m512i is_balanced = _mm512_shuffle_i32x4(row[i], row[4 + i], 0x88);
                const __m512i odd = _mm512_shuffle_i32x4(row[i], row[4 + i], 0xDD);
                const __m512i even_too = _mm512_shuffle_i32x4(row[8 + i], row[12 + i], 0x88);
                const __m512i odd_too = _mm512_shuffle_i32x4(row[8 + i], row[12 + i], 0xDD);
                uint32_t *at = to + (p + i) * s->P + t;
                _mm512_storeu_si512(at, _mm512_shuffle_i32x4(is_balanced, even_too, 0x88));
                _mm512_storeu_si512(at + 4 * s->P, _mm512_shuffle_i32x4(odd, odd_too, 0x88));
                _mm512_storeu_si512(at + 8 * s->P, _mm512_shuffle_i32x4(is_balanced, even_too, 0xDD));
                _mm512_storeu_si512(at + 12 * s->P, _mm512_shuffle_i32x4(odd, odd_too, 0xDD));
            }
        }
}

/* Pairs of characters by feature: (P / 2, E) from (P, E). */
static void along(const element *x_PE, const Shape *s, uint32_t *to)
{
    for (long t = 0; t < s->P; t += 2)
        for (long e = 0; e < s->E; e += 16) {
            const __m256i *first = (const __m256i *)(x_PE + t * s->E + e);
            const __m256i *second = (const __m256i *)(x_PE + (t + 1) * s->E + e);
            _mm512_storeu_si512(to + t / 2 * s->E + e, paired(_mm256_loadu_si256(first), _mm256_loadu_si256(second)));
        }
}

/* A mask of those of 16 queries, from `first` on, that attend to a key. */
static inline __mmask16 seeing(long first, long key)
{
    const long hidden = key - first;
    return hidden <= 0 ? 0xFFFF : hidden >= 16 ? 0 : (__mmask16)(0xFFFF << hidden);
}

typedef struct {
    element *q_PE, *k_PE, *v_PE, *grad_PE;
    uint32_t *across_q, *across_of, *along_q, *along_k, *along_v, *along_of, *pairs;
    float *score, *some, *grad_k_PE, *grad_v_PE, *dot_P;
} Room;

/* 32 queries from `begin` on. Writes y and the log-sum-exp of each query, for the backward pass. */
static void attend_some(const Room *m, const Shape *s, long begin, element *y, long apart, float *log_T)
{
    const long E = s->E, keys = begin + LANES, rest = s->T - begin < LANES ? s->T - begin : LANES;
    multiply_add((const uint32_t *)m->k_PE, E / 2, 1, m->across_q + begin, s->P, E / 2, 0, m->score, LANES, keys,
                 LANES);
    float by[LANES];
    for (int v = 0; v < 2; v++) {
        float *score = m->score + 16 * v;
        const __m512 never = _mm512_set1_ps(-INFINITY);
        __m512 most = never, sum = _mm512_setzero_ps();
        for (long j = begin; j < keys; j++) {
            const __mmask16 seen = seeing(begin + 16 * v, j);
            _mm512_storeu_ps(score + j * LANES, _mm512_mask_loadu_ps(never, seen, score + j * LANES));
        }
        for (long j = 0; j < keys; j++)
            most = _mm512_max_ps(most, _mm512_loadu_ps(score + j * LANES));
        for (long j = 0; j < keys; j += 2) {
            const __m512 one = raised(_mm512_sub_ps(_mm512_loadu_ps(score + j * LANES), most));
            const __m512 other = raised(_mm512_sub_ps(_mm512_loadu_ps(score + (j + 1) * LANES), most));
            sum = _mm512_add_ps(sum, _mm512_add_ps(one, other));
            _mm512_storeu_si512(m->pairs + j / 2 * LANES + 16 * v, paired(rounded(one), rounded(other)));
        }
        float total[16], top[16];
        _mm512_storeu_ps(total, sum);
        _mm512_storeu_ps(top, most);
        for (long i = 0; i < 16 && 16 * v + i < rest; i++) {
            log_T[begin + 16 * v + i] = top[i] + logf(total[i]);
            by[16 * v + i] = 1.0f / total[i];
        }
    }
    multiply_add(m->pairs, 1, LANES, m->along_v, E, keys / 2, 0, m->some, E, LANES, E);
    for (long i = 0; i < rest; i++)
        for (long e = 0; e < E; e += 16)
            _mm256_storeu_si256((__m256i *)(y + (begin + i) * apart + e),
                                rounded(_mm512_mul_ps(_mm512_loadu_ps(m->some + i * E + e), _mm512_set1_ps(by[i]))));
}

/* y_RD: heads concatenated. log: (N, T). */
void attention_forward(const element *qkv_3NTE, element *y_RD, float *log_NT, long B, long T, long H, long E,
                       int threads)
{
    const long N = B * H, P = (T + SIDE - 1) / SIDE * SIDE;
    const Shape shape = {T, E, P}, *s = &shape;
    FOR_EACH_THREAD
    {
        THREAD_RANGE(N, first, last);
        Room m = {.q_PE = room(P * E * 2),
                  .k_PE = room(P * E * 2),
                  .across_q = room(P * E * 2),
                  .along_v = room(P * E * 2),
                  .pairs = room(P * LANES * 2),
                  .score = room(P * LANES * 4),
                  .some = room(LANES * E * 4)};
        for (long n = first; n < last; n++) {
            gather(qkv_3NTE + (2 * N + n) * T * E, E, s, m.q_PE);
            along(m.q_PE, s, m.along_v);
            gather(qkv_3NTE + n * T * E, E, s, m.q_PE);
            across(m.q_PE, s, m.across_q);
            gather(qkv_3NTE + (N + n) * T * E, E, s, m.k_PE);
            for (long begin = 0; begin < T; begin += LANES)
                attend_some(&m, s, begin, y_RD + n / H * T * H * E + n % H * E, H * E, log_NT + n * T);
        }
        free(m.q_PE), free(m.k_PE), free(m.across_q), free(m.along_v), free(m.pairs), free(m.score), free(m.some);
    }
}

/* Weights of 64 keys from `key` on by 64 queries from `query` on, and their gradients: rows of keys, the gradients also
   as pairs of keys. log_P: infinite for queries past T. */
static void weights(const Room *m, const Shape *s, const float *log_P, long query, long key, element *weight,
                    element *grad_score, uint32_t *pairs)
{
    const long E = s->E;
    float score[ROWS * LANES], of[ROWS * LANES];
    for (long j = 0; j < SIDE; j += ROWS)
        for (long i = 0; i < SIDE; i += LANES) {
            if (key + j >= query + i + LANES) { /* none of these queries attends to any of these keys */
                for (int r = 0; r < ROWS; r++) {
                    memset(weight + (j + r) * SIDE + i, 0, LANES * sizeof(element));
                    memset(grad_score + (j + r) * SIDE + i, 0, LANES * sizeof(element));
                    memset(pairs + (j + r) / 2 * SIDE + i, 0, LANES * sizeof(uint32_t));
                }
                continue;
            }
            const uint32_t *k = (const uint32_t *)m->k_PE + (key + j) * E / 2;
            const uint32_t *v = (const uint32_t *)m->v_PE + (key + j) * E / 2;
            product(k, E / 2, 1, m->across_q + query + i, s->P, E / 2, 0, score, LANES);
            product(v, E / 2, 1, m->across_of + query + i, s->P, E / 2, 0, of, LANES);
            for (int l = 0; l < LANES; l += 16) {
                const __m512 log = _mm512_loadu_ps(log_P + query + i + l);
                const __m512 dot = _mm512_loadu_ps(m->dot_P + query + i + l);
                __m256i before = _mm256_setzero_si256();
                for (int r = 0; r < ROWS; r++) {
                    const __mmask16 seen = seeing(query + i + l, key + j + r);
                    const __m512 x = _mm512_sub_ps(_mm512_loadu_ps(score + r * LANES + l), log);
                    const __m512 w = _mm512_maskz_mov_ps(seen, raised(x));
                    const __m512 d = _mm512_sub_ps(_mm512_loadu_ps(of + r * LANES + l), dot);
                    const __m256i of_this = rounded(_mm512_maskz_mul_ps(seen, w, d));
                    const long at = (j + r) * SIDE + i + l;
                    _mm256_storeu_si256((__m256i *)(weight + at), rounded(w));
                    _mm256_storeu_si256((__m256i *)(grad_score + at), of_this);
                    if (r % 2)
                        _mm512_storeu_si512(pairs + (j + r) / 2 * SIDE + i + l, paired(before, of_this));
                    before = of_this;
                }
            }
        }
}

static void round_rows(const float *x_PE, long count, element *to)
{
    for (long i = 0; i < count; i += 16)
        _mm256_storeu_si256((__m256i *)(to + i), rounded(_mm512_loadu_ps(x_PE + i)));
}

/* grad_y_RD and y_RD: heads concatenated. grad_qkv: every element is written. */
void attention_backward(const element *grad_y_RD, const element *qkv_3NTE, const element *y_RD, const float *log_NT,
                        element *grad_qkv_3NTE, long B, long T, long H, long E, int threads)
{
    const long N = B * H, D = H * E, P = (T + SIDE - 1) / SIDE * SIDE, TE = T * E;
    const Shape shape = {T, E, P}, *s = &shape;
    FOR_EACH_THREAD
    {
        THREAD_RANGE(N, first, last);
        Room m = {.q_PE = room(P * E * 2),
                  .k_PE = room(P * E * 2),
                  .v_PE = room(P * E * 2),
                  .grad_PE = room(P * E * 2),
                  .across_q = room(P * E * 2),
                  .across_of = room(P * E * 2),
                  .along_q = room(P * E * 2),
                  .along_k = room(P * E * 2),
                  .along_of = room(P * E * 2),
                  .pairs = room(SIDE * SIDE * 2),
                  .some = room(SIDE * E * 4),
                  .grad_k_PE = room(P * E * 4),
                  .grad_v_PE = room(P * E * 4),
                  .dot_P = room(P * 4)};
        element *weight = room(SIDE * SIDE * 2), *grad_score = room(SIDE * SIDE * 2);
        float *log_P = room(P * 4);
        for (long n = first; n < last; n++) {
            const long place = n / H * T * D + n % H * E;
            gather(qkv_3NTE + n * TE, E, s, m.q_PE);
            gather(qkv_3NTE + (N + n) * TE, E, s, m.k_PE);
            gather(qkv_3NTE + (2 * N + n) * TE, E, s, m.v_PE);
            gather(grad_y_RD + place, D, s, m.grad_PE);
            across(m.q_PE, s, m.across_q), across(m.grad_PE, s, m.across_of);
            along(m.q_PE, s, m.along_q), along(m.k_PE, s, m.along_k), along(m.grad_PE, s, m.along_of);
            for (long t = 0; t < P; t++) {
                __m512 sum = _mm512_setzero_ps();
                for (long e = 0; t < T && e < E; e += 16)
                    sum = _mm512_fmadd_ps(wide(m.grad_PE + t * E + e), wide(y_RD + place + t * D + e), sum);
                m.dot_P[t] = _mm512_reduce_add_ps(sum);
                log_P[t] = t < T ? log_NT[n * T + t] : INFINITY;
            }
            for (long query = 0; query < P; query += SIDE) {
                for (long key = 0; key <= query; key += SIDE) {
                    const int more = key < query; /* the first block of queries that attends to a key is its own */
                    weights(&m, s, log_P, query, key, weight, grad_score, m.pairs);
                    multiply_add((uint32_t *)weight, SIDE / 2, 1, m.along_of + query / 2 * E, E, SIDE / 2, more,
                                 m.grad_v_PE + key * E, E, SIDE, E);
                    multiply_add((uint32_t *)grad_score, SIDE / 2, 1, m.along_q + query / 2 * E, E, SIDE / 2, more,
                                 m.grad_k_PE + key * E, E, SIDE, E);
                    multiply_add(m.pairs, 1, SIDE, m.along_k + key / 2 * E, E, SIDE / 2, key > 0, m.some, E, SIDE, E);
                }
                const long rest = T - query < SIDE ? T - query : SIDE;
                round_rows(m.some, rest * E, grad_qkv_3NTE + n * TE + query * E);
            }
            round_rows(m.grad_k_PE, TE, grad_qkv_3NTE + (N + n) * TE);
            round_rows(m.grad_v_PE, TE, grad_qkv_3NTE + (2 * N + n) * TE);
        }
        free(m.q_PE), free(m.k_PE), free(m.v_PE), free(m.grad_PE), free(m.across_q), free(m.across_of), free(m.along_q);
        free(m.along_k), free(m.along_of), free(m.pairs), free(m.some), free(m.grad_k_PE), free(m.grad_v_PE);
        free(m.dot_P);
        free(weight), free(grad_score), free(log_P);
    }
}

#else

int has_attention(void) { return 0; }

#endif
