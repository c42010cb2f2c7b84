/* Drafting of characters with the recurrent layer of drafting_heads.ChainedHead, packed: each draft is conditioned on
   the drafts before it.

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

/* state_ND: the input of the network's output layer at the last position, which is overwritten. ids_N: the character
   sampled after it. counts_N: the number of characters to draft. ids_M receives the drafts, one sequence after the
   other, and q_MV the distributions from which they were sampled; uniform_M has the same order. work: N (D + F + V)
   floats and scratch_size(N, max(D, F)) floats for each thread. Returns 1 if logits are not finite, otherwise 0. */
long draft_chain(const DraftChain *chain, long N, float *state_ND, const int64_t *ids_N, const int64_t *counts_N,
                 const SamplingParams *sampling, const double *uniform_M, int64_t *ids_M, double *q_MV, float *work,
                 int threads)
{
    const long D = chain->D, F = chain->F, V = chain->V;
    float *normed = work, *hidden = normed + N * D, *logits = hidden + N * F;
    long max_count = 0, has_nonfinite = 0;
    for (long n = 0; n < N; n++)
        max_count = counts_N[n] > max_count ? counts_N[n] : max_count;
#pragma omp parallel num_threads(threads)
    {
        const long thread_id = omp_get_thread_num(), thread_count = omp_get_num_threads();
        element *scratch = (element *)(logits + N * V + thread_id * scratch_size(N, D > F ? D : F));
        amx_configure(N);
        for (long step = 0; step < max_count; step++) {
#pragma omp single
            for (long n = 0, offset = 0; n < N; offset += counts_N[n++]) {
                const long id = step && step <= counts_N[n] ? ids_M[offset + step - 1] : ids_N[n];
                for (long d = 0; d < D; d++)
                    state_ND[n * D + d] += chain->embedding_VD[id * D + d];
                rms_norm(state_ND + n * D, chain->gain_D, chain->epsilon, 1.0f, D, normed + n * D);
            }
            long panels = ceil_div(F, LANES);
            multiply(chain->gate_up, normed, D, N, D, 2 * F, panels * thread_id / thread_count,
                     panels * (thread_id + 1) / thread_count, EPILOGUE_SWIGLU, hidden, F, scratch);
#pragma omp barrier
            panels = ceil_div(D, PANEL_WIDTH);
            multiply(chain->down, hidden, F, N, F, D, panels * thread_id / thread_count,
                     panels * (thread_id + 1) / thread_count, EPILOGUE_ADD, state_ND, D, scratch);
#pragma omp barrier
#pragma omp single
            for (long n = 0; n < N; n++)
                rms_norm(state_ND + n * D, chain->final_gain_D, chain->epsilon, 1.0f, D, normed + n * D);
            panels = ceil_div(V, PANEL_WIDTH);
            multiply(chain->output, normed, D, N, D, V, panels * thread_id / thread_count,
                     panels * (thread_id + 1) / thread_count, EPILOGUE_STORE, logits, V, scratch);
#pragma omp barrier
#pragma omp for schedule(static)
            for (long n = 0; n < N; n++) {
                if (step >= counts_N[n])
                    continue;
                long offset = step;
                for (long earlier = 0; earlier < n; earlier++)
                    offset += counts_N[earlier];
                for (long v = 0; v < V; v++)
                    if (!(fabsf(logits[n * V + v]) < INFINITY))
                        has_nonfinite = 1;
                distribution(logits + n * V, V, sampling, q_MV + offset * V);
                ids_M[offset] = sample_one(q_MV + offset * V, V, sampling, uniform_M[offset]);
            }
        }
        amx_release();
    }
    return has_nonfinite;
}
