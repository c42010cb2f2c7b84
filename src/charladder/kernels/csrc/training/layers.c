/* The operations between the matrix products of a training step on a CPU, each in one pass over memory.

   native.py calls them, and reference.py defines what each of them computes. The file is compiled once with BFLOAT16
   (matrix products in bfloat16) and once without (float32). Sums are in float32. Rows are divided among threads in
   equal parts, so that results do not depend on which thread is faster; sums over rows are one for each part, and the
   caller adds them up. Head sizes are even.

   Shapes: R rows (characters of all windows), D width, B windows, T characters, H heads, E head size, F feed-forward
   width, N = B * H, Q queries of a block, S keys.
*/

#include "common/numbers.h"

void rms_norm_forward(const float *x_RD, const float *gain_D, float epsilon, element *y_RD, float *inverse_R, long R,
                      long D, int threads)
{
    FOR_EACH_THREAD
    {
        THREAD_RANGE(R, first, last);
        for (long r = first; r < last; r++) {
            const float *x = x_RD + r * D;
            element *y = y_RD + r * D;
            float square = 0;
#pragma omp simd reduction(+ : square)
            for (long d = 0; d < D; d++)
                square += x[d] * x[d];
            const float inverse = 1.0f / sqrtf(square / D + epsilon);
            inverse_R[r] = inverse;
#pragma omp simd
            for (long d = 0; d < D; d++)
                y[d] = to_element_nan_safe(x[d] * inverse * gain_D[d]);
        }
    }
}

/* grad_gain: zeros, one row of D for each part. grad_residual_RD: the gradient of the residual connection, or null. */
void rms_norm_backward(const element *grad_y_RD, const float *x_RD, const float *gain_D, const float *inverse_R,
                       const float *grad_residual_RD, float *grad_x_RD, float *grad_gain, long R, long D, int threads)
{
    FOR_EACH_THREAD
    {
        THREAD_RANGE(R, first, last);
        float *grad_gain_D = grad_gain + me * D;
        for (long r = first; r < last; r++) {
            const element *grad_y = grad_y_RD + r * D;
            const float *x = x_RD + r * D, *along = grad_residual_RD ? grad_residual_RD + r * D : 0;
            float *grad_x = grad_x_RD + r * D, dot = 0;
            const float inverse = inverse_R[r];
#pragma omp simd reduction(+ : dot)
            for (long d = 0; d < D; d++) {
                const float product = to_float(grad_y[d]) * x[d];
                grad_gain_D[d] += product * inverse;
                dot += product * gain_D[d];
            }
            const float pull = dot * inverse * inverse * inverse / D;
            if (along) {
#pragma omp simd
                for (long d = 0; d < D; d++)
                    grad_x[d] = along[d] + to_float(grad_y[d]) * inverse * gain_D[d] - x[d] * pull;
            } else {
#pragma omp simd
                for (long d = 0; d < D; d++)
                    grad_x[d] = to_float(grad_y[d]) * inverse * gain_D[d] - x[d] * pull;
            }
        }
    }
}

/* qkv: queries, keys and values, (3, N, T, E). inverse: 1 / rms of queries and keys, (2, R, H). */
void split_heads_forward(const element *qkv_RG, const float *any_gain_2E, const float *cos_TE, const float *sin_TE,
                         float epsilon, element *qkv, float *inverse, long B, long T, long H, long E, int threads)
{
    const long R = B * T, D = H * E, half_E = E / 2;
    const float scale = 1.0f / sqrtf((float)E);
    float *gain_2E = canonical_nans(any_gain_2E, 2 * E);
    FOR_EACH_THREAD
    {
        THREAD_RANGE(R, first, last);
        for (long r = first; r < last; r++) {
            const long b = r / T, t = r % T;
            const float *cos = cos_TE + t * E, *sin = sin_TE + t * E;
            for (long h = 0; h < H; h++) {
                const long place = ((b * H + h) * T + t) * E;
                for (long which = 0; which < 2; which++) {
                    const element *from = qkv_RG + r * 3 * D + which * D + h * E;
                    const float *gain = gain_2E + which * E;
                    element *to = qkv + which * R * D + place;
                    float square = 0;
#pragma omp simd reduction(+ : square)
                    for (long e = 0; e < E; e++)
                        square += to_float(from[e]) * to_float(from[e]);
                    const float by = 1.0f / sqrtf(square / E + epsilon), times = which ? by : by * scale;
                    inverse[(which * R + r) * H + h] = by;
#pragma omp simd
                    for (long e = 0; e < half_E; e++) {
                        const float low = to_float(from[e]) * times * gain[e];
                        const float high = to_float(from[e + half_E]) * times * gain[e + half_E];
                        to[e] = to_element(low * cos[e] - high * sin[e]);
                        to[e + half_E] = to_element(high * cos[e] + low * sin[e]);
                    }
                }
                memcpy(qkv + 2 * R * D + place, qkv_RG + r * 3 * D + 2 * D + h * E, E * sizeof(element));
            }
        }
    }
    free(gain_2E);
}

