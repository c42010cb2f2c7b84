/* The product of a matrix in panels with rows: the dispatcher over AMX, AVX512-BF16 and generic vectors. */

#pragma once

#include "gemm/amx.h"
#include "gemm/avx512bf16.h"
#include "gemm/generic.h"

/* Room, in floats, for N rows of K rounded to bfloat16. */
static inline long scratch_size(long N, long K)
{
    const long rows = N > 16 ? ceil_div(N, 32) * 32 : N;
    return (rows < ROWS ? rows : ROWS) * ceil_div(K, 32) * 32 * sizeof(uint16_t) / sizeof(float);
}

/* Panels first to last of a matrix times all rows, which have the stride `apart`. rounded: scratch_size(N, K) floats.
 */
static inline void multiply(const element *matrix, const float *x_NK, long apart, long N, long K, long O, long first,
                            long last, int how, float *y_NO, long stride, element *rounded)
{
    if (has_amx())
        multiply_amx(matrix, x_NK, apart, N, K, O, first, last, how, y_NO, stride, rounded);
    else if (has_avx512bf16())
        multiply_avx512bf16(matrix, x_NK, apart, N, K, O, first, last, how, y_NO, stride, rounded);
    else
        multiply_generic(matrix, x_NK, apart, N, K, O, first, last, how, y_NO, stride);
}
