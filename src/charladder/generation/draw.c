/* From logits to characters: what sampling.py and verification.py say, for many rows in one call. In double, but for
   the exponentials. Uniform numbers come from the caller, so that whoever gives the same ones gets the same text.

   Shapes: N rows, V symbols, S streams, M drafted characters of all streams.
*/

#include "draw.h"

typedef struct {
    double p;
    long symbol;
} Place;

static int likelier(const void *one, const void *other)
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

/* e^(x - the largest x), times `by` before; returns their sum, or NaN where any is. */
static double raised(const float *logits_V, long V, float most, float by, double *p_V)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (long v = 0; v < V; v++) {
        p_V[v] = exponential((logits_V[v] - most) * by);
        sum += p_V[v];
    }
    return sum;
}

static long best(const float *logits_V, long V)
{
    long at = 0;
    for (long v = 1; v < V; v++)
        at = logits_V[v] > logits_V[at] ? v : at;
    return at;
}

/* The distribution that is drawn from. */
void distribution(const float *logits_V, long V, const Sampling *sampling, double *p_V)
{
    const long at = best(logits_V, V);
    if (sampling->temperature == 0) {
        memset(p_V, 0, V * sizeof(double));
        p_V[at] = 1;
        return;
    }
    const double sum = raised(logits_V, V, logits_V[at], 1.0f / (float)sampling->temperature, p_V);
    for (long v = 0; v < V; v++)
        p_V[v] /= sum;
    if (sampling->top_k || sampling->top_p < 1) {
        Place *places = malloc(V * sizeof(Place));
        for (long v = 0; v < V; v++)
            places[v] = (Place){p_V[v], v};
        qsort(places, V, sizeof(Place), likelier);
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

/* The first symbol at which the sum of p passes `uniform` of the whole. */
long drawn(const double *p_V, long V, double uniform)
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

/* A race: every symbol is given an exponential time of rate p, and the first one wins, which is a draw from p. The times
   are made from `key` and the symbol alone; so two draws with one key, from two distributions, mostly agree. */
static long winner(const double *p_V, long V, double key)
{
    uint64_t bits;
    memcpy(&bits, &key, 8);
    long first = 0;
    for (long v = 1; v < V; v++)
        first = p_V[v] > p_V[first] ? v : first;
    const long likeliest = first;
    double soonest = INFINITY;
    for (long i = -1; i < V; i++) {
        const long v = i < 0 ? likeliest : i;
        uint64_t x = bits + ((uint64_t)v + 1) * 0x9E3779B97F4A7C15u;
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
        x = (x ^ x >> 27) * 0x94D049BB133111EBu;
        x ^= x >> 31;
        const double uniform = ((double)(x >> 11) + 0.5) * 0x1p-53;
        if (1 - uniform >= soonest * p_V[v]) /* -log(u) >= 1 - u: it cannot be sooner, and needs no logarithm */
            continue;
        const double time = -log(uniform) / p_V[v];
        if (time < soonest) {
            soonest = time;
            first = v;
        }
    }
    return first;
}

/* One symbol by a uniform number, in the way that the sampling says. */
long chosen(const double *p_V, long V, const Sampling *sampling, double uniform)
{
    return sampling->race ? winner(p_V, V, uniform) : drawn(p_V, V, uniform);
}

/* The model's own log-probability of a symbol, in nats. */
static double log_probability(const float *logits_V, long V, long symbol, double *work_V)
{
    const float most = logits_V[best(logits_V, V)];
    return logits_V[symbol] - most - log(raised(logits_V, V, most, 1.0f, work_V));
}

static int broken(const float *logits_V, long V)
{
    int any = 0;
    for (long v = 0; v < V; v++)
        any |= !(fabsf(logits_V[v]) < INFINITY);
    return any;
}

/* One character a row. p_NV: the distributions drawn from. nats_N: or null. Returns how many rows have logits that are
   no numbers. */
long pick(const float *logits_NV, long N, long V, const Sampling *sampling, const double *uniform_N, int64_t *ids_N,
          double *p_NV, double *nats_N)
{
    long bad = 0;
    double *work = malloc(V * sizeof(double));
    for (long n = 0; n < N; n++) {
        const float *logits = logits_NV + n * V;
        if (broken(logits, V)) {
            bad++;
            continue;
        }
        distribution(logits, V, sampling, p_NV + n * V);
        ids_N[n] = chosen(p_NV + n * V, V, sampling, uniform_N[n]);
        if (nats_N)
            nats_N[n] = log_probability(logits, V, ids_N[n], work);
    }
    free(work);
    return bad;
}

/* Verification. A stream has counts_S[s] drafts, which lie one stream after the other in ids_M, with the distributions
   q_MV they were drawn from (null: each was certain); and one more row of logits than drafts: of each draft, and of what
   comes after the last. uniform: two for each draft, one for each stream. taken_S: how many drafts stand; next_S: the
   character after them; nats_N: of the characters that stand and the next. Returns how many rows are no numbers. */
long verify(const float *logits_NV, long S, long V, const Sampling *sampling, const int64_t *counts_S,
            const int64_t *ids_M, const double *q_MV, const double *uniform, int64_t *taken_S, int64_t *next_S,
            double *nats_N)
{
    long bad = 0, row = 0, m = 0;
    double *p_V = malloc(2 * V * sizeof(double)), *work = p_V + V;
    for (long s = 0; s < S; s++) {
        long taken = 0, next = -1;
        for (; next < 0; taken++) {
            const float *logits = logits_NV + (row + taken) * V;
            if (broken(logits, V)) {
                bad++;
                break;
            }
            distribution(logits, V, sampling, p_V);
            if (taken == counts_S[s]) {
                next = chosen(p_V, V, sampling, uniform[2 * taken]);
            } else if (sampling->race) {
                const long won = winner(p_V, V, uniform[2 * taken]);
                if (won == ids_M[m + taken]) {
                    nats_N[row + taken] = log_probability(logits, V, won, work);
                    continue;
                }
                next = won;
            } else {
                const long draft = ids_M[m + taken];
                const double *q_V = q_MV ? q_MV + (m + taken) * V : 0, q = q_V ? q_V[draft] : 1;
                if (uniform[2 * taken] * q < p_V[draft]) {
                    nats_N[row + taken] = log_probability(logits, V, draft, work);
                    continue;
                }
                double left = 0;
                for (long v = 0; v < V; v++) {
                    const double other = q_V ? q_V[v] : v == draft;
                    p_V[v] = p_V[v] > other ? p_V[v] - other : 0;
                    left += p_V[v];
                }
                if (left == 0) /* the two are the same but for rounding */
                    distribution(logits, V, sampling, p_V);
                next = drawn(p_V, V, uniform[2 * taken + 1]);
            }
            nats_N[row + taken] = log_probability(logits, V, next, work);
            break;
        }
        taken_S[s] = taken;
        next_S[s] = next;
        row += counts_S[s] + 1;
        m += counts_S[s];
        uniform += 2 * counts_S[s] + 1;
    }
    free(p_V);
    return bad;
}
