/* Characters drafted one after the other, each from those before it: the recurrent layer of drafting_heads.ChainedHead,
   packed.

   Shapes: N sequences, D width, F feed-forward width, V symbols, M drafts of all sequences.
*/

#include <omp.h>

#include "common/rms_norm.h"
#include "gemm/gemm.h"
#include "inference/sampling.h"

typedef struct {
    long D, F, V;
    float epsilon;
    const float *embedding_VD, *gain_D, *final_gain_D;
    const element *gate_up, *down, *output;
} DraftChain;

/* state_ND: the input of the network's output layer at the last position. ids_N: the character chosen since then.
   counts_N: how many characters to draft. ids_M receives them, one sequence after the other, and q_MV the distributions
   from which they were drawn; uniform_M has the same order. work: room for N (D + F + V) floats and, for each thread,
   scratch_size(N, max(D, F)). Returns 1 where logits are not finite. */
long draft_chain(const DraftChain *net, long N, float *state_ND, const int64_t *ids_N, const int64_t *counts_N,
                 const Sampling *sampling, const double *uniform_M, int64_t *ids_M, double *q_MV, float *work,
                 int threads)
{
    const long D = net->D, F = net->F, V = net->V;
    float *normed = work, *hidden = normed + N * D, *logits = hidden + N * F;
    long most = 0, bad = 0;
    for (long n = 0; n < N; n++)
        most = counts_N[n] > most ? counts_N[n] : most;
#pragma omp parallel num_threads(threads)
    {
        const long me = omp_get_thread_num(), all = omp_get_num_threads();
        element *rounded = (element *)(logits + N * V + me * scratch_size(N, D > F ? D : F));
        amx_begin(N);
        for (long step = 0; step < most; step++) {
#pragma omp single
            for (long n = 0, at = 0; n < N; at += counts_N[n++]) {
                const long id = step && step <= counts_N[n] ? ids_M[at + step - 1] : ids_N[n];
                for (long d = 0; d < D; d++)
                    state_ND[n * D + d] += net->embedding_VD[id * D + d];
                rms_norm(state_ND + n * D, net->gain_D, net->epsilon, 1.0f, D, normed + n * D);
            }
            long panels = ceil_div(F, LANES);
            multiply(net->gate_up, normed, D, N, D, 2 * F, panels * me / all, panels * (me + 1) / all, GATE, hidden, F,
                     rounded);
#pragma omp barrier
            panels = ceil_div(D, PANEL);
            multiply(net->down, hidden, F, N, F, D, panels * me / all, panels * (me + 1) / all, ADD, state_ND, D,
                     rounded);
#pragma omp barrier
#pragma omp single
            for (long n = 0; n < N; n++)
                rms_norm(state_ND + n * D, net->final_gain_D, net->epsilon, 1.0f, D, normed + n * D);
            panels = ceil_div(V, PANEL);
            multiply(net->output, normed, D, N, D, V, panels * me / all, panels * (me + 1) / all, SET, logits, V,
                     rounded);
#pragma omp barrier
#pragma omp for schedule(static)
            for (long n = 0; n < N; n++) {
                if (step >= counts_N[n])
                    continue;
                long at = step;
                for (long before = 0; before < n; before++)
                    at += counts_N[before];
                for (long v = 0; v < V; v++)
                    if (!(fabsf(logits[n * V + v]) < INFINITY))
                        bad = 1;
                distribution(logits + n * V, V, sampling, q_MV + at * V);
                ids_M[at] = sample_one(q_MV + at * V, V, sampling, uniform_M[at]);
            }
        }
        amx_end();
    }
    return bad;
}
