/* From logits to characters: generation/distribution.py and sampler.py in C, for many rows in one call. Arithmetic is in
   double, except for the exponentials. The caller gives the uniform random numbers, so equal numbers give equal text.

   Shapes: N rows, V symbols, S sequences, M drafted characters of all sequences.
*/

#include "inference/sampling.h"

typedef struct {
    double p;
    long symbol;
} Place;

static int compare_probability(const void *one, const void *other)
{
    const Place *a = one, *b = other;
    if (a->p != b->p)
        return a->p > b->p ? -1 : 1;
    return a->symbol < b->symbol ? -1 : a->symbol > b->symbol;
}

static void renormalise(double *p_V, long V)
{
    double sum = 0;
    for (long v = 0; v < V; v++)
        sum += p_V[v];
    for (long v = 0; v < V; v++)
        p_V[v] /= sum;
}

/* e^((x - the largest x) * by); returns their sum, or NaN where an x is NaN. */
static double exp_into(const float *logits_V, long V, float most, float by, double *p_V)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (long v = 0; v < V; v++) {
        p_V[v] = fast_exp((logits_V[v] - most) * by);
        sum += p_V[v];
    }
    return sum;
}

static float highest(const float *logits_V, long V)
{
    float most = -INFINITY;
#pragma omp simd reduction(max : most)
    for (long v = 0; v < V; v++)
        most = logits_V[v] > most ? logits_V[v] : most;
    return most;
}

static long argmax(const float *logits_V, long V)
{
    const float most = highest(logits_V, V);
    long at = 0;
    while (at < V - 1 && logits_V[at] != most)
        at++;
    return at;
}

/* The distribution that is sampled from. */
void distribution(const float *logits_V, long V, const Sampling *sampling, double *p_V)
{
    const long at = argmax(logits_V, V);
    if (sampling->temperature == 0) {
        memset(p_V, 0, V * sizeof(double));
        p_V[at] = 1;
        return;
    }
    const double sum = exp_into(logits_V, V, logits_V[at], 1.0f / (float)sampling->temperature, p_V);
    for (long v = 0; v < V; v++)
        p_V[v] /= sum;
    if (sampling->top_k || sampling->top_p < 1) {
        Place *places = malloc(V * sizeof(Place));
        for (long v = 0; v < V; v++)
            places[v] = (Place){p_V[v], v};
        qsort(places, V, sizeof(Place), compare_probability);
        long kept = sampling->top_k && sampling->top_k < V ? sampling->top_k : V;
        double all = 0, before = 0;
        for (long i = 0; i < kept; i++)
            all += places[i].p;
        long i = 0;
        for (; i < kept && (sampling->top_p >= 1 || before < sampling->top_p); i++)
            before += places[i].p / all;
        for (; i < V; i++)
            p_V[places[i].symbol] = 0;
        free(places);
        renormalise(p_V, V);
    }
    if (sampling->min_p > 0) {
        const double least = sampling->min_p * p_V[at];
        for (long v = 0; v < V; v++)
            p_V[v] = p_V[v] < least ? 0 : p_V[v];
        renormalise(p_V, V);
    }
}

/* Inverse CDF: the first symbol at which the cumulative sum of p exceeds `uniform` of the total. */
long inverse_cdf_sample(const double *p_V, long V, double uniform)
{
    double sum = 0, passed = 0;
    for (long v = 0; v < V; v++)
        sum += p_V[v];
    const double until = uniform * sum;
    long last = 0;
    for (long v = 0; v < V; v++) {
        passed += p_V[v];
        if (p_V[v] > 0) {
            last = v;
            if (passed > until)
                return v;
        }
    }
    return last;
}

/* Coupled sampling: every symbol has an exponential random time of rate p, and the symbol with the smallest one is
   chosen, which samples from p. The times depend on `key` and the symbol alone, so two draws with the same key from two
   similar distributions mostly agree. */
static long coupled_sample(const double *p_V, long V, double key)
{
    uint64_t bits;
    memcpy(&bits, &key, 8);
    double most = 0;
#pragma omp simd reduction(max : most)
    for (long v = 0; v < V; v++)
        most = p_V[v] > most ? p_V[v] : most;
    long first = 0;
    while (first < V - 1 && p_V[first] != most)
        first++;
    const long likeliest = first;
    double soonest = INFINITY;
    for (long i = -1; i < V; i++) {
        const long v = i < 0 ? likeliest : i;
        uint64_t x = bits + ((uint64_t)v + 1) * 0x9E3779B97F4A7C15u;
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
        x = (x ^ x >> 27) * 0x94D049BB133111EBu;
        x ^= x >> 31;
        const double uniform = ((double)(x >> 11) + 0.5) * 0x1p-53;
        if (1 - uniform >=
            soonest * p_V[v]) /* -log(u) >= 1 - u: this symbol cannot be earlier, so no logarithm is needed */
            continue;
        const double time = -log(uniform) / p_V[v];
        if (time < soonest) {
            soonest = time;
            first = v;
        }
    }
    return first;
}

