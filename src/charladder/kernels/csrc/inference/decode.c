/* The whole network for a few characters in one call: inference on a CPU.

   It is compiled with layers.c, once with BFLOAT16 (weights, keys and values in bfloat16; with AMX or AVX512-BF16 also
   the inputs of matrix products) and once without (float32). Everything else is in float32. A row is one character of
   one sequence at its position. The rows of a sequence must be adjacent, with increasing positions, because one thread
   computes a head of a sequence. The result of a row depends only on the characters of its sequence. It is the same,
   bit for bit, for any other rows in the batch and any number of threads.

   Shapes: N rows, D width, H heads, E head size, F feed-forward width, V symbols, C characters of context, T characters
   of one call.
*/

#include <omp.h>
#include <stdlib.h>

#include "inference/kv_cache.h"

#define ROWS_PER_THREAD 16 /* from this many rows for each thread on, threads divide the rows and not the matrices */
/* Weights up to this size stay in the cache that all cores share, as in packed_runner.py. Dividing the rows is then
   faster, although each thread reads all weights. */
#ifndef SHARED_CACHE_BYTES
#define SHARED_CACHE_BYTES (8 << 20)
#endif
/* Keys and values up to this size stay in each thread's cache beside those weights. */
#ifndef THREAD_CACHE_BYTES
#define THREAD_CACHE_BYTES (3 << 20)
#endif

/* The tensors of a layer. */
enum { ATTENTION_NORM, QKV, QK_NORM, ATTENTION_OUTPUT, FEED_FORWARD_NORM, GATE_UP, DOWN, TENSORS_PER_LAYER };

/* Whether the inputs of matrix products are rounded to bfloat16 on this processor. */
int rounds_inputs(void) { return has_amx() || has_avx512bf16(); }

/* Computes the share of thread `thread_id` of `thread_count` in a pass over N rows. With one thread there are no
   barriers. */
static void forward_rows(const Network *network, long N, const int64_t *slots_N, const int64_t *positions_N,
                         const int64_t *ids_N, float *x_ND, long first_layer, long last_layer, float *final_ND,
                         float *logits_NV, float *qkv, float *hidden, float *normed, long thread_id, long thread_count)
{
    const long D = network->D, H = network->H, E = network->E, F = network->F, V = network->V, C = network->C;
    const long groups = ceil_div(C, LANES), key_size = groups * E * LANES, value_size = C * ceil_div(E, LANES) * LANES;
    float *score = normed + N * D;
    element *scratch = (element *)(score + groups * LANES);
    long sequence_count = 0; /* of the N rows */
    for (long n = 0; n < N; n++)
        sequence_count += n == 0 || slots_N[n] != slots_N[n - 1];
    amx_configure(N);
    /* Threads divide whole panels, so sums do not depend on the number of threads. */
#define THREAD_BEGIN(count) ((count) * thread_id / thread_count)
#define THREAD_END(count) ((count) * (thread_id + 1) / thread_count)
#define BARRIER                                                                                                        \
    if (thread_count > 1) {                                                                                            \
        _Pragma("omp barrier")                                                                                         \
    }
    if (ids_N)
        for (long n = THREAD_BEGIN(N); n < THREAD_END(N); n++)
            memcpy(x_ND + n * D, network->embedding_VD + ids_N[n] * D, D * sizeof(float));
    BARRIER
    for (long l = first_layer; l < last_layer; l++) {
        const void *const *tensors = network->layers + l * TENSORS_PER_LAYER;
        for (long n = 0; n < N; n++)
            rms_norm(x_ND + n * D, tensors[ATTENTION_NORM], network->epsilon, 1.0f, D, normed + n * D);
        long panels = ceil_div(3 * D, PANEL_WIDTH);
        multiply(tensors[QKV], normed, D, N, D, 3 * D, THREAD_BEGIN(panels), THREAD_END(panels), EPILOGUE_STORE, qkv,
                 3 * D, scratch);
        BARRIER
        long sequence_head = 0; /* index over all heads of all sequences, which are divided among threads */
        for (long n = 0; n < N;) {
            long end = n + 1;
            while (end < N && slots_N[end] == slots_N[n])
                end++;
            for (long h = 0; h < H; h++, sequence_head++)
                if (sequence_head >= THREAD_BEGIN(sequence_count * H) &&
                    sequence_head < THREAD_END(sequence_count * H)) {
                    element *keys = network->cache[2 * l] + (slots_N[n] * H + h) * key_size;
                    element *values = network->cache[2 * l + 1] + (slots_N[n] * H + h) * value_size;
                    for (long r = n; r < end; r++)
                        attend_head(network, qkv + r * 3 * D, tensors[QK_NORM], keys, values,
                                    r + 1 < end ? keys : keys + key_size, sequence_count > 4, positions_N[r], h, score,
                                    qkv + r * 3 * D + h * E);
                }
            n = end;
        }
        BARRIER
        panels = ceil_div(D, PANEL_WIDTH);
        multiply(tensors[ATTENTION_OUTPUT], qkv, 3 * D, N, D, D, THREAD_BEGIN(panels), THREAD_END(panels), EPILOGUE_ADD,
                 x_ND, D, scratch);
        BARRIER
        for (long n = 0; n < N; n++)
            rms_norm(x_ND + n * D, tensors[FEED_FORWARD_NORM], network->epsilon, 1.0f, D, normed + n * D);
        panels = ceil_div(F, LANES);
        multiply(tensors[GATE_UP], normed, D, N, D, 2 * F, THREAD_BEGIN(panels), THREAD_END(panels), EPILOGUE_SWIGLU,
                 hidden, F, scratch);
        BARRIER
        panels = ceil_div(D, PANEL_WIDTH);
        multiply(tensors[DOWN], hidden, F, N, F, D, THREAD_BEGIN(panels), THREAD_END(panels), EPILOGUE_ADD, x_ND, D,
                 scratch);
        BARRIER
    }
    if (logits_NV) {
        for (long n = 0; n < N; n++)
            rms_norm(x_ND + n * D, network->final_gain_D, network->epsilon, 1.0f, D, normed + n * D);
        if (thread_id == 0)
            memcpy(final_ND, normed, N * D * sizeof(float));
        const long panels = ceil_div(V, PANEL_WIDTH);
        multiply(network->output, normed, D, N, D, V, THREAD_BEGIN(panels), THREAD_END(panels), EPILOGUE_STORE,
                 logits_NV, V, scratch);
    }
    amx_release();
}

