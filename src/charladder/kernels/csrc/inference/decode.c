/* The whole network for a few characters in one call: inference on a CPU.

   It is compiled with layers.c, once with BFLOAT16 (weights, keys and values in bfloat16; matrix inputs too, with AMX
   or AVX512-BF16) and once without (float32). Everything else is in float32. A row is one character of one sequence at
   its position. The rows of a sequence must be adjacent, with rising positions, because one thread computes a head of a
   sequence. A row's result depends only on the characters of its sequence, not on other rows or the number of threads:
   characters that are read together, or beside other sequences, give the same bits as alone.

   Shapes: N rows, D width, H heads, E head size, Z the next multiple of 16, F feed-forward width, V symbols, S
   sequences, C characters of context, T characters of one call.
*/

#include <omp.h>
#include <stdlib.h>

#include "inference/kv_cache.h"

#define ROWS_PER_THREAD 16 /* from so many rows for each thread on, a thread computes its rows alone */
#ifndef SHARED_CACHE_BYTES
#define SHARED_CACHE_BYTES                                                                                             \
    (8 << 20) /* bytes of weights up to which that is faster, as in packed_cpu.py, each thread reads all weights       \
               */
#endif
#ifndef OWN_CACHE_BYTES
#define OWN_CACHE_BYTES (3 << 20) /* bytes of keys and values that stay in each thread's cache beside those weights */
#endif

enum { GAIN, QKV, HEAD_GAINS, OUT, SECOND_GAIN, GATE_UP, DOWN, PARTS };

/* Whether the inputs of matrices are rounded to bfloat16 on this processor. */
int rounds_inputs(void) { return has_amx() || has_avx512bf16(); }

/* The part of thread `me` of `all` in a pass over N rows; with all = 1, the whole pass. */
static void forward_rows(const Network *net, long N, const int64_t *streams_N, const int64_t *places_N,
                         const int64_t *ids_N, float *x_ND, long first, long last, float *final_ND, float *logits_NV,
                         float *qkv, float *hidden, float *normed, long me, long all)
{
    const long D = net->D, H = net->H, E = net->E, F = net->F, V = net->V, C = net->C;
    const long groups = ceil_div(C, LANES), key_size = groups * E * LANES, value_size = C * ceil_div(E, LANES) * LANES;
    float *score = normed + N * D;
    element *rounded = (element *)(score + groups * LANES);
    long starts = 0; /* number of sequences among the rows */
    for (long n = 0; n < N; n++)
        starts += n == 0 || streams_N[n] != streams_N[n - 1];
    amx_begin(N);
    /* A part is a whole number of panels, so sums do not depend on the division. */
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

/* The first row at or after `row` that begins a sequence. */
static long sequence_start(const int64_t *streams_N, long N, long row)
{
    while (row > 0 && row < N && streams_N[row] == streams_N[row - 1])
        row++;
    return row;
}

/* Whether no thread has 25% more than its share if no sequence is divided. */
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

/* Bytes of the weights of layers first to last. */
static long weight_bytes(const Network *net, long first, long last)
{
    return (last - first) * net->D * (4 * net->D + 3 * net->F) * (long)sizeof(element);
}

/* Room, in floats, that each thread needs for itself. */
static long room(const Network *net, long N)
{
    return N * net->D + ceil_div(net->C, LANES) * LANES + scratch_size(N, net->D > net->F ? net->D : net->F);
}

/* Runs layers first to last. ids_N: the characters, where first is 0; otherwise x_ND holds the hidden states below.
   x_ND receives the hidden states above. With logits_NV, they are also normalized into final_ND, and the output layer
   runs. Threads share each matrix; with many rows in a small network, each thread computes its own rows without waiting
   for others. work: room for N (3 D + F) floats and, for each thread, N D, C padded to 16, and scratch_size(N, max(D,
   F)). */
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
        const long me = omp_get_thread_num(), all = omp_get_num_threads(); /* as many threads as the system gives */
        const long n = apart ? sequence_start(streams_N, N, N * me / all) : 0;
        const long end = apart ? sequence_start(streams_N, N, N * (me + 1) / all) : N;
        if (n < end)
            forward_rows(net, end - n, streams_N + n, places_N + n, ids_N ? ids_N + n : 0, x_ND + n * D, first, last,
                         final_ND ? final_ND + n * D : 0, logits_NV ? logits_NV + n * V : 0, qkv + n * 3 * D,
                         hidden + n * F, private + me * own, apart ? 0 : me, apart ? 1 : all);
    }
}

/* Samples the next character of N rows with uniform numbers: their ids, distributions and log-probabilities. Returns
   the number of rows whose logits are not finite. */
typedef long SampleFunction(const float *logits_NV, long N, long V, const void *how, const double *uniform_N,
                            int64_t *ids_N, double *p_NV, double *nats_N);

/* What to generate for each row's sequence: steps_N characters, at most T, after the one at places_N. seen_NTV:
   receives the logits of all of them, or null. */
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

/* Generates rows `begin` to `end` to the last of their steps. threads: the number that share each pass; 0: this thread,
   number `me`, alone, with work for N rows. */
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
        if (!rows) /* T may be the maximum of other sequences */
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

/* Generates further characters of N sequences, one row each, in one call. In a small network each thread has its own
   rows, and completes as many of them at a time as its cache holds keys and values for; otherwise every character would
   read them from memory. final_ND: of the last character read. Returns the number of rows whose logits are not finite.
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