/* Samples one symbol with a uniform number, coupled or not. */
long sample_one(const double *p_V, long V, const Sampling *sampling, double uniform)
{
    return sampling->coupled ? coupled_sample(p_V, V, uniform) : inverse_cdf_sample(p_V, V, uniform);
}

/* The model's own log-probability of a symbol, in nats. */
static double log_probability(const float *logits_V, long V, long symbol, double *work_V)
{
    const float most = highest(logits_V, V);
    return logits_V[symbol] - most - log(exp_into(logits_V, V, most, 1.0f, work_V));
}

static int has_nan(const float *logits_V, long V)
{
    int any = 0;
    for (long v = 0; v < V; v++)
        any |= !(fabsf(logits_V[v]) < INFINITY);
    return any;
}

/* Samples one character for each row. p_NV: receives the distributions. nats_N: receives log-probabilities, or null.
   Returns the number of rows whose logits are not finite. */
long sample(const float *logits_NV, long N, long V, const Sampling *sampling, const double *uniform_N, int64_t *ids_N,
            double *p_NV, double *nats_N)
{
    long bad = 0;
    double *work = malloc(V * sizeof(double));
    for (long n = 0; n < N; n++) {
        const float *logits = logits_NV + n * V;
        if (has_nan(logits, V)) {
            bad++;
            continue;
        }
        distribution(logits, V, sampling, p_NV + n * V);
        ids_N[n] = sample_one(p_NV + n * V, V, sampling, uniform_N[n]);
        if (nats_N)
            nats_N[n] = log_probability(logits, V, ids_N[n], work);
    }
    free(work);
    return bad;
}

/* Verifies the drafts of one sequence. Returns whether its logits are not finite. */
static long verify_sequence(const float *logits_RV, long V, const Sampling *sampling, long count, const int64_t *ids_M,
                            const double *q_MV, const double *uniform, int64_t *taken_S, int64_t *next_S,
                            double *nats_R, double *work)
{
    double *p_V = work, *other_V = work + V;
    for (long taken = 0;; taken++) {
        const float *logits = logits_RV + taken * V;
        long next;
        *taken_S = taken;
        *next_S = -1;
        if (has_nan(logits, V))
            return 1;
        distribution(logits, V, sampling, p_V);
        if (taken == count) {
            next = sample_one(p_V, V, sampling, uniform[2 * taken]);
        } else if (sampling->coupled) {
            next = coupled_sample(p_V, V, uniform[2 * taken]);
            if (next == ids_M[taken]) {
                nats_R[taken] = log_probability(logits, V, next, other_V);
                continue;
            }
        } else {
            const long draft = ids_M[taken];
            const double *q_V = q_MV ? q_MV + taken * V : 0, q = q_V ? q_V[draft] : 1;
            if (uniform[2 * taken] * q < p_V[draft]) {
                nats_R[taken] = log_probability(logits, V, draft, other_V);
                continue;
            }
            double left = 0;
            for (long v = 0; v < V; v++) {
                const double other = q_V ? q_V[v] : v == draft;
                p_V[v] = p_V[v] > other ? p_V[v] - other : 0;
                left += p_V[v];
            }
            if (left == 0) /* the two distributions are equal except for rounding */
                distribution(logits, V, sampling, p_V);
            next = inverse_cdf_sample(p_V, V, uniform[2 * taken + 1]);
        }
        nats_R[taken] = log_probability(logits, V, next, other_V);
        *next_S = next;
        return 0;
    }
}

/* Verifies drafts. Sequence s has counts_S[s] drafts; the drafts of all sequences are concatenated in ids_M, with the
   distributions q_MV from which they were drawn (null: each was certain). There is one more row of logits than drafts
   for each sequence: for each draft, and for the character after the last. uniform: two for each draft and one for each
   sequence. accepted: the number of accepted drafts; next: the character after them; nats: log-probabilities of the
   accepted characters and the next. Returns the number of sequences whose logits are not finite. */
long verify_drafts(const float *logits_NV, long S, long V, const Sampling *sampling, const int64_t *counts_S,
                   const int64_t *ids_M, const double *q_MV, const double *uniform, int64_t *taken_S, int64_t *next_S,
                   double *nats_N)
{
    long bad = 0, m = 0;
    double *work = malloc(2 * V * sizeof(double));
    for (long s = 0; s < S; m += counts_S[s++])
        bad += verify_sequence(logits_NV + (m + s) * V, V, sampling, counts_S[s], ids_M + m, q_MV ? q_MV + m * V : 0,
                               uniform + 2 * m + s, taken_S + s, next_S + s, nats_N + m + s, work);
    free(work);
    return bad;
}
