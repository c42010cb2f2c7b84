/* The whole network for a few characters, in one call: generation on a CPU.

   packed.py compiles this file with layers.c, once with BFLOAT16 (weights, keys and values in bfloat16; so is what
   matrices multiply, where gemm/amx.h or gemm/avx512bf16.h has what it takes) and once without (float32). All else is
   in float32. A row is one character of one stream, at its place; rows of a stream must come one after the other,
   places rising: a head of a stream is one thread's. What comes of a row depends on nothing but its stream's
   characters: not on the other rows, nor on how many threads there are. So characters read several at once, or beside
   other streams, give bit for bit what they give alone.

   Shapes: N rows, D width, H heads, E head size, Z the next multiple of 16, F feed-forward width, V symbols, S streams,
   C characters of context, T characters at once.
*/

#include <omp.h>
#include <stdlib.h>

#include "inference/kv_cache.h"

#define ROWS_PER_THREAD 16 /* rows of a thread from which on it does them by itself */
#ifndef SHARED_CACHE_BYTES
#define SHARED_CACHE_BYTES                                                                                             \
    (8 << 20) /* bytes of weights up to which that pays, as in packed.py: each thread reads all of them */
#endif
#ifndef OWN_CACHE_BYTES
#define OWN_CACHE_BYTES                                                                                                \
    (3 << 20) /* bytes of keys and values that stay in a cache beside those weights, for each thread */
#endif

enum { GAIN, QKV, HEAD_GAINS, OUT, SECOND_GAIN, GATE_UP, DOWN, PARTS };

/* Whether what matrices multiply is rounded to bfloat16 here. */
int rounds_inputs(void) { return has_amx() || has_avx512bf16(); }

/* What one thread does of a pass over N rows: `me` of `all` threads that share it, or the whole of it by itself. */
static void forward_rows(const Network *net, long N, const int64_t *streams_N, const int64_t *places_N,
                         const int64_t *ids_N, float *x_ND, long first, long last, float *final_ND, float *logits_NV,
                         float *qkv, float *hidden, float *normed, long me, long all)
{
    const long D = net->D, H = net->H, E = net->E, F = net->F, V = net->V, C = net->C;
    const long groups = ceil_div(C, LANES), key_size = groups * E * LANES, value_size = C * ceil_div(E, LANES) * LANES;
    float *score = normed + N * D;
    element *rounded = (element *)(score + groups * LANES);
    long starts = 0; /* streams among the rows */
    for (long n = 0; n < N; n++)
        starts += n == 0 || streams_N[n] != streams_N[n - 1];
    amx_begin(N);
    /* A part is a whole number of panels, whose sums do not depend on it. */
#define FROM(count) ((count) * me / all)
#define TO(count) ((count) * (me + 1) / all)
#define BARRIER                                                                                                        \
    if (all > 1) {                                                                                                     \
        _Pragma("omp barrier")                                                                                         \
    }
    if (ids_N)
        for (long n = FROM(N); n < TO(N); n++)
            memcpy(x_ND + n * D, net->embedding_VD + ids_N[n] * D, D * sizeof(float));
    BARRIER
    for (long l = first; l < last; l++) {
        const void *const *part = net->layers + l * PARTS;
        for (long n = 0; n < N; n++)
            rms_norm(x_ND + n * D, part[GAIN], net->epsilon, 1.0f, D, normed + n * D);
        long panels = ceil_div(3 * D, PANEL);
        multiply(part[QKV], normed, D, N, D, 3 * D, FROM(panels), TO(panels), SET, qkv, 3 * D, rounded);
        BARRIER
        long unit = 0;
        for (long n = 0; n < N;) {
            long end = n + 1;
            while (end < N && streams_N[end] == streams_N[n])
                end++;
            for (long h = 0; h < H; h++, unit++)
                if (unit >= FROM(starts * H) && unit < TO(starts * H)) {
                    element *keys = net->cache[2 * l] + (streams_N[n] * H + h) * key_size;
                    element *values = net->cache[2 * l + 1] + (streams_N[n] * H + h) * value_size;
                    for (long r = n; r < end; r++)
                        attend_head(net, qkv + r * 3 * D, part[HEAD_GAINS], keys, values,
                                    r + 1 < end ? keys : keys + key_size, starts > 4, places_N[r], h, score,
                                    qkv + r * 3 * D + h * E);
                }
            n = end;
        }
        BARRIER
        panels = ceil_div(D, PANEL);
        multiply(part[OUT], qkv, 3 * D, N, D, D, FROM(panels), TO(panels), ADD, x_ND, D, rounded);
        BARRIER
        for (long n = 0; n < N; n++)
            rms_norm(x_ND + n * D, part[SECOND_GAIN], net->epsilon, 1.0f, D, normed + n * D);
        panels = ceil_div(F, LANES);
        multiply(part[GATE_UP], normed, D, N, D, 2 * F, FROM(panels), TO(panels), GATE, hidden, F, rounded);
        BARRIER
        panels = ceil_div(D, PANEL);
        multiply(part[DOWN], hidden, F, N, F, D, FROM(panels), TO(panels), ADD, x_ND, D, rounded);
        BARRIER
    }
    if (logits_NV) {
        for (long n = 0; n < N; n++)
            rms_norm(x_ND + n * D, net->final_gain_D, net->epsilon, 1.0f, D, normed + n * D);
        if (me == 0)
            memcpy(final_ND, normed, N * D * sizeof(float));
        const long panels = ceil_div(V, PANEL);
        multiply(net->output, normed, D, N, D, V, FROM(panels), TO(panels), SET, logits_NV, V, rounded);
    }
    amx_end();
}

