/* The operations between the matrix products of a training step on a CPU, each in one pass over memory.

   native.py calls these functions, and reference.py defines what they compute. The file is compiled once with BFLOAT16
   (matrix products in bfloat16) and once without (float32). Sums are in float32. Rows are divided into equal parts, one
   for each thread, so that results do not depend on which thread is faster. Each part has its own sum over its rows,
   and the caller adds these sums up. Head sizes are even.

   Shapes: R rows (characters of all windows), D width, B windows, T characters, H heads, E head size, F feed-forward
   width, N = B * H, G columns of a matrix product (3 D or 2 F), Q queries of a block, S keys.
*/

#include "common/numbers.h"

void rms_norm_forward(const float *x_RD, const float *gain_D, float epsilon, element *y_RD, float *inverse_R, long R,
                      long D, int threads)
{
    FOR_EACH_PART
    {
        PART_RANGE(R, first, last);
        for (long r = first; r < last; r++) {
            const float *x = x_RD + r * D;
            element *y = y_RD + r * D;
            float square_sum = 0;
#pragma omp simd reduction(+ : square_sum)
            for (long d = 0; d < D; d++)
                square_sum += x[d] * x[d];
            const float inverse = 1.0f / sqrtf(square_sum / D + epsilon);
            inverse_R[r] = inverse;
#pragma omp simd
            for (long d = 0; d < D; d++)
                y[d] = to_element_nan_safe(x[d] * inverse * gain_D[d]);
        }
    }
}

/* grad_gain: zeros, (threads, D). grad_residual_RD: the gradient of the residual connection, or null. */
void rms_norm_backward(const element *grad_y_RD, const float *x_RD, const float *gain_D, const float *inverse_R,
                       const float *grad_residual_RD, float *grad_x_RD, float *grad_gain, long R, long D, int threads)
{
    FOR_EACH_PART
    {
        PART_RANGE(R, first, last);
        float *grad_gain_D = grad_gain + part * D;
        for (long r = first; r < last; r++) {
            const element *grad_y = grad_y_RD + r * D;
            const float *x = x_RD + r * D, *grad_residual = grad_residual_RD ? grad_residual_RD + r * D : 0;
            float *grad_x = grad_x_RD + r * D, dot = 0;
            const float inverse = inverse_R[r];
#pragma omp simd reduction(+ : dot)
            for (long d = 0; d < D; d++) {
                const float product = to_float(grad_y[d]) * x[d];
                grad_gain_D[d] += product * inverse;
                dot += product * gain_D[d];
            }
            const float x_coefficient = dot * inverse * inverse * inverse / D;
            if (grad_residual) {
#pragma omp simd
                for (long d = 0; d < D; d++)
                    grad_x[d] = grad_residual[d] + to_float(grad_y[d]) * inverse * gain_D[d] - x[d] * x_coefficient;
            } else {
#pragma omp simd
                for (long d = 0; d < D; d++)
                    grad_x[d] = to_float(grad_y[d]) * inverse * gain_D[d] - x[d] * x_coefficient;
            }
        }
    }
}