/* The first row from `row` on that begins a sequence, or N. */
static long sequence_start(const int64_t *slots_N, long N, long row)
{
    while (row > 0 && row < N && slots_N[row] == slots_N[row - 1])
        row++;
    return row;
}

/* Whether no thread has more than 125% of its share of rows if threads divide whole sequences. */
static int is_balanced(const int64_t *slots_N, long N, long threads)
{
    long max_rows = 0;
    for (long t = 0; t < threads; t++) {
        const long rows =
            sequence_start(slots_N, N, N * (t + 1) / threads) - sequence_start(slots_N, N, N * t / threads);
        max_rows = rows > max_rows ? rows : max_rows;
    }
    return 4 * max_rows * threads <= 5 * N;
}

/* Bytes of the weights of the layers from first_layer to last_layer (excluded). */
static long weight_bytes(const Network *network, long first_layer, long last_layer)
{
    return (last_layer - first_layer) * network->D * (4 * network->D + 3 * network->F) * (long)sizeof(element);
}

/* The size of the workspace of one thread, in floats. */
static long thread_workspace_size(const Network *network, long N)
{
    return N * network->D + ceil_div(network->C, LANES) * LANES +
           scratch_size(N, network->D > network->F ? network->D : network->F);
}

/* Runs the layers from first_layer to last_layer (excluded). ids_N: the characters, whose embeddings are the input of
   first_layer; or null, if x_ND holds its input. x_ND receives the output of the last layer. If logits_NV is not null,
   final_ND receives the normalized output, and logits_NV the logits. Threads divide each matrix. With many rows in a
   small network, threads divide the rows, and do not wait for each other. work: N (3 D + F) floats and
   thread_workspace_size(network, N) floats for each thread. */
void decode(const Network *network, long N, const int64_t *slots_N, const int64_t *positions_N, const int64_t *ids_N,
            float *x_ND, long first_layer, long last_layer, float *final_ND, float *logits_NV, float *work, int threads)
{
    const long D = network->D, F = network->F, V = network->V;
    float *qkv = work, *hidden = qkv + N * 3 * D, *thread_work = hidden + N * F;
    const long thread_work_size = thread_workspace_size(network, N);
    const int fits_cache = weight_bytes(network, first_layer, last_layer) <= SHARED_CACHE_BYTES && !has_amx();
    const int row_parallel = fits_cache && N >= ROWS_PER_THREAD * threads && is_balanced(slots_N, N, threads);
#pragma omp parallel num_threads(threads)
    {
        /* The system may start fewer threads than requested. */
        const long thread_id = omp_get_thread_num(), thread_count = omp_get_num_threads();
        const long n = row_parallel ? sequence_start(slots_N, N, N * thread_id / thread_count) : 0;
        const long end = row_parallel ? sequence_start(slots_N, N, N * (thread_id + 1) / thread_count) : N;
        if (n < end)
            forward_rows(network, end - n, slots_N + n, positions_N + n, ids_N ? ids_N + n : 0, x_ND + n * D,
                         first_layer, last_layer, final_ND ? final_ND + n * D : 0, logits_NV ? logits_NV + n * V : 0,
                         qkv + n * 3 * D, hidden + n * F, thread_work + thread_id * thread_work_size,
                         row_parallel ? 0 : thread_id, row_parallel ? 1 : thread_count);
    }
}

/* Samples the next character of N rows with uniform random numbers, as `sample` in sampling.c. Writes ids,
   distributions and log-probabilities in nats. Returns the number of rows whose logits are not finite. */
typedef long SampleFunction(const float *logits_NV, long N, long V, const void *sampling, const double *uniform_N,
                            int64_t *ids_N, double *p_NV, double *nats_N);

