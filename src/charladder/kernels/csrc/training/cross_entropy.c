/* The operations between the matrix products of a layer's classifiers, forward and backward, each in one pass over
   memory.

   auxiliary/cross_entropy.py defines what each of them computes. Compiled like layers.c, once with BFLOAT16 (matrix
   products in bfloat16) and once without (float32). Sums are in float32; each row is computed by one thread.

   Shapes: R rows (predictions), D width, K classifiers, V symbols.
*/

#include "common/numbers.h"

/* LayerNorm without parameters: rows with mean 0 and variance 1. */
void layer_norm_forward(const float *x_RD, float epsilon, element *y_RD, float *mean_R, float *inverse_R, long R,
                        long D, int threads)
{
    FOR_EACH_THREAD
    {
        THREAD_RANGE(R, first, last);
        for (long r = first; r < last; r++) {
            const float *x = x_RD + r * D;
            element *y = y_RD + r * D;
            float sum = 0, square = 0;
#pragma omp simd reduction(+ : sum)
            for (long d = 0; d < D; d++)
                sum += x[d];
            const float mean = sum / D;
#pragma omp simd reduction(+ : square)
            for (long d = 0; d < D; d++)
                square += (x[d] - mean) * (x[d] - mean);
            const float inverse = 1.0f / sqrtf(square / D + epsilon);
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
    FOR_EACH_THREAD
    {
        THREAD_RANGE(R, first, last);
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
            const float shift = sum / D, pull = dot * inverse * inverse / D;
#pragma omp simd
            for (long d = 0; d < D; d++)
                grad_x[d] = to_element_nan_safe(inverse * (to_float(grad_y[d]) - shift - (x[d] - mean) * pull));
        }
    }
}

/* In place: logits become the gradient of the weighted losses. loss_RK: nats. A target below 0 is ignored: its loss and
   gradient are 0. */
void cross_entropy_gradient(element *logits_RKV, const int64_t *target_RK, const float *weight_K, float *loss_RK,
                            long R, long K, long V, int threads)
{
    FOR_EACH_THREAD
    {
        THREAD_RANGE(R * K, first, last);
        float *raised = malloc(V * sizeof(float));
        for (long row = first; row < last; row++) {
            element *logits = logits_RKV + row * V;
            const long target = target_RK[row];
            if (target < 0) {
                loss_RK[row] = 0;
                memset(logits, 0, V * sizeof(element));
                continue;
            }
            const float weight = weight_K[row % K], right = to_float(logits[target]);
            float most;
            const float sum = exp_and_sum(logits, V, raised, &most);
            loss_RK[row] =
                logf(sum) +
                (most - right); /* in this order, because a small loss of large logits would lose its digits */
            const float by = weight / sum;
#pragma omp simd
            for (long v = 0; v < V; v++)
                logits[v] = to_element(raised[v] * by);
            logits[target] = to_element_nan_safe((raised[target] / sum - 1.0f) * weight);
        }
        free(raised);
    }
}
