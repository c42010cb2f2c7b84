/* RMSNorm of one row in float32, multiplied by `scale`. */

#pragma once

#include "common/numbers.h"

static inline void rms_norm(const float *x, const float *gain, float epsilon, float scale, long D, float *y)
{
    float square_sum = 0;
#pragma omp simd reduction(+ : square_sum)
    for (long d = 0; d < D; d++)
        square_sum += x[d] * x[d];
    const float factor = scale / sqrtf(square_sum / D + epsilon);
#pragma omp simd
    for (long d = 0; d < D; d++)
        y[d] = x[d] * factor * gain[d];
}