/* qkv: queries, keys and values, (3, N, T, E). inverse_2RH: 1 / rms of queries and keys. */
void split_heads_forward(const element *qkv_RG, const float *gain_2E, const float *cos_TE, const float *sin_TE,
                         float epsilon, element *qkv, float *inverse_2RH, long B, long T, long H, long E, int threads)
{
    const long R = B * T, D = H * E, half_E = E / 2;
    const float scale = 1.0f / sqrtf((float)E);
    float *canonical_gain_2E = canonical_nans(gain_2E, 2 * E);
    FOR_EACH_PART
    {
        PART_RANGE(R, first, last);
        for (long r = first; r < last; r++) {
            const long b = r / T, t = r % T;
            const float *cos = cos_TE + t * E, *sin = sin_TE + t * E;
            for (long h = 0; h < H; h++) {
                const long offset = ((b * H + h) * T + t) * E;
                for (long is_key = 0; is_key < 2; is_key++) {
                    const element *x = qkv_RG + r * 3 * D + is_key * D + h * E;
                    const float *gain = canonical_gain_2E + is_key * E;
                    element *y = qkv + is_key * R * D + offset;
                    float square_sum = 0;
#pragma omp simd reduction(+ : square_sum)
                    for (long e = 0; e < E; e++)
                        square_sum += to_float(x[e]) * to_float(x[e]);
                    const float inverse = 1.0f / sqrtf(square_sum / E + epsilon),
                                factor = is_key ? inverse : inverse * scale;
                    inverse_2RH[(is_key * R + r) * H + h] = inverse;
#pragma omp simd
                    for (long e = 0; e < half_E; e++) {
                        const float low = to_float(x[e]) * factor * gain[e];
                        const float high = to_float(x[e + half_E]) * factor * gain[e + half_E];
                        y[e] = to_element(low * cos[e] - high * sin[e]);
                        y[e + half_E] = to_element(high * cos[e] + low * sin[e]);
                    }
                }
                memcpy(qkv + 2 * R * D + offset, qkv_RG + r * 3 * D + 2 * D + h * E, E * sizeof(element));
            }
        }
    }
    free(canonical_gain_2E);
}

/* grad_gain: zeros, (threads, 2, E). */
void split_heads_backward(const element *grad_qkv, const element *qkv_RG, const float *gain_2E,
                          const float *inverse_2RH, const float *cos_TE, const float *sin_TE, element *grad_qkv_RG,
                          float *grad_gain, long B, long T, long H, long E, int threads)
{
    const long R = B * T, D = H * E, half_E = E / 2;
    const float scale = 1.0f / sqrtf((float)E);
    float *canonical_gain_2E = canonical_nans(gain_2E, 2 * E);
    FOR_EACH_PART
    {
        PART_RANGE(R, first, last);
        float *grad_normed = malloc(E * sizeof(float));
        for (long r = first; r < last; r++) {
            const long b = r / T, t = r % T;
            const float *cos = cos_TE + t * E, *sin = sin_TE + t * E;
            for (long h = 0; h < H; h++) {
                const long offset = ((b * H + h) * T + t) * E;
                for (long is_key = 0; is_key < 2; is_key++) {
                    const element *grad_rotated = grad_qkv + is_key * R * D + offset;
                    const element *x = qkv_RG + r * 3 * D + is_key * D + h * E;
                    element *grad_x = grad_qkv_RG + r * 3 * D + is_key * D + h * E;
                    const float *gain = canonical_gain_2E + is_key * E;
                    float *grad_gain_E = grad_gain + (2 * part + is_key) * E, dot = 0;
                    const float inverse = inverse_2RH[(is_key * R + r) * H + h], factor = is_key ? 1 : scale;
#pragma omp simd
                    for (long e = 0; e < half_E; e++) {
                        const float low = to_float(grad_rotated[e]) * factor,
                                    high = to_float(grad_rotated[e + half_E]) * factor;
                        grad_normed[e] = low * cos[e] + high * sin[e];
                        grad_normed[e + half_E] = high * cos[e] - low * sin[e];
                    }
#pragma omp simd reduction(+ : dot)
                    for (long e = 0; e < E; e++) {
                        const float product = grad_normed[e] * to_float(x[e]);
                        grad_gain_E[e] += product * inverse;
                        dot += product * gain[e];
                    }
                    const float x_coefficient = dot * inverse * inverse * inverse / E;
#pragma omp simd
                    for (long e = 0; e < E; e++)
                        grad_x[e] = to_element(grad_normed[e] * inverse * gain[e] - to_float(x[e]) * x_coefficient);
                }
                memcpy(grad_qkv_RG + r * 3 * D + 2 * D + h * E, grad_qkv + 2 * R * D + offset, E * sizeof(element));
            }
        }
        free(grad_normed);
    }
    free(canonical_gain_2E);
}

