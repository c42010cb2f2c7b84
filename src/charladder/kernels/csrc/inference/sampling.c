/* Sampling and verification of drafts: generation/distribution.py, sampler.py and speculative/verification.py in C, for
   many rows in one call. Arithmetic is in double, except for the exponentials. The caller passes the uniform random
   numbers, so that equal numbers give equal characters.

   Shapes: N rows, V symbols, S sequences, M drafted characters of all sequences.
*/

#include "inference/sampling.h"

typedef struct {
    double p;
    long symbol;
} Candidate;

/* By decreasing probability; equal probabilities by increasing symbol. */
static int compare_candidates(const void *left, const void *right)
{
    const Candidate *a = left, *b = right;
    if (a->p != b->p)
        return a->p > b->p ? -1 : 1;
    return a->symbol < b->symbol ? -1 : a->symbol > b->symbol;
}

static void renormalize(double *p_V, long V)
{
    double sum = 0;
    for (long v = 0; v < V; v++)
        sum += p_V[v];
    for (long v = 0; v < V; v++)
        p_V[v] /= sum;
}

/* Writes e^((logit - maximum) * scale) to p_V and returns the sum; NaN if a logit is NaN. */
static double scaled_exp(const float *logits_V, long V, float maximum, float scale, double *p_V)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (long v = 0; v < V; v++) {
        p_V[v] = fast_exp((logits_V[v] - maximum) * scale);
        sum += p_V[v];
    }
    return sum;
}

static float max_logit(const float *logits_V, long V)
{
    float maximum = -INFINITY;
#pragma omp simd reduction(max : maximum)
    for (long v = 0; v < V; v++)
        maximum = logits_V[v] > maximum ? logits_V[v] : maximum;
    return maximum;
}

static long argmax(const float *logits_V, long V)
{
    const float maximum = max_logit(logits_V, V);
    long index = 0;
    while (index < V - 1 && logits_V[index] != maximum)
        index++;
    return index;
}

/* The distribution to sample from: logits with temperature, top-k, top-p and min-p. */
void distribution(const float *logits_V, long V, const SamplingParams *sampling, double *p_V)
{
    const long best = argmax(logits_V, V);
    if (sampling->temperature == 0) {
        memset(p_V, 0, V * sizeof(double));
        p_V[best] = 1;
        return;
    }
    const double sum = scaled_exp(logits_V, V, logits_V[best], 1.0f / (float)sampling->temperature, p_V);
    for (long v = 0; v < V; v++)
        p_V[v] /= sum;
    if (sampling->top_k || sampling->top_p < 1) {
        Candidate *candidates = malloc(V * sizeof(Candidate));
        for (long v = 0; v < V; v++)
            candidates[v] = (Candidate){p_V[v], v};
        qsort(candidates, V, sizeof(Candidate), compare_candidates);
        long candidate_count = sampling->top_k && sampling->top_k < V ? sampling->top_k : V;
        double total = 0, cumulative = 0;
        for (long i = 0; i < candidate_count; i++)
            total += candidates[i].p;
        long i = 0;
        for (; i < candidate_count && (sampling->top_p >= 1 || cumulative < sampling->top_p); i++)
            cumulative += candidates[i].p / total;
        for (; i < V; i++)
            p_V[candidates[i].symbol] = 0;
        free(candidates);
        renormalize(p_V, V);
    }
    if (sampling->min_p > 0) {
        const double threshold = sampling->min_p * p_V[best];
        for (long v = 0; v < V; v++)
            p_V[v] = p_V[v] < threshold ? 0 : p_V[v];
        renormalize(p_V, V);
    }
}

/* Inverse CDF: the first symbol at which the cumulative sum of p exceeds `uniform` of the total. */
long inverse_cdf_sample(const double *p_V, long V, double uniform)
{
    double sum = 0, cumulative = 0;
    for (long v = 0; v < V; v++)
        sum += p_V[v];
    const double threshold = uniform * sum;
    long last_possible = 0;
    for (long v = 0; v < V; v++) {
        cumulative += p_V[v];
        if (p_V[v] > 0) {
            last_possible = v;
            if (cumulative > threshold)
                return v;
        }
    }
    return last_possible;
}

/* Coupled sampling: each symbol has an exponential random number of rate p, and the symbol with the smallest one is a
   sample from p. The hash that makes these numbers depends only on `key` and the symbol, so two samples with the same
   key from two similar distributions mostly agree. The most likely symbol comes first, because it excludes most others
   without a logarithm. */
static long coupled_sample(const double *p_V, long V, double key)
{
    uint64_t seed;
    memcpy(&seed, &key, 8);
    double max_p = 0;
#pragma omp simd reduction(max : max_p)
    for (long v = 0; v < V; v++)
        max_p = p_V[v] > max_p ? p_V[v] : max_p;
    long chosen = 0;
    while (chosen < V - 1 && p_V[chosen] != max_p)
        chosen++;
    const long most_likely = chosen;
    double smallest = INFINITY;
    for (long i = -1; i < V; i++) {
        const long v = i < 0 ? most_likely : i;
        uint64_t x = seed + ((uint64_t)v + 1) * 0x9E3779B97F4A7C15u;
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
        x = (x ^ x >> 27) * 0x94D049BB133111EBu;
        x ^= x >> 31;
        const double uniform = ((double)(x >> 11) + 0.5) * 0x1p-53;
        if (1 - uniform >= smallest * p_V[v]) /* -log(u) >= 1 - u, so this number cannot be smaller */
            continue;
        const double exponential = -log(uniform) / p_V[v];
        if (exponential < smallest) {
            smallest = exponential;
            chosen = v;
        }
    }
    return chosen;
}

