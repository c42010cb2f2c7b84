/* The operations between the matrix products of a layer's classifiers, forward and backward, each in one pass over
   memory.

   auxiliary/cross_entropy.py defines what they compute. As layers.c, the file is compiled once with BFLOAT16 (matrix
   products in bfloat16) and once without (float32). Sums are in float32; each row is computed by one thread.

   Shapes: R rows (predictions), D width, K classifiers, V symbols.
*/

#include "common/numbers.h"

/* LayerNorm without parameters. inverse_R: 1 / standard deviation. */
void layer_norm_forward(const float *x_RD, float epsilon, element *y_RD, float *mean_R, float *inverse_R, long R,
                        long D, int threads)
{
    FOR_EACH_PART
    {
        PART_RANGE(R, first, last);
        for (long r = first; r < last; r++) {
            const float *x = x_RD + r * D;
            element *y = y_RD + r * D;
            float sum = 0, square_sum = 0;
#pragma omp simd reduction(+ : sum)
            for (long d = 0; d < D; d++)
                sum += x[d];
            const float mean = sum / D;
#pragma omp simd reduction(+ : square_sum)
            for (long d = 0; d < D; d++)
                square_sum += (x[d] - mean) * (x[d] - mean);
            const float inverse = 1.0f / sqrtf(square_sum / D + epsilon);
            mean_R[r] = mean, inverse_R[r] = inverse;
#pragma omp simd
            for (long d = 0; d < D; d++)
                y[d] = to_element_nan_safe((x[d] - mean) * inverse);
        }
    }
}

void layer_norm_backward(const element *grad_y_RD, const float *x_RD, const float *mean_R, const float *inverse_R,
                         element *grad_x_RD, long R, long D, int threads)
{
    FOR_EACH_PART
    {
        PART_RANGE(R, first, last);
        for (long r = first; r < last; r++) {
            const element *grad_y = grad_y_RD + r * D;
            const float *x = x_RD + r * D, mean = mean_R[r], inverse = inverse_R[r];
            element *grad_x = grad_x_RD + r * D;
            float sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
            for (long d = 0; d < D; d++) {
                sum += to_float(grad_y[d]);
                dot += to_float(grad_y[d]) * (x[d] - mean);
            }
            const float grad_mean = sum / D, x_coefficient = dot * inverse * inverse / D;
#pragma omp simd
            for (long d = 0; d < D; d++)
                grad_x[d] =
                    to_element_nan_safe(inverse * (to_float(grad_y[d]) - grad_mean - (x[d] - mean) * x_coefficient));
        }
    }
}

/* In place: logits become the gradient of the weighted losses. loss_RK: losses in nats, not weighted. A negative target
   is ignored: its loss and gradient are 0. */
void cross_entropy_gradient(element *logits_RKV, const int64_t *target_RK, const float *weight_K, float *loss_RK,
                            long R, long K, long V, int threads)
{
    FOR_EACH_PART
    {
        PART_RANGE(R * K, first, last);
        float *exps = malloc(V * sizeof(float));
        for (long row = first; row < last; row++) {
            element *logits = logits_RKV + row * V;
            const long target = target_RK[row];
            if (target < 0) {
                loss_RK[row] = 0;
                memset(logits, 0, V * sizeof(element));
                continue;
            }
            const float weight = weight_K[row % K], target_logit = to_float(logits[target]);
            float maximum;
            const float sum = exp_and_sum(logits, V, exps, &maximum);
            /* In this order, because a small loss would lose its digits when it is added to large logits. */
            loss_RK[row] = logf(sum) + (maximum - target_logit);
            const float scale = weight / sum;
#pragma omp simd
            for (long v = 0; v < V; v++)
                logits[v] = to_element(exps[v] * scale);
            logits[target] = to_element_nan_safe((exps[target] / sum - 1.0f) * weight);
        }
        free(exps);
    }
}