/* grad_gain: zeros, (2, E) for each part. */
void split_heads_backward(const element *grad_qkv, const element *qkv_RG, const float *any_gain_2E,
                          const float *inverse, const float *cos_TE, const float *sin_TE, element *grad_qkv_RG,
                          float *grad_gain, long B, long T, long H, long E, int threads)
{
    const long R = B * T, D = H * E, half_E = E / 2;
    const float scale = 1.0f / sqrtf((float)E);
    float *gain_2E = canonical_nans(any_gain_2E, 2 * E);
    FOR_EACH_THREAD
    {
        THREAD_RANGE(R, first, last);
        float *grad_y = malloc(E * sizeof(float));
        for (long r = first; r < last; r++) {
            const long b = r / T, t = r % T;
            const float *cos = cos_TE + t * E, *sin = sin_TE + t * E;
            for (long h = 0; h < H; h++) {
                const long place = ((b * H + h) * T + t) * E;
                for (long which = 0; which < 2; which++) {
                    const element *of = grad_qkv + which * R * D + place;
                    const element *x = qkv_RG + r * 3 * D + which * D + h * E;
                    element *grad_x = grad_qkv_RG + r * 3 * D + which * D + h * E;
                    const float *gain = gain_2E + which * E;
                    float *grad_gain_E = grad_gain + (2 * me + which) * E, dot = 0;
                    const float by = inverse[(which * R + r) * H + h], times = which ? 1 : scale;
#pragma omp simd
                    for (long e = 0; e < half_E; e++) {
                        const float low = to_float(of[e]) * times, high = to_float(of[e + half_E]) * times;
                        grad_y[e] = low * cos[e] + high * sin[e];
                        grad_y[e + half_E] = high * cos[e] - low * sin[e];
                    }
#pragma omp simd reduction(+ : dot)
                    for (long e = 0; e < E; e++) {
                        const float product = grad_y[e] * to_float(x[e]);
                        grad_gain_E[e] += product * by;
                        dot += product * gain[e];
                    }
                    const float pull = dot * by * by * by / E;
#pragma omp simd
                    for (long e = 0; e < E; e++)
                        grad_x[e] = to_element(grad_y[e] * by * gain[e] - to_float(x[e]) * pull);
                }
                memcpy(grad_qkv_RG + r * 3 * D + 2 * D + h * E, grad_qkv + 2 * R * D + place, E * sizeof(element));
            }
        }
        free(grad_y);
    }
    free(gain_2E);
}

/* In place. Query i of a block attends to the first begin + i + 1 characters. */
void causal_softmax_forward(element *score_NQS, long N, long Q, long S, long begin, int threads)
{
    FOR_EACH_THREAD
    {
        THREAD_RANGE(N * Q, first, last);
        float *raised = malloc(S * sizeof(float));
        for (long row = first; row < last; row++) {
            element *score = score_NQS + row * S;
            const long seen = begin + row % Q + 1;
            float most;
            const float by = 1.0f / exp_and_sum(score, seen, raised, &most);
#pragma omp simd
            for (long s = 0; s < seen; s++)
                score[s] = to_element(raised[s] * by);
            memset(score + seen, 0, (S - seen) * sizeof(element));
        }
        free(raised);
    }
}

/* In place. */
void causal_softmax_backward(element *grad_NQS, const element *weight_NQS, long N, long Q, long S, long begin,
                             int threads)
{
    FOR_EACH_THREAD
    {
        THREAD_RANGE(N * Q, first, last);
        for (long row = first; row < last; row++) {
            element *of = grad_NQS + row * S;
            const element *weight = weight_NQS + row * S;
            const long seen = begin + row % Q + 1;
            float dot = 0;
#pragma omp simd reduction(+ : dot)
            for (long s = 0; s < seen; s++)
                dot += to_float(of[s]) * to_float(weight[s]);
#pragma omp simd
            for (long s = 0; s < seen; s++)
                of[s] = to_element(to_float(weight[s]) * (to_float(of[s]) - dot));
            memset(of + seen, 0, (S - seen) * sizeof(element));
        }
    }
}

/* 1 / (1 + e^-x), in a loop of its own, because compilers vectorize it more reliably. */
static inline void logistic(const element *x_F, float *share_F, long F)
{
#pragma omp simd
    for (long f = 0; f < F; f++)
        share_F[f] = 1.0f / (1.0f + fast_exp(-to_float(x_F[f])));
}

void swiglu_forward(const element *gate_up_RG, element *hidden_RF, long R, long F, int threads)
{
    FOR_EACH_THREAD
    {
        THREAD_RANGE(R, first, last);
        float *share = malloc(F * sizeof(float));
        for (long r = first; r < last; r++) {
            const element *gate = gate_up_RG + r * 2 * F, *up = gate + F;
            element *hidden = hidden_RF + r * F;
            logistic(gate, share, F);
#pragma omp simd
            for (long f = 0; f < F; f++)
                hidden[f] = to_element(to_float(gate[f]) * share[f] * to_float(up[f]));
        }
        free(share);
    }
}

void swiglu_backward(const element *grad_hidden_RF, const element *gate_up_RG, element *grad_gate_up_RG, long R, long F,
                     int threads)
{
    FOR_EACH_THREAD
    {
        THREAD_RANGE(R, first, last);
        float *share = malloc(F * sizeof(float));
        for (long r = first; r < last; r++) {
            const element *gate = gate_up_RG + r * 2 * F, *up = gate + F, *grad_hidden = grad_hidden_RF + r * F;
            element *grad_gate = grad_gate_up_RG + r * 2 * F, *grad_up = grad_gate + F;
            logistic(gate, share, F);
#pragma omp simd
            for (long f = 0; f < F; f++) {
                const float g = to_float(gate[f]), of = to_float(grad_hidden[f]);
                grad_up[f] = to_element(of * g * share[f]);
                grad_gate[f] = to_element(of * to_float(up[f]) * share[f] * (1.0f + g * (1.0f - share[f])));
            }
        }
        free(share);
    }
}