/* The arguments and results of decode_steps. For each row: its slot in the KV cache, the position and id of the first
   input, and the number of characters to generate, at most T. all_logits_NTV: receives their logits, or null.
   all_finals_NTD: receives the normalized outputs for all inputs, or null. */
typedef struct {
    long T;
    const int64_t *slots_N, *positions_N, *input_ids_N, *steps_N;
    SampleFunction *sample;
    const void *sampling;
    const double *uniform_NT;
    int64_t *ids_NT;
    double *nats_NT;
    float *x_ND, *final_ND, *logits_NV, *work, *all_logits_NTV, *all_finals_NTD;
} DecodeSteps;

/* Generates all characters of rows `begin` to `end` (excluded) of N. threads: the number of threads of each pass; 0:
   the calling thread, `thread_id`, computes the passes alone, in its part of the workspace for N rows. */
static long decode_rows(const Network *network, const DecodeSteps *request, long N, long begin, long end, int threads,
                        long thread_id)
{
    const long D = network->D, F = network->F, V = network->V, count = end - begin;
    int64_t *slots = malloc(5 * count * sizeof(int64_t)), *positions = slots + count, *ids = slots + 2 * count,
            *sequence_of_row = slots + 3 * count, *sampled = slots + 4 * count;
    double *p_NV = malloc(count * (V + 2) * sizeof(double)), *uniform = p_NV + count * V, *nats = uniform + count;
    float *final = malloc(count * D * sizeof(float)), *x = request->x_ND + begin * D,
          *logits = request->logits_NV + begin * V;
    float *qkv = request->work, *hidden = qkv + N * 3 * D,
          *thread_work = hidden + N * F + thread_id * thread_workspace_size(network, N);
    long nonfinite_rows = 0;
    for (long t = 0; t < request->T && !nonfinite_rows; t++) {
        long rows = 0;
        for (long n = begin; n < end; n++)
            if (request->steps_N[n] > t) {
                sequence_of_row[rows] = n;
                slots[rows] = request->slots_N[n];
                positions[rows] = request->positions_N[n] + t;
                ids[rows] = t ? request->ids_NT[n * request->T + t - 1] : request->input_ids_N[n];
                uniform[rows++] = request->uniform_NT[n * request->T + t];
            }
        if (!rows) /* other sequences may have more steps */
            break;
        if (threads)
            decode(network, rows, slots, positions, ids, x, 0, network->L, final, logits, request->work, threads);
        else
            forward_rows(network, rows, slots, positions, ids, x, 0, network->L, final, logits, qkv + begin * 3 * D,
                         hidden + begin * F, thread_work, 0, 1);
        nonfinite_rows = request->sample(logits, rows, V, request->sampling, uniform, sampled, p_NV, nats);
        for (long r = 0; r < rows; r++) {
            const long n = sequence_of_row[r];
            request->ids_NT[n * request->T + t] = sampled[r];
            request->nats_NT[n * request->T + t] = nats[r];
            if (request->all_logits_NTV)
                memcpy(request->all_logits_NTV + (n * request->T + t) * V, logits + r * V, V * sizeof(float));
            if (request->all_finals_NTD)
                memcpy(request->all_finals_NTD + (n * request->T + t) * D, final + r * D, D * sizeof(float));
            if (request->steps_N[n] == t + 1)
                memcpy(request->final_ND + n * D, final + r * D, D * sizeof(float));
        }
    }
    free(slots);
    free(p_NV);
    free(final);
    return nonfinite_rows;
}

/* Generates several characters of N sequences, one row each, in one call. In a small network threads divide the rows.
   Each thread then generates a group of its rows at a time, whose keys and values fit its cache; otherwise every
   character would read them from memory. final_ND: the normalized output for the last character that was read. Returns
   the number of rows whose logits are not finite. work: as for decode. */
long decode_steps(const Network *network, long N, const DecodeSteps *request, int threads)
{
    if (weight_bytes(network, 0, network->L) > SHARED_CACHE_BYTES || has_amx() ||
        (threads > 1 && N < ROWS_PER_THREAD * threads))
        return decode_rows(network, request, N, 0, N, threads, 0);
    long nonfinite_rows = 0;
#pragma omp parallel num_threads(threads) reduction(+ : nonfinite_rows)
    {
        const long thread_id = omp_get_thread_num(), thread_count = omp_get_num_threads();
        const long begin = N * thread_id / thread_count, end = N * (thread_id + 1) / thread_count, count = end - begin;
        long cache_bytes = 0;
        for (long n = begin; n < end; n++)
            cache_bytes += 2 * network->L * network->D * (request->positions_N[n] + 1) * (long)sizeof(element);
        const long max_groups = ceil_div(count, TILE_ROWS), needed_groups = ceil_div(cache_bytes, THREAD_CACHE_BYTES),
                   groups = needed_groups < max_groups ? needed_groups : max_groups;
        for (long g = 0; g < groups; g++)
            nonfinite_rows += decode_rows(network, request, N, begin + count * g / groups,
                                          begin + count * (g + 1) / groups, 0, thread_id);
    }
    return nonfinite_rows;
}