/* In place: scores become weights. Query i of a block attends to the first begin + i + 1 characters. */
void causal_softmax_forward(element *score_NQS, long N, long Q, long S, long begin, int threads)
{
    FOR_EACH_PART
    {
        PART_RANGE(N * Q, first, last);
        float *exps = malloc(S * sizeof(float));
        for (long row = first; row < last; row++) {
            element *score = score_NQS + row * S;
            const long visible = begin + row % Q + 1;
            float maximum;
            const float inverse_sum = 1.0f / exp_and_sum(score, visible, exps, &maximum);
#pragma omp simd
            for (long s = 0; s < visible; s++)
                score[s] = to_element(exps[s] * inverse_sum);
            memset(score + visible, 0, (S - visible) * sizeof(element));
        }
        free(exps);
    }
}

/* In place: the gradient of weights becomes that of scores. */
void causal_softmax_backward(element *grad_NQS, const element *weight_NQS, long N, long Q, long S, long begin,
                             int threads)
{
    FOR_EACH_PART
    {
        PART_RANGE(N * Q, first, last);
        for (long row = first; row < last; row++) {
            element *grad = grad_NQS + row * S;
            const element *weight = weight_NQS + row * S;
            const long visible = begin + row % Q + 1;
            float dot = 0;
#pragma omp simd reduction(+ : dot)
            for (long s = 0; s < visible; s++)
                dot += to_float(grad[s]) * to_float(weight[s]);
#pragma omp simd
            for (long s = 0; s < visible; s++)
                grad[s] = to_element(to_float(weight[s]) * (to_float(grad[s]) - dot));
            memset(grad + visible, 0, (S - visible) * sizeof(element));
        }
    }
}

/* Sigmoid, in a separate loop, which compilers vectorize more reliably. */
static inline void compute_sigmoid(const element *x_F, float *y_F, long F)
{
#pragma omp simd
    for (long f = 0; f < F; f++)
        y_F[f] = 1.0f / (1.0f + fast_exp(-to_float(x_F[f])));
}

void swiglu_forward(const element *gate_up_RG, element *hidden_RF, long R, long F, int threads)
{
    FOR_EACH_PART
    {
        PART_RANGE(R, first, last);
        float *sigmoid = malloc(F * sizeof(float));
        for (long r = first; r < last; r++) {
            const element *gate = gate_up_RG + r * 2 * F, *up = gate + F;
            element *hidden = hidden_RF + r * F;
            compute_sigmoid(gate, sigmoid, F);
#pragma omp simd
            for (long f = 0; f < F; f++)
                hidden[f] = to_element(to_float(gate[f]) * sigmoid[f] * to_float(up[f]));
        }
        free(sigmoid);
    }
}

void swiglu_backward(const element *grad_hidden_RF, const element *gate_up_RG, element *grad_gate_up_RG, long R, long F,
                     int threads)
{
    FOR_EACH_PART
    {
        PART_RANGE(R, first, last);
        float *sigmoid = malloc(F * sizeof(float));
        for (long r = first; r < last; r++) {
            const element *gate = gate_up_RG + r * 2 * F, *up = gate + F, *grad_hidden = grad_hidden_RF + r * F;
            element *grad_gate = grad_gate_up_RG + r * 2 * F, *grad_up = grad_gate + F;
            compute_sigmoid(gate, sigmoid, F);
#pragma omp simd
            for (long f = 0; f < F; f++) {
                const float gate_value = to_float(gate[f]), grad = to_float(grad_hidden[f]);
                grad_up[f] = to_element(grad * gate_value * sigmoid[f]);
                grad_gate[f] =
                    to_element(grad * to_float(up[f]) * sigmoid[f] * (1.0f + gate_value * (1.0f - sigmoid[f])));
            }
        }
        free(sigmoid);
    }
}
