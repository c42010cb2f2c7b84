/* RMSNorm of one row in float32. */

#pragma once

#include "common/numbers.h"

static inline void rms_norm(const float *x, const float *gain, float epsilon, float times, long D, float *y)
{
    float square = 0;
#pragma omp simd reduction(+ : square)
    for (long d = 0; d < D; d++)
        square += x[d] * x[d];
    const float by = times / sqrtf(square / D + epsilon);
#pragma omp simd
    for (long d = 0; d < D; d++)
        y[d] = x[d] * by * gain[d];
}
