/* What lies between the products of a rung's classifiers, forward and backward, each in one pass over memory.

   Compiled like native.c (steps.py beside says what each step computes), once with HALF (products in bfloat16) and once
   without (float32). Sums are in float32; a row is one thread's.

   Shapes: R rows (predictions), D width, K classifiers, V symbols.
*/

#include "numbers.h"

/* Rows brought to mean 0 and variance 1. */
void center(const float *x_RD, float epsilon, half *y_RD, float *mean_R, float *inverse_R, long R, long D, int threads)
{
    EACH_PART
    {
        MY_PART(R, first, last);
        for (long r = first; r < last; r++) {
            const float *x = x_RD + r * D;
            half *y = y_RD + r * D;
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
                y[d] = put_any((x[d] - mean) * inverse);
        }
    }
}

void center_back(const half *of_y_RD, const float *x_RD, const float *mean_R, const float *inverse_R, half *of_x_RD, long R,
                 long D, int threads)
{
    EACH_PART
    {
        MY_PART(R, first, last);
        for (long r = first; r < last; r++) {
            const half *of_y = of_y_RD + r * D;
            const float *x = x_RD + r * D, mean = mean_R[r], inverse = inverse_R[r];
            half *of_x = of_x_RD + r * D;
            float sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
            for (long d = 0; d < D; d++) {
                sum += get(of_y[d]);
                dot += get(of_y[d]) * (x[d] - mean);
            }
            const float shift = sum / D, pull = dot * inverse * inverse / D;
#pragma omp simd
            for (long d = 0; d < D; d++)
                of_x[d] = put_any(inverse * (get(of_y[d]) - shift - (x[d] - mean) * pull));
        }
    }
}

/* In place: logits become the gradient of the weighed losses. loss_RK: nats. A target below 0 is ignored: no loss, and a
   gradient of zeros. */
void slopes(half *logits_RKV, const int64_t *target_RK, const float *weight_K, float *loss_RK, long R, long K, long V,
            int threads)
{
    EACH_PART
    {
        MY_PART(R * K, first, last);
        float *raised = malloc(V * sizeof(float));
        for (long row = first; row < last; row++) {
            half *logits = logits_RKV + row * V;
            const long target = target_RK[row];
            if (target < 0) {
                loss_RK[row] = 0;
                memset(logits, 0, V * sizeof(half));
                continue;
            }
            const float weight = weight_K[row % K], right = get(logits[target]);
            float most;
            const float sum = raise_all(logits, V, raised, &most);
            loss_RK[row] = logf(sum) + (most - right); /* in this order: a small loss of large logits */
            const float by = weight / sum;
#pragma omp simd
            for (long v = 0; v < V; v++)
                logits[v] = put(raised[v] * by);
            logits[target] = put_any((raised[target] / sum - 1.0f) * weight);
        }
        free(raised);
    }
}
