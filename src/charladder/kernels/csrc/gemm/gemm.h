/* Matrix products with a matrix in panels: selects AMX, AVX512-BF16 or generic vectors. */

#pragma once

#include "gemm/amx.h"
#include "gemm/avx512bf16.h"
#include "gemm/generic.h"

/* The size of `scratch` in floats: N rows of K inputs, rounded to bfloat16 and padded. */
static inline long scratch_size(long N, long K)
{
    const long rows = N > 16 ? ceil_div(N, 32) * 32 : N;
    return (rows < AMX_ROW_BLOCK ? rows : AMX_ROW_BLOCK) * ceil_div(K, 32) * 32 * sizeof(uint16_t) / sizeof(float);
}

/* Multiplies N rows of K inputs, x_NK, by the panels from first_panel to last_panel (excluded) of a matrix with O
   outputs. epilogue: how y_NO receives the results, see store_panel. scratch: scratch_size(N, K) floats. */
static inline void multiply(const element *matrix, const float *x_NK, long x_stride, long N, long K, long O,
                            long first_panel, long last_panel, int epilogue, float *y_NO, long y_stride,
                            element *scratch)
{
    if (has_amx())
        multiply_amx(matrix, x_NK, x_stride, N, K, O, first_panel, last_panel, epilogue, y_NO, y_stride, scratch);
    else if (has_avx512bf16())
        multiply_avx512bf16(matrix, x_NK, x_stride, N, K, O, first_panel, last_panel, epilogue, y_NO, y_stride,
                            scratch);
    else
        multiply_generic(matrix, x_NK, x_stride, N, K, O, first_panel, last_panel, epilogue, y_NO, y_stride);
}