/* The first row at or after `row` with which a stream begins. */
static long sequence_start(const int64_t *streams_N, long N, long row)
{
    while (row > 0 && row < N && streams_N[row] == streams_N[row - 1])
        row++;
    return row;
}

/* Whether no thread has a quarter more than its share, where none takes part of a stream. */
static int is_balanced(const int64_t *streams_N, long N, long threads)
{
    long most = 0;
    for (long t = 0; t < threads; t++) {
        const long own =
            sequence_start(streams_N, N, N * (t + 1) / threads) - sequence_start(streams_N, N, N * t / threads);
        most = own > most ? own : most;
    }
    return 4 * most * threads <= 5 * N;
}

/* Bytes of the weights that layers first to last read. */
static long weight_bytes(const Network *net, long first, long last)
{
    return (last - first) * net->D * (4 * net->D + 3 * net->F) * (long)sizeof(element);
}

/* Numbers' worth of room that a thread wants for itself. */
static long room(const Network *net, long N)
{
    return N * net->D + ceil_div(net->C, LANES) * LANES + scratch_size(N, net->D > net->F ? net->D : net->F);
}

/* Layers first to last. ids_N: the characters, where the first is layer 0; else x_ND holds the stream below. x_ND is left
   with the stream above; with logits_NV, it is normed into final_ND too, and read by the output layer. Rows are
   shared by the threads, matrix by matrix; of many in a small network each thread has its own, and waits for nobody.
   work: room for N (3 D + F) numbers and, for each thread, N D, C filled up to 16, and scratch(N, max(D, F)). */
void decode(const Network *net, long N, const int64_t *streams_N, const int64_t *places_N, const int64_t *ids_N,
            float *x_ND, long first, long last, float *final_ND, float *logits_NV, float *work, int threads)
{
    const long D = net->D, F = net->F, V = net->V;
    float *qkv = work, *hidden = qkv + N * 3 * D, *private = hidden + N * F;
    const long own = room(net, N);
    const int small = weight_bytes(net, first, last) <= SHARED_CACHE_BYTES && !has_amx();
    const int apart = small && N >= ROWS_PER_THREAD * threads && is_balanced(streams_N, N, threads);
#pragma omp parallel num_threads(threads)
    {
        const long me = omp_get_thread_num(), all = omp_get_num_threads(); /* as many as have come */
        const long n = apart ? sequence_start(streams_N, N, N * me / all) : 0;
        const long end = apart ? sequence_start(streams_N, N, N * (me + 1) / all) : N;
        if (n < end)
            forward_rows(net, end - n, streams_N + n, places_N + n, ids_N ? ids_N + n : 0, x_ND + n * D, first, last,
                         final_ND ? final_ND + n * D : 0, logits_NV ? logits_NV + n * V : 0, qkv + n * 3 * D,
                         hidden + n * F, private + me * own, apart ? 0 : me, apart ? 1 : all);
    }
}

/* What decides which characters come next, of N rows, by uniform numbers: ids_N, their distributions p_NV and their
   log-probabilities. Returns how many rows have logits that are no numbers. */