/* Samples one symbol with a uniform number, coupled or not. */
long sample_one(const double *p_V, long V, const SamplingParams *sampling, double uniform)
{
    return sampling->coupled ? coupled_sample(p_V, V, uniform) : inverse_cdf_sample(p_V, V, uniform);
}

/* The model's log-probability of a symbol in nats, before temperature, top-k, top-p and min-p. */
static double log_probability(const float *logits_V, long V, long symbol, double *work_V)
{
    const float maximum = max_logit(logits_V, V);
    return logits_V[symbol] - maximum - log(scaled_exp(logits_V, V, maximum, 1.0f, work_V));
}

static int has_nonfinite(const float *logits_V, long V)
{
    int result = 0;
    for (long v = 0; v < V; v++)
        result |= !(fabsf(logits_V[v]) < INFINITY);
    return result;
}

/* Samples one character for each row. p_NV receives the distributions, and nats_N, if not null, the log-probabilities
   in nats. Returns the number of rows whose logits are not finite. */
long sample(const float *logits_NV, long N, long V, const SamplingParams *sampling, const double *uniform_N,
            int64_t *ids_N, double *p_NV, double *nats_N)
{
    long nonfinite_rows = 0;
    double *work = malloc(V * sizeof(double));
    for (long n = 0; n < N; n++) {
        const float *logits = logits_NV + n * V;
        if (has_nonfinite(logits, V)) {
            nonfinite_rows++;
            continue;
        }
        distribution(logits, V, sampling, p_NV + n * V);
        ids_N[n] = sample_one(p_NV + n * V, V, sampling, uniform_N[n]);
        if (nats_N)
            nats_N[n] = log_probability(logits, V, ids_N[n], work);
    }
    free(work);
    return nonfinite_rows;
}

/* Verifies the drafts of one sequence, see verify_drafts. Returns 1 if its logits are not finite, otherwise 0. */
static long verify_sequence(const float *logits_RV, long V, const SamplingParams *sampling, long draft_count,
                            const int64_t *ids_M, const double *q_MV, const double *uniform, int64_t *accepted_out,
                            int64_t *next_out, double *nats_R, double *work)
{
    double *p_V = work, *scratch_V = work + V;
    for (long accepted = 0;; accepted++) {
        const float *logits = logits_RV + accepted * V;
        long next;
        *accepted_out = accepted;
        *next_out = -1;
        if (has_nonfinite(logits, V))
            return 1;
        distribution(logits, V, sampling, p_V);
        if (accepted == draft_count) {
            next = sample_one(p_V, V, sampling, uniform[2 * accepted]);
        } else if (sampling->coupled) {
            next = coupled_sample(p_V, V, uniform[2 * accepted]);
            if (next == ids_M[accepted]) {
                nats_R[accepted] = log_probability(logits, V, next, scratch_V);
                continue;
            }
        } else {
            const long draft = ids_M[accepted];
            const double *q_V = q_MV ? q_MV + accepted * V : 0, q_draft = q_V ? q_V[draft] : 1;
            if (uniform[2 * accepted] * q_draft < p_V[draft]) {
                nats_R[accepted] = log_probability(logits, V, draft, scratch_V);
                continue;
            }
            double residual_sum = 0;
            for (long v = 0; v < V; v++) {
                const double q_symbol = q_V ? q_V[v] : v == draft;
                p_V[v] = p_V[v] > q_symbol ? p_V[v] - q_symbol : 0;
                residual_sum += p_V[v];
            }
            if (residual_sum == 0) /* the two distributions are equal except for rounding */
                distribution(logits, V, sampling, p_V);
            next = inverse_cdf_sample(p_V, V, uniform[2 * accepted + 1]);
        }
        nats_R[accepted] = log_probability(logits, V, next, scratch_V);
        *next_out = next;
        return 0;
    }
}

/* Verifies drafts. Sequence s has counts_S[s] drafts; ids_M holds the drafts of all sequences, one sequence after the
   other, and q_MV the distributions from which they were sampled (null: they were chosen deterministically). For each
   sequence there is a row of logits for each draft and one for the character after them; uniform has two random numbers
   for each draft and one more. accepted_S receives the number of accepted drafts, next_S the character after them, and
   nats_N the log-probabilities in nats of the accepted drafts and of the next character. Returns the number of
   sequences whose logits are not finite. */
long verify_drafts(const float *logits_NV, long S, long V, const SamplingParams *sampling, const int64_t *counts_S,
                   const int64_t *ids_M, const double *q_MV, const double *uniform, int64_t *accepted_S,
                   int64_t *next_S, double *nats_N)
{
    long nonfinite_sequences = 0, m = 0;
    double *work = malloc(2 * V * sizeof(double));
    for (long s = 0; s < S; m += counts_S[s++])
        nonfinite_sequences +=
            verify_sequence(logits_NV + (m + s) * V, V, sampling, counts_S[s], ids_M + m, q_MV ? q_MV + m * V : 0,
                            uniform + 2 * m + s, accepted_S + s, next_S + s, nats_N + m + s, work);
    free(work);
    return nonfinite_sequences;
}