typedef long SampleFunction(const float *logits_NV, long N, long V, const void *how, const double *uniform_N,
                            int64_t *ids_N, double *p_NV, double *nats_N);

/* What is written of each row's stream: steps_N characters, at most T, after one at places_N. seen_NTV: where the
   logits of all of them go, if anybody looks at these. */
typedef struct {
    long T;
    const int64_t *streams_N, *places_N, *first_N, *steps_N;
    SampleFunction *choose;
    const void *how;
    const double *uniform_NT;
    int64_t *ids_NT;
    double *nats_NT;
    float *x_ND, *final_ND, *logits_NV, *work, *seen_NTV;
} DecodeSteps;

/* Rows `begin` to `end` to the last of their steps. threads: that share each pass; 0: it is this one's alone, number
   `me`, of work for N rows. */
static long decode_rows(const Network *net, const DecodeSteps *w, long N, long begin, long end, int threads, long me)
{
    const long D = net->D, F = net->F, V = net->V, count = end - begin;
    int64_t *numbers = malloc(5 * count * sizeof(int64_t)), *places = numbers + count, *ids = numbers + 2 * count,
            *from = numbers + 3 * count, *next = numbers + 4 * count;
    double *p_NV = malloc(count * (V + 2) * sizeof(double)), *uniform = p_NV + count * V, *nats = uniform + count;
    float *final = malloc(count * D * sizeof(float)), *x = w->x_ND + begin * D, *logits = w->logits_NV + begin * V;
    float *qkv = w->work, *hidden = qkv + N * 3 * D, *private = hidden + N * F + me * room(net, N);
    long bad = 0;
    for (long t = 0; t < w->T && !bad; t++) {
        long rows = 0;
        for (long n = begin; n < end; n++)
            if (w->steps_N[n] > t) {
                from[rows] = n;
                numbers[rows] = w->streams_N[n];
                places[rows] = w->places_N[n] + t;
                ids[rows] = t ? w->ids_NT[n * w->T + t - 1] : w->first_N[n];
                uniform[rows++] = w->uniform_NT[n * w->T + t];
            }
        if (!rows) /* T may be that of others */
            break;
        if (threads)
            decode(net, rows, numbers, places, ids, x, 0, net->L, final, logits, w->work, threads);
        else
            forward_rows(net, rows, numbers, places, ids, x, 0, net->L, final, logits, qkv + begin * 3 * D,
                         hidden + begin * F, private, 0, 1);
        bad = w->choose(logits, rows, V, w->how, uniform, next, p_NV, nats);
        for (long r = 0; r < rows; r++) {
            const long n = from[r];
            w->ids_NT[n * w->T + t] = next[r];
            w->nats_NT[n * w->T + t] = nats[r];
            if (w->seen_NTV)
                memcpy(w->seen_NTV + (n * w->T + t) * V, logits + r * V, V * sizeof(float));
            if (w->steps_N[n] == t + 1)
                memcpy(w->final_ND + n * D, final + r * D, D * sizeof(float));
        }
    }
    free(numbers);
    free(p_NV);
    free(final);
    return bad;
}

/* Further characters of N streams, a row each, without coming back in between. In a small network each thread has its
   own rows, and of these writes as many to the end as its cache holds keys and values of: else every character would
   read them from memory. final_ND: of the last character read. Returns how many rows had logits that are no numbers.
   work: as for decode. */
long decode_steps(const Network *net, long N, const DecodeSteps *writing, int threads)
{
    if (weight_bytes(net, 0, net->L) > SHARED_CACHE_BYTES || has_amx() ||
        (threads > 1 && N < ROWS_PER_THREAD * threads))
        return decode_rows(net, writing, N, 0, N, threads, 0);
    long bad = 0;
#pragma omp parallel num_threads(threads) reduction(+ : bad)
    {
        const long me = omp_get_thread_num(), all = omp_get_num_threads();
        const long begin = N * me / all, end = N * (me + 1) / all, count = end - begin;
        long held = 0;
        for (long n = begin; n < end; n++)
            held += 2 * net->L * net->D * (writing->places_N[n] + 1) * (long)sizeof(element);
        const long most = ceil_div(count, TILE), wanted = ceil_div(held, OWN_CACHE_BYTES),
                   groups = wanted < most ? wanted : most;
        for (long g = 0; g < groups; g++)
            bad += decode_rows(net, writing, N, begin + count * g / groups, begin + count * (g + 1) / groups, 0, me);
    }
    return bad;
}
